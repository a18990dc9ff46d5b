//! `retrieve`: the best pages of every topic, with their texts.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, UInt32Type};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::common::JoinType;
use datafusion::error::DataFusionError;
use datafusion::prelude::{DataFrame, col, lit};
use futures::StreamExt;
use schemars::JsonSchema;
use search::{OpenedIndex, RetrieveOptions, hits_schema, retrieve};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, schema_of, text_column};
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
    version: 2,
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
        Needs { memory_bytes: 256 << 20 }
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
        let pages = pages(ctx, inputs)?;
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
        let hits = operator::apply(
            ctx.session(),
            topics,
            "retrieve",
            hits_schema(),
            Arc::new(move |stream| {
                let retrieval = retrieve(backend.clone(), &options, to_domain(stream));
                let retrieval = retrieval.map_err(|error| DataFusionError::External(Box::new(error)))?;
                Ok(from_domain(hits_schema(), retrieval.hits))
            }),
        )
        .map_err(plan_error)?;
        // The hits are the small side of the join; the pages stream past them once.
        let rows = hits
            .join(pages, JoinType::Inner, &["doc_id"], &["id"], None)
            .and_then(|rows| rows.drop_columns(&["id"]))
            .and_then(|rows| {
                let order = ["topic_id", "rank", SOURCE];
                rows.sort(order.map(|column| col(column).sort(true, false)).to_vec())
            })
            .and_then(|rows| rows.drop_columns(&[SOURCE]))
            .map_err(plan_error)?;
        match inputs.tables("pages").len() {
            1 => Ok(rows),
            _ => first_of_each_rank(ctx, rows),
        }
    }
}

/// The column that says which table a page comes from.
const SOURCE: &str = "__source";

/// The pages of all tables, each with the number of its table.
fn pages(ctx: &StageContext, inputs: &Inputs) -> Result<DataFrame, StageError> {
    let mut all: Option<DataFrame> = None;
    for (number, table) in (0_u32..).zip(inputs.tables("pages")) {
        require(ctx, &table.frame, &table.stage, &PAGE_COLUMNS)?;
        let pages = table.frame.clone().select_columns(&PAGE_COLUMNS);
        let pages = pages.and_then(|pages| pages.with_column(SOURCE, lit(number)));
        let joined = match all {
            None => pages,
            Some(before) => pages.and_then(|pages| before.union(pages)),
        };
        all = Some(joined.map_err(|error| ctx.plan_error(&error))?);
    }
    all.ok_or_else(|| ctx.input("input `pages` must be a stage that leaves a table"))
}

/// Of the rows of one topic and rank, which are the same page of several tables, the first.
fn first_of_each_rank(ctx: &StageContext, rows: DataFrame) -> Result<DataFrame, StageError> {
    let schema = schema_of(&rows);
    let out_schema: SchemaRef = schema.clone();
    let function = move |stream| {
        let mut last = None;
        let kept = to_domain(stream).map(move |batch| firsts(&batch?, &mut last));
        Ok(from_domain(out_schema.clone(), kept))
    };
    operator::apply(ctx.session(), rows, "first_of_each_rank", schema, Arc::new(function))
        .map_err(|error| ctx.plan_error(&error))
}

fn firsts(batch: &RecordBatch, last: &mut Option<(String, u32)>) -> Result<RecordBatch, ArrowError> {
    let topics = text_column(batch, "topic_id")?;
    let ranks = batch.column(batch.schema().index_of("rank")?).as_primitive::<UInt32Type>().clone();
    let keep: BooleanArray = (0..batch.num_rows())
        .map(|row| {
            let key = (topics.value(row).to_owned(), ranks.value(row));
            let is_first = last.as_ref() != Some(&key);
            *last = Some(key);
            Some(is_first)
        })
        .collect();
    filter_record_batch(batch, &keep)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn of_a_page_in_several_tables_the_first_is_kept_across_batches() {
        let rows = serde_json::json!([
            {"topic_id": "a", "rank": 1, "text": "first"},
            {"topic_id": "a", "rank": 1, "text": "second"},
            {"topic_id": "a", "rank": 2, "text": "only"},
            {"topic_id": "b", "rank": 2, "text": "another topic"},
        ]);
        let batch = testing::batch(rows);
        let rank =
            arrow::compute::cast(batch.column_by_name("rank").unwrap(), &arrow::datatypes::DataType::UInt32);
        let columns = [
            ("topic_id", batch.column_by_name("topic_id").unwrap().clone()),
            ("rank", rank.unwrap()),
            ("text", batch.column_by_name("text").unwrap().clone()),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut last = None;
        let kept =
            [firsts(&batch.slice(0, 1), &mut last).unwrap(), firsts(&batch.slice(1, 3), &mut last).unwrap()];
        assert_eq!(testing::strings(&kept, "text"), ["first", "only", "another topic"]);
    }
}
