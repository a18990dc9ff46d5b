//! `mix`: the corpus: texts of several stages under subset names, with a held-out part.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, text_column};
use super::{
    ConfigMistake, InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task, foreign_stages,
};
use crate::engine::operator;
use crate::engine::streams::{execute, from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "mix",
    summary: "Joins texts of several stages into one corpus of named subsets, with a held-out part.",
    version: 1,
    inputs: &[InputRole { role: "sources", about: "tables with a text and an id", count: InputCount::Many }],
    output: OutputKind::Table,
    schema: super::schema_of::<MixConfig>,
    build: super::build_from::<MixConfig>,
};

/// The split that models are trained on.
pub const TRAIN: &str = "train";
/// The split that models are measured on.
pub const HELD_OUT: &str = "heldout";

/// Joins subsets into a corpus. A row: `id, subset, split, text`. The shares of the subsets in
/// training are weights of `pretrain`, so that changing them needs no new corpus.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// The subsets by name, in the Hub's names: `cosmopedia-v2`, `fineweb-edu-dedup`, `python-edu`.
    pub subsets: BTreeMap<String, Subset>,
    /// Share of the documents held out for evaluation, 0–1, chosen by a hash of the id.
    #[serde(default = "default_heldout")]
    pub heldout_share: f64,
    /// Seed of that hash.
    #[serde(default)]
    pub seed: u64,
}

/// One subset of the corpus.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// The stage whose rows these are; one of the `sources`.
    pub stage: String,
    /// The column with the text.
    #[serde(default = "default_text")]
    pub text_column: String,
    /// The column with the id.
    #[serde(default = "default_id")]
    pub id_column: String,
}

fn default_heldout() -> f64 {
    0.01
}

fn default_text() -> String {
    "text".to_owned()
}

fn default_id() -> String {
    "id".to_owned()
}

fn corpus_schema() -> SchemaRef {
    let fields = ["id", "subset", "split", "text"].map(|name| Field::new(name, DataType::Utf8, false));
    Arc::new(Schema::new(fields.to_vec()))
}

#[async_trait]
impl Stage for MixConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let sources = inputs.get("sources").map_or(&[][..], Vec::as_slice);
        let named = self.subsets.iter().map(|(name, subset)| (name, &subset.stage));
        let mut mistakes = foreign_stages("subsets", named, "subset", sources, "sources");
        if !(0.0..1.0).contains(&self.heldout_share) {
            mistakes.push(ConfigMistake {
                field: "heldout_share",
                message: format!("heldout_share {} is not a share", self.heldout_share),
                help: "give a number from 0 to below 1".to_owned(),
            });
        }
        mistakes
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let plan_error = |error| ctx.plan_error(&error);
        let mut corpus: Option<DataFrame> = None;
        for (name, subset) in &self.subsets {
            let table = inputs.tables("sources").iter().find(|table| table.stage == subset.stage);
            let table =
                table.ok_or_else(|| ctx.input(format!("stage `{}` leaves no table", subset.stage)))?;
            require(ctx, &table.plan, &subset.stage, &[&subset.text_column, &subset.id_column])?;
            let rows = table.plan.frame().select_columns(&[&subset.id_column, &subset.text_column]);
            let rows = rows.map_err(plan_error)?;
            let (subset, name, share, seed) = (subset.clone(), name.clone(), self.heldout_share, self.seed);
            let sink = ctx.ledger.drop_sink();
            let rows = operator::apply(
                ctx.session(),
                rows,
                "mix",
                corpus_schema(),
                Arc::new(move |stream| {
                    let (subset, name, sink) = (subset.clone(), name.clone(), sink.clone());
                    let rows = to_domain(stream).map(move |batch| {
                        let batch = batch?;
                        let ids = text_column(&batch, &subset.id_column)?;
                        let texts = text_column(&batch, &subset.text_column)?;
                        for row in (0..batch.num_rows()).filter(|&row| is_empty(&texts, row)) {
                            sink(super::columns::id_of(&ids, row), "empty_text".to_owned(), name.clone());
                        }
                        label(&ids, &texts, &name, share, seed)
                    });
                    Ok(from_domain(corpus_schema(), rows))
                }),
            )
            .map_err(plan_error)?;
            corpus = Some(match corpus {
                None => rows,
                Some(corpus) => chain(ctx, corpus, rows)?,
            });
        }
        corpus.ok_or_else(|| ctx.input("there is no subset"))
    }
}

