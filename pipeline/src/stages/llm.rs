//! The language model of the stages that ask one: the embedded one, or an OpenAI-compatible server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use synth::answer_log::{AnswerLog, Totals};
use synth::chat::{Api, ChatModel, ExtraFields};
use synth::client::{BudgetOptions, Capped, ClientOptions, EndpointOptions, ServerKind};
use synth::estimate::{
    AnswerLength, CHARACTERS_A_TOKEN, Counting, Estimate, Outlook, PromptSample, estimate,
};

use super::External;
use super::embedded::{self, EMBEDDED_MODEL, Weights};
use crate::forecast::{Before, Expectation, Spread};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// 25 billion tokens in 10,000 H100 hours [huggingface/cosmopedia].
const PUBLISHED_TOKENS_PER_GPU_SECOND: f64 = 694.0;

/// The requests that a stage expects to make.
pub struct ExpectedAsks {
    /// How many; `None` when not known.
    pub requests: Option<f64>,
    /// Lengths of prompts, in characters.
    pub prompt_chars: Spread,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Tries for an answer that will do.
    pub max_tries: u32,
}

/// Which language model is asked: that of servers, a GGUF file's, or without either the embedded
/// SmolLM2-135M-Instruct.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LlmConfig {
    /// OpenAI-compatible servers (vLLM, TGI, llama-server, hosted), for example
    /// `["http://localhost:8000/v1"]`; requests go to whichever has room.
    pub base_urls: Vec<String>,
    /// Further servers with settings of their own: `{ url, weight, max_in_flight, api_key_env }`, and prices.
    pub endpoints: Vec<EndpointOptions>,
    /// A GGUF file whose model is asked in this process instead of the embedded one.
    pub model_path: Option<PathBuf>,
    /// The model's name on the servers.
    pub model: String,
    /// The environment variable that holds the API key, which stands in no file, log or error.
    pub api_key_env: Option<String>,
    /// The dialect of the servers: `vllm`, `llama_server` or `open_ai`.
    pub server_kind: ServerKind,
    /// How the servers are asked: `chat`, or `completions` for models without a chat template.
    pub api: Api,
    /// Further fields of each request's JSON body, for example `{ presence_penalty = 0.5 }`; they count for the
    /// answers as the prompt does.
    pub extra: ExtraFields,
    /// Requests in flight at one server at most; the embedded model's sequences side by side. How many
    /// a server bears is found out: up with each answer, down with HTTP 429, 503 and time-outs.
    pub max_in_flight: usize,
    /// Fewer requests are sent to a server whose recent time a token is over this many times its best.
    pub slow_factor: f64,
    /// Attempts of one request that fails for a reason that may pass; 6 [huggingface/cosmopedia
    /// `generation/`].
    pub max_attempts: u32,
    /// Longest wait for a whole answer, in seconds.
    pub request_timeout_seconds: f64,
    /// Longest silence while an answer comes, in seconds (servers are silent until it is written).
    pub read_timeout_seconds: f64,
    /// Longest wait for a connection, in seconds.
    pub connect_timeout_seconds: f64,
    /// Wait before the second attempt, in seconds; doubles with each one, less up to half by chance.
    pub backoff_seconds: f64,
    /// Longest wait between two attempts, in seconds.
    pub backoff_max_seconds: f64,
    /// Longest `Retry-After` of a server that is obeyed, in seconds.
    pub retry_after_max_seconds: f64,
    /// Failures in a row after which a server is left alone for a while, then probed.
    pub breaker_failures: u32,
    /// How long it is left alone the first time, in seconds; the wait doubles up to a minute.
    pub breaker_open_seconds: f64,
    /// Seconds without any usable server after which the run ends.
    pub down_after_seconds: f64,
    /// Requests sent at most, over all runs of the stage that its answer log knows of; no limit when left
    /// out.
    pub max_requests: Option<u64>,
    /// Tokens of prompts and answers at most, over all runs; no limit when left out.
    pub max_tokens: Option<u64>,
    /// Spend at most, in US dollars by the two prices, over all runs; no limit when left out.
    pub max_usd: Option<f64>,
    /// Wall-clock time of one run at most, in seconds; answers on their way are waited for. No limit when
    /// left out.
    pub max_duration_seconds: Option<f64>,
    /// US dollars for a million prompt tokens.
    pub usd_per_million_prompt_tokens: f64,
    /// US dollars for a million answer tokens.
    pub usd_per_million_completion_tokens: f64,
    /// Answer tokens a second of one GPU behind the servers, for the plan's GPU hours; 694 is
    /// Cosmopedia's: 25 billion tokens in 10,000 H100 hours [huggingface/cosmopedia].
    pub tokens_per_gpu_second: f64,
}

