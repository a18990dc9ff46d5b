//! Rows of benchmark files, as they are published.

use super::EvaluateError;
use crate::files::failed;
use arrow::array::RecordBatch;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The rows of a batch in the layout of the data set on the Hub; `task` is named in errors.
///
/// # Errors
/// A column has no form in JSON.
pub fn rows_of_batch(batch: &RecordBatch, task: &str) -> Result<Vec<serde_json::Value>, EvaluateError> {
    let bad = |problem: String| EvaluateError::Task { task: task.to_owned(), problem };
    let mut json = Vec::new();
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(&mut json);
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| bad(error.to_string()))?;
    match json.is_empty() {
        true => Ok(Vec::new()),
        false => serde_json::from_slice(&json).map_err(|error| bad(error.to_string())),
    }
}

/// The rows of a JSONL file, packed by gzip where its name ends with `.gz`; `task` is named in errors.
///
/// # Errors
/// The file cannot be read, or a line is no JSON.
pub fn rows_of_jsonl(path: &Path, task: &str) -> Result<Vec<serde_json::Value>, EvaluateError> {
    let file = File::open(path).map_err(failed("read", path))?;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = match packed {
        true => Box::new(flate2::read::MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut rows = Vec::new();
    for (number, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(failed("read", path))?;
        if line.trim().is_empty() {
            continue;
        }
        rows.push(serde_json::from_str(&line).map_err(|error| EvaluateError::Task {
            task: task.to_owned(),
            problem: format!("{}:{}: {error}", path.display(), number + 1),
        })?);
    }
    Ok(rows)
}

/// Makes something of each row; an error names the row, and its columns where one is missing.
pub(super) fn each_row<T>(
    rows: &[serde_json::Value],
    mut make: impl FnMut(&serde_json::Value) -> Result<T, EvaluateError>,
) -> Result<Vec<T>, EvaluateError> {
    let numbered = |(number, row): (usize, &serde_json::Value)| {
        make(row).map_err(|error| match error {
            EvaluateError::Task { task, problem } => {
                let columns = match row.as_object().filter(|_| problem.contains("undefined value")) {
                    Some(row) => {
                        let columns = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                        format!("; a column that the task needs is not among those of the row: {columns}")
                    }
                    None => String::new(),
                };
                EvaluateError::Task { task, problem: format!("row {}: {problem}{columns}", number + 1) }
            }
            other => other,
        })
    };
    rows.iter().enumerate().map(numbered).collect()
}
