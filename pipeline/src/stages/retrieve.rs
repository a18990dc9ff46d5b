//! `retrieve`: the best pages of every topic, with their texts.

mod pages;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::prelude::{DataFrame, col};
use futures::{StreamExt, stream};
use schemars::JsonSchema;
use search::{OpenedIndex, RetrieveOptions, RetrieveSummary, hits_schema, retrieve};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::columns::require;
use super::{InputCount, InputRole, InputTable, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::streams::{from_domain, to_domain};
use crate::engine::{Plan, operator};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::Ledger;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "retrieve",
    summary: "Finds the best pages of every topic by the published two-step full-text query.",
    version: 3,
    inputs: &[
        InputRole {
            role: "topics",
            about: "topics with `topic_id, top_category, subcategory, subtopic`",
            count: InputCount::One,
        },
        InputRole { role: "index", about: "one `index` stage a dump", count: InputCount::Many },
        InputRole {
            role: "pages",
            about: "the pages that were indexed, in the order of the indexes",
            count: InputCount::Many,
        },
    ],
    output: OutputKind::Table,
    schema: super::schema_of::<RetrieveConfig>,
    build: super::build_from::<RetrieveConfig>,
};

/// The columns of a page that a row carries.
const PAGE_COLUMNS: [&str; 5] = ["id", "text", "url", "token_count", "language_score"];

/// Finds pages for topics. Query 1 asks for all terms of a topic, its subtopic's twice as heavy;
/// query 2 fills up with pages that have any of them [huggingface/cosmopedia `fulltext_search/`].
/// Several indexes are searched as one: a page id that stands in several counts once, as the first
/// one has it. A row: `topic_id, rank, score, doc_id, matched, text, url, token_count,
/// language_score`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RetrieveConfig(RetrieveOptions);

#[async_trait]
impl Stage for RetrieveConfig {
    fn config(&self) -> Json {
        // How many topics are asked for at once does not change what they get.
        let mut config = super::config_json(self);
        if let Some(map) = config.as_object_mut() {
            map.remove("topics_per_batch");
        }
        config
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn needs(&self) -> Needs {
        Needs::Bytes((256 << 20) + pages::FILTER_BYTES as u64)
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let pages_per_topic = f64::from(self.0.pages_per_topic);
        let pages = before.rows("pages").unwrap_or(f64::INFINITY);
        let rows = before.rows("topics").map(|topics| topics * pages_per_topic.min(pages));
        Expectation { rows, ..Expectation::default() }
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let plan_error = |error| ctx.plan_error(&error);
        let topics = inputs.table(ctx, "topics")?;
        require(ctx, &topics, "topics", &["topic_id", "top_category", "subcategory", "subtopic"])?;
        let pages = carried(ctx, inputs)?;
        let folders: Vec<PathBuf> =
            inputs.folders("index").iter().map(|folder| folder.join("index")).collect();
        let options = RetrieveOptions { threads: u32::try_from(ctx.env.threads).ok(), ..self.0.clone() };
        let backend = super::blocking(&ctx.stage, {
            let (ctx, options) = (ctx.clone(), options.clone());
            move || {
                let index = OpenedIndex::open(&folders).map_err(|error| ctx.input(error.to_string()))?;
                index.backend(&options).map_err(|error| ctx.input(error.to_string()))
            }
        })
        .await?;
        let ledger = ctx.ledger.clone();
        let hits = operator::apply(
            ctx.session(),
            topics,
            "retrieve",
            hits_schema(),
            Arc::new(move |stream| {
                let retrieval = retrieve(backend.clone(), &options, to_domain(stream));
                let retrieval = retrieval.map_err(|error| DataFusionError::External(Box::new(error)))?;
                let (summary, ledger) = (retrieval.summary, ledger.clone());
                // Once all hits have come.
                let note = stream::once(async move { note_summary(&ledger, &summary.get()) });
                let hits = retrieval.hits.chain(note.filter_map(|()| std::future::ready(None)));
                Ok(from_domain(hits_schema(), hits))
            }),
        )
        .map_err(plan_error)?;
        let order = ["topic_id", "rank"].map(|column| col(column).sort(true, false)).to_vec();
        pages::join(ctx, hits, pages)?.sort(order).map_err(plan_error)
    }
}

/// What all topics together got.
fn note_summary(ledger: &Ledger, summary: &RetrieveSummary) {
    let figures = [
        ("topics", summary.topics.len() as u64),
        ("topics_short_of_pages", summary.short_topics),
        ("topics_without_terms", summary.topics_without_terms),
        ("pages_by_all_terms", summary.pages_all),
        ("pages_by_any_term", summary.pages_any),
    ];
    for (name, figure) in figures {
        ledger.note_figure(name, json!(figure));
    }
}

/// The columns of each table of pages that a row carries.
fn carried(ctx: &StageContext, inputs: &Inputs) -> Result<Vec<Plan>, StageError> {
    let columns = |table: &InputTable| {
        require(ctx, &table.plan, &table.stage, &PAGE_COLUMNS)?;
        let pages = table.plan.frame().select_columns(&PAGE_COLUMNS);
        pages.map(Plan::from).map_err(|error| ctx.plan_error(&error))
    };
    inputs.tables("pages").iter().map(columns).collect()
}
