//! `filter`: keeps the rows for which a SQL condition holds.

use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "filter",
    summary: "Keeps the rows for which a SQL condition holds.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "any table", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<FilterConfig>,
    build: super::build_from::<FilterConfig>,
};

/// Keeps the rows for which a condition holds. FineWeb-Edu keeps `int_score >= 3`, Python-Edu
/// `int_score >= 4` (SmolLM blog post).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// A SQL condition over the columns, for example `int_score >= 3 AND language = 'en'`.
    /// A row for which it is NULL is dropped.
    pub keep: String,
    /// The reason under which the dropped rows are counted, in snake case.
    #[serde(default = "default_reason")]
    pub reason: String,
    /// The column that names a dropped row in the side table.
    #[serde(default = "default_id")]
    pub id_column: String,
}

fn default_reason() -> String {
    "condition_not_met".to_owned()
}

fn default_id() -> String {
    "id".to_owned()
}

#[async_trait]
impl Stage for FilterConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        super::keep_where(ctx, rows, &self.keep, &self.reason, &self.id_column)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn rows_are_kept_by_condition_and_the_others_counted() {
        let stage = FilterConfig { keep: "score >= 3".into(), reason: "low".into(), id_column: "id".into() };
        let batch = testing::batch(serde_json::json!([
            {"id": "a", "score": 3}, {"id": "b", "score": 2}, {"id": "c", "score": null},
        ]));
        let (rows, ctx) = testing::plan(&stage, "rows", batch).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["a"]);
        let dropped = ctx.ledger.dropped();
        assert_eq!(
            dropped.iter().map(|row| (row.id.as_str(), row.reason.as_str())).collect::<Vec<_>>(),
            [("b", "low"), ("c", "low")]
        );
    }

    #[tokio::test]
    async fn a_condition_over_a_missing_column_names_the_columns_there_are() {
        let stage = FilterConfig { keep: "scor >= 3".into(), reason: "low".into(), id_column: "id".into() };
        let batch = testing::batch(serde_json::json!([{"id": "a", "score": 3}]));
        let error = testing::plan(&stage, "rows", batch).await.unwrap_err();
        assert!(error.to_string().contains("scor"), "{error}");
        assert_eq!(error.fault, crate::runner::error::Fault::Input);
    }
}