fn is_empty(texts: &StringArray, row: usize) -> bool {
    texts.is_null(row) || texts.value(row).trim().is_empty()
}

/// The rows of one table, then those of the other: a union whose order is fixed.
fn chain(ctx: &StageContext, first: DataFrame, second: DataFrame) -> Result<DataFrame, StageError> {
    let function = move |stream| {
        let second = second.clone();
        let rest = futures::stream::once(execute(second)).try_flatten();
        let rest = rest.map_err(ArrowError::from);
        Ok(from_domain(corpus_schema(), to_domain(stream).chain(rest)))
    };
    operator::apply(ctx.session(), first, "chain", corpus_schema(), Arc::new(function))
        .map_err(|error| ctx.plan_error(&error))
}

/// `id, subset, split, text` of the rows that have a text.
fn label(
    ids: &StringArray,
    texts: &StringArray,
    subset: &str,
    heldout_share: f64,
    seed: u64,
) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<usize> = (0..texts.len()).filter(|&row| !is_empty(texts, row)).collect();
    let id = |row: usize| if ids.is_null(row) { "" } else { ids.value(row) };
    let columns: [ArrayRef; 4] = [
        Arc::new(StringArray::from_iter_values(rows.iter().map(|&row| id(row)))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|_| subset))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|&row| split(id(row), heldout_share, seed)))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|&row| texts.value(row)))),
    ];
    RecordBatch::try_new(corpus_schema(), columns.to_vec())
}

/// The split of a document: a function of its id, so that it stays where it is when others come.
fn split(id: &str, heldout_share: f64, seed: u64) -> &'static str {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(id.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    let place = u64::from_le_bytes(first) as f64 / u64::MAX as f64;
    if place < heldout_share { HELD_OUT } else { TRAIN }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn subsets_stand_one_after_the_other_and_a_share_is_held_out() {
        let subset = |stage: &str, id: &str| Subset {
            stage: stage.into(),
            text_column: "text".into(),
            id_column: id.into(),
        };
        let stage = MixConfig {
            subsets: [("a".to_owned(), subset("sources", "id"))].into(),
            heldout_share: 0.2,
            seed: 0,
        };
        let rows: Vec<Json> =
            (0..500).map(|i| serde_json::json!({"id": format!("d{i}"), "text": format!("t{i}")})).collect();
        let mut rows = rows;
        rows.push(serde_json::json!({"id": "x", "text": "  "}));
        let (rows, ctx) = testing::plan(&stage, "sources", testing::batch(rows.into())).await.unwrap();
        let splits = testing::strings(&rows, "split");
        let heldout = splits.iter().filter(|split| *split == HELD_OUT).count();
        assert_eq!(splits.len(), 500);
        assert!((60..140).contains(&heldout), "{heldout}");
        assert_eq!(testing::strings(&rows, "id")[17], "d17");
        assert_eq!(ctx.ledger.dropped()[0].reason, "empty_text");
    }

    #[test]
    fn a_subset_of_a_stage_that_is_no_source_is_a_mistake() {
        let stage: MixConfig =
            serde_json::from_value(serde_json::json!({"subsets": {"a": {"stage": "y"}}})).unwrap();
        let inputs = [("sources".to_owned(), vec!["x".to_owned()])].into();
        assert_eq!(stage.validate(&inputs).len(), 1);
    }
}
