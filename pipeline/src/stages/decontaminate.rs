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
use std::path::PathBuf;
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
use tokio::sync::OnceCell;

use super::columns::{id_of, require, schema_of, text_column};
use super::{
    ConfigMistake, External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task,
};
use crate::assets::Asset;
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::Ledger;
use benchmark::BenchmarkError;
use format::Format;
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
    index: Arc<OnceCell<Arc<BenchmarkIndex>>>,
}

/// A benchmark and its file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkConfig {
    /// Its name in snake case, as it stands in the reason of a dropped row.
    pub name: String,
    /// The file: Parquet, or JSON lines, plain or gzipped. Either this or `asset`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The name of an asset of this program that is the file. Either this or `path`.
    #[serde(default)]
    pub asset: Option<String>,
    /// What the file holds: `"mmlu"`, `"hellaswag"`, `"piqa"`, `"siqa"`, `"winogrande"`, `"openbookqa"`,
    /// `"arc"`, `"commonsense_qa"`, `"humaneval"`, `"gsm8k"`, `"ifeval"` as published on the Hub, or
    /// `{ fields = { texts = [["question", "choices"]], id = "key" } }`.
    pub format: Format,
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

/// The file of a benchmark.
///
/// # Errors
/// Neither or both of `path` and `asset` are given, or there is no such asset.
fn benchmark_file(ctx: &StageContext, benchmark: &BenchmarkConfig) -> Result<PathBuf, StageError> {
    match (&benchmark.path, &benchmark.asset) {
        (Some(path), None) => Ok(path.clone()),
        (None, Some(name)) => match Asset::from_str(name) {
            Ok(asset) => ctx.asset(asset),
            Err(error) => Err(ctx.input(format!("benchmark `{}`: {error}", benchmark.name))),
        },
        _ => Err(ctx
            .input(format!("benchmark `{}` needs either `path` or `asset`", benchmark.name))
            .help("`path` names a file of Parquet or JSON lines, `asset` one that this program fetches")),
    }
}

impl DecontaminateConfig {
    async fn index(&self, ctx: &StageContext) -> Result<Arc<BenchmarkIndex>, StageError> {
        let index = self.index.get_or_try_init(|| async {
            let mut files = Vec::new();
            for benchmark in &self.benchmarks {
                files.push((
                    benchmark.name.clone(),
                    benchmark_file(ctx, benchmark)?,
                    benchmark.format.clone(),
                ));
            }
            let mut index = BenchmarkIndex::new(self.ngram_words);
            let work = move || {
                for (name, path, format) in files {
                    index.add(&name, benchmark::read(&path, &format)?);
                }
                Ok::<_, BenchmarkError>(Arc::new(index))
            };
            let index = tokio::task::spawn_blocking(work).await.map_err(|error| ctx.failed(&error))?;
            index.map_err(|error| ctx.input(error.to_string()).help("look at `benchmarks` of this stage"))
        });
        index.await.cloned()
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
            if benchmark.path.is_some() == benchmark.asset.is_some() {
                wrong(
                    "benchmarks",
                    format!("`{name}` needs either `path` or `asset`"),
                    "give one of the two",
                );
            }
            if benchmark.format.fields().texts.iter().flatten().next().is_none() {
                wrong("benchmarks", format!("`{name}` has no text"), "name its fields in `texts`");
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
            let path = benchmark_file(ctx, benchmark)?;
            let name = format!("benchmark {}", benchmark.name);
            let read =
                move || digests::of_file(&path).map_err(|source| BenchmarkError::Read { path, source });
            let digest = tokio::task::spawn_blocking(read).await.map_err(|error| ctx.failed(&error))?;
            let digest = digest.map_err(|error| {
                ctx.input(error.to_string())
                    .help(format!("`path` of benchmark `{}` names it", benchmark.name))
            })?;
            externals.push(External { name, digest });
        }
        Ok(externals)
    }

    fn needs(&self) -> Needs {
        // GSM8K, PIQA, IFEval and HumanEval together have 1.1 million n-grams.
        Needs::Bytes(256 << 20)
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
