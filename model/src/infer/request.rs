//! What is asked of the engine, and what it answers.

use serde::{Deserialize, Serialize};

use super::{Message, SamplingOptions};

/// What the model is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, put into the model's chat format.
    Messages(Vec<Message>),
    /// Text to go on from, in which control tokens such as `<|im_start|>` count as such.
    Text(String),
    /// Tokens to go on from.
    Tokens(Vec<u32>),
}

/// A request for one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// What the model is given.
    pub prompt: Prompt,
    /// Most tokens of the answer (2,500 in Cosmopedia); fewer where the context ends before.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: SamplingOptions,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, beside the model's own end tokens.
    pub stop_tokens: Vec<u32>,
    /// Seed of the draws: the same request with the same seed gives the same answer.
    pub seed: u64,
}

impl GenerateRequest {
    /// A request with the default options.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            max_new_tokens: 2_500,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            seed: 0,
        }
    }

    /// A request for the next turn of a conversation.
    pub fn chat(messages: impl Into<Vec<Message>>) -> Self {
        Self::new(Prompt::Messages(messages.into()))
    }
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text or token came.
    Stop,
    /// It reached `max_new_tokens` or the end of the context.
    Length,
}

impl FinishReason {
    /// The name used by OpenAI-compatible servers: `stop` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Its text, without the end token or stop text.
    pub text: String,
    /// Its tokens, without an end token.
    pub tokens: Vec<u32>,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt, chat markers included.
    pub prompt_tokens: usize,
    /// Tokens drawn, an end token included.
    pub completion_tokens: usize,
}

/// A part of an answer that is being written.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    /// The next characters; all of them together are [`Generation::text`].
    Text(String),
    /// The answer is done; nothing follows.
    End(Generation),
}
