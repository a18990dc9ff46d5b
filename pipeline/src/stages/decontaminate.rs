//! `decontaminate`: drops rows that copy a benchmark's text.
//!
//! Source of the recipe: huggingface/cosmopedia, `decontamination/README.md` and
//! `decontaminate.py`, after Phi-1.

pub mod benchmark;
pub mod format;
pub mod index;
pub mod matching;
pub mod tokens;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{id_of, require, schema_of, text_column};
use super::loaded::Loaded;
use super::read::{DIGEST_CACHE, source_error};
use super::{
    ConfigMistake, External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task,
};
use crate::assets::Asset;
use crate::engine::data_file::DataFile;
use crate::engine::operator;
use crate::engine::source::{self, StoredFile};
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::Ledger;
use benchmark::BenchmarkError;
use format::{Format, Place};
use index::{BenchmarkIndex, Contamination};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "decontaminate",
    summary: "Drops the rows that copy a benchmark's text.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<DecontaminateConfig>,
    build: super::build_from::<DecontaminateConfig>,
};

/// Batches that are searched at once; rows of a batch are spread over all threads.
const BATCHES_IN_FLIGHT: usize = 2;

/// Drops a row when it shares a run of `ngram_words` words with a benchmark text and holds more than
/// `max_ratio` of that text in runs longer than 5 characters. The reason is `benchmark_<name>`; the
/// detail names the item, the share and the first shared run. The defaults are cosmopedia's
/// (`decontamination/decontaminate.py`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecontaminateConfig {
    /// The benchmarks whose texts must not be in the corpus. Published: MMLU, HellaSwag, PIQA, SIQA,
    /// WinoGrande, OpenBookQA, ARC easy and challenge.
    pub benchmarks: Vec<BenchmarkConfig>,
    /// The column with the text.
    #[serde(default = "default_text")]
    pub text_column: String,
    /// The column that names a row.
    #[serde(default = "default_id")]
    pub id_column: String,
    /// Words in a shared run.
    #[serde(default = "default_ngram_words")]
    #[schemars(range(min = 1, max = 100))]
    pub ngram_words: usize,
    /// The largest share of a benchmark text that a row may hold, from 0 to 1.
    #[serde(default = "default_max_ratio")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_ratio: f64,
    /// Built once, by the first task that needs it.
    #[serde(skip)]
    index: Loaded<BenchmarkIndex>,
}

/// A benchmark, and where it is: a known one by its name alone, others by a file and its format.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkConfig {
    /// Its name in snake case, as it stands in the reason of a dropped row. Known ones, which come from the hub
    /// where neither `path` nor `asset` is given: `mmlu`, `hellaswag`, `piqa`, `siqa`, `winogrande`,
    /// `openbookqa`, `arc_easy`, `arc_challenge`, `commonsense_qa`, `gsm8k`, `ifeval`, `humaneval`.
    pub name: String,
    /// The file, or a pattern of files: Parquet, or JSON lines, plain or gzipped, wherever `read` finds any
    /// (`hf://datasets/cais/mmlu/all/test-*.parquet`).
    #[serde(default)]
    pub path: Option<String>,
    /// The name of an asset of this program that is the file.
    #[serde(default)]
    pub asset: Option<String>,
    /// What the file holds: `"mmlu"`, `"hellaswag"`, `"piqa"`, `"siqa"`, `"winogrande"`, `"openbookqa"`,
    /// `"arc"`, `"commonsense_qa"`, `"humaneval"`, `"gsm8k"`, `"ifeval"` as published on the Hub, or
    /// `{ fields = { texts = [["question", "choices"]], id = "key" } }`. Known benchmarks have theirs.
    #[serde(default)]
    pub format: Option<Format>,
}

impl BenchmarkConfig {
    /// What its items look like.
    fn format(&self) -> Option<Format> {
        self.format.clone().or_else(|| format::known(&self.name).map(|(format, _)| format))
    }

