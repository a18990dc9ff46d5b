//! What is asked of a language model, what it answers, and the trait every model implements.

mod error;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use error::{BudgetKind, ChatError};

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

/// Domain of the request keys. A new field in the key means a new domain: old logs then no longer answer.
const KEY_CONTEXT: &str = "corpusmith chat request key v1";

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
    /// Divisor of the scores of tokens already present; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Seed of the sampling.
    pub seed: u64,
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
            repetition_penalty: REPETITION_PENALTY,
            stop: vec![STOP.to_owned()],
            seed: 0,
        }
    }

    /// The key of this request: blake3 over every field, each text with its length before it, so that no
    /// two different requests share their bytes.
    pub fn key(&self) -> RequestKey {
        let Self {
            model,
            messages,
            max_new_tokens,
            temperature,
            top_p,
            top_k,
            repetition_penalty,
            stop,
            seed,
        } = self;
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hash_text(&mut hasher, model);
        hasher.update(&(messages.len() as u64).to_le_bytes());
        for message in messages {
            let role = match message.role {
                Role::System => 0u8,
                Role::User => 1,
                Role::Assistant => 2,
            };
            hasher.update(&[role]);
            hash_text(&mut hasher, &message.content);
        }
        hasher.update(&max_new_tokens.to_le_bytes());
        for number in [temperature, top_p, repetition_penalty] {
            hasher.update(&number.to_bits().to_le_bytes());
        }
        hasher.update(&top_k.to_le_bytes());
        hasher.update(&(stop.len() as u64).to_le_bytes());
        for text in stop {
            hash_text(&mut hasher, text);
        }
        hasher.update(&seed.to_le_bytes());
        RequestKey(*hasher.finalize().as_bytes())
    }
}

fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// The name of a request in the answer log: blake3 of all that decides the answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(pub [u8; 32]);

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestKey({self})")
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
    fn every_field_is_in_the_key() {
        let base = ChatRequest::new("m", vec![Message::user("ab")]);
        let changed: Vec<ChatRequest> = vec![
            ChatRequest { model: "n".into(), ..base.clone() },
            ChatRequest { messages: vec![Message::system("ab")], ..base.clone() },
            ChatRequest { messages: vec![Message::user("a"), Message::user("b")], ..base.clone() },
            ChatRequest { max_new_tokens: 1, ..base.clone() },
            ChatRequest { temperature: 0.7, ..base.clone() },
            ChatRequest { top_p: 0.6, ..base.clone() },
            ChatRequest { top_k: 1, ..base.clone() },
            ChatRequest { repetition_penalty: 1.0, ..base.clone() },
            ChatRequest { stop: vec![], ..base.clone() },
            ChatRequest { stop: vec!["<|".into(), "endoftext|>".into()], ..base.clone() },
            ChatRequest { seed: 1, ..base.clone() },
        ];
        let mut keys: Vec<RequestKey> = changed.iter().map(ChatRequest::key).collect();
        keys.push(base.key());
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(base.key(), base.clone().key());
    }

    #[test]
    fn keys_stay_what_they_were() {
        // A changed key would make every log in the field ask again: change KEY_CONTEXT knowingly.
        let key = ChatRequest::new("m", vec![Message::user("ab")]).key();
        assert_eq!(key.to_string(), "d0d09fb67fabce7022388231a37ab83b826a9b5dee63d2a385ce2ef28adb3ad4");
    }

    #[test]
    fn finish_reasons_keep_their_names() {
        for name in ["stop", "length", "content_filter", ""] {
            assert_eq!(FinishReason::from(name.to_owned()).as_str(), name);
        }
    }
}
