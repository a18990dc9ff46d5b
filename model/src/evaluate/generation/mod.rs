//! Benchmarks that a model answers in its own words: what it writes is judged.

mod answers;
mod engine;
mod judge;
mod task;

pub use answers::{NumberRule, final_number, normalize_answer, pass_at_k};
pub use engine::EngineGenerator;
pub use judge::Judge;
pub use task::{
    AnsweredItem, GENERATION_TASKS, GenerationFile, GenerationItem, GenerationOptions, GenerationReport,
    GenerationTask,
};

use super::EvaluateError;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How a model is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// It goes on from the prompt.
    #[default]
    Text,
    /// The prompt is a user's message; as [`Form::Text`] for a model without a chat template.
    Chat,
}

/// A request for one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRequest {
    /// What is asked. Markers such as `<|im_end|>` in it are plain text.
    pub prompt: String,
    /// How it is asked.
    pub form: Form,
    /// Most tokens of the answer.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Share of the probability that is kept, above 0 and up to 1.
    pub top_p: f32,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Seed of the draws.
    pub seed: u64,
}

/// A model that writes.
pub trait Generator {
    /// The answers to all requests, in order. `progress` hears the number of answers done; when it breaks, there are
    /// none. Requests that begin alike and follow each other should share the reading of their beginning.
    ///
    /// # Errors
    /// [`EvaluateError`] if a request cannot be answered.
    fn answers(
        &mut self,
        requests: &[AnswerRequest],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<String>>, EvaluateError>;
}

#[cfg(test)]
mod tests;
