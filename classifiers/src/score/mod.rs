//! Scoring and embedding of page streams.

mod schema;
#[cfg(test)]
mod tests;

pub use schema::{EmbedOptions, ScoreError, ScoreOptions, embedded_schema, scored_schema};

use crate::{
    Backbone, BackboneError, Head, HeadError, OnReject, PageStream, Reject,
    backbone::QUEUED_PAGES_PER_SESSION, int_score,
};
use arrow::{
    array::{Array, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, StringArray},
    compute::{cast, filter_record_batch},
    datatypes::{DataType, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use futures::{
    StreamExt,
    future::{Either, ready},
    stream,
};
use schema::item_field;
use std::sync::Arc;

/// A backbone and a head that belong together.
#[derive(Debug)]
pub struct Scorer {
    backbone: Arc<Backbone>,
    head: Head,
}

impl Scorer {
    /// Joins the two.
    ///
    /// # Errors
    /// When the head was trained on another backbone, tokenizer or length.
    pub fn new(backbone: Arc<Backbone>, head: Head) -> Result<Self, HeadError> {
        head.check_backbone(backbone.identity())?;
        Ok(Self { backbone, head })
    }

    /// The head in use.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Scores pages on all sessions and waits; one score a page, not clipped.
    ///
    /// # Errors
    /// When a page cannot be tokenised or run.
    pub fn score(&self, texts: &[&str]) -> Result<Vec<f32>, BackboneError> {
        let vectors = self.backbone.embed(texts)?;
        let rows = vectors.chunks(self.backbone.hidden());
        Ok(rows.map(|vector| self.head.score(vector)).collect())
    }
}

/// Adds `score` (f32, not clipped) and `int_score` (i64, `round(clip(score, 0,
/// 5))`) to every page.
///
/// Batches and rows keep their order. Pages without text leave the stream and
/// are told to `on_reject` with the reason `empty_text`. Up to
/// `in_flight_pages` pages are in work, over batch borders; when the stream is
/// dropped the pages that wait are passed over. The stream ends after an error.
pub fn score_stream(
    scorer: Arc<Scorer>,
    options: &ScoreOptions,
    on_reject: OnReject,
    input: PageStream,
) -> PageStream {
    let backbone = Arc::clone(&scorer.backbone);
    let columns = options.clone();
    let schema = move |input: &Schema| scored_schema(input, &columns);
    let columns = Columns {
        text: options.text_column.clone(),
        id: options.id_column.clone(),
        in_flight_pages: options.in_flight_pages,
    };
    let reduce = move |vector: Vec<f32>| scorer.head.score(&vector);
    let finish = |scores: Vec<f32>| -> Vec<ArrayRef> {
        let whole: Int64Array = scores.iter().map(|&score| int_score(score)).collect();
        vec![Arc::new(Float32Array::from(scores)), Arc::new(whole)]
    };
    page_stream(backbone, columns, on_reject, input, schema, reduce, move |scores| Ok(finish(scores)))
}

/// Adds each page's vector as a fixed-size list of f32. Otherwise as
/// [`score_stream`].
pub fn embed_stream(
    backbone: Arc<Backbone>,
    options: &EmbedOptions,
    on_reject: OnReject,
    input: PageStream,
) -> PageStream {
    let hidden = backbone.hidden();
    let columns = options.clone();
    let schema = move |input: &Schema| embedded_schema(input, hidden, &columns);
    let columns = Columns {
        text: options.text_column.clone(),
        id: options.id_column.clone(),
        in_flight_pages: options.in_flight_pages,
    };
    let finish = move |vectors: Vec<Vec<f32>>| {
        let length = i32::try_from(hidden).unwrap_or(i32::MAX);
        let values = Float32Array::from(vectors.concat());
        let list = FixedSizeListArray::try_new(item_field(), length, Arc::new(values), None)?;
        Ok(vec![Arc::new(list) as ArrayRef])
    };
    page_stream(backbone, columns, on_reject, input, schema, |vector| vector, finish)
}

struct Columns {
    text: String,
    id: String,
    in_flight_pages: Option<usize>,
}

/// A batch without its rejected rows, ready to be run.
struct Prepared {
    batch: RecordBatch,
    schema: SchemaRef,
    texts: StringArray,
    ids: StringArray,
}

/// What follows from one batch, in order: its pages, then its end.
enum Step {
    Page(Arc<Prepared>, usize),
    End(Arc<Prepared>),
}

/// What a step gives.
enum Done<T> {
    Page(T),
    End(Arc<Prepared>),
}

/// The operator behind both streams: `reduce` turns a vector into what is kept
/// of it, `finish` turns a batch's worth into its new columns.
fn page_stream<T: Send + 'static>(
    backbone: Arc<Backbone>,
    columns: Columns,
    on_reject: OnReject,
    input: PageStream,
    schema: impl Fn(&Schema) -> Result<SchemaRef, ScoreError> + Send + 'static,
    reduce: impl Fn(Vec<f32>) -> T + Send + Sync + 'static,
    finish: impl Fn(Vec<T>) -> Result<Vec<ArrayRef>, ArrowError> + Send + 'static,
) -> PageStream {
    let in_flight = columns.in_flight_pages.unwrap_or(backbone.sessions() * QUEUED_PAGES_PER_SESSION).max(1);
    let reduce = Arc::new(reduce);
    let mut kept = Vec::new();
    let mut has_failed = false;
    input
        .flat_map(move |batch| {
            let prepared = batch.and_then(|batch| {
                let schema = schema(batch.schema_ref())?;
                prepare(&batch, schema, &columns, &on_reject)
            });
            match prepared {
                Ok(prepared) => {
                    let prepared = Arc::new(prepared);
                    let end = Step::End(Arc::clone(&prepared));
                    let pages =
                        (0..prepared.texts.len()).map(move |row| Step::Page(Arc::clone(&prepared), row));
                    Either::Left(stream::iter(pages.chain([end]).map(Ok)))
                }
                Err(error) => Either::Right(stream::iter([Err(error)])),
            }
        })
        .map(move |step| match step {
            Ok(Step::Page(prepared, row)) => {
                // Queued here, before the future is polled: the page is in work at once.
                let vector = backbone.embed_page(prepared.texts.value(row).to_owned());
                let reduce = Arc::clone(&reduce);
                Either::Left(async move {
                    match vector.await {
                        Ok(vector) => Ok(Done::Page(reduce(vector))),
                        Err(source) => {
                            let id = prepared.ids.value(row).to_owned();
                            Err(ScoreError::Page { id, source }.into())
                        }
                    }
                })
            }
            Ok(Step::End(prepared)) => Either::Right(ready(Ok(Done::End(prepared)))),
            Err(error) => Either::Right(ready(Err(error))),
        })
        .buffered(in_flight)
        .scan((), move |(), done| {
            // One item for the outer stream: nothing yet, a batch, or the one error.
            if has_failed {
                return ready(None);
            }
            let item = match done {
                Ok(Done::Page(value)) => {
                    kept.push(value);
                    None
                }
                Ok(Done::End(prepared)) => {
                    Some(finish(std::mem::take(&mut kept)).and_then(|added| join(&prepared, added)))
                }
                Err(error) => Some(Err(error)),
            };
            has_failed = matches!(item, Some(Err(_)));
            ready(Some(item))
        })
        .filter_map(ready)
        .boxed()
}

fn text_column(batch: &RecordBatch, column: &str) -> Result<StringArray, ArrowError> {
    let index = batch.schema_ref().index_of(column)?;
    let array = cast(batch.column(index), &DataType::Utf8)?;
    let data = array.to_data();
    Ok(StringArray::from(data))
}

/// Takes out the rows without text and tells of them.
fn prepare(
    batch: &RecordBatch,
    schema: SchemaRef,
    columns: &Columns,
    on_reject: &OnReject,
) -> Result<Prepared, ArrowError> {
    let texts = text_column(batch, &columns.text)?;
    let ids = text_column(batch, &columns.id)?;
    let has_text: Vec<bool> =
        (0..texts.len()).map(|row| texts.is_valid(row) && !texts.value(row).trim().is_empty()).collect();
    for (row, _) in has_text.iter().enumerate().filter(|(_, has_text)| !**has_text) {
        let what = if texts.is_null(row) { "null" } else { "white space only" };
        on_reject(Reject {
            id: if ids.is_null(row) { String::new() } else { ids.value(row).to_owned() },
            reason: "empty_text".into(),
            detail: format!("column `{}` is {what}", columns.text),
        });
    }
    if has_text.iter().all(|&has_text| has_text) {
        return Ok(Prepared { batch: batch.clone(), schema, texts, ids });
    }
    let batch = filter_record_batch(batch, &BooleanArray::from(has_text))?;
    let (texts, ids) = (text_column(&batch, &columns.text)?, text_column(&batch, &columns.id)?);
    Ok(Prepared { batch, schema, texts, ids })
}

fn join(prepared: &Prepared, added: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let mut arrays = prepared.batch.columns().to_vec();
    arrays.extend(added);
    RecordBatch::try_new(Arc::clone(&prepared.schema), arrays)
}
