//! `minhash`: drops exact and near duplicates, FineWeb's way.
//!
//! The rows are read twice. The first pass leaves a sketch of each text on disk, from which the
//! clusters and the rows that go are found; the second streams the rows and leaves those out. Kept are
//! the rows that datatrove 0.10.1 keeps on the same input in one task with the same settings; it keeps
//! all texts too short for a signature, of which this stage keeps one each (see `short_texts`).
//!
//! Memory is what `memory_bytes` gives to the sorts, however many rows there are. Disk: about 2 kB a
//! row with the published settings, until the stage ends ([`external`]).

pub mod cluster;
pub mod external;
pub mod index;
pub mod mt19937;
pub mod normalise;
pub mod sha1;
pub mod signature;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::{FutureExt, StreamExt, TryFutureExt};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{id_of, text_column};
use super::duplicates::groups::Place;
use super::duplicates::keep::{self, Ranks};
use super::duplicates::rows::StoredRow;
use super::duplicates::{self, Marks, Passes, away};
use super::{
    ConfigMistake, External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task,
};
use crate::engine::external_sort::Spill;
use crate::engine::streams::BatchStream;
use crate::manifest::Manifest;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use external::{Survey, Unsigned, split_slot};
use index::SignatureIndex;
use signature::{Scratch, ShingleHash, SignatureOptions, Signer, Sketch, similarity};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "minhash",
    summary: "Drops exact and near duplicates by MinHash, one row of a cluster kept.",
    version: 1,
    inputs: &[
        InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One },
        InputRole {
            role: "against",
            about: "`signature_index` stages, whose rows are kept already",
            count: InputCount::Any,
        },
    ],
    output: OutputKind::Table,
    schema: super::schema_of::<MinhashConfig>,
    build: super::build_from::<MinhashConfig>,
};

/// Batches whose sketches are computed at once; rows of a batch are spread over all threads.
const BATCHES_IN_FLIGHT: usize = 2;

/// Drops exact duplicates (reason `exact_duplicate`) and near duplicates (`near_duplicate`). The
/// defaults are FineWeb's (datatrove `examples/fineweb.py`, `pipeline/dedup/minhash.py`): pairs of
/// Jaccard similarity 0.8 are found with probability 0.924, the threshold is about 0.72. Rows that
/// match a row of an earlier dump are dropped too: give that dump's `signature_index` as `against`.
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
    /// `"longest"` (most bytes of text), `{ highest = "score" }` by a column of numbers, or
    /// `{ newest = "dump" }` by a column of dump names or dates.
    pub keep: Keep,
    /// What becomes of texts shorter than a shingle, which have no signature.
    pub short_texts: ShortTexts,
    /// Folders of finished `signature_index` stages of other runs, beside the input `against`.
    pub against_folders: Vec<PathBuf>,
    /// Memory of the sorts, in bytes; what it does not hold is spilled. A quarter of the run's memory limit
    /// when left out.
    pub memory_bytes: Option<u64>,
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
            against_folders: Vec::new(),
            memory_bytes: None,
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
    /// The one with the last text in this column, a dump's name or a date, in the order of its bytes;
    /// the first of equals. NULL comes before all.
    Newest(String),
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

impl MinhashConfig {
    fn signature_options(&self) -> SignatureOptions {
        SignatureOptions {
            ngram_words: self.ngram_words,
            buckets: self.buckets,
            hashes_per_bucket: self.hashes_per_bucket,
            seed: self.seed,
            hash: self.hash,
        }
    }

    /// What ranks the rows of a cluster; `None` leaves it to the union.
    fn order(&self) -> Option<keep::Keep> {
        match &self.keep {
            Keep::Datatrove => None,
            Keep::First => Some(keep::Keep::First),
            Keep::Longest => Some(keep::Keep::Longest(self.text_column.clone())),
            Keep::Highest(column) => Some(keep::Keep::Highest(column.clone())),
            Keep::Newest(column) => Some(keep::Keep::Newest(column.clone())),
        }
    }

    /// The indexes of earlier dumps: first those of this workflow, then those of other runs.
    fn against(&self, ctx: &StageContext, inputs: &Inputs) -> Result<Vec<SignatureIndex>, StageError> {
        let options = self.signature_options();
        let open = |folder: &PathBuf| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            SignatureIndex::open(&name, &folder.join(index::FOLDER), &options).map_err(|error| {
                ctx.input(error.to_string())
                    .help("`against` takes finished `signature_index` stages with the settings of this stage")
            })
        };
        inputs.folders("against").iter().chain(&self.against_folders).map(open).collect()
    }
}

#[async_trait]
impl Stage for MinhashConfig {
    fn config(&self) -> Json {
        let mut config = duplicates::config_without_memory(self);
        // The digests of the folders count, not their paths.
        config.as_object_mut().and_then(|fields| fields.remove("against_folders"));
        config
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

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let external = |folder: &PathBuf| {
            let manifest = Manifest::read(folder).map_err(|error| ctx.input(error.to_string()))?;
            let manifest = manifest.ok_or_else(|| {
                ctx.input(format!("{} is no finished stage", folder.display()))
                    .help("`against_folders` names folders of finished `signature_index` stages")
            })?;
            Ok(External { name: "against".to_owned(), digest: manifest.content })
        };
        self.against_folders.iter().map(external).collect()
    }

