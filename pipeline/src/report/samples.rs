//! Rows and counts from a stage's shards for the report.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::inspect::parquet_files;
use crate::manifest::Manifest;

/// Rows shown of a table.
const SAMPLE_ROWS: usize = 3;
/// Characters shown of a cell.
const CELL_CHARS: usize = 1500;
/// Bars of a histogram at most; the rest is summed up.
const MOST_BARS: usize = 25;

type Row = Vec<(String, String)>;

/// The first rows of a stage's table; `None` for a folder stage.
pub fn first_rows(folder: &Path, manifest: &Manifest) -> Option<Vec<Row>> {
    let first = manifest.shards().find(|shard| shard.rows.unwrap_or(0) > 0)?;
    let file = File::open(folder.join(&first.path)).ok()?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).ok()?.with_limit(SAMPLE_ROWS).build().ok()?;
    let options = FormatOptions::default().with_null("");
    let mut rows = Vec::new();
    for batch in reader.map_while(Result::ok) {
        for row in 0..batch.num_rows() {
            let cell = |(field, column): (&arrow::datatypes::FieldRef, &arrow::array::ArrayRef)| {
                let text = ArrayFormatter::try_new(column, &options).ok()?.value(row).to_string();
                Some((field.name().clone(), text.chars().take(CELL_CHARS).collect()))
            };
            rows.push(batch.schema().fields().iter().zip(batch.columns()).filter_map(cell).collect());
        }
    }
    Some(rows)
}

/// How many rows have each value of a column, the commonest first.
pub fn counts(folder: &Path, column: &str) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (path, _) in parquet_files(&folder.join("data")).unwrap_or_default() {
        let Some(reader) =
            File::open(path).ok().and_then(|file| ParquetRecordBatchReaderBuilder::try_new(file).ok())
        else {
            continue;
        };
        let mask = ProjectionMask::columns(reader.parquet_schema(), [column]);
        let Ok(reader) = reader.with_projection(mask).build() else { continue };
        for batch in reader.map_while(Result::ok) {
            let Some(values) = batch.column_by_name(column) else { continue };
            let options = FormatOptions::default().with_null("(none)");
            let Ok(format) = ArrayFormatter::try_new(values, &options) else { continue };
            for row in 0..batch.num_rows() {
                *counts.entry(format.value(row).to_string()).or_insert(0) += 1;
            }
        }
    }
    let numeric = counts.keys().all(|value| value.parse::<f64>().is_ok());
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    if !numeric {
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    }
    if counts.len() > MOST_BARS {
        let rest = counts.split_off(MOST_BARS);
        counts.push((format!("{} others", rest.len()), rest.iter().map(|(_, rows)| rows).sum()));
    }
    counts
}
