//! Scoring and embedding of page streams.

use crate::{
    Backbone, BackboneError, Head, HeadError, OnReject, PageStream, Reject,
    backbone::QUEUED_PAGES_PER_SESSION, int_score,
};
use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, StringArray,
    },
    compute::{cast, filter_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use futures::{
    StreamExt,
    future::{Either, ready},
    stream,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// How to score pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreOptions {
    /// The column with the page's text.
    pub text_column: String,
    /// The column with the page's id, by which rejected pages are named.
    pub id_column: String,
    /// The column that gets the score, f32, not clipped. `score` as in
    /// HuggingFaceTB/smollm-corpus.
    pub score_column: String,
    /// The column that gets `round(clip(score, 0, 5))`, i64. `int_score` as in
    /// HuggingFaceTB/smollm-corpus.
    pub int_score_column: String,
    /// Pages in work or waiting at once, over batch borders; 8 a session when
    /// not given. More evens out long and short pages and holds more text.
    pub in_flight_pages: Option<usize>,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            text_column: "text".into(),
            id_column: "id".into(),
            score_column: "score".into(),
            int_score_column: "int_score".into(),
            in_flight_pages: None,
        }
    }
}

/// How to embed pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbedOptions {
    /// The column with the page's text.
    pub text_column: String,
    /// The column with the page's id, by which rejected pages are named.
    pub id_column: String,
    /// The column that gets the vector, a list of `hidden` f32.
    pub embedding_column: String,
    /// Pages in work or waiting at once, over batch borders; 8 a session when
    /// not given.
    pub in_flight_pages: Option<usize>,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            text_column: "text".into(),
            id_column: "id".into(),
            embedding_column: "embedding".into(),
            in_flight_pages: None,
        }
    }
}

/// Why a stream of pages could not be scored or embedded.
#[derive(Debug, Error)]
pub enum ScoreError {
    /// A column is missing.
    #[error("score: no column `{column}` among {found}; set the option to the column's name")]
    NoColumn {
        /// The column wanted.
        column: String,
        /// The columns there are.
        found: String,
    },
    /// A column holds no text.
    #[error("score: column `{column}` is {found}, expected text (Utf8, LargeUtf8 or Utf8View)")]
    NotText {
        /// The column.
        column: String,
        /// Its type.
        found: DataType,
    },
    /// An output column is there already.
    #[error(
        "score: the pages already have a column `{column}`; drop or rename it, or set another name for the output"
    )]
    ColumnExists {
        /// The column.
        column: String,
    },
    /// A page could not be run.
    #[error("score: page {id}: {source}")]
    Page {
        /// The page.
        id: String,
        /// What went wrong.
        source: BackboneError,
    },
}

impl From<ScoreError> for ArrowError {
    fn from(error: ScoreError) -> Self {
        Self::ExternalError(Box::new(error))
    }
}

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

/// The schema that [`score_stream`] gives for pages of `input`.
///
/// # Errors
/// When a column is missing, is no text, or an output column exists.
pub fn scored_schema(input: &Schema, options: &ScoreOptions) -> Result<SchemaRef, ScoreError> {
    let added = [
        Field::new(&options.score_column, DataType::Float32, false),
        Field::new(&options.int_score_column, DataType::Int64, false),
    ];
    extended_schema(input, [&options.text_column, &options.id_column], added)
}

/// The schema that [`embed_stream`] gives for pages of `input` and vectors of
/// `hidden` values.
///
/// # Errors
/// When a column is missing, is no text, or the output column exists.
pub fn embedded_schema(
    input: &Schema,
    hidden: usize,
    options: &EmbedOptions,
) -> Result<SchemaRef, ScoreError> {
    let list = DataType::FixedSizeList(item_field(), i32::try_from(hidden).unwrap_or(i32::MAX));
    let added = [Field::new(&options.embedding_column, list, false)];
    extended_schema(input, [&options.text_column, &options.id_column], added)
}

