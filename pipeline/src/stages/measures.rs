//! What models are measured by: held-out texts, cloze items, benchmarks. For the stage `evaluate`, and for
//! `pretrain` as training goes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use model::evaluate::{
    AnsweredItem, ClozeItem, ClozeReport, EvaluateError, GenerationOptions, Generator, Perplexity, Report,
    SAMPLE_ITEMS, Scorer, TaskOptions, cloze, parse_cloze, perplexity, read_cloze,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::Receiver;

use super::External;
use super::corpus::Document;
use super::evaluate::EvaluateConfig;
use crate::benchmarks::Benchmark;
use crate::inspect::parquet_files;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// A benchmark and where its items are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// A task that comes with the program (`pipeline eval --help` names them), or the path of a task file.
    pub task: String,
    /// Its items as published on the Hub: JSON lines, or Parquet (a file, or a folder of them).
    pub path: PathBuf,
    /// What lies beside: PIQA's labels, the rows from which GSM8K's and TriviaQA's solved examples come.
    #[serde(default)]
    pub beside: Option<PathBuf>,
    /// Most items, or of each of its groups; the first ones are taken. FineWeb's set-up asks 1,000.
    #[serde(default = "max_items")]
    pub max_items: usize,
}

fn max_items() -> usize {
    1_000
}

/// What a model is measured by, in memory.
pub struct Measures {
    texts: BTreeMap<String, Vec<String>>,
    cloze: Vec<ClozeItem>,
    tasks: Vec<(Benchmark, usize)>,
}

/// What a model came to.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Perplexity on held-out texts, by subset.
    pub heldout: BTreeMap<String, Perplexity>,
    /// The cloze items.
    pub cloze: ClozeReport,
    /// Benchmarks, by task.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, Report>,
}

/// What a model wrote, by task.
pub type Answers = Vec<(String, Vec<AnsweredItem>)>;

/// Digests of the files that a model is measured by.
///
/// # Errors
/// A file cannot be read.
pub fn externals(ctx: &StageContext, config: &EvaluateConfig) -> Result<Vec<External>, StageError> {
    let file = |name: &str, path: &Path| -> Result<External, StageError> {
        let External { digest, .. } = super::file_external(ctx, path)?;
        Ok(External { name: name.to_owned(), digest })
    };
    let mut found = match &config.cloze {
        Some(path) => vec![file("cloze", path)?],
        None => {
            let digest = blake3::hash(SAMPLE_ITEMS.as_bytes()).to_hex().to_string();
            vec![External { name: "cloze".to_owned(), digest }]
        }
    };
    for TaskConfig { task, path, beside, .. } in &config.tasks {
        if task.ends_with(".toml") {
            found.push(file(task, Path::new(task))?);
        }
        let parts = if path.is_dir() {
            parquet_files(path)
                .map_err(|message| ctx.input(message))?
                .into_iter()
                .map(|part| part.0)
                .collect()
        } else {
            vec![path.clone()]
        };
        for part in parts.iter().chain(beside) {
            found.push(file(task, part)?);
        }
    }
    Ok(found)
}