    fn needs(&self) -> Needs {
        Needs::sorting(self.memory_bytes)
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let against = Arc::new(self.against(ctx, inputs)?);
        let mut columns = vec![self.text_column.clone(), self.id_column.clone()];
        columns.extend(self.order().iter().filter_map(keep::Keep::column).map(str::to_owned));
        let passes = Passes { name: "minhash", columns, compared: self.text_column.clone() };
        let (config, spill) = (Arc::new(self.clone()), ctx.spill(self.memory_bytes)?);
        let sink = ctx.ledger.drop_sink();
        duplicates::plan(ctx, task, inputs, passes, move |rows| {
            let (id_column, sink) = (config.id_column.clone(), sink.clone());
            let marks = first_pass(config.clone(), spill.clone(), against.clone(), rows);
            marks.map_ok(|marks| marks.leave_out(id_column, sink)).boxed()
        })
    }
}

/// Marks the rows that are dropped.
async fn first_pass(
    config: Arc<MinhashConfig>,
    spill: Spill,
    against: Arc<Vec<SignatureIndex>>,
    rows: BatchStream,
) -> Result<Marks, ArrowError> {
    let unsigned = match config.short_texts {
        ShortTexts::Exact => Unsigned::Exact,
        ShortTexts::Keep => Unsigned::Keep,
    };
    let files = [spill.file()?, spill.file()?];
    let survey = Survey::new(config.signature_options(), unsigned, spill, files);
    let sketcher = Sketcher {
        signer: Signer::new(config.signature_options()),
        text_column: config.text_column.clone(),
        id_column: config.id_column.clone(),
        order: config.order(),
    };
    let survey = sketch_all(Arc::new(sketcher), survey, rows).await?;
    away(move || {
        let (rows, decisions) = survey.decide(&against)?;
        let rows = Arc::new(rows);
        let own_rows = rows.clone();
        let explain = move |row: &StoredRow, kept: Place| {
            let earlier = kept.source.checked_sub(1).and_then(|index| against.get(index as usize));
            let (keeper, of) = match earlier {
                None => (own_rows.get(kept.row)?, String::new()),
                Some(index) => (index.rows.get(kept.row)?, format!(" of `{}`", index.name)),
            };
            let (digest, signature) = split_slot(&row.words);
            let (kept_digest, kept_signature) = split_slot(&keeper.words);
            let (reason, similarity) = match digest == kept_digest {
                true => ("exact_duplicate", 1.0),
                false => ("near_duplicate", similarity(signature, kept_signature)),
            };
            let detail = format!("{}{of} is kept; estimated Jaccard similarity {similarity:.2}", keeper.id);
            Ok((reason.to_owned(), detail))
        };
        Ok(Marks { decisions, rows, explain: Arc::new(explain) })
    })
    .await
}

/// Takes what the survey needs from batches of rows.
pub(super) struct Sketcher {
    pub(super) signer: Signer,
    pub(super) text_column: String,
    pub(super) id_column: String,
    /// What ranks the rows, if anything does.
    pub(super) order: Option<keep::Keep>,
}

struct SketchedBatch {
    ids: Vec<String>,
    sketches: Vec<Sketch>,
    ranks: Option<Ranks>,
}

impl Sketcher {
    fn sketch(&self, batch: &RecordBatch) -> Result<SketchedBatch, ArrowError> {
        let texts = text_column(batch, &self.text_column)?;
        let text = |row: usize| if texts.is_null(row) { "" } else { texts.value(row) };
        let sketches = (0..batch.num_rows())
            .into_par_iter()
            .map_init(Scratch::default, |scratch, row| self.signer.sketch(text(row), scratch))
            .collect();
        let ids = duplicates::id_column(batch, &self.id_column)?;
        Ok(SketchedBatch {
            ids: (0..batch.num_rows()).map(|row| id_of(&ids, row)).collect(),
            sketches,
            ranks: self.order.as_ref().map(|order| order.ranks(batch)).transpose()?,
        })
    }
}

/// Adds the sketches of all rows to a survey: while some batches are sketched, the one before is added.
pub(super) async fn sketch_all(
    sketcher: Arc<Sketcher>,
    mut survey: Survey,
    rows: BatchStream,
) -> Result<Survey, ArrowError> {
    let mut batches = rows
        .map(|batch| {
            let sketcher = sketcher.clone();
            away(move || sketcher.sketch(&batch?))
        })
        .buffered(BATCHES_IN_FLIGHT);
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        survey = away(move || {
            survey.add(&batch.ids, &batch.sketches, batch.ranks.as_ref())?;
            Ok(survey)
        })
        .await?;
    }
    Ok(survey)
}

#[cfg(test)]
mod tests;