fn item_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

fn extended_schema<const N: usize>(
    input: &Schema,
    text_columns: [&String; 2],
    added: [Field; N],
) -> Result<SchemaRef, ScoreError> {
    for column in text_columns {
        let Ok(field) = input.field_with_name(column) else {
            let names: Vec<&str> = input
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            return Err(ScoreError::NoColumn {
                column: column.clone(),
                found: names.join(", "),
            });
        };
        let is_text = |kind: &DataType| {
            matches!(
                kind,
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
            )
        };
        if !is_text(field.data_type()) {
            let found = field.data_type().clone();
            return Err(ScoreError::NotText {
                column: column.clone(),
                found,
            });
        }
    }
    let mut fields: Vec<Arc<Field>> = input.fields().iter().cloned().collect();
    for field in added {
        if fields.iter().any(|known| known.name() == field.name()) {
            return Err(ScoreError::ColumnExists {
                column: field.name().clone(),
            });
        }
        fields.push(Arc::new(field));
    }
    Ok(Arc::new(Schema::new_with_metadata(
        fields,
        input.metadata().clone(),
    )))
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
    page_stream(
        backbone,
        columns,
        on_reject,
        input,
        schema,
        reduce,
        move |scores| Ok(finish(scores)),
    )
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
    page_stream(
        backbone,
        columns,
        on_reject,
        input,
        schema,
        |vector| vector,
        finish,
    )
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
    let in_flight = columns
        .in_flight_pages
        .unwrap_or(backbone.sessions() * QUEUED_PAGES_PER_SESSION)
        .max(1);
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
                    let pages = (0..prepared.texts.len())
                        .map(move |row| Step::Page(Arc::clone(&prepared), row));
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
    let has_text: Vec<bool> = (0..texts.len())
        .map(|row| texts.is_valid(row) && !texts.value(row).trim().is_empty())
        .collect();
    for (row, _) in has_text
        .iter()
        .enumerate()
        .filter(|(_, has_text)| !**has_text)
    {
        let what = if texts.is_null(row) {
            "null"
        } else {
            "white space only"
        };
        on_reject(Reject {
            id: if ids.is_null(row) {
                String::new()
            } else {
                ids.value(row).to_owned()
            },
            reason: "empty_text".into(),
            detail: format!("column `{}` is {what}", columns.text),
        });
    }
    if has_text.iter().all(|&has_text| has_text) {
        return Ok(Prepared {
            batch: batch.clone(),
            schema,
            texts,
            ids,
        });
    }
    let batch = filter_record_batch(batch, &BooleanArray::from(has_text))?;
    let (texts, ids) = (
        text_column(&batch, &columns.text)?,
        text_column(&batch, &columns.id)?,
    );
    Ok(Prepared {
        batch,
        schema,
        texts,
        ids,
    })
}

