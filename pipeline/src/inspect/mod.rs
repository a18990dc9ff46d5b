//! Looking into outputs: which files a path holds, their figures, and the way of one document.

pub mod diff;
pub mod distribution;
pub mod generated;
pub mod page;
pub mod rows_diff;
pub mod trace;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{approx_distinct, avg, count, max, min};
use datafusion::prelude::{DataFrame, Expr, SessionContext, col, lit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::engine::Session;
use crate::engine::scan::{self, FileSlice};
use crate::manifest::Manifest;
use crate::runner::inputs::schema_of;
use crate::{engine, units};

/// Characters of a text that are shown in a table.
const SHOWN_CHARS: usize = 100;

/// The Parquet files behind a path, each with its rows: the file itself, a folder's, or the shards
/// of a stage.
///
/// # Errors
/// A text that names a file that is not whole.
pub fn parquet_files(path: &Path) -> Result<Vec<(PathBuf, u64)>, String> {
    if !path.exists() {
        return Err(format!("there is nothing at {}", path.display()));
    }
    let is_parquet = |path: &Path| path.extension().is_some_and(|extension| extension == "parquet");
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let list = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| is_parquet(path) && !hidden(path)).collect();
        files.sort();
        files
    };
    let mut files = if path.is_file() { vec![path.to_owned()] } else { list(path) };
    if files.is_empty() {
        files = list(&path.join("data"));
    }
    let counted = files.into_iter().map(|path| {
        let file =
            std::fs::File::open(&path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| format!("{} is not a whole Parquet file: {error}", path.display()))?;
        let rows = reader.metadata().file_metadata().num_rows();
        Ok((path, u64::try_from(rows).unwrap_or(0)))
    });
    counted.collect()
}

/// The rows of a stage's output, or of any folder of Parquet files of one schema.
///
/// # Errors
/// A text that names what cannot be read.
pub fn table(session: &SessionContext, folder: &Path) -> Result<DataFrame, String> {
    match parquet_files(folder)? {
        files if files.is_empty() => Err(format!("{} holds no table", folder.display())),
        files => open(session, &files),
    }
}

/// The rows of Parquet files of one schema, at least one.
///
/// # Errors
/// A text that names what cannot be read.
pub fn open(session: &SessionContext, files: &[(PathBuf, u64)]) -> Result<DataFrame, String> {
    let (first, _) = files.first().ok_or("there is no file to open")?;
    let slices: Vec<FileSlice> = files.iter().map(|(path, _)| FileSlice::of(path)).collect();
    scan::parquet(session, schema_of(first)?, &slices).map_err(|error| error.to_string())
}

/// The variable by which the service says how much memory the plans of a look may take, in bytes.
const MEMORY_VARIABLE: &str = "CORPUSMITH_LOOK_MEMORY";

/// A session for the commands that look into outputs: a quarter of the machine's memory, or what the service
/// allows, then it spills.
///
/// # Errors
/// The folder for temporary files cannot be used.
pub fn session() -> datafusion::error::Result<Session> {
    let quarter = units::machine_memory_bytes() / 4;
    let allowed = std::env::var(MEMORY_VARIABLE).ok().and_then(|bytes| bytes.parse().ok());
    engine::session(allowed.map_or(quarter, |bytes: u64| bytes.min(quarter)), &std::env::temp_dir())
}

/// The manifests of a run's stages.
pub fn manifests(run_folder: &Path) -> Vec<Manifest> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(run_folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let read = |folder: PathBuf| Manifest::read(&folder).ok().flatten();
    folders.into_iter().filter_map(read).collect()
}

/// A table with one row a column: rows, nulls, distinct values, smallest, largest, mean length or
/// mean.
///
/// # Errors
/// The plan cannot be built.
pub fn statistics(frame: DataFrame) -> Result<DataFrame> {
    let fields: Vec<_> = frame.schema().fields().iter().cloned().collect();
    let mut all: Option<DataFrame> = None;
    for field in fields {
        let column = || col(datafusion::common::Column::from_name(field.name()));
        let text = |expr: Expr| datafusion::logical_expr::cast(expr, DataType::Utf8);
        let is_text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let comparable = is_text || field.data_type().is_numeric();
        let mean = if is_text {
            avg(datafusion::functions::expr_fn::character_length(column()))
        } else if field.data_type().is_numeric() {
            avg(datafusion::logical_expr::cast(column(), DataType::Float64))
        } else {
            min(lit(0.0))
        };
        let shown = |expr: Expr| if comparable { text(expr) } else { text(min(lit(""))) };
        let distinct = if comparable { approx_distinct(text(column())) } else { count(column()) };
        let row = frame.clone().aggregate(
            vec![],
            vec![
                min(lit(field.name().as_str())).alias("column"),
                count(lit(1)).alias("rows"),
                (count(lit(1)) - count(column())).alias("nulls"),
                distinct.alias("distinct_about"),
                shown(min(column())).alias("smallest"),
                shown(max(column())).alias("largest"),
                mean.alias(if is_text { "mean_chars" } else { "mean" }),
            ],
        )?;
        let row = row.select(vec![
            col("column"),
            col("rows"),
            col("nulls"),
            col("distinct_about"),
            col("smallest"),
            col("largest"),
            col(if is_text { "mean_chars" } else { "mean" }).alias("mean_or_mean_chars"),
        ])?;
        all = Some(match all {
            None => row,
            Some(all) => all.union(row)?,
        });
    }
    match all {
        Some(all) => Ok(all),
        None => frame.limit(0, Some(0)),
    }
}

/// The rows with long texts cut and line breaks shown as ⏎, for a table on a terminal.
pub fn shorten(batch: &RecordBatch) -> RecordBatch {
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        let is_text = matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        match cast(column, &DataType::Utf8) {
            Ok(texts) if is_text => {
                Arc::new(texts.as_string::<i32>().iter().map(|text| text.map(cut)).collect::<StringArray>())
            }
            _ => column.clone(),
        }
    });
    let columns: Vec<(String, ArrayRef)> =
        batch.schema().fields().iter().map(|field| field.name().clone()).zip(columns).collect();
    RecordBatch::try_from_iter(columns).unwrap_or_else(|_| batch.clone())
}

/// The beginning of a text, in one line.
pub fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.replace('\r', "").replace('\n', "⏎").replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_on_a_character() {
        assert_eq!(cut("a\nb"), "a⏎b");
        let long = "é".repeat(200);
        assert_eq!(cut(&long).chars().count(), SHOWN_CHARS + 1);
    }

    #[tokio::test]
    async fn statistics_have_a_row_a_column() {
        let batch = crate::stages::testing::batch(serde_json::json!([
            {"id": "a", "n": 1}, {"id": "b", "n": 3}, {"id": null, "n": 5},
        ]));
        let frame = datafusion::prelude::SessionContext::new().read_batch(batch).unwrap();
        let rows = statistics(frame).unwrap().collect().await.unwrap();
        let names = crate::stages::testing::strings(&rows, "column");
        assert_eq!(names, ["id", "n"]);
        assert_eq!(crate::stages::testing::strings(&rows, "nulls"), ["1", "0"]);
        assert_eq!(crate::stages::testing::strings(&rows, "largest"), ["b", "5"]);
    }
}
