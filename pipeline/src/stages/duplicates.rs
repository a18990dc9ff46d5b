//! What the stages share that drop all but one of a group of duplicates.
//!
//! They read their rows twice. The first pass leaves a key of each row, from which [`groups`] decides
//! on disk which rows go; the second streams the rows and leaves those out, looking up in [`rows`]
//! what is said of them. Memory is what the sorts are given, however many rows there are.

pub mod groups;
pub mod keep;
pub mod rolling;
pub mod rows;

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::prelude::{DataFrame, ident};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;
use serde_json::Value as Json;
use thiserror::Error;

use super::columns::{id_of, require, schema_of};
use super::{Inputs, Task};
use crate::durable::WriteError;
use crate::engine::external_sort::Spill;
use crate::engine::streams::{BatchStream, execute, from_domain, to_domain};
use crate::engine::{Plan, operator};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::RowSink;
use groups::{Decision, Decisions, Groups, Place};
use keep::Keep;
use rows::{RowReader, RowWriter, StoredRow};

/// The rows cannot be deduplicated.
#[derive(Debug, Error)]
pub enum DedupError {
    /// Row numbers have 32 bits.
    #[error("more than {} rows in one stage: deduplicate dump by dump", u32::MAX)]
    TooManyRows,
    /// Between the passes the rows have changed.
    #[error(
        "row {row} was `{first}` in the first pass and is `{second}` in the second: its input must not change while the stage runs"
    )]
    Unstable {
        /// The row's number.
        row: u32,
        /// Its id in the first pass.
        first: String,
        /// Its id in the second pass.
        second: String,
    },
    /// A worker thread died.
    #[error("a worker thread died: {0}")]
    Worker(#[from] tokio::task::JoinError),
    /// The disk does not take or give what memory does not hold.
    #[error(transparent)]
    Disk(#[from] WriteError),
}

impl From<DedupError> for ArrowError {
    fn from(error: DedupError) -> Self {
        Self::ExternalError(Box::new(error))
    }
}

impl From<WriteError> for ArrowError {
    fn from(error: WriteError) -> Self {
        Self::ExternalError(Box::new(error))
    }
}

/// Runs blocking work away from the async threads.
pub async fn away<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArrowError> + Send + 'static,
) -> Result<T, ArrowError> {
    tokio::task::spawn_blocking(work).await.map_err(DedupError::from)?
}

/// What is done to each batch of the second pass.
pub type SecondPass = Box<dyn FnMut(&RecordBatch) -> Result<RecordBatch, ArrowError> + Send>;

/// The rows that a first pass marks.
pub struct Marks {
    /// The rows to drop.
    pub decisions: Decisions,
    /// All rows.
    pub rows: Arc<RowReader>,
    /// Why a row is dropped.
    pub explain: Arc<Explain>,
}

/// The reason and the detail of a row that is dropped for the one at a place.
pub type Explain = dyn Fn(&StoredRow, Place) -> Result<(String, String), WriteError> + Send + Sync;

/// How a stage reads its rows.
pub struct Passes {
    /// The name of the plan's node.
    pub name: &'static str,
    /// The columns that the first pass reads.
    pub columns: Vec<String>,
    /// The one of them in which duplicates are looked for; rows that have nothing there are counted.
    pub compared: String,
}

/// The input `rows`, read by `first_pass` and then put through the second pass that it returns.
///
/// # Errors
/// A column is not there, or the rows cannot be read twice, in one piece.
pub fn plan(
    ctx: &StageContext,
    task: &Task,
    inputs: &Inputs,
    passes: Passes,
    first_pass: impl Fn(BatchStream) -> BoxFuture<'static, Result<SecondPass, ArrowError>> + Send + Sync + 'static,
) -> Result<DataFrame, StageError> {
    if task.slice.is_some() {
        let message = "duplicates are looked for in all rows, so this stage cannot be fused into one that \
                       reads shard by shard";
        return Err(ctx.input(message).help("take `materialize = false` away from this stage"));
    }
    let fused = inputs.tables("rows").iter().find(|table| table.rows.is_none());
    if let Some(table) = fused {
        let message = format!("its rows are read twice, so stage `{}` must be written out", table.stage);
        return Err(ctx.input(message).help("take `materialize = false` away from that stage"));
    }
    let rows = inputs.table(ctx, "rows")?;
    let Passes { name, mut columns, compared } = passes;
    columns.sort_unstable();
    columns.dedup();
    require(ctx, &rows, "rows", &columns.iter().map(String::as_str).collect::<Vec<_>>())?;
    let plan_error = |error| ctx.plan_error(&error);
    let narrow =
        rows.frame().select(columns.into_iter().map(ident).collect::<Vec<_>>()).map_err(plan_error)?;
    let narrow = Plan::from(narrow);
    let schema = schema_of(&rows);
    let (first_pass, out_schema) = (Arc::new(first_pass), schema.clone());
    let count = Arc::new((ctx.ledger.clone(), compared));
    let both = move |rows| {
        let (narrow, first_pass, count) = (narrow.clone(), first_pass.clone(), count.clone());
        let out = stream::once(async move {
            let narrow = execute(narrow).await.map_err(ArrowError::from)?;
            let narrow = to_domain(narrow).inspect_ok(move |batch| count.0.count_nulls(batch, &count.1));
            let second_pass = first_pass(narrow.boxed()).await?;
            Ok::<_, ArrowError>(through(second_pass, to_domain(rows)))
        });
        Ok(from_domain(out_schema.clone(), out.try_flatten()))
    };
    operator::apply(ctx.session(), rows, name, schema, Arc::new(both)).map_err(plan_error)
}

