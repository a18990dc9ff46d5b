//! `exact_dedup`: keeps one row of each text.

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::text_column;
use super::duplicates::keep::Keep;
use super::duplicates::{self, ByKey, Key, key_of};
use super::minhash::normalise::simplify;
use super::{InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "exact_dedup",
    summary: "Keeps one row of each text, or of each value of a column.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<ExactDedupConfig>,
    build: super::build_from::<ExactDedupConfig>,
};

/// Drops all rows but one of each text (reason `exact_duplicate`). It costs a small part of what
/// `minhash` does, so it goes first on a dump. Rows whose text is NULL, or of which simplifying leaves
/// nothing, are all kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExactDedupConfig {
    /// The column that is compared: the text, or another one such as a digest.
    pub column: String,
    /// The column that names a row.
    pub id_column: String,
    /// What makes two values equal: `"simplified"` or `"bytes"`.
    pub compare: Compare,
    /// Which row of equals is kept: `"first"`, `{ longest = "text" }`, `{ highest = "score" }` by a
    /// column of numbers, or `{ newest = "dump" }` by a column of dump names or dates.
    pub keep: Keep,
    /// Memory of the sorts, in bytes; what it does not hold is spilled. A quarter of the run's memory limit
    /// when left out.
    pub memory_bytes: Option<u64>,
}

/// What makes two values equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// The same text after simplifying, as `minhash` does it: case, punctuation, white space,
    /// diacritics and the values of numbers do not count.
    Simplified,
    /// The same bytes.
    Bytes,
}

impl Default for ExactDedupConfig {
    fn default() -> Self {
        Self {
            column: "text".to_owned(),
            id_column: "id".to_owned(),
            compare: Compare::Simplified,
            keep: Keep::First,
            memory_bytes: None,
        }
    }
}

#[async_trait]
impl Stage for ExactDedupConfig {
    fn config(&self) -> Json {
        duplicates::config_without_memory(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn needs(&self) -> Needs {
        Needs::sorting(self.memory_bytes)
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let (column, compare) = (self.column.clone(), self.compare);
        let rule = ByKey {
            spill: ctx.spill(self.memory_bytes)?,
            id_column: self.id_column.clone(),
            keep: self.keep.clone(),
            keys: move |batch: &RecordBatch| keys(batch, &column, compare),
            reason: "exact_duplicate",
        };
        rule.plan(ctx, task, inputs, "exact_dedup", &self.column)
    }
}

fn keys(batch: &RecordBatch, column: &str, compare: Compare) -> Result<Vec<Option<Key>>, ArrowError> {
    let texts = text_column(batch, column)?;
    let key = |simplified: &mut String, row: usize| {
        if texts.is_null(row) {
            return None;
        }
        match compare {
            Compare::Bytes => Some(key_of(texts.value(row).as_bytes())),
            Compare::Simplified => {
                simplify(texts.value(row), simplified);
                (!simplified.is_empty()).then(|| key_of(simplified.as_bytes()))
            }
        }
    };
    Ok((0..batch.num_rows()).into_par_iter().map_init(String::new, key).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    async fn run(config: &ExactDedupConfig) -> (Vec<String>, Vec<String>) {
        let rows = testing::batch(json!([
            {"id": "a", "text": "One, two.", "n": 1, "dump": "2024-10"}, {"id": "b", "text": "one two", "n": 3, "dump": "2023-50"},
            {"id": "c", "text": "three", "n": 1, "dump": "x"}, {"id": "d", "text": "ONE TWO!!!", "n": 3, "dump": "2024-10"},
            {"id": "e", "text": null, "n": 1, "dump": "x"}, {"id": "f", "text": null, "n": 1, "dump": "x"},
            {"id": "g", "text": "?", "n": 1, "dump": "x"}, {"id": "h", "text": "!", "n": 1, "dump": "x"},
            {"id": "i", "text": "three", "n": 1, "dump": "x"},
        ]));
        let (rows, ctx) = testing::plan(config, "rows", rows).await.unwrap();
        let dropped = ctx.ledger.dropped();
        assert!(dropped.iter().all(|row| row.reason == "exact_duplicate"));
        let told = dropped.iter().map(|row| format!("{}: {}", row.id, row.detail)).collect();
        (testing::strings(&rows, "id"), told)
    }

    #[tokio::test]
    async fn one_of_each_text_is_kept_and_named() {
        let config = ExactDedupConfig::default();
        let (kept, dropped) = run(&config).await;
        assert_eq!(kept, ["a", "c", "e", "f", "g", "h"]);
        assert_eq!(dropped, ["b: a is kept", "d: a is kept", "i: c is kept"]);
        let spilled = ExactDedupConfig { memory_bytes: Some(1), ..config };
        assert_eq!(run(&spilled).await, (kept, dropped));
    }

    #[tokio::test]
    async fn which_row_is_kept_and_what_is_equal_can_be_chosen() {
        for (keep, want) in [
            (Keep::Longest("text".into()), "d"),
            (Keep::Highest("n".into()), "b"),
            (Keep::Newest("dump".into()), "a"),
        ] {
            let config = ExactDedupConfig { keep: keep.clone(), ..ExactDedupConfig::default() };
            let kept = run(&config).await.0;
            assert_eq!(
                kept.iter().filter(|id| ["a", "b", "d"].contains(&id.as_str())).collect::<Vec<_>>(),
                [want]
            );
        }
        let config = ExactDedupConfig { compare: Compare::Bytes, ..ExactDedupConfig::default() };
        assert_eq!(run(&config).await.1, ["i: c is kept"]);
    }

    #[tokio::test]
    async fn a_column_that_is_not_there_is_named() {
        let config = ExactDedupConfig { column: "body".into(), ..ExactDedupConfig::default() };
        let rows = testing::batch(json!([{"id": "a", "text": "one"}]));
        let error = testing::plan(&config, "rows", rows).await.unwrap_err();
        assert!(error.to_string().contains("`body`"), "{error}");
    }
}
