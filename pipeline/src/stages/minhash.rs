//! `minhash`: drops exact and near duplicates, FineWeb's way.
//!
//! The rows are read twice. The first pass keeps a sketch of each text, finds the clusters and
//! decides which rows go; the second streams the rows and leaves those out. Kept are the rows that
//! datatrove 0.10.1 keeps on the same input in one task with the same settings; it keeps all texts
//! too short for a signature, of which this stage keeps one each (see `short_texts`).
//!
//! Memory: about 1 kB a row during the first pass with the published settings (the signature's
//! 896 bytes, 12 for clustering, 17 for the digest, the id), and during the second pass only the
//! dropped rows' ids, their keepers' ids and the similarities. Texts are never kept.

pub mod cluster;
pub mod mt19937;
pub mod normalise;
pub mod signature;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::{DataFrame, ident};
use futures::{StreamExt, TryStreamExt, stream};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thiserror::Error;

use super::columns::{id_of, require, schema_of, text_column};
use super::{ConfigMistake, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{BatchStream, from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::RowSink;
use cluster::{Duplicate, Keeper, Sketches, Unsigned, duplicates};
use signature::{Scratch, ShingleHash, SignatureOptions, Signer, Sketch};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "minhash",
    summary: "Drops exact and near duplicates by MinHash, one row of a cluster kept.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<MinhashConfig>,
    build: super::build_from::<MinhashConfig>,
};

/// Batches whose sketches are computed at once; rows of a batch are spread over all threads.
const BATCHES_IN_FLIGHT: usize = 2;

/// Drops exact duplicates (reason `exact_duplicate`) and near duplicates (`near_duplicate`). The
/// defaults are FineWeb's (datatrove `examples/fineweb.py`, `pipeline/dedup/minhash.py`): pairs of
/// Jaccard similarity 0.8 are found with probability 0.924, the threshold is about 0.72. Most memory
/// goes into signatures: 8 bytes × `buckets` × `hashes_per_bucket` for each row.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MinhashConfig {
    /// The column with the text.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// Words in a shingle.
    #[schemars(range(min = 1, max = 100))]
    pub ngram_words: usize,
    /// Buckets of the signature: more of them find pairs that are less alike.
    #[schemars(range(min = 1, max = 1000))]
    pub buckets: usize,
    /// Hashes in a bucket: more of them ask for pairs that are more alike.
    #[schemars(range(min = 1, max = 100))]
    pub hashes_per_bucket: usize,
    /// The seed of the permutations.
    pub seed: u32,
    /// The hash of a shingle: `sha1` (FineWeb) or `xxhash` (faster).
    pub hash: ShingleHash,
    /// Which row of a cluster is kept: `"datatrove"` (the one that datatrove keeps), `"first"`,
    /// `"longest"` (most bytes of text), or `{ highest = "score" }` by a column of numbers.
    pub keep: Keep,
    /// What becomes of texts shorter than a shingle, which have no signature.
    pub short_texts: ShortTexts,
}

impl Default for MinhashConfig {
    fn default() -> Self {
        let SignatureOptions { ngram_words, buckets, hashes_per_bucket, seed, hash } = Default::default();
        Self {
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            ngram_words,
            buckets,
            hashes_per_bucket,
            seed,
            hash,
            keep: Keep::Datatrove,
            short_texts: ShortTexts::Exact,
        }
    }
}

/// Which row of a cluster is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The one that datatrove keeps: the root of its union-find.
    Datatrove,
    /// The first in the input.
    First,
    /// The one with the most bytes of text, the first of equals.
    Longest,
    /// The one with the highest number in this column, the first of equals; NULL is lowest.
    Highest(String),
}

/// What becomes of texts shorter than a shingle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShortTexts {
    /// Of texts that are equal when simplified, one is kept. Texts of which simplifying leaves
    /// nothing are all kept.
    Exact,
    /// All are kept, as datatrove does.
    Keep,
}

