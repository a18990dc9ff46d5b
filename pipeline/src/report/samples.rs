//! Rows and counts from a stage's shards for the report.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::outputs::Outputs;
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

/// How many rows of a stage have each value of a column, the commonest first.
pub async fn counts(outputs: &Outputs, stage: &str, column: &str) -> Vec<(String, u64)> {
    let sql = format!("SELECT coalesce(CAST({column} AS VARCHAR), '(none)'), count(*) FROM data GROUP BY 1");
    let Some(rows) = outputs.query(&[("data", stage)], &sql).await else { return Vec::new() };
    let counts: BTreeMap<String, u64> =
        rows.map(|row| (row.text(0), row.number(1) as u64)).into_iter().collect();
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