    /// What is wrong with how it says where it is, and what to do.
    fn mistake(&self) -> Option<(String, String)> {
        let name = &self.name;
        let is_elsewhere = self.path.is_some() || self.asset.is_some();
        let help = format!("known by their names: {}", format::known_names());
        if self.path.is_some() && self.asset.is_some() {
            return Some((format!("`{name}` has both `path` and `asset`"), "give one of the two".to_owned()));
        }
        if !is_elsewhere && format::known(name).is_none() {
            return Some((format!("`{name}` needs a `path` and a `format`"), help));
        }
        match self.format() {
            None => Some((format!("`{name}` needs a `format`"), help)),
            Some(format) if format.fields().texts.iter().flatten().next().is_none() => {
                Some((format!("`{name}` has no text"), "name its fields in `texts`".to_owned()))
            }
            Some(_) => None,
        }
    }
}

fn default_text() -> String {
    "text".to_owned()
}

fn default_id() -> String {
    "id".to_owned()
}

fn default_ngram_words() -> usize {
    10
}

fn default_max_ratio() -> f64 {
    0.5
}

/// The files of a benchmark.
///
/// # Errors
/// There is no such asset, or no file.
async fn benchmark_files(
    ctx: &StageContext,
    benchmark: &BenchmarkConfig,
) -> Result<Vec<StoredFile>, StageError> {
    let of_asset = |asset| ctx.asset(asset).map(|path| path.display().to_string());
    let path = match (&benchmark.path, &benchmark.asset) {
        (Some(path), _) => path.clone(),
        (None, Some(name)) => match Asset::from_str(name) {
            Ok(asset) => of_asset(asset)?,
            Err(error) => return Err(ctx.input(format!("benchmark `{}`: {error}", benchmark.name))),
        },
        (None, None) => match format::known(&benchmark.name) {
            Some((_, Place::Asset(asset))) => of_asset(asset)?,
            Some((_, Place::Hub(dataset, split))) => {
                format!("hf://datasets/{dataset}@refs/convert/parquet/{split}/*.parquet")
            }
            None => return Err(ctx.input(format!("benchmark `{}` needs a `path`", benchmark.name))),
        },
    };
    let cache = ctx.env.run_folder.join(DIGEST_CACHE);
    let files = source::locate(ctx.session(), &[path], &cache).await;
    files.map_err(|error| {
        source_error(ctx, &error).help(format!("`path` of benchmark `{}` names it", benchmark.name))
    })
}

impl DecontaminateConfig {
    async fn index(&self, ctx: &StageContext) -> Result<Arc<BenchmarkIndex>, StageError> {
        let index = self.index.get_or_load(|| async {
            let mut files = Vec::new();
            for benchmark in &self.benchmarks {
                for file in benchmark_files(ctx, benchmark).await? {
                    let file = DataFile::of(ctx.session(), &file.slice);
                    let file = file.map_err(|error| ctx.plan_error(&error))?;
                    let format = benchmark.format();
                    let format = format.ok_or_else(|| ctx.internal("a benchmark without a format"))?;
                    files.push((benchmark.name.clone(), file, format));
                }
            }
            let mut index = BenchmarkIndex::new(self.ngram_words);
            let work = move || {
                for (name, file, format) in files {
                    index.add(&name, benchmark::read(&file, &format)?);
                }
                Ok::<_, BenchmarkError>(Arc::new(index))
            };
            let index = tokio::task::spawn_blocking(work).await.map_err(|error| ctx.failed(&error))?;
            index.map_err(|error| ctx.input(error.to_string()).help("look at `benchmarks` of this stage"))
        });
        index.await
    }
}

