//! The operator behind scoring and embedding: pages in, a value for each out, in order.

use super::ScoreError;
use crate::{
    OnReject, PageStream, Reject,
    engine::{Engine, QUEUED_PAGES_PER_SESSION, WINDOW_PAGES},
};
use arrow::{
    array::{Array, ArrayRef, BooleanArray, StringArray},
    compute::{cast, filter_record_batch},
    datatypes::{DataType, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use futures::{
    Stream, StreamExt,
    future::{Either, ready},
    stream,
};
use std::sync::Arc;

/// Windows of pages in work at once where pages are run in batches: one that is run, one that fills up.
const WINDOWS_IN_FLIGHT: usize = 2;

pub(super) struct Columns {
    pub(super) text: String,
    pub(super) id: String,
    pub(super) in_flight_pages: Option<usize>,
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
enum Done {
    Page(Vec<f32>, Arc<Prepared>, usize),
    End(Arc<Prepared>),
}

/// `reduce` turns a page's vector and text into what is kept of it, `finish` turns a batch's worth into its new
/// columns.
pub(super) fn page_stream<T: Send + 'static>(
    engine: Arc<Engine>,
    columns: Columns,
    on_reject: OnReject,
    input: PageStream,
    schema: impl Fn(&Schema) -> Result<SchemaRef, ScoreError> + Send + 'static,
    reduce: impl Fn(Vec<f32>, &str) -> T + Send + 'static,
    finish: impl Fn(Vec<T>) -> Result<Vec<ArrayRef>, ArrowError> + Send + 'static,
) -> PageStream {
    let in_flight = columns.in_flight_pages.unwrap_or(engine.sessions() * QUEUED_PAGES_PER_SESSION).max(1);
    let mut kept = Vec::new();
    let mut has_failed = false;
    let steps = input.flat_map(move |batch| {
        let prepared = batch.and_then(|batch| {
            let schema = schema(batch.schema_ref())?;
            prepare(&batch, schema, &columns, &on_reject)
        });
        match prepared {
            Ok(prepared) => {
                let prepared = Arc::new(prepared);
                let end = Step::End(Arc::clone(&prepared));
                let pages = (0..prepared.texts.len()).map(move |row| Step::Page(Arc::clone(&prepared), row));
                Either::Left(stream::iter(pages.chain([end]).map(Ok)))
            }
            Err(error) => Either::Right(stream::iter([Err(error)])),
        }
    });
    let done = if engine.has_batches() {
        let windows = windows(steps).map(move |window| run_window(&engine, window));
        windows.buffered(WINDOWS_IN_FLIGHT).flat_map(stream::iter).left_stream()
    } else {
        steps.map(move |step| run_page(&engine, step)).buffered(in_flight).right_stream()
    };
    done.scan((), move |(), done| {
        // One item for the outer stream: nothing yet, a batch, or the one error.
        if has_failed {
            return ready(None);
        }
        let item = match done {
            Ok(Done::Page(vector, prepared, row)) => {
                kept.push(reduce(vector, prepared.texts.value(row)));
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

/// Queues one page, before the future is polled: it is in work at once.
fn run_page(
    engine: &Engine,
    step: Result<Step, ArrowError>,
) -> impl Future<Output = Result<Done, ArrowError>> + Send + use<> {
    match step {
        Ok(Step::Page(prepared, row)) => {
            let vector = engine.page(prepared.texts.value(row).to_owned());
            Either::Left(async move {
                match vector.await {
                    Ok(vector) => Ok(Done::Page(vector, prepared, row)),
                    Err(source) => {
                        let id = prepared.ids.value(row).to_owned();
                        Err(ScoreError::Page { id, source }.into())
                    }
                }
            })
        }
        Ok(Step::End(prepared)) => Either::Right(ready(Ok(Done::End(prepared)))),
        Err(error) => Either::Right(ready(Err(error))),
    }
}

/// Groups steps so that each group but the last has [`WINDOW_PAGES`] pages, whatever batches they came in.
fn windows(
    steps: impl Stream<Item = Result<Step, ArrowError>>,
) -> impl Stream<Item = Vec<Result<Step, ArrowError>>> {
    let (mut waiting, mut pages) = (Vec::new(), 0);
    steps.map(Some).chain(stream::iter([None])).filter_map(move |step| {
        let is_end = step.is_none();
        pages += usize::from(matches!(step, Some(Ok(Step::Page(..)))));
        waiting.extend(step);
        let is_full = pages == WINDOW_PAGES;
        pages = if is_full { 0 } else { pages };
        ready((is_full || is_end).then(|| std::mem::take(&mut waiting)))
    })
}

/// Queues a window's pages, before the future is polled.
fn run_window(
    engine: &Engine,
    window: Vec<Result<Step, ArrowError>>,
) -> impl Future<Output = Vec<Result<Done, ArrowError>>> + Send + use<> {
    let page = |step: &Result<Step, ArrowError>| match step {
        Ok(Step::Page(prepared, row)) => Some((Arc::clone(prepared), *row)),
        _ => None,
    };
    let pages: Vec<(Arc<Prepared>, usize)> = window.iter().filter_map(page).collect();
    let texts = pages.iter().map(|(prepared, row)| prepared.texts.value(*row).to_owned()).collect();
    let first = pages.first().map(|(prepared, row)| prepared.ids.value(*row).to_owned()).unwrap_or_default();
    let count = pages.len();
    let vectors = engine.window(texts);
    async move {
        let mut vectors = match vectors.await {
            Ok(vectors) => vectors.into_iter(),
            Err(source) => {
                let id = format!("{first}, or one of the {} behind it", count.saturating_sub(1));
                return vec![Err(ScoreError::Page { id, source }.into())];
            }
        };
        let done = |step| match step {
            Ok(Step::Page(prepared, row)) => {
                Ok(Done::Page(vectors.next().unwrap_or_default(), prepared, row))
            }
            Ok(Step::End(prepared)) => Ok(Done::End(prepared)),
            Err(error) => Err(error),
        };
        window.into_iter().map(done).collect()
    }
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
