//! Rows of the sample dump as Arrow batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::SampleError;
use super::pages::Page;

/// FineWeb's schema (HuggingFaceFW/fineweb, dataset card): `text, id, dump, url, date, file_path, language` strings,
/// `language_score` f64, `token_count` i64; nothing is null.
pub fn page_schema() -> SchemaRef {
    let string = |name: &str| Field::new(name, DataType::Utf8, false);
    let mut fields: Vec<Field> =
        ["text", "id", "dump", "url", "date", "file_path", "language"].into_iter().map(string).collect();
    fields.push(Field::new("language_score", DataType::Float64, false));
    fields.push(Field::new("token_count", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

/// Gathers pages into batches of [`page_schema`], `batch_rows` rows each but the last.
///
/// # Errors
/// The first error of `pages` comes after the batch of what was read before it, and ends the iterator.
pub fn page_batches(
    pages: impl Iterator<Item = Result<Page, SampleError>>,
    batch_rows: usize,
) -> impl Iterator<Item = Result<RecordBatch, SampleError>> {
    batches(pages, batch_rows, |pages| {
        let string =
            |of: fn(&Page) -> &str| Arc::new(StringArray::from_iter_values(pages.iter().map(of))) as ArrayRef;
        let columns = vec![
            string(|page| &page.text),
            string(|page| &page.id),
            string(|page| page.dump),
            string(|page| &page.url),
            string(|page| page.date),
            string(|page| &page.file_path),
            string(|page| page.language),
            Arc::new(Float64Array::from_iter_values(pages.iter().map(|page| page.language_score))),
            Arc::new(Int64Array::from_iter_values(pages.iter().map(|page| page.token_count))),
        ];
        Ok(RecordBatch::try_new(page_schema(), columns)?)
    })
}

/// Gathers rows into batches.
pub(super) fn batches<T>(
    mut rows: impl Iterator<Item = Result<T, SampleError>>,
    batch_rows: usize,
    build: impl Fn(&[T]) -> Result<RecordBatch, SampleError>,
) -> impl Iterator<Item = Result<RecordBatch, SampleError>> {
    let mut failure = None;
    let mut over = false;
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        while !over && batch.len() < batch_rows.max(1) {
            match rows.next() {
                Some(Ok(row)) => batch.push(row),
                Some(Err(error)) => {
                    failure = Some(error);
                    over = true;
                }
                None => over = true,
            }
        }
        if batch.is_empty() { failure.take().map(Err) } else { Some(build(&batch)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_but_the_last_and_end_with_the_error() {
        let page = Page {
            text: "t".into(),
            id: "i".into(),
            dump: "sample",
            url: "u".into(),
            date: "d",
            file_path: "f".into(),
            language: "en",
            language_score: 1.0,
            token_count: 1,
        };
        let rows = (0..5).map(|_| Ok(page.clone())).chain([Err(SampleError::WorkerLost)]);
        let batches: Vec<_> = page_batches(rows, 2).collect();
        let sizes: Vec<usize> = batches.iter().flatten().map(RecordBatch::num_rows).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert!(matches!(batches.last(), Some(Err(SampleError::WorkerLost))));
        assert_eq!(batches[0].as_ref().unwrap().schema(), page_schema());
    }
}