impl Measures {
    /// Reads everything. `texts` are the corpus's held-out documents.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(
        ctx: &StageContext,
        config: &EvaluateConfig,
        texts: Option<Receiver<Result<Document, StageError>>>,
    ) -> Result<Self, StageError> {
        let input = |error: EvaluateError| ctx.input(chain(&error));
        let cloze = match &config.cloze {
            Some(path) => read_cloze(path),
            None => parse_cloze(SAMPLE_ITEMS, Path::new("the built-in cloze items")),
        };
        let mut tasks = Vec::new();
        for TaskConfig { task, path, beside, max_items } in &config.tasks {
            tasks.push((Benchmark::read(task, path, beside.as_deref()).map_err(input)?, *max_items));
        }
        let mut by_subset: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(mut texts) = texts {
            while let Some(document) = texts.blocking_recv() {
                let document = document?;
                let kept = by_subset.entry(document.subset).or_default();
                if kept.len() < config.max_texts {
                    kept.push(document.text);
                }
            }
        }
        Ok(Self { texts: by_subset, cloze: cloze.map_err(input)?, tasks })
    }

    /// The first task whose answers a model writes.
    pub fn written(&self) -> Option<&str> {
        self.tasks
            .iter()
            .map(|(task, _)| task)
            .find(|task| matches!(task, Benchmark::Generation(..)))
            .map(Benchmark::name)
    }

    /// Measures all that needs but likelihoods. `progress` hears how many texts or items were measured;
    /// `None` when it breaks.
    ///
    /// # Errors
    /// Scoring fails.
    pub fn score(
        &self,
        scorer: &mut dyn Scorer,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Measured>, EvaluateError> {
        let mut heldout = BTreeMap::new();
        for (subset, texts) in &self.texts {
            let figures = perplexity(scorer, texts)?;
            if progress(figures.texts).is_break() {
                return Ok(None);
            }
            heldout.insert(subset.clone(), figures);
        }
        let cloze = cloze(scorer, &self.cloze)?;
        if progress(cloze.items as u64).is_break() {
            return Ok(None);
        }
        let mut tasks = BTreeMap::new();
        for (benchmark, max_items) in &self.tasks {
            let Benchmark::Cloze(task, items) = benchmark else { continue };
            let options = TaskOptions { max_items: *max_items, ..TaskOptions::default() };
            match task.run(scorer, items.clone(), &options, &mut steps(progress))? {
                Some(report) => tasks.insert(benchmark.name().to_owned(), Report::Cloze(report)),
                None => return Ok(None),
            };
        }
        Ok(Some(Measured { heldout, cloze, tasks }))
    }

    /// Asks what a model writes. The answers by task; `None` when `progress` breaks.
    ///
    /// # Errors
    /// An answer fails, or programs cannot be run here.
    pub fn ask(
        &self,
        generator: &mut dyn Generator,
        measured: &mut Measured,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Answers>, EvaluateError> {
        let mut answers = Vec::new();
        for (benchmark, max_items) in &self.tasks {
            let Benchmark::Generation(task, items) = benchmark else { continue };
            let options = GenerationOptions { max_items: *max_items, ..GenerationOptions::default() };
            let Some((report, answered)) = task.run(generator, items, &options, &mut steps(progress))? else {
                return Ok(None);
            };
            measured.tasks.insert(benchmark.name().to_owned(), Report::Generation(report));
            answers.push((benchmark.name().to_owned(), answered));
        }
        Ok(Some(answers))
    }
}

/// From "so many of all are done" to "so many more are".
fn steps(progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> impl FnMut(usize, usize) -> ControlFlow<()> {
    let mut before = 0;
    move |done, _all| {
        let more = done.saturating_sub(before);
        before = done;
        progress(more as u64)
    }
}

impl Measured {
    /// Texts and items measured.
    pub fn rows(&self) -> u64 {
        let texts: u64 = self.heldout.values().map(|figures| figures.texts).sum();
        let items: usize = self.cloze.items + self.tasks.values().map(Report::items).sum::<usize>();
        texts + items as u64
    }

    /// The figures as a manifest has them: `heldout`, `cloze`, of each task its own, and with benchmarks
    /// answered by likelihood their mean (`aggregate`), the figure of FineWeb's ablations (Penedo et al. 2024,
    /// section 3.1).
    pub fn metrics(&self) -> BTreeMap<String, Json> {
        let mut metrics: BTreeMap<String, Json> =
            [("heldout".to_owned(), json!(self.heldout)), ("cloze".to_owned(), json!(self.cloze))].into();
        if !self.tasks.is_empty() {
            let figures = |report: &Report| -> BTreeMap<String, f64> {
                report.figures().into_iter().map(|figure| (figure.name, figure.value)).collect()
            };
            let tasks: BTreeMap<&String, _> =
                self.tasks.iter().map(|(task, report)| (task, figures(report))).collect();
            metrics.insert("tasks".to_owned(), json!(tasks));
        }
        metrics.extend(self.aggregate().map(|mean| ("aggregate".to_owned(), json!({"acc_norm": mean}))));
        metrics
    }

    fn aggregate(&self) -> Option<f64> {
        let acc_norm = |report: &Report| match report {
            Report::Cloze(report) => Some(report.mean_acc_norm),
            Report::Generation(_) | Report::Texts(_) => None,
        };
        let values: Vec<f64> = self.tasks.values().filter_map(acc_norm).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The figures one by one, by names of the form `bits_per_byte/cosmopedia-v2` and `piqa/acc_norm`.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let heldout = self.heldout.iter().flat_map(|(subset, figures)| {
            [("loss", figures.per_token.ln()), ("bits_per_byte", figures.bits_per_byte)]
                .map(|(name, value)| (format!("{name}/{subset}"), value))
        });
        let cloze = [("cloze/acc", self.cloze.acc), ("cloze/acc_norm", self.cloze.acc_norm)];
        let cloze = cloze.map(|(name, value)| (name.to_owned(), value));
        let tasks = self.tasks.iter().flat_map(|(task, report)| {
            report.figures().into_iter().map(move |figure| (format!("{task}/{}", figure.name), figure.value))
        });
        let aggregate = self.aggregate().map(|mean| ("aggregate/acc_norm".to_owned(), mean));
        heldout.chain(cloze).chain(tasks).chain(aggregate).collect()
    }
}
