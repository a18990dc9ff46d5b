//! Small tools over columns that several stages share.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::prelude::DataFrame;
use futures::StreamExt;

use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// A column as plain strings, whatever string type it came in.
///
/// # Errors
/// There is no such column, or it holds no text.
pub fn text_column(batch: &RecordBatch, name: &str) -> Result<StringArray, ArrowError> {
    let column = batch.column_by_name(name).ok_or_else(|| {
        let fields = batch.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(", ");
        ArrowError::SchemaError(format!("there is no column `{name}`; the columns are: {fields}"))
    })?;
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
        }
        other => Err(ArrowError::SchemaError(format!("column `{name}` must hold text, not {other}"))),
    }
}

/// Checks before any work that columns are there.
///
/// # Errors
/// Names the missing column and those there are.
pub fn require(
    ctx: &StageContext,
    frame: &DataFrame,
    role: &str,
    columns: &[&str],
) -> Result<(), StageError> {
    let schema = frame.schema();
    let have: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for column in columns {
        if !have.contains(column) {
            return Err(ctx
                .input(format!("input `{role}` has no column `{column}`"))
                .help(format!("its columns are: {}", have.join(", "))));
        }
    }
    Ok(())
}

/// The Arrow schema of a plan's rows.
pub fn schema_of(frame: &DataFrame) -> SchemaRef {
    Arc::new(frame.schema().as_arrow().clone())
}

/// A label for rows that have no id of their own.
pub fn id_of(ids: &StringArray, row: usize) -> String {
    if ids.is_null(row) { String::new() } else { ids.value(row).to_owned() }
}

/// Keeps the rows for which the SQL condition is true; the others go to the ledger.
///
/// # Errors
/// The condition is no SQL, or names columns that are not there.
pub fn keep_where(
    ctx: &StageContext,
    rows: impl Into<DataFrame>,
    condition: &str,
    reason: &str,
    id_column: &str,
) -> Result<DataFrame, StageError> {
    const VERDICT: &str = "__keep";
    let plan_error = |error| ctx.plan_error(&error);
    let rows = rows.into();
    require(ctx, &rows, "rows", &[id_column])?;
    let schema = schema_of(&rows);
    let verdict = rows.parse_sql_expr(condition).map_err(plan_error)?;
    let verdict = verdict.is_true();
    let marked = rows.with_column(VERDICT, verdict).map_err(plan_error)?;
    let (sink, reason, id_column) = (ctx.ledger.drop_sink(), reason.to_owned(), id_column.to_owned());
    let detail = condition.to_owned();
    let out_schema = schema.clone();
    operator::apply(
        ctx.session(),
        marked,
        "keep_where",
        schema,
        Arc::new(move |stream| {
            let (sink, reason, id_column, detail) =
                (sink.clone(), reason.clone(), id_column.clone(), detail.clone());
            let kept = to_domain(stream).map(move |batch| {
                let batch = batch?;
                let index = batch.schema().index_of(VERDICT)?;
                let verdict: BooleanArray = batch.column(index).as_boolean().clone();
                let mut batch = batch;
                batch.remove_column(index);
                let ids = cast(batch.column(batch.schema().index_of(&id_column)?), &DataType::Utf8)?;
                let ids = ids.as_string::<i32>();
                for row in (0..batch.num_rows()).filter(|&row| !verdict.value(row)) {
                    sink(id_of(ids, row), reason.clone(), detail.clone());
                }
                filter_record_batch(&batch, &verdict)
            });
            Ok(from_domain(out_schema.clone(), kept))
        }),
    )
    .map_err(plan_error)
}