fn through(second_pass: SecondPass, rows: BatchStream) -> BatchStream {
    let out = stream::try_unfold((second_pass, rows), |(mut second_pass, mut rows)| async move {
        let Some(batch) = rows.next().await else { return Ok(None) };
        let batch = batch?;
        let (second_pass, out) = away(move || {
            let out = second_pass(&batch)?;
            Ok((second_pass, out))
        })
        .await?;
        Ok(Some((out, (second_pass, rows))))
    });
    out.boxed()
}

/// Drops all rows but one of each key.
pub struct ByKey<K> {
    /// Where to sort.
    pub spill: Spill,
    /// The column that names a row.
    pub id_column: String,
    /// Which row of a group is kept.
    pub keep: Keep,
    /// The keys of a batch's rows; rows without one are kept.
    pub keys: K,
    /// The reason of the rows that are dropped.
    pub reason: &'static str,
}

impl<K> ByKey<K>
where
    K: Fn(&RecordBatch) -> Result<Vec<Option<Key>>, ArrowError> + Send + Sync + 'static,
{
    /// The plan of a stage with this rule.
    ///
    /// # Errors
    /// As [`plan`].
    pub fn plan(
        self,
        ctx: &StageContext,
        task: &Task,
        inputs: &Inputs,
        name: &'static str,
        column: &str,
    ) -> Result<DataFrame, StageError> {
        let own = [self.id_column.as_str(), column];
        let columns = own.into_iter().chain(self.keep.column()).map(str::to_owned).collect();
        let (rule, sink) = (Arc::new(self), ctx.ledger.drop_sink());
        let passes = Passes { name, columns, compared: column.to_owned() };
        plan(ctx, task, inputs, passes, move |rows| {
            let (rule, sink) = (rule.clone(), sink.clone());
            async move { Ok(rule.clone().first_pass(rows).await?.leave_out(rule.id_column.clone(), sink)) }
                .boxed()
        })
    }

    async fn first_pass(self: Arc<Self>, mut rows: BatchStream) -> Result<Marks, ArrowError> {
        let writer = RowWriter::new(self.spill.file()?, self.spill.file()?, 0);
        let mut state = (writer, Groups::new(self.spill.sorter(2), size_of::<Key>()));
        while let Some(batch) = rows.next().await {
            let (batch, rule) = (batch?, self.clone());
            state = away(move || {
                rule.add(&batch, &mut state.0, &mut state.1)?;
                Ok(state)
            })
            .await?;
        }
        away(move || {
            let (writer, groups) = state;
            let rows = Arc::new(writer.finish()?);
            let decisions = groups.finish(&self.spill)?;
            let (keepers, reason) = (rows.clone(), self.reason);
            let explain = move |_: &StoredRow, kept: Place| {
                Ok((reason.to_owned(), format!("{} is kept", keepers.get(kept.row)?.id)))
            };
            Ok(Marks { decisions, rows, explain: Arc::new(explain) })
        })
        .await
    }

    fn add(&self, batch: &RecordBatch, rows: &mut RowWriter, groups: &mut Groups) -> Result<(), ArrowError> {
        let ids = id_column(batch, &self.id_column)?;
        let (keys, ranks) = ((self.keys)(batch)?, self.keep.ranks(batch)?);
        for (at, key) in keys.iter().enumerate() {
            let row = rows.push(&id_of(&ids, at), &[])?;
            if let Some(key) = key {
                groups.add(key, ranks.get(at), row)?;
            }
        }
        Ok(())
    }
}

/// A stage's config without the memory of its sorts, which changes no result.
pub fn config_without_memory<C: Serialize>(config: &C) -> Json {
    let mut config = super::config_json(config);
    if let Some(fields) = config.as_object_mut() {
        fields.remove("memory_bytes");
    }
    config
}

/// The first half of a blake3 digest: of 4 billion rows, two that differ share one with a probability
/// of 10^−20.
pub type Key = [u8; 16];

/// The key of some bytes.
pub fn key_of(bytes: &[u8]) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    key
}

/// Ids may be numbers.
///
/// # Errors
/// There is no such column, or its values are no ids.
pub fn id_column(batch: &RecordBatch, name: &str) -> Result<StringArray, ArrowError> {
    let column = batch.column(batch.schema().index_of(name)?);
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

impl Marks {
    /// A second pass that leaves out the marked rows and tells the sink of them.
    pub fn leave_out(mut self, id_column_name: String, sink: RowSink) -> SecondPass {
        let mut next_row = 0_u32;
        Box::new(move |batch| {
            let start = next_row;
            let rows = u32::try_from(batch.num_rows()).map_err(|_| DedupError::TooManyRows)?;
            next_row = start.checked_add(rows).ok_or(DedupError::TooManyRows)?;
            let dropped = self.decisions.before(next_row)?;
            let ids = id_column(batch, &id_column_name)?;
            let lost = dropped.par_iter().map(|decision| self.lost(decision, &ids, start));
            for (id, reason, detail) in lost.collect::<Result<Vec<_>, _>>()? {
                sink(id, reason, detail);
            }
            let mut keep = vec![true; batch.num_rows()];
            for decision in &dropped {
                keep[(decision.row - start) as usize] = false;
            }
            filter_record_batch(batch, &BooleanArray::from(keep))
        })
    }

    /// Id, reason and detail of a row that is dropped.
    fn lost(
        &self,
        &Decision { row, kept }: &Decision,
        ids: &StringArray,
        first_row: u32,
    ) -> Result<(String, String, String), DedupError> {
        let stored = self.rows.get(row)?;
        let second = id_of(ids, (row - first_row) as usize);
        if stored.id != second {
            return Err(DedupError::Unstable { row, first: stored.id, second });
        }
        let (reason, detail) = (self.explain)(&stored, kept)?;
        Ok((stored.id, reason, detail))
    }
}
