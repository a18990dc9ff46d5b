//! CSV and TSV with a line of column names, plain, gzipped or zstd-compressed.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use csv::{Reader, ReaderBuilder, StringRecord};

use super::INFERENCE_ROWS;
use super::batches::{BATCH_BYTES, Filled, batches};
use super::compressed::{in_file, open};
use crate::engine::BATCH_ROWS;
use crate::engine::data_file::DataFile;
use crate::runner::ledger::RowSink;

/// Types that a column is tried for, in this order; text takes everything.
const TYPES: [DataType; 3] = [DataType::Int64, DataType::Float64, DataType::Boolean];

fn reader(file: &DataFile) -> Result<Reader<impl Read + use<>>, ArrowError> {
    let name = file.name().file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let file = open(file).map_err(in_file(file))?;
    let delimiter = if name.contains(".tsv") { b'\t' } else { b',' };
    Ok(ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(file))
}

/// The columns of a CSV file: their names, and types that fit its first rows. An empty field is NULL.
///
/// # Errors
/// A sentence that names the file.
pub fn schema(file: &DataFile) -> Result<SchemaRef, String> {
    let name = file.name().display();
    let failed = |error: String| format!("{name}: {error}");
    let mut reader = reader(file).map_err(|error| error.to_string())?;
    let names = reader.headers().map_err(|error| failed(error.to_string()))?.clone();
    if names.is_empty() {
        return Err(failed("it has no line of column names".to_owned()));
    }
    if let Some(column) = names
        .iter()
        .enumerate()
        .find_map(|(i, column)| names.iter().take(i).any(|before| before == column).then_some(column))
    {
        return Err(failed(format!("two columns are called `{column}`")));
    }
    let rows: Vec<StringRecord> = reader.records().take(INFERENCE_ROWS).flatten().collect();
    let type_of = |column: usize| {
        let fits = |data_type: &DataType| {
            let mut fields = rows.iter().filter_map(|row| row.get(column)).filter(|field| !field.is_empty());
            let mut any = false;
            fields.all(|field| {
                any = true;
                parses_as(field, data_type)
            }) && any
        };
        TYPES.iter().find(|data_type| fits(data_type)).cloned().unwrap_or(DataType::Utf8)
    };
    let fields: Vec<Field> =
        names.iter().enumerate().map(|(i, name)| Field::new(name, type_of(i), true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn parses_as(field: &str, data_type: &DataType) -> bool {
    // `007` is a name, not a number.
    let digits = field.strip_prefix('-').unwrap_or(field).as_bytes();
    let is_name = digits.first() == Some(&b'0') && digits.get(1).is_some_and(u8::is_ascii_digit);
    match data_type {
        DataType::Int64 => field.parse::<i64>().is_ok() && !is_name,
        DataType::Float64 => field.parse::<f64>().is_ok_and(f64::is_finite) && !is_name,
        _ => matches!(field, "true" | "false"),
    }
}

/// The rows of a CSV file in batches. A row with another number of fields, or with a field that is not
/// of its column's type, goes to `sink` as `file:line`.
pub fn rows(
    file: DataFile,
    schema: SchemaRef,
    sink: RowSink,
) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let path = file.name().to_owned();
    let open = move || Ok(reader(&file)?.into_records());
    batches(open, move |records| {
        let mut lines = Vec::with_capacity(BATCH_ROWS);
        let mut columns: Vec<StringBuilder> = schema.fields().iter().map(|_| StringBuilder::new()).collect();
        let (mut more, mut bytes) = (true, 0);
        while lines.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let row = match records.next() {
                Some(Ok(row)) => row,
                Some(Err(error)) => {
                    set_aside_or_fail(error, &path, &sink)?;
                    continue;
                }
                None => {
                    more = false;
                    break;
                }
            };
            let line = row.position().map_or(0, csv::Position::line);
            if row.len() != columns.len() {
                let place = format!("{}:{line}", path.display());
                let detail = format!("{} fields, not {}", row.len(), columns.len());
                sink(place, "wrong_number_of_fields".to_owned(), detail);
                continue;
            }
            lines.push(line);
            bytes += row.as_slice().len();
            for (column, field) in columns.iter_mut().zip(&row) {
                column.append_option((!field.is_empty()).then_some(field));
            }
        }
        Ok(Filled { batch: typed(&schema, columns, &lines, &path, &sink)?, more })
    })
}

/// A row that is not UTF-8 is set aside; an error of the disk ends the reading.
fn set_aside_or_fail(error: csv::Error, path: &Path, sink: &RowSink) -> Result<(), ArrowError> {
    let line = error.position().map_or(0, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Utf8 { err, .. } => {
            sink(format!("{}:{line}", path.display()), "not_utf8".to_owned(), err.to_string());
            Ok(())
        }
        csv::ErrorKind::Io(error) => Err(in_file(&path.to_owned().into())(error)),
        other => Err(ArrowError::CsvError(format!("{}:{line}: {other:?}", path.display()))),
    }
}

/// Texts as columns of the schema's types, without the rows in which one does not fit.
fn typed(
    schema: &SchemaRef,
    columns: Vec<StringBuilder>,
    lines: &[u64],
    path: &Path,
    sink: &RowSink,
) -> Result<RecordBatch, ArrowError> {
    let mut good = vec![true; lines.len()];
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    let unfitting_is_null = CastOptions { safe: true, ..CastOptions::default() };
    for (mut column, field) in columns.into_iter().zip(schema.fields()) {
        let texts: ArrayRef = Arc::new(column.finish());
        let typed = cast_with_options(&texts, field.data_type(), &unfitting_is_null)?;
        for (row, good) in good.iter_mut().enumerate().filter(|(row, _)| texts.is_valid(*row)) {
            if *good && typed.is_null(row) {
                *good = false;
                let text = texts.as_string::<i32>().value(row);
                let detail = format!("column `{}`: `{text}` is no {}", field.name(), field.data_type());
                sink(format!("{}:{}", path.display(), lines[row]), "wrong_type".to_owned(), detail);
            }
        }
        arrays.push(typed);
    }
    let batch = RecordBatch::try_new(schema.clone(), arrays)?;
    filter_record_batch(&batch, &BooleanArray::from(good))
}
