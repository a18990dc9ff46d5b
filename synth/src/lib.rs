//! LLM prompting: topics, templates, generation, clean-up, the client and its answer log.
//!
//! - [`topics`]: BISAC headings expanded into topics.
//! - [`prompts`]: templates and the dealing of audiences and styles to seed pages.
//! - [`chat`]: what is asked of a model and what comes back, and the trait [`chat::ChatModel`] that every
//!   model implements, whether behind HTTP or in this process.
//! - [`client`]: [`client::OpenAiClient`], the model behind one or several OpenAI-compatible servers.
//! - [`answer_log`]: [`answer_log::AnswerLog`], the durable record of every answer ever received.
//! - [`batch_file`]: requests as OpenAI's batch files, and the answers that come back in them.
//! - [`estimate`]: requests, tokens, money and time of a generation before it is run.
//! - [`generate`]: [`generate::generate_stream`], prompts in, generated documents out.
//! - [`cleanup`]: what is cut from, or dropped of, generated documents.

pub mod answer_log;
pub mod batch_file;
pub mod chat;
pub mod cleanup;
pub mod client;
mod columns;
pub mod estimate;
pub mod generate;
pub mod prompts;
mod reject;
mod text;
pub mod topics;

pub use columns::ColumnError;
pub use reject::{OnReject, Reject};
