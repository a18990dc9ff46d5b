//! `generate`: asks a language model every prompt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::chat;
use synth::generate::{GenerateOptions, Progress, generate_stream, generated_schema};

use super::columns::{require, schema_of};
use super::llm::{self, ExpectedAsks, LlmConfig};
use super::{External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "generate",
    summary: "Asks a language model every prompt; answers are logged and never asked for twice.",
    version: 1,
    inputs: &[InputRole {
        role: "prompts",
        about: "prompts with `prompt_id` and `prompt`",
        count: InputCount::One,
    }],
    output: OutputKind::Table,
    schema: super::schema_of::<GenerateConfig>,
    build: super::build_from::<GenerateConfig>,
};

/// Length of a prompt before any has been seen: about 1,000 characters of template around a seed of
/// 1,000 [huggingface/cosmopedia `prompts/`].
const PROMPT_CHARS: f64 = 2000.0;

/// Asks a language model. A row comes out with the columns `completion, finish_reason,
/// prompt_tokens, completion_tokens, model, endpoint, attempts, latency_ms` behind its own.
/// Defaults as in Cosmopedia [huggingface/cosmopedia `generation/`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// The language model.
    pub llm: LlmConfig,
    /// Instructions put before each prompt as a system message.
    pub system_message: Option<String>,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Answers with fewer tokens are asked again with another seed.
    pub min_tokens: u32,
    /// Tries for an answer of at least `min_tokens`.
    pub max_tries: u32,
    /// Sampling temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Share of the probability mass sampled from.
    pub top_p: f64,
    /// Number of likeliest tokens sampled from.
    pub top_k: u32,
    /// Divisor of the scores of tokens that are there already.
    pub repetition_penalty: f64,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Seed from which each row's seeds derive.
    pub seed: u64,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        let options = GenerateOptions::default();
        Self {
            llm: LlmConfig::default(),
            system_message: None,
            max_new_tokens: chat::MAX_NEW_TOKENS,
            min_tokens: options.min_tokens,
            max_tries: options.max_tries,
            temperature: chat::TEMPERATURE,
            top_p: chat::TOP_P,
            top_k: chat::TOP_K,
            repetition_penalty: chat::REPETITION_PENALTY,
            stop: options.stop,
            seed: 1,
        }
    }
}

#[async_trait]
impl Stage for GenerateConfig {
    fn config(&self) -> Json {
        let mut config = super::config_json(self);
        config["llm"] = self.llm.identity();
        config
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn needs(&self) -> Needs {
        Needs { memory_bytes: self.llm.memory_bytes() }
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let asks = ExpectedAsks {
            requests: before.rows("prompts"),
            prompt_chars: before.mean("prompt").unwrap_or(PROMPT_CHARS),
            max_new_tokens: self.max_new_tokens,
        };
        Expectation { rows: asks.requests, ..self.llm.expect(&asks, before) }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        self.llm.externals(ctx)
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let prompts = inputs.table(ctx, "prompts")?;
        require(ctx, &prompts, "prompts", &["prompt_id", "prompt"])?;
        let schema = generated_schema(&schema_of(&prompts)).map_err(|error| ctx.input(error.to_string()))?;
        let model = self.llm.connect(ctx).await?;
        let log = llm::answer_log(ctx)?;
        let options = GenerateOptions {
            model: self.llm.model.clone(),
            system_message: self.system_message.clone(),
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: self.repetition_penalty,
            stop: self.stop.clone(),
            min_tokens: self.min_tokens,
            max_tries: self.max_tries,
            max_in_flight: model.max_in_flight(),
            seed: self.seed,
            ..GenerateOptions::default()
        };
        let (sink, progress, out_schema) =
            (ctx.ledger.quarantine_sink(), ctx.progress.clone(), schema.clone());
        operator::apply(
            ctx.session(),
            prompts,
            "generate",
            schema,
            Arc::new(move |stream| {
                let (sink, progress, counted) = (sink.clone(), progress.clone(), AtomicU64::new(0));
                let on_reject =
                    Arc::new(move |reject: synth::Reject| sink(reject.id, reject.reason, reject.detail));
                let on_progress = Arc::new(move |now: Progress| {
                    let before = counted.swap(now.tokens, Ordering::Relaxed);
                    progress.add_tokens(now.tokens.saturating_sub(before));
                    progress.set_note(format!("{} answers, {} from the log", now.answers, now.from_log));
                });
                let rows = generate_stream(
                    model.clone(),
                    Some(log.clone()),
                    &options,
                    to_domain(stream),
                    on_reject,
                    on_progress,
                );
                Ok(from_domain(out_schema.clone(), rows))
            }),
        )
        .map_err(|error| ctx.plan_error(&error))
    }
}
