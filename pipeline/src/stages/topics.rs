//! `topics`: BISAC headings, expanded into subtopics by a language model.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::chat::{ChatAnswer, ChatError, ChatModel, ChatRequest, FinishReason, Message};
use synth::topics::{
    AskFailure, ExpandOptions, ExpansionRequest, PUBLISHED_TOPICS, expand_topics, load_bisac, select,
    without_cut_line,
};

use super::llm::{self, LlmConfig};
use super::{External, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task, asset_external};
use crate::assets::Asset;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "topics",
    summary: "Expands BISAC headings into a table of topics by asking a language model.",
    version: 1,
    inputs: &[],
    output: OutputKind::Table,
    schema: super::schema_of::<TopicsConfig>,
    build: super::build_from::<TopicsConfig>,
};

/// Expands BISAC headings into topics. A row: `topic_id, bisac_code, top_category, subcategory,
/// subtopic, source`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    /// The BISAC top categories to take, for example `["Computers", "Mathematics"]`; all 51 when
    /// empty.
    pub categories: Vec<String>,
    /// Topics wanted in all, headings included; 34,000 in Cosmopedia v2 (SmolLM blog post).
    pub target: u32,
    /// Headings used at most, spread over the categories by size; all when left out.
    pub max_headings: Option<u32>,
    /// Weight of a top category's subtopics, 1 for those not named.
    pub category_weights: BTreeMap<String, f64>,
    /// How often a heading is asked again after a refused, malformed or short answer.
    pub max_retries: u32,
    /// Subtopics asked for in one request at most.
    pub max_subtopics_per_request: u32,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Divisor of the scores of tokens that are there already; lists repeat their form, so a high
    /// one breaks them.
    pub repetition_penalty: f64,
    /// Seed of the choice of headings and of the sampling.
    pub seed: u64,
    /// The language model.
    pub llm: LlmConfig,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            categories: Vec::new(),
            target: PUBLISHED_TOPICS,
            max_headings: None,
            category_weights: BTreeMap::new(),
            max_retries: 6,
            max_subtopics_per_request: 20,
            max_new_tokens: 512,
            temperature: 0.6,
            repetition_penalty: 1.0,
            seed: 1,
            llm: LlmConfig::default(),
        }
    }
}

#[async_trait]
impl Stage for TopicsConfig {
    fn config(&self) -> Json {
        let mut config = super::config_json(self);
        config["llm"] = self.llm.identity();
        config
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn needs(&self) -> Needs {
        Needs { memory_bytes: self.llm.memory_bytes() }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let mut externals = vec![asset_external(ctx, Asset::Bisac)?];
        externals.extend(self.llm.externals(ctx)?);
        Ok(externals)
    }

    async fn plan(
        &self,
        ctx: &StageContext,
        _task: &Task,
        _inputs: &Inputs,
    ) -> Result<DataFrame, StageError> {
        let path = ctx.asset(Asset::Bisac)?;
        let all = load_bisac(&path).map_err(|error| ctx.input(error.to_string()))?;
        let headings = if self.categories.is_empty() {
            all
        } else {
            select(&all, &self.categories).map_err(|error| ctx.input(error.to_string()))?
        };
        let asker = Arc::new(Asker {
            model: self.llm.connect(ctx).await?,
            log: llm::answer_log(ctx)?,
            config: self.clone(),
            ctx: ctx.clone(),
        });
        let options = ExpandOptions {
            target_topics: self.target,
            max_headings: self.max_headings,
            category_weights: self.category_weights.clone(),
            max_retries: self.max_retries,
            max_in_flight: self.llm.max_in_flight,
            max_subtopics_per_request: self.max_subtopics_per_request,
            model: self.llm.model.clone(),
            seed: self.seed,
            ..ExpandOptions::default()
        };
        let expansion = expand_topics(&options, &headings, |request, attempt| {
            let asker = asker.clone();
            async move { asker.ask(&request, attempt).await }
        });
        let expansion = expansion.await.map_err(|error| ctx.failed(&error))?;
        tracing::info!(report = ?expansion.report, "topics expanded");
        ctx.session().read_batches(expansion.batches).map_err(|error| ctx.plan_error(&error))
    }
}

/// Asks one request, the log first.
struct Asker {
    model: Arc<dyn ChatModel>,
    log: Arc<synth::answer_log::AnswerLog>,
    config: TopicsConfig,
    ctx: StageContext,
}

impl Asker {
    async fn ask(&self, request: &ExpansionRequest, attempt: u32) -> Result<String, AskFailure> {
        let mut chat = ChatRequest::new(&self.config.llm.model, vec![Message::user(&request.prompt)]);
        chat.max_new_tokens = self.config.max_new_tokens;
        chat.temperature = self.config.temperature;
        chat.repetition_penalty = self.config.repetition_penalty;
        chat.api = self.config.llm.api;
        chat.extra = self.config.llm.extra.clone();
        // Each attempt samples anew, and is a request of its own in the log.
        chat.seed = self.config.seed.wrapping_mul(1009).wrapping_add(u64::from(attempt));
        let key = chat.key();
        let everything = |text: String| AskFailure::Everything { source: text.into() };
        if let Some(answer) = self.log.get(&key).map_err(|error| everything(error.to_string()))? {
            return Ok(whole_lines(&answer));
        }
        if self.ctx.stopping() {
            return Err(everything("stopped; answers that came are kept".to_owned()));
        }
        match self.model.ask(&chat).await {
            Ok(answer) => {
                self.ctx.progress.add_tokens(answer.completion_tokens.into());
                if let Some(session) = self.ctx.env.llm.opened(&self.ctx.stage) {
                    self.ctx.progress.set_note(session.spend());
                }
                let answer =
                    self.log.append(&key, &answer).await.map_err(|error| everything(error.to_string()))?;
                Ok(whole_lines(&answer))
            }
            Err(error) => {
                let sink = self.ctx.ledger.quarantine_sink();
                if ends_the_run(&error) {
                    return Err(everything(error.to_string()));
                }
                sink(request.bisac_code.clone(), "llm_failed".to_owned(), error.to_string());
                Err(AskFailure::ThisRequest { reason: error.to_string() })
            }
        }
    }
}

/// An answer that was cut by its length ends in a broken line, which is no topic.
fn whole_lines(answer: &ChatAnswer) -> String {
    match answer.finish_reason {
        FinishReason::Length => without_cut_line(&answer.text).to_owned(),
        _ => answer.text.clone(),
    }
}

/// Failures that every further request would meet too.
fn ends_the_run(error: &ChatError) -> bool {
    error.stops_run()
}
