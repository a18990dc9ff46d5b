//! `prompts`: topic × seed page × audience × style.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::JoinType;
use datafusion::prelude::{DataFrame, col, ident, lit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::prompts::{PromptOptions, PromptSet, plan_prompts, prompts_schema};

use super::columns::require;
use super::{External, InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "prompts",
    summary: "Makes prompts from topics and seed pages, dealing audiences and styles by share.",
    version: 2,
    inputs: &[
        InputRole {
            role: "seeds",
            about: "a `retrieve` stage (`topic_id, rank, doc_id, text`), or without topics any table of texts",
            count: InputCount::One,
        },
        InputRole {
            role: "topics",
            about: "the topics that were retrieved for: a `topics` or an `outlines` stage",
            count: InputCount::Optional,
        },
    ],
    output: OutputKind::Table,
    schema: super::schema_of::<PromptsConfig>,
    build: super::build_from::<PromptsConfig>,
};

/// Makes prompts: 40 % for middle school, 30 % for college, 30 % for the other families (SmolLM
/// blog post). The best page of every topic comes first, then the second best, and so on.
///
/// Without topics each row of the seeds is a seed by itself, as Python files are for code textbooks; its id is
/// `doc_id`, `blob_id` or `id`, whichever is there first. The shares `code`, `math` and `instruction` have
/// templates that do without a topic.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PromptsConfig(PromptOptions);

#[async_trait]
impl Stage for PromptsConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let most = self.0.prompts.map_or(f64::INFINITY, |prompts| prompts as f64);
        Expectation { rows: before.rows("seeds").map(|seeds| seeds.min(most)), ..Expectation::default() }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let set =
            PromptSet::load(self.0.templates_dir.as_deref()).map_err(|error| ctx.input(error.to_string()))?;
        Ok(vec![External { name: "templates".to_owned(), digest: set.digest() }])
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let plan_error = |error| ctx.plan_error(&error);
        let seeds = inputs.table(ctx, "seeds")?;
        let rows = match inputs.tables("topics").first() {
            Some(topics) => seeds_of_topics(ctx, &seeds, &topics.plan)?,
            None => seeds_alone(ctx, &seeds)?,
        };
        let (options, sink) = (self.0.clone(), ctx.ledger.drop_sink());
        operator::apply(
            ctx.session(),
            rows,
            "prompts",
            prompts_schema(),
            Arc::new(move |stream| {
                let sink = sink.clone();
                let on_reject =
                    Arc::new(move |reject: synth::Reject| sink(reject.id, reject.reason, reject.detail));
                let prompts = plan_prompts(&options, to_domain(stream), on_reject);
                let prompts =
                    prompts.map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)))?;
                Ok(from_domain(prompts_schema(), prompts))
            }),
        )
        .map_err(plan_error)
    }
}

/// The seeds with their topics, the best of each topic first.
fn seeds_of_topics(
    ctx: &StageContext,
    seeds: &DataFrame,
    topics: &DataFrame,
) -> Result<DataFrame, StageError> {
    let plan_error = |error| ctx.plan_error(&error);
    require(ctx, seeds, "seeds", &["topic_id", "rank", "doc_id", "text"])?;
    let columns = ["topic_id", "top_category", "subcategory", "subtopic"];
    require(ctx, topics, "topics", &columns)?;
    // Units of courses bring what their prompts tell of the course.
    let of_units = ["course", "previous_units"];
    let there = of_units.into_iter().filter(|name| topics.schema().has_column_with_unqualified_name(name));
    let columns: Vec<&str> = columns.into_iter().chain(there).collect();
    let topics = topics.clone().select_columns(&columns).map_err(plan_error)?;
    let topics = topics.with_column_renamed("topic_id", "topic").map_err(plan_error)?;
    let seeds = seeds.clone().select_columns(&["topic_id", "rank", "doc_id", "text"]).map_err(plan_error)?;
    topics
        .join(seeds, JoinType::Inner, &["topic"], &["topic_id"], None)
        .and_then(|rows| rows.sort(vec![col("rank").sort(true, false), col("topic_id").sort(true, false)]))
        .map_err(plan_error)
}

/// The seeds in their order, each without a topic.
fn seeds_alone(ctx: &StageContext, seeds: &DataFrame) -> Result<DataFrame, StageError> {
    require(ctx, seeds, "seeds", &["text"])?;
    let has = |name: &&str| seeds.schema().has_column_with_unqualified_name(name);
    let Some(id) = ["doc_id", "blob_id", "id"].into_iter().find(has) else {
        return Err(ctx.input("the seeds have no id: they need a column `doc_id`, `blob_id` or `id`"));
    };
    let nothing = |name: &str| lit("").alias(name);
    let columns = vec![
        nothing("topic_id"),
        nothing("top_category"),
        nothing("subcategory"),
        nothing("subtopic"),
        ident(id).alias("doc_id"),
        ident("text"),
    ];
    seeds.clone().select(columns).map_err(|error| ctx.plan_error(&error))
}
