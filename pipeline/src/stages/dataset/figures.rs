//! What the card says of a subset.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::prelude::{Expr, col, lit};
use serde::Serialize;

use super::super::columns::text_column;
use crate::engine::Plan;
use crate::engine::streams::collect;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// Columns that hold the number of a text's tokens: Cosmopedia's, FineWeb's.
const TOKEN_COLUMNS: [&str; 2] = ["token_length", "token_count"];

/// The size of a subset.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Documents.
    pub documents: u64,
    /// Bytes of their texts.
    pub bytes: u64,
    /// Tokens of their texts, where a column tells.
    pub tokens: Option<u64>,
    /// Its parts by audience and format, where it has these columns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// The documents for one audience in one format.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Who it is written for.
    pub audience: String,
    /// What it is.
    pub format: String,
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
}

impl Figures {
    /// Counts a table.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn of(ctx: &StageContext, table: Plan, text: &str) -> Result<Self, StageError> {
        let whole = |expr: Expr| datafusion::logical_expr::cast(expr, DataType::Int64);
        let name = |name: &str| col(datafusion::common::Column::from_name(name));
        let has = |name: &str| table.schema().has_column_with_unqualified_name(name);
        let tokens = TOKEN_COLUMNS.into_iter().find(|column| has(column));
        let tokens_sum = || tokens.map_or_else(|| lit(0_i64), |column| whole(name(column)));
        let bytes = datafusion::functions::expr_fn::octet_length(name(text));
        let sums = vec![
            count(lit(1)).alias("documents"),
            sum(whole(bytes)).alias("bytes"),
            sum(tokens_sum()).alias("tokens"),
        ];
        let totals = table.frame().aggregate(vec![], sums).map_err(|error| ctx.plan_error(&error))?;
        let totals = collect(totals).await.map_err(|error| ctx.plan_error(&error))?;
        let total = |column: usize| totals.iter().map(|batch| number(batch, column, 0)).sum();
        let mut figures = Self {
            documents: total(0),
            bytes: total(1),
            tokens: tokens.map(|_| total(2)),
            parts: Vec::new(),
        };
        if has("audience") && has("format") {
            let groups = vec![name("audience"), name("format")];
            let sums = vec![count(lit(1)).alias("documents"), sum(tokens_sum()).alias("tokens")];
            let order = vec![name("audience").sort(true, false), name("format").sort(true, false)];
            let parts = table.frame().aggregate(groups, sums).and_then(|parts| parts.sort(order));
            let parts = parts.map_err(|error| ctx.plan_error(&error))?;
            for batch in collect(parts).await.map_err(|error| ctx.plan_error(&error))? {
                let texts = |column| text_column(&batch, column).map_err(|error| ctx.failed(&error));
                let (audiences, formats) = (texts("audience")?, texts("format")?);
                figures.parts.extend((0..batch.num_rows()).map(|row| Part {
                    audience: audiences.value(row).to_owned(),
                    format: formats.value(row).to_owned(),
                    documents: number(&batch, 2, row),
                    tokens: number(&batch, 3, row),
                }));
            }
        }
        Ok(figures)
    }
}

/// A sum over no rows is null.
fn number(batch: &RecordBatch, column: usize, row: usize) -> u64 {
    let column = batch.column(column).as_primitive::<Int64Type>();
    if column.is_null(row) { 0 } else { u64::try_from(column.value(row)).unwrap_or(0) }
}
