//! From a rule over a page to a stage: rows stream through it, those that it rejects go to the ledger.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::rules::{Rejected, TextRule};
use classifiers::text::Words;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{id_of, require, schema_of, text_column};
use super::{InputCount, InputRole, Inputs, Shape, Stage, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::RowSink;

/// What every stage of this kind reads.
pub const INPUTS: &[InputRole] =
    &[InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One }];

/// Batches that are judged at once; rows of a batch are spread over all threads.
const BATCHES_IN_FLIGHT: usize = 2;

/// The config of a stage that puts texts through a rule.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RuleConfig<R: Default> {
    /// The column with the text.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// The rule's own fields.
    #[serde(flatten)]
    pub rule: R,
}

impl<R: Default> Default for RuleConfig<R> {
    fn default() -> Self {
        Self { text_column: "text".to_owned(), id_column: "id".to_owned(), rule: R::default() }
    }
}

#[async_trait]
impl<R: TextRule + Clone + Default + Serialize + 'static> Stage for RuleConfig<R> {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.text_column])?;
        let (rule, text_column, ledger) = (self.rule.clone(), self.text_column.clone(), ctx.ledger.clone());
        let judge = move |batch: RecordBatch| {
            ledger.count_nulls(&batch, &text_column);
            judge_texts(&rule, &text_column, batch)
        };
        let schema = schema_of(&rows);
        judged_rows(ctx, rows, R::NAME, &self.id_column, schema, judge)
    }
}

/// A batch after a rule.
pub struct Judged {
    /// All rows, with what the rule changed in them.
    pub rows: RecordBatch,
    /// Why a row is not kept, for each row.
    pub rejected: Vec<Option<Rejected>>,
}

/// The rows that a rule keeps, in order, with `schema`; the others go to the ledger.
///
/// # Errors
/// The plan cannot be built.
pub fn judged_rows(
    ctx: &StageContext,
    rows: impl Into<DataFrame>,
    name: &'static str,
    id_column: &str,
    schema: SchemaRef,
    judge: impl Fn(RecordBatch) -> Result<Judged, ArrowError> + Send + Sync + 'static,
) -> Result<DataFrame, StageError> {
    let (judge, sink, id_column) = (Arc::new(judge), ctx.ledger.drop_sink(), Arc::<str>::from(id_column));
    let out_schema = schema.clone();
    let function = move |stream| {
        let (judge, sink, id_column) = (judge.clone(), sink.clone(), id_column.clone());
        let kept = to_domain(stream)
            .map(move |batch| {
                let (judge, sink, id_column) = (judge.clone(), sink.clone(), id_column.clone());
                let work = tokio::task::spawn_blocking(move || keep(judge(batch?)?, &id_column, &sink));
                async move { work.await.map_err(|error| ArrowError::ExternalError(Box::new(error)))? }
            })
            .buffered(BATCHES_IN_FLIGHT);
        Ok(from_domain(out_schema.clone(), kept))
    };
    operator::apply(ctx.session(), rows, name, schema, Arc::new(function))
        .map_err(|error| ctx.plan_error(&error))
}

fn keep(judged: Judged, id_column: &str, sink: &RowSink) -> Result<RecordBatch, ArrowError> {
    let Judged { rows, rejected } = judged;
    let keep: BooleanArray = rejected.iter().map(|rejected| Some(rejected.is_none())).collect();
    let ids = cast(rows.column(rows.schema().index_of(id_column)?), &DataType::Utf8)?;
    let ids = ids.as_string::<i32>();
    for (row, rejected) in rejected.into_iter().enumerate() {
        if let Some(Rejected { reason, detail }) = rejected {
            sink(id_of(ids, row), reason, detail);
        }
    }
    filter_record_batch(&rows, &keep)
}

/// Each row's text by itself, on all threads. No text (NULL) counts as an empty one.
pub fn judge_each<T: Send>(
    texts: &StringArray,
    judge: impl for<'t> Fn(&'t str, &mut Words) -> T + Sync,
) -> Vec<T> {
    let text = |row: usize| if texts.is_null(row) { "" } else { texts.value(row) };
    (0..texts.len()).into_par_iter().map_init(Words::default, |words, row| judge(text(row), words)).collect()
}

fn judge_texts(rule: &impl TextRule, column: &str, batch: RecordBatch) -> Result<Judged, ArrowError> {
    let texts = text_column(&batch, column)?;
    // A text that is kept as it is has no new one.
    let judged = judge_each(&texts, |text, words| match rule.apply(text, words) {
        Ok(Cow::Borrowed(_)) => (None, None),
        Ok(Cow::Owned(new)) => (Some(new), None),
        Err(rejected) => (None, Some(rejected)),
    });
    let (new, rejected): (Vec<Option<String>>, Vec<Option<Rejected>>) = judged.into_iter().unzip();
    if new.iter().all(Option::is_none) {
        return Ok(Judged { rows: batch, rejected });
    }
    let old = texts.iter();
    let changed: StringArray = old.zip(&new).map(|(old, new)| new.as_deref().or(old)).collect();
    Ok(Judged { rows: with_column(batch, column, Arc::new(changed))?, rejected })
}

/// A batch with other values in a column, which keeps its type.
///
/// # Errors
/// The values cannot be of that type.
pub fn with_column(batch: RecordBatch, name: &str, values: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let (schema, mut columns, _) = batch.into_parts();
    let at = schema.index_of(name)?;
    columns[at] = cast(&values, schema.field(at).data_type())?;
    RecordBatch::try_new(schema, columns)
}

#[cfg(test)]
mod tests;
