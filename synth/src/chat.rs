//! What is asked of a language model, what it answers, and the trait every model implements.

mod error;
mod key;
pub mod span;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::{BudgetKind, BudgetScope, ChatError};
pub use key::{RequestId, RequestKey};

/// Longest answer asked for, in tokens (huggingface/cosmopedia, `generation/`).
pub const MAX_NEW_TOKENS: u32 = 2_500;
/// Sampling temperature (huggingface/cosmopedia, `generation/`).
pub const TEMPERATURE: f64 = 0.6;
/// Nucleus sampling threshold (huggingface/cosmopedia, `generation/`).
pub const TOP_P: f64 = 0.95;
/// Number of most likely tokens sampled from (huggingface/cosmopedia, `generation/`).
pub const TOP_K: u32 = 50;
/// Divisor of the scores of tokens already present (huggingface/cosmopedia, `generation/`).
pub const REPETITION_PENALTY: f64 = 1.2;
/// Text that ends an answer (huggingface/cosmopedia, `generation/`).
pub const STOP: &str = "<|endoftext|>";

/// Fields for the request's JSON body that this program has no setting for, such as `min_p` or
/// `chat_template_kwargs`; `null` leaves out a field that is sent otherwise.
pub type ExtraFields = serde_json::Map<String, serde_json::Value>;

/// Which of the OpenAI API's two ways of asking is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/chat/completions`: messages, put into the model's chat template by the server.
    #[default]
    Chat,
    /// `/completions`: one text that the model goes on with, for models without a chat template. The
    /// messages' texts stand one below the other, with an empty line between.
    Completions,
}

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the one who asks.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }
}

/// Everything that decides an answer. Two equal requests have one [`RequestKey`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// Name of the model, as the server knows it.
    pub model: String,
    /// The conversation so far; the model writes the next turn.
    pub messages: Vec<Message>,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature; 0 takes the likeliest token always.
    pub temperature: f64,
    /// Share of the probability mass sampled from, 0 to 1.
    pub top_p: f64,
    /// Number of likeliest tokens sampled from.
    pub top_k: u32,
    /// Tokens below this share of the likeliest one's probability are not drawn; 0 keeps all.
    pub min_p: f64,
    /// Divisor of the scores of tokens already present; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Seed of the sampling.
    pub seed: u64,
    /// How it is asked.
    pub api: Api,
    /// Further fields of the request's body.
    pub extra: ExtraFields,
}

impl ChatRequest {
    /// A request with the paper's sampling and seed 0.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            model: model.into(),
            messages,
            max_new_tokens: MAX_NEW_TOKENS,
            temperature: TEMPERATURE,
            top_p: TOP_P,
            top_k: TOP_K,
            min_p: 0.0,
            repetition_penalty: REPETITION_PENALTY,
            stop: vec![STOP.to_owned()],
            seed: 0,
            api: Api::Chat,
            extra: ExtraFields::new(),
        }
    }
}

/// Why the model stopped writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum FinishReason {
    /// It came to its end.
    Stop,
    /// It reached `max_new_tokens` or its context length.
    Length,
    /// Any other reason, by the server's name for it (empty: the server gave none).
    Other(String),
}

impl FinishReason {
    /// The reason as it stands in a `finish_reason` column.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for FinishReason {
    fn from(name: String) -> Self {
        match name.as_str() {
            "stop" => Self::Stop,
            "length" => Self::Length,
            _ => Self::Other(name),
        }
    }
}

impl From<FinishReason> for String {
    fn from(reason: FinishReason) -> Self {
        reason.as_str().to_owned()
    }
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatAnswer {
    /// The answer's text as it came.
    pub text: String,
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt, as the model counted them (of a server that counts none: a quarter of the
    /// characters).
    pub prompt_tokens: u32,
    /// Tokens of the answer, counted likewise.
    pub completion_tokens: u32,
    /// The model that answered, by its own name.
    pub model: String,
    /// Where it answered: a base URL, or a name for a model in this process.
    pub endpoint: String,
    /// Requests sent until this answer came, 1 or more.
    pub attempts: u32,
    /// Milliseconds between sending the successful request and having the whole answer.
    pub latency_ms: u32,
}

/// A model that answers requests, many at once.
///
/// Dropping the future of [`ask`](Self::ask) gives the request up.
#[async_trait]
pub trait ChatModel: Send + Sync {
    /// Name of the model, for requests that name none.
    fn name(&self) -> &str;

    /// Number of requests that are worth having in flight.
    fn max_in_flight(&self) -> usize;

    /// Asks, and tries again where that can help, until there is an answer or a final failure.
    async fn ask(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_reasons_keep_their_names() {
        for name in ["stop", "length", "content_filter", ""] {
            assert_eq!(FinishReason::from(name.to_owned()).as_str(), name);
        }
    }
}
