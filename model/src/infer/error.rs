//! What can go wrong when a model is loaded, asked or used to score.

use std::path::PathBuf;

use crate::gguf::GgufError;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are said in each message
pub enum LoadModelError {
    /// The file itself is unusable.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model is not a Llama.
    #[error("{path}: the architecture is `{found}`; only `llama` models (SmolLM, SmolLM2) run here")]
    Architecture { path: PathBuf, found: String },
    /// A setting of the model is out of range or asks for something that is not built.
    #[error("{path}: `{key}` is {value}, but must be {allowed}; the model cannot run here")]
    Setting { path: PathBuf, key: String, value: String, allowed: String },
    /// A tensor has another shape than the settings demand.
    #[error(
        "{path}: tensor `{name}` has dimensions {found:?}, but the settings demand {expected:?}; the file is damaged, fetch it again"
    )]
    Shape { path: PathBuf, name: String, expected: Vec<u64>, found: Vec<u64> },
    /// The file holds a tensor that the forward pass would ignore, so its results would be wrong.
    #[error("{path}: tensor `{name}` is not part of a SmolLM model; the model cannot run here")]
    UnknownTensor { path: PathBuf, name: String },
    /// The tokenizer's tables contradict each other.
    #[error("{path}: the tokenizer is unusable: {problem}; convert the model again")]
    Tokenizer { path: PathBuf, problem: String },
}

/// Why an answer cannot be given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the fields are said in each message
pub enum GenerateError {
    /// A field of the request is out of range.
    #[error("{field} is {value}, but must be {allowed}")]
    BadOption { field: &'static str, value: String, allowed: &'static str },
    /// The request has no prompt.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("token id {token} is not in the vocabulary of {vocab_size} tokens")]
    BadToken { token: u32, vocab_size: usize },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens and the context {context_tokens}; shorten the prompt or raise max_context_tokens"
    )]
    PromptTooLong { prompt_tokens: usize, context_tokens: usize },
    /// The request can never fit into the cache.
    #[error(
        "prompt and answer may take {needed_tokens} tokens of cache, which has {budget_tokens}; lower max_new_tokens or raise cache_tokens"
    )]
    OverBudget { needed_tokens: usize, budget_tokens: usize },
    /// The model has no chat markers.
    #[error("the model's vocabulary has no <|im_start|> and <|im_end|>; give a plain prompt")]
    NotAChatModel,
    /// The model gave NaN or infinity.
    #[error("the model gave a non-finite logit after {tokens} tokens; its weights are damaged")]
    NonFinite { tokens: usize },
    /// The engine has been dropped.
    #[error("the engine has stopped before the answer was done; ask a running one")]
    Stopped,
    /// The engine's threads cannot be started.
    #[error("cannot start the engine's threads: {reason}; lower `threads`")]
    Threads { reason: String },
}

/// Why a text cannot be scored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the fields are said in each message
pub enum ScoreError {
    /// There is nothing to condition on.
    #[error("the context is empty; give at least one token before what is to be scored")]
    EmptyContext,
    /// A token id is not in the vocabulary.
    #[error("token id {token} is not in the vocabulary of {vocab_size} tokens")]
    BadToken { token: u32, vocab_size: usize },
    /// The text is longer than the context.
    #[error(
        "the text has {tokens} tokens and the context {context_tokens}; shorten it or raise max_context_tokens"
    )]
    TooLong { tokens: usize, context_tokens: usize },
}
