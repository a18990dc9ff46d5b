//! `retrieve`: the best pages of every topic, with their texts.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::JoinType;
use datafusion::prelude::{DataFrame, col};
use schemars::JsonSchema;
use search::{RetrieveOptions, Searcher, hits_schema, retrieve};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::require;
use super::{InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "retrieve",
    summary: "Finds the best pages of every topic by the published two-step full-text query.",
    version: 1,
    inputs: &[
        InputRole {
            role: "topics",
            about: "topics with `topic_id, top_category, subcategory, subtopic`",
            count: InputCount::One,
        },
        InputRole { role: "index", about: "an `index` stage", count: InputCount::One },
        InputRole { role: "pages", about: "the pages that were indexed", count: InputCount::One },
    ],
    output: OutputKind::Table,
    schema: super::schema_of::<RetrieveConfig>,
    build: super::build_from::<RetrieveConfig>,
};

/// Finds pages for topics. Query 1 asks for all terms of a topic, its subtopic's twice as heavy;
/// query 2 fills up with pages that have any of them [huggingface/cosmopedia `fulltext_search/`].
/// A row: `topic_id, rank, score, doc_id, matched, text, url, token_count, language_score`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrieveConfig {
    /// Pages wanted for each topic; 1,000 in Cosmopedia v2 (SmolLM blog post).
    pub pages_per_topic: u32,
    /// Pages that a query ranks at most; 4,000 in the published tool.
    pub max_matches: u32,
    /// Least language score, 0–1.
    pub min_language_score: Option<f64>,
    /// Least length, in tokens.
    pub min_tokens: Option<u64>,
    /// Greatest length, in tokens.
    pub max_tokens: Option<u64>,
    /// Pages of one URL host in a topic at most.
    pub max_pages_per_host: Option<u32>,
}

impl Default for RetrieveConfig {
    fn default() -> Self {
        let options = RetrieveOptions::default();
        Self {
            pages_per_topic: options.pages_per_topic,
            max_matches: options.max_matches,
            min_language_score: None,
            min_tokens: None,
            max_tokens: None,
            max_pages_per_host: None,
        }
    }
}

#[async_trait]
impl Stage for RetrieveConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn needs(&self) -> Needs {
        Needs { memory_bytes: 256 << 20 }
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let pages_per_topic = f64::from(self.pages_per_topic);
        let pages = before.rows("pages").unwrap_or(f64::INFINITY);
        let rows = before.rows("topics").map(|topics| topics * pages_per_topic.min(pages));
        Expectation { rows, ..Expectation::default() }
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let plan_error = |error| ctx.plan_error(&error);
        let topics = inputs.table(ctx, "topics")?;
        require(ctx, &topics, "topics", &["topic_id", "top_category", "subcategory", "subtopic"])?;
        let pages = inputs.table(ctx, "pages")?;
        require(ctx, &pages, "pages", &["id", "text", "url", "token_count", "language_score"])?;
        let index = inputs.folder(ctx, "index")?.join("index");
        let searcher = tokio::task::spawn_blocking(move || Searcher::open(&index)).await;
        let searcher = searcher.map_err(|error| ctx.failed(&error))?;
        let searcher = Arc::new(searcher.map_err(|error| ctx.input(error.to_string()))?);
        let options = RetrieveOptions {
            pages_per_topic: self.pages_per_topic,
            max_matches: self.max_matches,
            min_language_score: self.min_language_score,
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens,
            max_pages_per_host: self.max_pages_per_host,
            threads: u32::try_from(ctx.env.threads).ok(),
        };
        let hits = operator::apply(
            ctx.session(),
            topics,
            "retrieve",
            hits_schema(),
            Arc::new(move |stream| {
                let retrieval = retrieve(searcher.clone(), &options, to_domain(stream));
                let retrieval = retrieval
                    .map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)))?;
                Ok(from_domain(hits_schema(), retrieval.hits))
            }),
        )
        .map_err(plan_error)?;
        // The hits are the small side of the join; the pages stream past them once.
        let pages = pages.select_columns(&["id", "text", "url", "token_count", "language_score"]);
        hits.join(pages.map_err(plan_error)?, JoinType::Inner, &["doc_id"], &["id"], None)
            .and_then(|rows| rows.drop_columns(&["id"]))
            .and_then(|rows| {
                rows.sort(vec![col("topic_id").sort(true, false), col("rank").sort(true, false)])
            })
            .map_err(plan_error)
    }
}