impl Default for LlmConfig {
    fn default() -> Self {
        let client = ClientOptions::default();
        Self {
            base_urls: Vec::new(),
            endpoints: Vec::new(),
            model_path: None,
            model: EMBEDDED_MODEL.to_owned(),
            api_key_env: None,
            server_kind: ServerKind::default(),
            api: Api::Chat,
            extra: ExtraFields::new(),
            max_in_flight: 32,
            slow_factor: client.slow_factor,
            max_attempts: 6,
            request_timeout_seconds: 600.0,
            read_timeout_seconds: client.read_timeout_seconds,
            connect_timeout_seconds: client.connect_timeout_seconds,
            backoff_seconds: 4.0,
            backoff_max_seconds: client.backoff_max_seconds,
            retry_after_max_seconds: client.retry_after_max_seconds,
            breaker_failures: client.breaker_failures,
            breaker_open_seconds: client.breaker_open_seconds,
            down_after_seconds: 120.0,
            max_requests: None,
            max_tokens: None,
            max_usd: None,
            max_duration_seconds: None,
            usd_per_million_prompt_tokens: 0.0,
            usd_per_million_completion_tokens: 0.0,
            tokens_per_gpu_second: PUBLISHED_TOKENS_PER_GPU_SECOND,
        }
    }
}

impl LlmConfig {
    /// Whether a model in this process answers.
    pub fn is_embedded(&self) -> bool {
        self.base_urls.is_empty() && self.endpoints.is_empty()
    }

    /// The model's name: the file's where it is read from one.
    pub fn name(&self) -> String {
        match &self.model_path {
            Some(path) if self.is_embedded() => {
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
            }
            _ => self.model.clone(),
        }
    }

