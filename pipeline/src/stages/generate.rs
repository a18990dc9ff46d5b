//! `generate`: asks a language model every prompt.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::answer_log::Totals;
use synth::chat;
use synth::estimate::AnswerLength;
use synth::generate::{
    GenerateError, GenerateOptions, Progress, WhenMissing, generate_stream, generated_schema,
};
use thiserror::Error;

use super::columns::{require, schema_of, text_column};
use super::llm::{ExpectedAsks, LlmConfig};
use super::{External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::streams::{self, from_domain, to_domain};
use crate::engine::{Plan, operator};
use crate::forecast::{Before, Expectation, Spread};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::progress::group;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "generate",
    summary: "Asks a language model every prompt; answers are logged and never asked for twice.",
    version: 1,
    inputs: &[InputRole {
        role: "prompts",
        about: "prompts with `prompt_id` and `prompt`; of several stages all with the same columns",
        count: InputCount::Many,
    }],
    output: OutputKind::Table,
    schema: super::schema_of::<GenerateConfig>,
    build: super::build_from::<GenerateConfig>,
};

/// Length of a prompt before any has been seen: about 1,000 characters of template around a seed of
/// 1,000 [huggingface/cosmopedia `prompts/`].
const PROMPT_CHARS: f64 = 2000.0;

/// Prompts by which the stage tells what it will take.
const SAMPLE: usize = 1000;

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
    /// Tokens below this share of the likeliest one's probability are not drawn; 0 keeps all.
    pub min_p: f64,
    /// Divisor of the scores of tokens that are there already.
    pub repetition_penalty: f64,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Seed from which each row's seeds derive.
    pub seed: u64,
    /// What becomes of a row whose answer is not in the answer log: `ask` the model, or `reject` it (for
    /// answers that come by way of batch files; `pipeline retry` takes the rejected rows up again).
    pub when_missing: WhenMissing,
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
            min_p: 0.0,
            repetition_penalty: chat::REPETITION_PENALTY,
            stop: options.stop,
            seed: 1,
            when_missing: WhenMissing::Ask,
        }
    }
}

impl GenerateConfig {
    /// The options of the prompting crate.
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            model: self.llm.model.clone(),
            system_message: self.system_message.clone(),
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            stop: self.stop.clone(),
            api: self.llm.api,
            extra: self.llm.extra.clone(),
            min_tokens: self.min_tokens,
            max_tries: self.max_tries,
            seed: self.seed,
            when_missing: self.when_missing,
            ..GenerateOptions::default()
        }
    }
}

/// A stage that a limit or a dead server stopped, with what is left of it.
#[derive(Debug, Error)]
#[error("{error}. About {} of {} rows are left", group(*.left), group(*.total))]
struct Unfinished {
    error: ArrowError,
    left: u64,
    total: u64,
}

/// Adds what is left to an error that stopped the whole stage.
fn with_rows_left(error: ArrowError, done: u64, total: u64) -> ArrowError {
    match &error {
        ArrowError::ExternalError(inner)
            if total > 0 && matches!(inner.downcast_ref(), Some(GenerateError::Stopped { .. })) =>
        {
            let left = total.saturating_sub(done);
            ArrowError::ExternalError(Box::new(Unfinished { error, left, total }))
        }
        _ => error,
    }
}

impl GenerateConfig {
    /// Says in the log what the stage will ask and cost, by a sample of its prompts.
    async fn tell_what_it_takes(
        &self,
        ctx: &StageContext,
        prompts: &Plan,
        answered: &Totals,
    ) -> Result<(), StageError> {
        let sample = prompts.frame().select_columns(&["prompt"]).and_then(|all| all.limit(0, Some(SAMPLE)));
        let sample = sample.map_err(|error| ctx.plan_error(&error))?;
        let batches = streams::collect(sample).await.map_err(|error| ctx.plan_error(&error))?;
        let mut lengths = Spread::default();
        for batch in &batches {
            let texts = text_column(batch, "prompt").map_err(|error| ctx.failed(&error))?;
            texts.iter().flatten().for_each(|text| lengths.add(text.chars().count() as f64));
        }
        let (_, total) = ctx.progress.rows_of_total();
        let asks = ExpectedAsks {
            requests: Some(total.saturating_sub(answered.answers) as f64),
            prompt_chars: lengths,
            max_new_tokens: self.max_new_tokens,
            max_tries: self.max_tries,
        };
        let estimate = self.llm.estimate(&asks, None, AnswerLength::of_log(Some(*answered)));
        tracing::info!("what is left to be asked, about:\n{estimate}");
        Ok(())
    }
}

