//! JSON lines: one object a line, plain, gzipped or zstd-compressed.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use serde_json::Value as Json;

use super::INFERENCE_ROWS;
use super::batches::{BATCH_BYTES, Filled, batches};
use super::compressed::{in_file, open};
use crate::engine::BATCH_ROWS;
use crate::engine::data_file::DataFile;
use crate::runner::ledger::RowSink;

/// Longer lines are set aside: two would not fit into one Arrow array.
const LINE_BYTES: usize = 1 << 30;

/// A line as a JSON object, or what is wrong with it.
fn parse_line(line: &[u8]) -> Result<Option<Json>, (&'static str, String)> {
    if line.len() > LINE_BYTES {
        return Err(("line_too_long", format!("{} bytes, of at most {LINE_BYTES}", line.len())));
    }
    let text = std::str::from_utf8(line)
        .map_err(|error| ("not_utf8", format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str::<Json>(text) {
        Ok(value @ Json::Object(_)) => Ok(Some(value)),
        Ok(_) => Err(("not_an_object", "the line is JSON but not an object".to_owned())),
        Err(error) => Err(("bad_json", error.to_string())),
    }
}

/// The columns of a JSONL file, by its first lines.
///
/// # Errors
/// A sentence that names the file.
pub fn schema(file: &DataFile) -> Result<SchemaRef, String> {
    let name = file.name().display();
    let lines = open(file).map_err(|error| format!("cannot open {name}: {error}"))?;
    let mut rows = Vec::new();
    for line in lines.split(b'\n').take(INFERENCE_ROWS) {
        let line = line.map_err(|error| format!("cannot read {name}: {error}"))?;
        if let Ok(Some(row)) = parse_line(&line) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return Err(format!("{name}: none of the first {INFERENCE_ROWS} lines is a JSON object"));
    }
    let schema = infer_json_schema_from_iterator(rows.iter().map(Ok));
    schema.map(Arc::new).map_err(|error| format!("{name}: the lines do not agree on their columns: {error}"))
}

/// The rows of a JSONL file in batches; a line that cannot be read goes to `sink` as `file:line`.
pub fn rows(
    file: DataFile,
    schema: SchemaRef,
    sink: RowSink,
) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let mut number = 0_u64;
    let mut left_out = BTreeSet::new();
    let (path, failed) = (file.name().to_owned(), in_file(&file));
    let open = move || Ok(open(&file).map_err(in_file(&file))?.split(b'\n'));
    batches(open, move |lines| {
        let mut rows = Vec::with_capacity(BATCH_ROWS);
        let (mut more, mut bytes) = (true, 0);
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(line) = lines.next() else {
                more = false;
                break;
            };
            let line = line.map_err(&failed)?;
            number += 1;
            bytes += line.len();
            match parse_line(&line) {
                Ok(Some(row)) => {
                    warn_of_new_columns(&row, &schema, &mut left_out, &path, number);
                    rows.push((number, row));
                }
                Ok(None) => {}
                Err((reason, detail)) => {
                    sink(format!("{}:{number}", path.display()), reason.to_owned(), detail)
                }
            }
        }
        Ok(Filled { batch: decode(&schema, &rows, &path, &sink)?, more })
    })
}

/// Says once for each column that the first lines do not have that it is left out.
fn warn_of_new_columns(row: &Json, schema: &Schema, left_out: &mut BTreeSet<String>, path: &Path, line: u64) {
    let names = row.as_object().into_iter().flat_map(|row| row.keys());
    for name in names.filter(|name| schema.index_of(name).is_err()) {
        if left_out.insert(name.clone()) {
            tracing::warn!(
                "{}:{line}: column `{name}` is not in the first {INFERENCE_ROWS} lines, and is left out; \
                 put a line with all columns first",
                path.display()
            );
        }
    }
}

/// Decodes rows at once; when one has a wrong type, row by row to find which.
fn decode(
    schema: &SchemaRef,
    rows: &[(u64, Json)],
    path: &Path,
    sink: &RowSink,
) -> Result<RecordBatch, ArrowError> {
    let decode_rows = |rows: &[&Json]| {
        let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH_ROWS).build_decoder()?;
        decoder.serialize(rows)?;
        decoder.flush()
    };
    let all: Vec<&Json> = rows.iter().map(|(_, row)| row).collect();
    let whole = decode_rows(&all);
    if let Ok(batch) = whole {
        return Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())));
    }
    let mut good = Vec::with_capacity(rows.len());
    for (number, row) in rows {
        match decode_rows(&[row]) {
            Ok(_) => good.push(row),
            Err(error) => {
                sink(format!("{}:{number}", path.display()), "wrong_type".to_owned(), error.to_string())
            }
        }
    }
    Ok(decode_rows(&good)?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}
