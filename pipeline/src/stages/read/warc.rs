//! WARC files of crawled pages and WET files of their texts, as Common Crawl publishes them.
//!
//! A response of a WARC file becomes a row with its HTML in `text`, a conversion of a WET file one with
//! its text. Columns as in FineWeb, as far as the archive has them: `text, id, dump, url, date,
//! file_path`, and `mime_type`, by which `extract` tells HTML from text.

mod http;
mod record;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use self::record::{Record, Records};
use super::batches::{BATCH_BYTES, Filled, batches};
use super::compressed::in_file;
use crate::engine::BATCH_ROWS;
use crate::engine::data_file::DataFile;
use crate::runner::ledger::RowSink;

/// Where rows go that do not become one.
#[derive(Clone)]
pub struct Sinks {
    /// Records that are no page: another status than 200, no text.
    pub dropped: RowSink,
    /// Records that are damaged, as `file:offset`.
    pub damaged: RowSink,
}

/// The columns of every WARC and WET file.
pub fn schema() -> SchemaRef {
    let column = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        column("text", false),
        column("id", false),
        column("dump", true),
        column("url", true),
        column("date", true),
        column("file_path", false),
        column("mime_type", true),
    ]))
}

/// The pages of a file in batches.
pub fn rows(file: DataFile, sinks: Sinks) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let (path, failed) = (file.name().to_owned(), in_file(&file));
    let dump = dump_of(&path);
    let open = move || file.open().and_then(Records::new).map_err(in_file(&file));
    batches(open, move |records| {
        let mut batch = Batch::default();
        let mut more = true;
        while batch.rows < BATCH_ROWS && batch.bytes < BATCH_BYTES {
            match records.next_record().map_err(&failed)? {
                None => {
                    more = false;
                    break;
                }
                Some(Ok(record)) => batch.add(record, dump.as_deref(), &path, &sinks),
                Some(Err(damage)) => {
                    let id = format!("{}:{}", path.display(), damage.offset);
                    (sinks.damaged)(id, "damaged_record".to_owned(), damage.what);
                }
            }
        }
        Ok(Filled { batch: batch.finish()?, more })
    })
}

/// `CC-MAIN-2024-10` of `…/crawl-data/CC-MAIN-2024-10/segments/…`.
fn dump_of(path: &Path) -> Option<String> {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    let is_dump = |part: &str| {
        part.strip_prefix("CC-MAIN-").is_some_and(|rest| {
            rest.len() == 7
                && rest.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() })
        })
    };
    parts.into_iter().find(|part| is_dump(part)).map(std::borrow::Cow::into_owned)
}

/// Rows in the making, a builder a column.
#[derive(Default)]
struct Batch {
    rows: usize,
    bytes: usize,
    columns: [StringBuilder; 7],
}

impl Batch {
    fn add(&mut self, record: Record, dump: Option<&str>, path: &Path, sinks: &Sinks) {
        let id = record.header("WARC-Record-ID").map(str::to_owned);
        let id = id.unwrap_or_else(|| format!("{}:{}", path.display(), record.offset));
        let page = match record.kind() {
            "response" => http::page(&record.body),
            // A WET file's text, in UTF-8 by its own standard.
            "conversion" => Ok(http::Page {
                mime_type: record.header("Content-Type").map(http::mime_type),
                text: String::from_utf8_lossy(&record.body).into_owned(),
            }),
            // Requests, metadata, the file's own description.
            _ => return,
        };
        let page = match page {
            Ok(page) => page,
            Err((reason, detail)) => return (sinks.dropped)(id, reason.to_owned(), detail),
        };
        if page.text.trim().is_empty() {
            return (sinks.dropped)(id, "empty".to_owned(), "the record holds no text".to_owned());
        }
        self.rows += 1;
        self.bytes += page.text.len();
        let file_path = path.to_string_lossy();
        let values = [
            Some(page.text.as_str()),
            Some(id.as_str()),
            dump,
            record.header("WARC-Target-URI"),
            record.header("WARC-Date"),
            Some(&file_path),
            page.mime_type.as_deref(),
        ];
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.append_option(value);
        }
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        RecordBatch::try_new(schema(), columns)
    }
}

#[cfg(test)]
mod tests;
