//! `outlines`: topics into courses, unit by unit, by a language model's tables of contents.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::topics::{OtherTopics, OutlineOptions, outline_schema, outline_stream};

use super::asker::{Asker, Sampling};
use super::columns::require;
use super::llm::{ExpectedAsks, LlmConfig};
use super::{External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::forecast::{Before, Expectation, Spread};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "outlines",
    summary: "Turns topics into courses: a language model writes their tables of contents.",
    version: 1,
    inputs: &[InputRole {
        role: "topics",
        about: "topics with `topic_id, top_category, subcategory, subtopic`",
        count: InputCount::One,
    }],
    output: OutputKind::Table,
    schema: super::schema_of::<OutlinesConfig>,
    build: super::build_from::<OutlinesConfig>,
};

/// Length of a request for an outline, in characters.
const PROMPT_CHARS: f64 = 400.0;

/// Writes outlines [huggingface/cosmopedia `prompts/stanford/`]. A row is a topic as those of a
/// `topics` stage, and `course, unit, previous_units`: a unit's title is its `subtopic`, so that pages
/// are retrieved for each unit, and its prompt names the units before it. Answers that are no outline
/// are counted as dropped rows (`refused`, `malformed`) and asked for again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlinesConfig {
    /// Topics that become courses, chosen by a seeded hash of their ids; all of them when left out.
    pub courses: Option<u32>,
    /// Units asked for; a longer outline is cut.
    pub units: u32,
    /// An answer with fewer units is asked for again.
    pub min_units: u32,
    /// What becomes of topics without an outline: `keep` passes them on as they are.
    pub other_topics: OtherTopics,
    /// How often a topic is asked again after a refused, malformed or short answer.
    pub max_retries: u32,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Divisor of the scores of tokens that are there already; lists repeat their form, so a high
    /// one breaks them.
    pub repetition_penalty: f64,
    /// Seed of the choice of topics and of the sampling.
    pub seed: u64,
    /// The language model.
    pub llm: LlmConfig,
}

impl Default for OutlinesConfig {
    fn default() -> Self {
        let options = OutlineOptions::default();
        Self {
            courses: None,
            units: options.units,
            min_units: options.min_units,
            other_topics: OtherTopics::Keep,
            max_retries: options.max_retries,
            max_new_tokens: 512,
            temperature: 0.6,
            repetition_penalty: 1.0,
            seed: 1,
            llm: LlmConfig::default(),
        }
    }
}

#[async_trait]
impl Stage for OutlinesConfig {
    fn config(&self) -> Json {
        let mut config = super::config_json(self);
        config["llm"] = self.llm.identity();
        config
    }

    fn prices(&self) -> BTreeMap<String, Json> {
        self.llm.prices()
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(self.llm.memory_bytes())
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let topics = before.rows("topics");
        let courses = self.courses.map(f64::from).map_or(topics, |most| topics.map(|all| all.min(most)));
        let others = topics.zip(courses).map(|(all, courses)| match self.other_topics {
            OtherTopics::Keep => all - courses,
            OtherTopics::Drop => 0.0,
        });
        let asks = ExpectedAsks {
            requests: courses,
            prompt_chars: Spread::of_one(PROMPT_CHARS),
            max_new_tokens: self.max_new_tokens,
            max_tries: 1 + self.max_retries,
        };
        let rows = courses.zip(others).map(|(courses, others)| courses * f64::from(self.units) + others);
        Expectation { rows, ..self.llm.expect(&asks, before) }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        self.llm.externals(ctx)
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let topics = inputs.table(ctx, "topics")?;
        require(ctx, &topics, "topics", &["topic_id", "top_category", "subcategory", "subtopic"])?;
        let sampling = Sampling {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        let asker = Arc::new(Asker::connect(ctx, &self.llm, sampling).await?);
        let options = OutlineOptions {
            courses: self.courses,
            units: self.units,
            min_units: self.min_units,
            other_topics: self.other_topics,
            max_retries: self.max_retries,
            max_in_flight: self.llm.max_in_flight,
            model: self.llm.name(),
            seed: self.seed,
            ..OutlineOptions::default()
        };
        let sink = ctx.ledger.drop_sink();
        let function = move |stream| {
            let (asker, sink) = (asker.clone(), sink.clone());
            let ask = move |request: synth::topics::OutlineRequest, attempt| {
                let asker = asker.clone();
                async move { asker.ask(&request.topic_id, &request.prompt, attempt).await }
            };
            let on_reject =
                Arc::new(move |reject: synth::Reject| sink(reject.id, reject.reason, reject.detail));
            let rows = outline_stream(&options, to_domain(stream), ask, on_reject)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(from_domain(outline_schema(), rows))
        };
        operator::apply(ctx.session(), topics, "outlines", outline_schema(), Arc::new(function))
            .map_err(|error| ctx.plan_error(&error))
    }
}
