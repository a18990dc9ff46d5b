//! Benchmarks with their items, for `pipeline eval` and for the stages that measure models.

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use model::evaluate::{
    ClozeItem, EvaluateError, GenerationItem, GenerationTask, Task, rows_of_batch, rows_of_jsonl,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;

use crate::inspect::parquet_files;
use crate::runner::error::chain;

/// The name by which a model is asked to predict the texts of a file.
pub const PERPLEXITY: &str = "perplexity";

const TEXT_COLUMN: &str = "text";

/// A task with its items.
#[derive(Debug)]
pub enum Benchmark {
    /// The likeliest choice is the answer.
    Cloze(Task, Vec<ClozeItem>),
    /// The model writes its answers.
    Generation(GenerationTask, Vec<GenerationItem>),
}

impl Benchmark {
    /// A task by its name, or by the path of a task file (`.toml`), with the items of a file of JSON lines, or
    /// of Parquet, as published on the Hub. `beside` has PIQA's labels, or the rows of solved examples.
    ///
    /// # Errors
    /// The task is not known, or a file cannot be read.
    pub fn read(name: &str, path: &Path, beside: Option<&Path>) -> Result<Self, EvaluateError> {
        Self::of(name, path, beside).map_err(|error| match error {
            EvaluateError::Task { task, problem } if !problem.contains(&*path.to_string_lossy()) => {
                EvaluateError::Task { task, problem: format!("{}: {problem}", path.display()) }
            }
            other => other,
        })
    }

    fn of(name: &str, path: &Path, beside: Option<&Path>) -> Result<Self, EvaluateError> {
        let (own, is_file) = (Path::new(name), name.ends_with(".toml"));
        let generation = match is_file {
            // A file with a `judge` asks for what a model writes.
            true => std::fs::read_to_string(own)
                .is_ok_and(|text| text.contains("[judge]"))
                .then(|| GenerationTask::read(own))
                .transpose(),
            false => GenerationTask::named(name),
        };
        if let Some(task) = generation? {
            let examples = beside.map(|path| read_rows(&task, path)).transpose()?.unwrap_or_default();
            let items = task.items(&read_rows(&task, path)?, &examples)?;
            return Ok(Self::Generation(task, items));
        }
        let task = if is_file { Task::read(own) } else { Task::named(name) }?;
        let items = match is_jsonl(path) {
            true => task.read_jsonl(path, beside)?,
            false => read_parquet(name, path, |batch| task.items(batch))?,
        };
        Ok(Self::Cloze(task, items))
    }

    /// The task's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Cloze(task, _) => &task.file().name,
            Self::Generation(task, _) => &task.file().name,
        }
    }
}

/// The texts of a file for a model to predict: the column `text` of Parquet or JSON lines, or the whole of any
/// other file.
///
/// # Errors
/// The file cannot be read, or has no such column.
pub fn texts(path: &Path, most: usize) -> Result<Vec<String>, EvaluateError> {
    let task = format!("{PERPLEXITY} ({})", path.display());
    let bad = |problem: String| EvaluateError::Task { task: task.clone(), problem };
    let text_of = |row: &Json| -> Result<String, EvaluateError> {
        match row.get(TEXT_COLUMN) {
            Some(Json::String(text)) => Ok(text.clone()),
            Some(Json::Null) => Ok(String::new()),
            Some(_) => Err(bad(format!("`{TEXT_COLUMN}` is no text"))),
            None => {
                let columns: Vec<&str> =
                    row.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                Err(bad(format!(
                    "there is no column `{TEXT_COLUMN}` (the columns are: {})",
                    columns.join(", ")
                )))
            }
        }
    };
    let mut texts = match path {
        path if is_jsonl(path) => {
            rows_of_jsonl(path, &task)?.iter().map(text_of).collect::<Result<_, _>>()?
        }
        path if path.is_dir() || path.extension().is_some_and(|extension| extension == "parquet") => {
            read_parquet(&task, path, |batch| rows_of_batch(batch, &task)?.iter().map(text_of).collect())?
        }
        path => vec![std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?],
    };
    texts.truncate(most);
    Ok(texts)
}

fn is_jsonl(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")
}

fn read_rows(task: &GenerationTask, path: &Path) -> Result<Vec<Json>, EvaluateError> {
    match is_jsonl(path) {
        true => task.read_rows(path),
        false => read_parquet(&task.file().name, path, |batch| task.rows(batch)),
    }
}

fn read_parquet<T>(
    task: &str,
    path: &Path,
    mut read: impl FnMut(&RecordBatch) -> Result<Vec<T>, EvaluateError>,
) -> Result<Vec<T>, EvaluateError> {
    let bad = |problem: String| EvaluateError::Task { task: task.to_owned(), problem };
    let mut items = Vec::new();
    for (path, _) in parquet_files(path).map_err(bad)? {
        let failed =
            |error: &(dyn std::error::Error + 'static)| bad(format!("{}: {}", path.display(), chain(error)));
        let file = File::open(&path).map_err(|error| failed(&error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&error))?;
        for batch in builder.build().map_err(|error| failed(&error))? {
            let batch = batch.map_err(|error| failed(&error))?;
            items.extend(read(&batch).map_err(|error| failed(&error))?);
        }
    }
    Ok(items)
}