    fn weights(&self) -> Weights<'_> {
        self.model_path.as_deref().map_or(Weights::Embedded, |path: &Path| Weights::File(path))
    }

    /// The memory that the model takes in this process.
    pub fn memory_bytes(&self) -> u64 {
        if self.is_embedded() { self.weights().memory_bytes() } else { 64 << 20 }
    }

    /// What decides the answers: the model and what it is told, not where it runs or how fast it is asked.
    pub fn identity(&self) -> serde_json::Value {
        let mut identity = serde_json::json!({"model": self.name(), "embedded": self.is_embedded()});
        if self.api != Api::Chat {
            identity["api"] = serde_json::json!(self.api);
        }
        if !self.extra.is_empty() {
            identity["extra"] = serde_json::json!(self.extra);
        }
        identity
    }

    /// US dollars a million tokens, by the names of the settings; none where there is no price.
    pub fn prices(&self) -> BTreeMap<String, serde_json::Value> {
        [
            ("usd_per_million_prompt_tokens", self.usd_per_million_prompt_tokens),
            ("usd_per_million_completion_tokens", self.usd_per_million_completion_tokens),
        ]
        .into_iter()
        .filter(|(_, price)| *price > 0.0)
        .map(|(name, price)| (name.to_owned(), serde_json::json!(price)))
        .collect()
    }

    /// What requests will take, with the tokens of their prompts where a server has counted them.
    pub(super) fn estimate(
        &self,
        asks: &ExpectedAsks,
        prompt_tokens: Option<Spread>,
        answers: AnswerLength,
    ) -> Estimate {
        let sample = match prompt_tokens {
            Some(Spread { rows, sum, sum_of_squares }) => {
                PromptSample::of_sums(Counting::Tokenizer, rows, sum, sum_of_squares)
            }
            None => {
                let Spread { rows, sum, sum_of_squares } = asks.prompt_chars;
                let squares = sum_of_squares / CHARACTERS_A_TOKEN.powi(2);
                PromptSample::of_sums(Counting::Guess, rows, sum / CHARACTERS_A_TOKEN, squares)
            }
        };
        estimate(&Outlook {
            prompts: asks.requests.unwrap_or_default() as u64,
            sample,
            answers,
            max_new_tokens: asks.max_new_tokens,
            max_tries: asks.max_tries,
            price: self.budget_options().price(),
            // The plan scales the time of the last run, if it asked this model, or counts GPU hours.
            tokens_a_second: None,
        })
    }

    /// What a stage's requests will take. The lengths are those of the last run where this model answered
    /// within the same limit, else the published ones.
    pub fn expect(&self, asks: &ExpectedAsks, before: &Before<'_>) -> Expectation {
        if asks.requests.is_none() {
            return Expectation::default();
        }
        let alike = before.past.is_some_and(|past| {
            let config = &past.manifest.config;
            config["llm"] == self.identity() && config["max_new_tokens"] == asks.max_new_tokens
        });
        let measured = |column| before.spread(column).filter(|_| alike);
        let answers = measured("completion_tokens").map(|spread| Totals {
            answers: spread.rows,
            completion_tokens: spread.sum as u64,
            completion_tokens_squared: spread.sum_of_squares,
            ..Totals::default()
        });
        let estimate = self.estimate(asks, measured("prompt_tokens"), AnswerLength::of_log(answers));
        let gpu_hours = estimate.answer_tokens.expected / self.tokens_per_gpu_second / 3600.0;
        Expectation {
            other_machine: !self.is_embedded() && !alike,
            gpu_hours: (!self.is_embedded()).then_some(gpu_hours),
            asks: Some(estimate),
            ..Expectation::default()
        }
    }

    /// The digest of a model in this process.
    ///
    /// # Errors
    /// It has not been fetched, or its file cannot be read.
    pub fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        if self.is_embedded() { Ok(vec![self.weights().external(ctx)?]) } else { Ok(Vec::new()) }
    }

    /// The model, ready to be asked. The tasks of a stage share its servers' state and its budget.
    ///
    /// # Errors
    /// The embedded model cannot be loaded, a setting is wrong, or the answer log cannot be opened.
    pub async fn connect(&self, ctx: &StageContext) -> Result<Arc<dyn ChatModel>, StageError> {
        let session = ctx.env.llm.session(ctx, self).await?;
        Ok(match &session.client {
            Some(client) => client.clone(),
            None => {
                let model = embedded::load(ctx, self.weights(), self.max_in_flight).await?;
                Arc::new(Capped::new(model, session.budget.clone()))
            }
        })
    }

    pub(super) fn client_options(&self) -> ClientOptions {
        ClientOptions {
            base_urls: self.base_urls.clone(),
            endpoints: self.endpoints.clone(),
            model: self.model.clone(),
            server_kind: self.server_kind,
            api_key_env: self.api_key_env.clone(),
            max_in_flight: self.max_in_flight,
            start_in_flight: self.max_in_flight.min(16),
            slow_factor: self.slow_factor,
            max_attempts: self.max_attempts,
            request_timeout_seconds: self.request_timeout_seconds,
            read_timeout_seconds: self.read_timeout_seconds,
            connect_timeout_seconds: self.connect_timeout_seconds,
            backoff_first_seconds: self.backoff_seconds,
            backoff_max_seconds: self.backoff_max_seconds,
            retry_after_max_seconds: self.retry_after_max_seconds,
            breaker_failures: self.breaker_failures,
            breaker_open_seconds: self.breaker_open_seconds,
            down_after_seconds: self.down_after_seconds,
            ..ClientOptions::default()
        }
    }

    pub(super) fn budget_options(&self) -> BudgetOptions {
        BudgetOptions {
            max_requests: self.max_requests,
            max_tokens: self.max_tokens,
            max_usd: self.max_usd,
            usd_per_million_prompt_tokens: self.usd_per_million_prompt_tokens,
            usd_per_million_completion_tokens: self.usd_per_million_completion_tokens,
            max_duration_seconds: self.max_duration_seconds,
        }
    }
}

/// The stage's answer log, shared by its tasks.
///
/// # Errors
/// Another process has it open, or it is damaged.
pub fn answer_log(ctx: &StageContext) -> Result<Arc<AnswerLog>, StageError> {
    if let Some(session) = ctx.env.llm.opened(&ctx.stage) {
        return Ok(session.log.clone());
    }
    let log = AnswerLog::open(ctx.answers_folder()).map_err(|error| ctx.failed(&error))?;
    Ok(Arc::new(log))
}
