//! What the card says of a subset.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::prelude::{Expr, col, lit};
use futures::StreamExt;
use serde::Serialize;

use super::super::columns::text_column;
use crate::engine::Plan;
use crate::engine::streams::{collect, execute};
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
    /// How many documents there are of each length.
    #[serde(skip)]
    pub lengths: Lengths,
    /// Its parts by audience and format, where it has these columns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// Documents by length: tokens where a column tells, bytes of text otherwise.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// At n: how many have a length of n binary digits, so from 2^(n−1) to 2^n − 1; at 0 the empty ones.
    classes: Vec<u64>,
    /// The shortest, once there is one.
    pub shortest: Option<u64>,
    /// The longest.
    pub longest: u64,
}

impl Lengths {
    /// Counts a document.
    pub fn add(&mut self, length: u64) {
        let class = (u64::BITS - length.leading_zeros()) as usize;
        if self.classes.len() <= class {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.shortest = Some(self.shortest.map_or(length, |shortest| shortest.min(length)));
        self.longest = self.longest.max(length);
    }

    /// The classes from that of the shortest document to that of the longest: least and greatest length,
    /// documents.
    pub fn classes(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let first = self.classes.iter().position(|&documents| documents > 0).unwrap_or(0);
        let classes = self.classes.iter().enumerate().skip(first);
        classes.map(|(class, &documents)| match class {
            0 => (0, 0, documents),
            _ => (1 << (class - 1), u64::MAX >> (u64::BITS as usize - class), documents),
        })
    }
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
        let sizes = vec![whole(bytes).alias("bytes"), tokens_sum().alias("tokens")];
        let sizes = table.frame().select(sizes).map_err(|error| ctx.plan_error(&error))?;
        let mut sizes = execute(sizes).await.map_err(|error| ctx.plan_error(&error))?;
        let (mut figures, mut all_tokens) = (Self::default(), 0);
        while let Some(batch) = sizes.next().await {
            let batch = batch.map_err(|error| ctx.plan_error(&error))?;
            for row in 0..batch.num_rows() {
                let (bytes, document_tokens) = (number(&batch, 0, row), number(&batch, 1, row));
                figures.documents += 1;
                figures.bytes += bytes;
                all_tokens += document_tokens;
                figures.lengths.add(if tokens.is_some() { document_tokens } else { bytes });
            }
        }
        figures.tokens = tokens.map(|_| all_tokens);
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

/// A missing text or number, and a sum over none, is null.
fn number(batch: &RecordBatch, column: usize, row: usize) -> u64 {
    let column = batch.column(column).as_primitive::<Int64Type>();
    if column.is_null(row) { 0 } else { u64::try_from(column.value(row)).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_classes_that_touch() {
        let mut lengths = Lengths::default();
        for length in [3, 4, 7, 8, 600, 2] {
            lengths.add(length);
        }
        let classes: Vec<_> = lengths.classes().collect();
        assert_eq!(classes[..3], [(2, 3, 2), (4, 7, 2), (8, 15, 1)]);
        assert_eq!(classes.last(), Some(&(512, 1023, 1)));
        assert!(classes.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
        assert_eq!((lengths.shortest, lengths.longest), (Some(2), 600));
        lengths.add(0);
        assert_eq!(lengths.classes().next(), Some((0, 0, 1)));
    }
}
