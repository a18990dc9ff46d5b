//! What a user says about generation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::GenerateError;
use crate::chat::{self, Api, ExtraFields};

/// Answers with fewer tokens are asked again (huggingface/cosmopedia, `generation/`).
pub const MIN_TOKENS: u32 = 150;
/// Tries for a long enough answer (huggingface/cosmopedia, `generation/`).
pub const MAX_TRIES: u32 = 6;

/// In which order rows come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they went in: the same input gives the same output.
    #[default]
    Ordered,
    /// Each as soon as it is done: no row waits for another.
    Unordered,
}

/// What becomes of a row whose answer is not in the answer log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenMissing {
    /// The model is asked.
    #[default]
    Ask,
    /// The row is rejected as `llm_not_in_log`: for answers that come by way of batch files.
    Reject,
}

/// Options of [`generate_stream`](super::generate_stream).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Name of the model that the requests ask for; empty: the client's own.
    pub model: String,
    /// Column that holds the prompts.
    pub prompt_column: String,
    /// Column that holds the rows' ids, from which their seeds derive.
    pub id_column: String,
    /// Instructions put before each prompt as a system message.
    pub system_message: Option<String>,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Share of the probability mass sampled from, 0 to 1.
    pub top_p: f64,
    /// Number of likeliest tokens sampled from.
    pub top_k: u32,
    /// Tokens below this share of the likeliest one's probability are not drawn; 0 keeps all.
    pub min_p: f64,
    /// Divisor of the scores of tokens already present; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// How the model is asked.
    pub api: Api,
    /// Further fields of the requests' bodies.
    pub extra: ExtraFields,
    /// Answers with fewer tokens are asked again, with another seed.
    pub min_tokens: u32,
    /// Tries for an answer of at least `min_tokens`.
    pub max_tries: u32,
    /// Rows asked at once at most; the client's own bound holds as well.
    pub max_in_flight: usize,
    /// Finished rows that may wait for a slow one before them, in rows.
    pub max_waiting: usize,
    /// Rows in a batch that comes out at most.
    pub max_batch_rows: usize,
    /// The run ends when so many rows have failed and none was ever answered.
    pub give_up_after: u64,
    /// What becomes of a row whose answer is not in the answer log.
    pub when_missing: WhenMissing,
    /// In which order rows come out.
    pub order: Order,
    /// Seed from which each row's seeds derive.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            model: String::new(),
            prompt_column: "prompt".into(),
            id_column: "prompt_id".into(),
            system_message: None,
            max_new_tokens: chat::MAX_NEW_TOKENS,
            temperature: chat::TEMPERATURE,
            top_p: chat::TOP_P,
            top_k: chat::TOP_K,
            min_p: 0.0,
            repetition_penalty: chat::REPETITION_PENALTY,
            stop: vec![chat::STOP.into()],
            api: Api::Chat,
            extra: ExtraFields::new(),
            min_tokens: MIN_TOKENS,
            max_tries: MAX_TRIES,
            max_in_flight: 256,
            max_waiting: 1024,
            max_batch_rows: 1024,
            give_up_after: 100,
            when_missing: WhenMissing::Ask,
            order: Order::Ordered,
            seed: 0,
        }
    }
}

impl GenerateOptions {
    pub(super) fn check(&self) -> Result<(), GenerateError> {
        let at_least_one = [
            ("max_tries", u64::from(self.max_tries)),
            ("max_in_flight", self.max_in_flight as u64),
            ("max_batch_rows", self.max_batch_rows as u64),
            ("max_new_tokens", u64::from(self.max_new_tokens)),
            ("give_up_after", self.give_up_after),
        ];
        for (option, value) in at_least_one {
            if value == 0 {
                return Err(GenerateError::BadOption {
                    option,
                    problem: "it is 0 and must be 1 or more".into(),
                });
            }
        }
        if self.min_tokens > self.max_new_tokens {
            let problem = format!(
                "{} is more than max_new_tokens = {}: no answer could be long enough",
                self.min_tokens, self.max_new_tokens
            );
            return Err(GenerateError::BadOption { option: "min_tokens", problem });
        }
        if let Err(error) = crate::client::check_extra(&self.extra) {
            return Err(GenerateError::BadOption { option: "extra", problem: error.to_string() });
        }
        let finite = [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("repetition_penalty", self.repetition_penalty),
        ];
        for (option, value) in finite {
            if !(value.is_finite() && value >= 0.0) {
                return Err(GenerateError::BadOption {
                    option,
                    problem: format!("it is {value} and must be 0 or more"),
                });
            }
        }
        Ok(())
    }
}
