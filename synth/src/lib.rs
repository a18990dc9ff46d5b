//! LLM prompting: topics, templates, generation, the client and its answer log.
//!
//! - [`chat`]: what is asked of a model and what comes back, and the trait [`chat::ChatModel`] that every
//!   model implements, whether behind HTTP or in this process.
//! - [`client`]: [`client::OpenAiClient`], the model behind one or several OpenAI-compatible servers.
//! - [`answer_log`]: [`answer_log::AnswerLog`], the durable record of every answer ever received.
//! - [`generate`]: [`generate::generate_stream`], prompts in, generated documents out.

pub mod answer_log;
pub mod chat;
pub mod client;
pub mod generate;

/// A row that an operator could not turn into an output row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Id of the row (of a prompt: its `prompt_id`).
    pub id: String,
    /// Name of the reason in snake_case, for example `too_short` or `llm_http_500`.
    pub reason: String,
    /// What happened to this row, for people.
    pub detail: String,
}