/// The rows cannot be deduplicated.
#[derive(Debug, Error)]
pub enum MinhashError {
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
}

fn external(error: MinhashError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

#[async_trait]
impl Stage for MinhashConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let mut mistakes = Vec::new();
        for (field, value) in [
            ("ngram_words", self.ngram_words),
            ("buckets", self.buckets),
            ("hashes_per_bucket", self.hashes_per_bucket),
        ] {
            if value == 0 {
                mistakes.push(ConfigMistake {
                    field,
                    message: format!("`{field}` must be 1 or more"),
                    help: "the published values are 5 words, 14 buckets, 8 hashes a bucket".to_owned(),
                });
            }
        }
        mistakes
    }

    fn needs(&self) -> Needs {
        // How many rows come is not known here: this is the share of 250,000 of them.
        Needs { memory_bytes: 256 << 20 }
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
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
        let mut columns = vec![self.id_column.as_str(), self.text_column.as_str()];
        if let Keep::Highest(column) = &self.keep {
            columns.push(column);
        }
        require(ctx, &rows, "rows", &columns)?;
        columns.sort_unstable();
        columns.dedup();
        let plan_error = |error| ctx.plan_error(&error);
        let first_pass =
            rows.clone().select(columns.into_iter().map(ident).collect::<Vec<_>>()).map_err(plan_error)?;
        let schema = schema_of(&rows);
        let config = Arc::new(self.clone());
        let (sink, out_schema) = (ctx.ledger.drop_sink(), schema.clone());
        let passes = move |second_pass| {
            let (first_pass, config, sink) = (first_pass.clone(), config.clone(), sink.clone());
            let id_column = config.id_column.clone();
            let kept = stream::once(async move {
                let first_pass = first_pass.execute_stream().await.map_err(ArrowError::from)?;
                let dropped = survey(config, to_domain(first_pass)).await?;
                Ok::<_, ArrowError>(leave_out(dropped, to_domain(second_pass), id_column, sink))
            });
            Ok(from_domain(out_schema.clone(), kept.try_flatten()))
        };
        operator::apply(ctx.session(), rows, "minhash", schema, Arc::new(passes)).map_err(plan_error)
    }
}

/// A row that the second pass leaves out.
struct Dropped {
    id: String,
    kept_id: String,
    similarity: Option<f64>,
}

/// What the first pass takes from a batch.
struct SketchedBatch {
    ids: StringArray,
    sketches: Vec<Sketch>,
    ranks: Vec<f64>,
}

/// Which rows are dropped, by row number.
async fn survey(config: Arc<MinhashConfig>, rows: BatchStream) -> Result<HashMap<u32, Dropped>, ArrowError> {
    let signer = Arc::new(Signer::new(SignatureOptions {
        ngram_words: config.ngram_words,
        buckets: config.buckets,
        hashes_per_bucket: config.hashes_per_bucket,
        seed: config.seed,
        hash: config.hash,
    }));
    let mut batches = rows
        .map(|batch| {
            let (signer, config) = (signer.clone(), config.clone());
            let work = tokio::task::spawn_blocking(move || sketch_batch(&signer, &config, &batch?));
            async move { work.await.map_err(|error| external(error.into()))? }
        })
        .buffered(BATCHES_IN_FLIGHT);
    let (mut sketches, mut ids, mut ranks) = (Sketches::default(), Vec::<Box<str>>::new(), Vec::new());
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if sketches.len() + batch.sketches.len() > u32::MAX as usize {
            return Err(external(MinhashError::TooManyRows));
        }
        ids.extend((0..batch.ids.len()).map(|row| id_of(&batch.ids, row).into_boxed_str()));
        ranks.extend(batch.ranks);
        batch.sketches.iter().for_each(|sketch| sketches.push(sketch));
    }
    drop(batches);
    let decide = move || {
        let rank = |row: u32| ranks.get(row as usize).copied().unwrap_or(0.0);
        let keeper = match config.keep {
            Keep::Datatrove => Keeper::Root,
            Keep::First | Keep::Longest | Keep::Highest(_) => Keeper::Highest(&rank),
        };
        let unsigned = match config.short_texts {
            ShortTexts::Exact => Unsigned::Exact,
            ShortTexts::Keep => Unsigned::Keep,
        };
        let found = duplicates(&sketches, signer.options(), &keeper, unsigned);
        tracing::info!(rows = sketches.len(), duplicates = found.len(), "clustered");
        let id = |row: u32| ids.get(row as usize).map(|id| id.to_string()).unwrap_or_default();
        let dropped = |Duplicate { row, kept, similarity }: Duplicate| {
            (row, Dropped { id: id(row), kept_id: id(kept), similarity })
        };
        found.into_iter().map(dropped).collect()
    };
    tokio::task::spawn_blocking(decide).await.map_err(|error| external(error.into()))
}

