//! Running a Llama-shaped model (SmolLM, SmolLM2) on a CPU: [`Model`] holds the weights,
//! [`Model::logprobs`] and [`Model::score_continuations`] judge text, [`Engine`] writes it for
//! many callers at once.
//!
//! Weights of 4, 8 and 16 bits stay as they are in memory, keys and values are f16, what is
//! multiplied with weights of 4 and 8 bits is rounded to 16 bits, all else is f32. What a sequence yields does not depend on what runs beside
//! it, on the number of threads, or on the processor (see `kernels`).
//!
//! ```no_run
//! use std::sync::Arc;
//! use model::infer::{Engine, EngineOptions, GenerateRequest, Message, Model, ModelOptions, Role};
//!
//! let model = Model::load("SmolLM2-135M-Instruct.Q4_1.gguf", &ModelOptions::default())?;
//! let engine = Engine::new(Arc::new(model), &EngineOptions::default())?;
//! let question = Message { role: Role::User, content: "What is a shard?".into() };
//! let answer = futures::executor::block_on(engine.generate(GenerateRequest::chat([question])))?;
//! println!("{}", answer.text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activations;
mod cache;
mod config;
mod engine;
mod error;
mod forward;
mod kernels;
mod load;
mod packed;
mod prefix;
mod request;
mod sample;
mod scheduler;
mod score;
mod sequence;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use config::LlamaConfig;
pub use engine::{Engine, EngineOptions, EngineStats};
pub use error::{GenerateError, LoadModelError, ScoreError};
pub use load::{Model, ModelOptions};
pub use request::{FinishReason, GenerateRequest, Generation, Prompt, StreamItem};
pub use sample::SamplingOptions;
pub use score::ScoreRequest;
pub use tokenizer::{ChatTokenizer, Message, Role};
