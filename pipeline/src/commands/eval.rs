//! `pipeline eval`: accuracy of models on benchmarks, side by side.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use model::evaluate::{ClozeItem, GgufScorer, ModelScorer, Scorer, Task, TaskOptions, TaskReport};
use model::infer::{Model, ModelOptions};
use model::language_model::LanguageModel;
use model::pretrain::FINAL_FOLDER;
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use super::Failure;
use super::llm::find_model;
use crate::cli::EvalArgs;
use crate::inspect::parquet_files;
use crate::runner::error::chain;

/// Asks each model each task.
///
/// # Errors
/// A model, a task or its file cannot be read.
pub fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let asked = args.tasks.iter().map(|task| Asked::parse(task)).collect::<Result<Vec<_>, _>>()?;
    let options = TaskOptions { max_items: args.max_items, ..TaskOptions::default() };
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let mut columns: Vec<(String, Vec<TaskReport>)> = Vec::new();
    for name in &args.models {
        let mut reports = Vec::new();
        with_scorer(name, args.tokenizer.as_deref(), &mut |scorer| {
            for asked in &asked {
                let report = asked.run(name, scorer, &options)?;
                if args.json {
                    println!("{}", json!({"model": name, "report": report}));
                }
                reports.push(report);
            }
            Ok(())
        })?;
        columns.push((name.clone(), reports));
    }
    if !args.json {
        println!("{}", table(&columns));
    }
    Ok(())
}

/// A task with its items.
struct Asked {
    task: Task,
    items: Vec<ClozeItem>,
}

impl Asked {
    /// `piqa=valid.jsonl`, or `piqa=valid.jsonl,labels.lst`; a task file of one's own by its path.
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |message: String| Failure::message(message, "write --task piqa=validation.parquet");
        let (name, files) = text.split_once('=').ok_or_else(|| wrong(format!("`{text}` names no file")))?;
        let (path, labels) = match files.split_once(',') {
            Some((path, labels)) => (Path::new(path), Some(Path::new(labels))),
            None => (Path::new(files), None),
        };
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::message(chain(error), "");
        let task = if name.ends_with(".toml") { Task::read(Path::new(name)) } else { Task::named(name) };
        let task = task.map_err(|error| failed(&error))?;
        let lines = path.extension().is_some_and(|extension| extension == "jsonl");
        let items = match lines {
            true => task.read_jsonl(path, labels).map_err(|error| failed(&error))?,
            false => read_parquet(&task, path)?,
        };
        Ok(Self { task, items })
    }

    fn run(
        &self,
        model: &str,
        scorer: &mut dyn Scorer,
        options: &TaskOptions,
    ) -> Result<TaskReport, Failure> {
        let name = &self.task.file().name;
        let shown = std::io::stderr().is_terminal();
        let mut progress = |done: usize, all: usize| {
            if shown {
                eprint!("\r{model}: {name}: {done} of {all} items ");
                let _ = std::io::stderr().flush();
            }
            ControlFlow::Continue(())
        };
        let report = self.task.run(scorer, self.items.clone(), options, &mut progress);
        if shown {
            eprintln!();
        }
        let report = report.map_err(|error| Failure::message(chain(&error), ""))?;
        report.ok_or_else(|| Failure::message("the evaluation was stopped", ""))
    }
}

fn read_parquet(task: &Task, path: &Path) -> Result<Vec<ClozeItem>, Failure> {
    let failed = |path: &Path, error: &(dyn std::error::Error + 'static)| {
        Failure::message(format!("{}: {}", path.display(), chain(error)), "")
    };
    let mut items = Vec::new();
    for (path, _) in parquet_files(path).map_err(|message| Failure::message(message, ""))? {
        let file = File::open(&path).map_err(|error| failed(&path, &error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&path, &error))?;
        for batch in builder.build().map_err(|error| failed(&path, &error))? {
            let batch = batch.map_err(|error| failed(&path, &error))?;
            items.extend(task.items(&batch).map_err(|error| failed(&path, &error))?);
        }
    }
    Ok(items)
}

/// A GGUF file, or a folder: a checkpoint, a stage that trains, an export with its tokenizer.
fn with_scorer(
    name: &str,
    tokenizer: Option<&Path>,
    ask: &mut dyn FnMut(&mut dyn Scorer) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static), help: &str| Failure::message(chain(error), help);
    let folder = PathBuf::from(name);
    if !folder.is_dir() {
        let (path, _) = find_model(name)?;
        let model = Model::load(&path, &ModelOptions::default());
        let model = model.map_err(|error| failed(&error, "give `embedded`, a GGUF file or a folder"))?;
        return ask(&mut GgufScorer::new(&model));
    }
    let inside = [folder.join(FINAL_FOLDER), folder.join("model")];
    let folder = inside.into_iter().find(|inside| inside.is_dir()).unwrap_or(folder);
    let tokenizer = tokenizer.map_or_else(|| folder.join(TOKENIZER_FILE), Path::to_owned);
    let help = "a checkpoint has no tokenizer: give it with --tokenizer <stage's folder>/tokenizer.json";
    let encoder = Encoder::load(&tokenizer).map_err(|error| failed(&error, help))?;
    let model = LanguageModel::load(&folder).map_err(|error| failed(&error, ""))?;
    let mut scorer = ModelScorer::new(&model, &encoder).map_err(|error| failed(&error, ""))?;
    ask(&mut scorer)
}

/// A row a task, a column a model, in Markdown.
fn table(columns: &[(String, Vec<TaskReport>)]) -> String {
    let heads: Vec<&str> = columns.iter().map(|(model, _)| model.as_str()).collect();
    let mut lines = vec![format!("| task | items | figure | {} |", heads.join(" | "))];
    lines.push(format!("|---|---|---|{}", "---|".repeat(columns.len())));
    let tasks = columns.first().map_or(0, |(_, reports)| reports.len());
    for task in 0..tasks {
        let reports: Vec<&TaskReport> = columns.iter().filter_map(|(_, reports)| reports.get(task)).collect();
        let Some(first) = reports.first() else { continue };
        let figures: [(&str, fn(&TaskReport) -> (f64, f64)); 2] = [
            ("acc", |report| (report.mean_acc, report.all.acc_stderr)),
            ("acc_norm", |report| (report.mean_acc_norm, report.all.acc_norm_stderr)),
        ];
        for (figure, of) in figures {
            let cells = reports.iter().map(|report| {
                let (value, error) = of(report);
                format!("{:.2} ± {:.2}", 100.0 * value, 100.0 * error)
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            lines.push(format!("| {} | {} | {figure} | {cells} |", first.task, first.all.items));
        }
    }
    lines.join("\n")
}