fn sketch_batch(
    signer: &Signer,
    config: &MinhashConfig,
    batch: &RecordBatch,
) -> Result<SketchedBatch, ArrowError> {
    let texts = text_column(batch, &config.text_column)?;
    let text = |row: usize| if texts.is_null(row) { "" } else { texts.value(row) };
    let sketches = (0..batch.num_rows())
        .into_par_iter()
        .map_init(Scratch::default, |scratch, row| signer.sketch(text(row), scratch))
        .collect();
    let ranks = match &config.keep {
        Keep::Datatrove | Keep::First => Vec::new(),
        Keep::Longest => (0..batch.num_rows()).map(|row| text(row).len() as f64).collect(),
        Keep::Highest(column) => {
            let numbers = number_column(batch, column)?;
            let rank = |number: Option<f64>| number.filter(|n| !n.is_nan()).unwrap_or(f64::NEG_INFINITY);
            numbers.iter().map(rank).collect()
        }
    };
    Ok(SketchedBatch { ids: id_column(batch, &config.id_column)?, sketches, ranks })
}

/// Ids may be numbers.
fn id_column(batch: &RecordBatch, name: &str) -> Result<StringArray, ArrowError> {
    let column = batch.column(batch.schema().index_of(name)?);
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn number_column(batch: &RecordBatch, name: &str) -> Result<Float64Array, ArrowError> {
    let column = batch.column(batch.schema().index_of(name)?);
    if !column.data_type().is_numeric() {
        let message = format!("column `{name}` must hold numbers, not {}", column.data_type());
        return Err(ArrowError::SchemaError(message));
    }
    Ok(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

/// The second pass: the rows without those that are dropped.
fn leave_out(
    dropped: HashMap<u32, Dropped>,
    rows: BatchStream,
    id_column_name: String,
    sink: RowSink,
) -> impl futures::Stream<Item = Result<RecordBatch, ArrowError>> + Send {
    let mut next_row = 0_u32;
    rows.map(move |batch| {
        let batch = batch?;
        let ids = id_column(&batch, &id_column_name)?;
        let mut keep = Vec::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            let row = next_row;
            next_row = next_row.checked_add(1).ok_or_else(|| external(MinhashError::TooManyRows))?;
            let Some(duplicate) = dropped.get(&row) else {
                keep.push(true);
                continue;
            };
            keep.push(false);
            let id = id_of(&ids, at);
            if id != duplicate.id {
                let first = duplicate.id.clone();
                return Err(external(MinhashError::Unstable { row, first, second: id }));
            }
            let (reason, similarity) = match duplicate.similarity {
                None => ("exact_duplicate", 1.0),
                Some(similarity) => ("near_duplicate", similarity),
            };
            let detail =
                format!("{} is kept; estimated Jaccard similarity {similarity:.2}", duplicate.kept_id);
            sink(id, reason.to_owned(), detail);
        }
        filter_record_batch(&batch, &BooleanArray::from(keep))
    })
}

#[cfg(test)]
mod tests;