fn join(prepared: &Prepared, added: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let mut arrays = prepared.batch.columns().to_vec();
    arrays.extend(added);
    RecordBatch::try_new(Arc::clone(&prepared.schema), arrays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{head::tests::head, test_backbone};
    use arrow::{
        array::{AsArray, LargeStringArray, StringViewArray, UInt8Array},
        datatypes::Float32Type,
    };
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    fn scorer(sessions: usize) -> Option<Arc<Scorer>> {
        let backbone = Arc::new(test_backbone(64, sessions)?);
        let plain = head(2.0, (0..384).map(|at| (at % 7) as f32 - 3.0).collect());
        let mut metadata = plain.metadata().clone();
        metadata.backbone = backbone.identity().clone();
        let weights = (0..384).map(|at| (at % 7) as f32 - 3.0).collect();
        Some(Arc::new(
            Scorer::new(backbone, Head::new(metadata, 2.0, weights)).unwrap(),
        ))
    }

    fn batch(ids: &[&str], texts: &[Option<&str>]) -> RecordBatch {
        let extra: Vec<u8> = (0..ids.len())
            .map(|row| u8::try_from(row).unwrap())
            .collect();
        RecordBatch::try_from_iter_with_nullable([
            (
                "text",
                Arc::new(StringViewArray::from(texts.to_vec())) as ArrayRef,
                true,
            ),
            (
                "extra",
                Arc::new(UInt8Array::from(extra)) as ArrayRef,
                false,
            ),
            (
                "id",
                Arc::new(LargeStringArray::from(ids.to_vec())) as ArrayRef,
                false,
            ),
        ])
        .unwrap()
    }

    fn input(batches: Vec<RecordBatch>) -> PageStream {
        stream::iter(batches.into_iter().map(Ok)).boxed()
    }

    fn no_reject() -> OnReject {
        Arc::new(|reject| panic!("{reject:?}"))
    }

    async fn collect(stream: PageStream) -> Vec<RecordBatch> {
        stream.map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn three_pages_get_scores_and_an_empty_one_a_reason() {
        let Some(scorer) = scorer(2) else {
            return;
        };
        let rejects = Arc::new(Mutex::new(Vec::new()));
        let on_reject: OnReject = Arc::new({
            let rejects = Arc::clone(&rejects);
            move |reject| rejects.lock().unwrap().push(reject)
        });
        let texts = [
            Some("Cells divide by mitosis."),
            None,
            Some(" \n"),
            Some("Sale!"),
        ];
        let pages = batch(&["a", "b", "c", "d"], &texts);
        let schema = scored_schema(pages.schema_ref(), &ScoreOptions::default()).unwrap();
        let stream = score_stream(
            Arc::clone(&scorer),
            &ScoreOptions::default(),
            on_reject,
            input(vec![pages]),
        );
        let out = collect(stream).await;
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].schema(), schema);
        let scores = out[0]
            .column_by_name("score")
            .unwrap()
            .as_primitive::<Float32Type>();
        let expected = scorer
            .score(&["Cells divide by mitosis.", "Sale!"])
            .unwrap();
        assert_eq!(scores.values().to_vec(), expected);
        let whole = out[0].column_by_name("int_score").unwrap();
        let expected: Int64Array = expected.iter().map(|&score| int_score(score)).collect();
        assert_eq!(whole.as_ref(), &expected as &dyn Array);
        let extra: &UInt8Array = out[0].column(1).as_primitive();
        assert_eq!(extra.values().to_vec(), [0, 3]);
        let rejects = rejects.lock().unwrap();
        let told: Vec<(&str, &str)> = rejects
            .iter()
            .map(|r| (r.id.as_str(), r.reason.as_str()))
            .collect();
        assert_eq!(told, [("b", "empty_text"), ("c", "empty_text")]);
    }

    #[tokio::test]
    async fn order_and_bits_do_not_depend_on_batches_or_sessions() {
        let (Some(one), Some(two)) = (scorer(1), scorer(2)) else {
            return;
        };
        // Long pages first, so that later ones are ready before them.
        let texts: Vec<String> = (0..24)
            .map(|i| format!("page {i} ").repeat(1 + 60 * usize::from(i % 5 == 0)))
            .collect();
        let ids: Vec<String> = (0..24).map(|i| i.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        let all = |out: Vec<RecordBatch>| {
            let scores = |batch: &RecordBatch| {
                batch
                    .column(3)
                    .as_primitive::<Float32Type>()
                    .values()
                    .to_vec()
            };
            out.iter().flat_map(scores).collect::<Vec<f32>>()
        };
        let whole = input(vec![batch(&ids, &texts)]);
        let whole = collect(score_stream(
            one,
            &ScoreOptions::default(),
            no_reject(),
            whole,
        ))
        .await;
        let parts = ids
            .chunks(5)
            .zip(texts.chunks(5))
            .map(|(ids, texts)| batch(ids, texts))
            .collect();
        let options = ScoreOptions {
            in_flight_pages: Some(7),
            ..Default::default()
        };
        let parts = collect(score_stream(two, &options, no_reject(), input(parts))).await;
        assert_eq!(
            parts.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(),
            [5, 5, 5, 5, 4]
        );
        assert_eq!(all(parts), all(whole));
    }

    #[tokio::test]
    async fn vectors_come_as_lists() {
        let Some(backbone) = test_backbone(64, 1) else {
            return;
        };
        let backbone = Arc::new(backbone);
        let pages = batch(&["a", "b"], &[Some("one"), Some("two")]);
        let empty = batch(&["c"], &[Some("x")]).slice(0, 0);
        let schema = embedded_schema(pages.schema_ref(), 384, &EmbedOptions::default()).unwrap();
        let stream = embed_stream(
            Arc::clone(&backbone),
            &EmbedOptions::default(),
            no_reject(),
            input(vec![pages, empty]),
        );
        let out = collect(stream).await;
        assert_eq!((out[0].schema(), out[1].num_rows()), (schema, 0));
        let list = out[0].column(3).as_fixed_size_list();
        let values = list
            .values()
            .as_primitive::<Float32Type>()
            .values()
            .to_vec();
        assert_eq!(values, backbone.embed(&["one", "two"]).unwrap());
    }

    #[tokio::test]
    async fn work_in_flight_is_bounded_and_a_dropped_stream_stops() {
        let Some(scorer) = scorer(1) else {
            return;
        };
        let pulled = Arc::new(AtomicUsize::new(0));
        let source = stream::iter(0..1_000).map({
            let pulled = Arc::clone(&pulled);
            move |i| {
                pulled.fetch_add(1, Ordering::SeqCst);
                Ok(batch(&[i.to_string().as_str()], &[Some("a page")]))
            }
        });
        let options = ScoreOptions {
            in_flight_pages: Some(6),
            ..Default::default()
        };
        let mut stream = score_stream(scorer, &options, no_reject(), source.boxed());
        stream.next().await.unwrap().unwrap();
        // A page and a batch's end each take a place; a few more are pulled as places come free.
        let seen = pulled.load(Ordering::SeqCst);
        assert!((3..=12).contains(&seen), "{seen}");
        drop(stream);
        assert_eq!(pulled.load(Ordering::SeqCst), seen);
    }

    #[tokio::test]
    async fn an_error_ends_the_stream() {
        let Some(scorer) = scorer(1) else {
            return;
        };
        let good = batch(&["a"], &[Some("a page")]);
        let failed = Err(ArrowError::ComputeError("the disk is gone".into()));
        let source = stream::iter([Ok(good.clone()), failed, Ok(good)]).boxed();
        let stream = score_stream(scorer, &ScoreOptions::default(), no_reject(), source);
        let out: Vec<_> = stream.collect().await;
        assert_eq!(out.len(), 2);
        assert!(
            out[0].is_ok()
                && out[1]
                    .as_ref()
                    .unwrap_err()
                    .to_string()
                    .contains("the disk is gone")
        );
    }

    #[test]
    fn wrong_columns_are_named() {
        let pages = batch(&["a"], &[Some("x")]);
        let error = |options: ScoreOptions| {
            scored_schema(pages.schema_ref(), &options)
                .unwrap_err()
                .to_string()
        };
        let text = error(ScoreOptions {
            text_column: "body".into(),
            ..Default::default()
        });
        assert!(
            text.contains("no column `body` among text, extra, id"),
            "{text}"
        );
        let text = error(ScoreOptions {
            text_column: "extra".into(),
            ..Default::default()
        });
        assert!(text.contains("column `extra` is UInt8"), "{text}");
        let text = error(ScoreOptions {
            score_column: "extra".into(),
            ..Default::default()
        });
        assert!(text.contains("already have a column `extra`"), "{text}");
    }
}