#[async_trait]
impl Stage for GenerateConfig {
    fn config(&self) -> Json {
        let mut config = super::config_json(self);
        config["llm"] = self.llm.identity();
        // It decides which rows fail, as a server that is down does, and no more than that.
        if let Some(fields) = config.as_object_mut() {
            fields.remove("when_missing");
        }
        config
    }

    fn prices(&self) -> BTreeMap<String, Json> {
        self.llm.prices()
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn stays(&self) -> bool {
        true
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(self.llm.memory_bytes())
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let asks = ExpectedAsks {
            requests: before.rows("prompts"),
            prompt_chars: before
                .input_spread("prompts", "prompt")
                .or_else(|| before.spread("prompt"))
                .unwrap_or(Spread::of_one(PROMPT_CHARS)),
            max_new_tokens: self.max_new_tokens,
            max_tries: self.max_tries,
        };
        Expectation { rows: asks.requests, ..self.llm.expect(&asks, before) }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        self.llm.externals(ctx)
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let prompts = inputs.table(ctx, "prompts")?;
        for other in inputs.tables("prompts") {
            if schema_of(&other.plan) != schema_of(&prompts) {
                let message =
                    format!("the prompts of `{}` have other columns than the first ones", other.stage);
                return Err(ctx.input(message).help("a `sql` stage gives them the same"));
            }
        }
        require(ctx, &prompts, "prompts", &["prompt_id", "prompt"])?;
        let schema = generated_schema(&schema_of(&prompts)).map_err(|error| ctx.input(error.to_string()))?;
        let model = self.llm.connect(ctx).await?;
        let session = ctx.env.llm.session(ctx, &self.llm).await?;
        let answered = session.log.totals();
        session.tell_once(|| self.tell_what_it_takes(ctx, &prompts, &answered)).await?;
        let options = GenerateOptions {
            model: model.name().to_owned(),
            max_in_flight: model.max_in_flight(),
            ..self.options()
        };
        let (sink, progress, out_schema) =
            (ctx.ledger.quarantine_sink(), ctx.progress.clone(), schema.clone());
        operator::apply(
            ctx.session(),
            prompts,
            "generate",
            schema,
            Arc::new(move |stream| {
                let sink = sink.clone();
                let on_reject =
                    Arc::new(move |reject: synth::Reject| sink(reject.id, reject.reason, reject.detail));
                let (counted, shared, shown) =
                    (Mutex::new(Progress::default()), session.clone(), progress.clone());
                let on_progress = Arc::new(move |now: Progress| {
                    // One task calls this, a row at a time; the lock only satisfies the types.
                    let mut before = counted.lock().unwrap_or_else(PoisonError::into_inner);
                    shared.add(&before, &now);
                    shown.add_tokens(now.tokens - before.tokens);
                    *before = now;
                    shared.note_spending();
                    shown.set_note(shared.note());
                });
                let rows = generate_stream(
                    model.clone(),
                    Some(session.log.clone()),
                    &options,
                    to_domain(stream),
                    on_reject,
                    on_progress,
                );
                let (shared, shown) = (session.clone(), progress.clone());
                let rows = rows.map(move |batch| {
                    batch.map_err(|error| {
                        let (written, total) = shown.rows_of_total();
                        with_rows_left(error, written.max(shared.rows()), total)
                    })
                });
                Ok(from_domain(out_schema.clone(), rows))
            }),
        )
        .map_err(|error| ctx.plan_error(&error))
    }
}