#[async_trait]
impl Stage for DecontaminateConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |field, message: String, help: &str| {
            mistakes.push(ConfigMistake { field, message, help: help.to_owned() });
        };
        if self.benchmarks.is_empty() {
            let help =
                "name one at least, for example { name = \"gsm8k\", path = \"…\", format = \"gsm8k\" }";
            wrong("benchmarks", "there is no benchmark to look for".to_owned(), help);
        }
        for (at, benchmark) in self.benchmarks.iter().enumerate() {
            let name = &benchmark.name;
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || !name.bytes().all(plain) {
                wrong(
                    "benchmarks",
                    format!("`{name}` cannot be a reason's name"),
                    "use a-z, 0-9 and _, for example gsm8k_test",
                );
            }
            if self.benchmarks[..at].iter().any(|other| other.name == *name) {
                wrong("benchmarks", format!("two benchmarks are named `{name}`"), "give each its own name");
            }
            if let Some((message, help)) = benchmark.mistake() {
                wrong("benchmarks", message, &help);
            }
        }
        if self.ngram_words == 0 {
            wrong("ngram_words", "`ngram_words` must be 1 or more".to_owned(), "the published value is 10");
        }
        if !(0.0..=1.0).contains(&self.max_ratio) {
            wrong(
                "max_ratio",
                "`max_ratio` is a share".to_owned(),
                "give a number from 0 to 1; published is 0.5",
            );
        }
        mistakes
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let mut externals = Vec::new();
        for benchmark in &self.benchmarks {
            let files = benchmark_files(ctx, benchmark).await?;
            externals.extend(
                files.into_iter().map(|file| External {
                    name: format!("benchmark {}", benchmark.name),
                    digest: file.digest,
                }),
            );
        }
        Ok(externals)
    }

    fn needs(&self) -> Needs {
        // GSM8K, PIQA, IFEval and HumanEval together have 1.1 million n-grams.
        Needs::Bytes(256 << 20)
    }

    fn release(&self) {
        self.index.release();
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.text_column])?;
        let index = self.index(ctx).await?;
        let schema = schema_of(&rows);
        let (config, ledger, out_schema) = (Arc::new(self.clone()), ctx.ledger.clone(), schema.clone());
        let search = move |stream| {
            let (index, config, ledger) = (index.clone(), config.clone(), ledger.clone());
            let kept = to_domain(stream)
                .map(move |batch| {
                    let (index, config, ledger) = (index.clone(), config.clone(), ledger.clone());
                    let work =
                        tokio::task::spawn_blocking(move || keep_clean(&index, &config, &ledger, &batch?));
                    async move { work.await.map_err(|error| ArrowError::ExternalError(Box::new(error)))? }
                })
                .buffered(BATCHES_IN_FLIGHT);
            Ok(from_domain(out_schema.clone(), kept))
        };
        operator::apply(ctx.session(), rows, "decontaminate", schema, Arc::new(search))
            .map_err(|error| ctx.plan_error(&error))
    }
}

fn keep_clean(
    index: &BenchmarkIndex,
    config: &DecontaminateConfig,
    ledger: &Ledger,
    batch: &RecordBatch,
) -> Result<RecordBatch, ArrowError> {
    ledger.count_nulls(batch, &config.text_column);
    let sink = ledger.drop_sink();
    let texts = text_column(batch, &config.text_column)?;
    let ids = cast(batch.column(batch.schema().index_of(&config.id_column)?), &DataType::Utf8)?;
    let ids = ids.as_string::<i32>();
    let find = |row| (!texts.is_null(row)).then(|| index.find(texts.value(row), config.max_ratio)).flatten();
    let found: Vec<Option<Contamination>> = (0..batch.num_rows()).into_par_iter().map(find).collect();
    for (row, found) in found.iter().enumerate() {
        if let Some(Contamination { benchmark, label, ngram, ratio }) = found {
            let detail = format!("{label}: {ratio:.2} of its text is here; both have \"{ngram}\"");
            sink(id_of(ids, row), format!("benchmark_{benchmark}"), detail);
        }
    }
    let keep: BooleanArray = found.iter().map(|found| Some(found.is_none())).collect();
    filter_record_batch(batch, &keep)
}

#[cfg(test)]
mod tests;
