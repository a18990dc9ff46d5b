//! `pipeline eval`: what models do on benchmarks, side by side.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use model::evaluate::{
    ClozeItem, Comparison, EngineGenerator, EvaluateError, GenerationItem, GenerationOptions, GenerationTask,
    Generator, GgufScorer, Measured, ModelScorer, Report, Scorer, Task, TaskOptions,
};
use model::infer::{EngineOptions, Model, ModelOptions};
use model::language_model::LanguageModel;
use model::pretrain::FINAL_FOLDER;
use model::sandbox::SandboxOptions;
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value as Json, json};

use super::Failure;
use super::llm::find_model;
use crate::cli::EvalArgs;
use crate::inspect::parquet_files;
use crate::runner::error::chain;

type AnyError<'a> = &'a (dyn std::error::Error + 'static);

/// Asks each model each task.
///
/// # Errors
/// A model, a task or its file cannot be read.
pub fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let failed = |error: AnyError<'_>| Failure::message(chain(error), "");
    let asked = args.tasks.iter().map(|task| Asked::parse(task)).collect::<Result<Vec<_>, _>>()?;
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let mut comparison = Comparison::default();
    for path in &args.compare {
        comparison.read(path).map_err(|error| failed(&error))?;
    }
    let mut answers = match &args.answers {
        Some(path) => Some(BufWriter::new(File::create(path).map_err(|error| failed(&error))?)),
        None => None,
    };
    for name in &args.models {
        let mut subject = Subject::load(name, args)?;
        for asked in &asked {
            let report = asked.run(name, &mut subject, args, answers.as_mut())?;
            let measured = Measured { model: name.clone(), report };
            if args.json {
                println!("{}", json!(measured));
            }
            comparison.push(measured);
        }
    }
    if let Some(mut answers) = answers {
        answers.flush().map_err(|error| failed(&error))?;
    }
    match (args.json, args.csv) {
        (true, _) => {}
        (false, true) => println!("{}", comparison.csv()),
        (false, false) => println!("{}", comparison.markdown()),
    }
    Ok(())
}

/// A task with its items.
enum Asked {
    Cloze(Task, Vec<ClozeItem>),
    Generation(GenerationTask, Vec<GenerationItem>),
}

impl Asked {
    /// `piqa=valid.jsonl`, or `piqa=valid.jsonl,labels.lst`, or `gsm8k=test.parquet,train.parquet`; a task file of
    /// one's own by its path.
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |message: String| Failure::message(message, "write --task piqa=validation.parquet");
        let failed = |error: EvaluateError| Failure::message(chain(&error), "");
        let (name, files) = text.split_once('=').ok_or_else(|| wrong(format!("`{text}` names no file")))?;
        let (path, beside) = match files.split_once(',') {
            Some((path, beside)) => (Path::new(path), Some(Path::new(beside))),
            None => (Path::new(files), None),
        };
        let own = Path::new(name);
        let generation = match name.ends_with(".toml") {
            // A file with a `judge` asks for what a model writes.
            true => std::fs::read_to_string(own)
                .is_ok_and(|text| text.contains("[judge]"))
                .then(|| GenerationTask::read(own))
                .transpose(),
            false => GenerationTask::named(name),
        };
        if let Some(task) = generation.map_err(failed)? {
            let examples = beside.map(|path| read_rows(&task, path)).transpose()?.unwrap_or_default();
            let items = task.items(&read_rows(&task, path)?, &examples).map_err(failed)?;
            return Ok(Self::Generation(task, items));
        }
        let task =
            if name.ends_with(".toml") { Task::read(own) } else { Task::named(name) }.map_err(failed)?;
        let items = match is_jsonl(path) {
            true => task.read_jsonl(path, beside).map_err(failed)?,
            false => read_parquet(path, |batch| task.items(batch))?,
        };
        Ok(Self::Cloze(task, items))
    }

    fn name(&self) -> &str {
        match self {
            Self::Cloze(task, _) => &task.file().name,
            Self::Generation(task, _) => &task.file().name,
        }
    }

    fn run(
        &self,
        model: &str,
        subject: &mut Subject,
        args: &EvalArgs,
        answers: Option<&mut BufWriter<File>>,
    ) -> Result<Report, Failure> {
        let name = self.name();
        let shown = std::io::stderr().is_terminal();
        let mut progress = |done: usize, all: usize| {
            if shown {
                eprint!("\r{model}: {name}: {done} of {all} ");
                let _ = std::io::stderr().flush();
            }
            ControlFlow::Continue(())
        };
        let max_items = args.max_items;
        let report = match self {
            Self::Cloze(task, items) => {
                let options = TaskOptions { max_items, ..TaskOptions::default() };
                let run = |scorer: &mut dyn Scorer| task.run(scorer, items.clone(), &options, &mut progress);
                subject.with_scorer(run)?.map(Report::Cloze)
            }
            Self::Generation(task, items) => {
                let sandbox = SandboxOptions { python: args.python.clone(), ..SandboxOptions::default() };
                let options = GenerationOptions { max_items, sandbox };
                let asked = task.run(subject.generator()?, items, &options, &mut progress);
                let asked = asked.map_err(|error| Failure::message(chain(&error), ""))?;
                asked
                    .map(|(report, answered)| -> Result<Report, Failure> {
                        if let Some(file) = answers {
                            for item in answered {
                                let line = json!({"model": model, "task": name, "item": item});
                                writeln!(file, "{line}")
                                    .map_err(|error| Failure::message(chain(&error), ""))?;
                            }
                        }
                        Ok(Report::Generation(report))
                    })
                    .transpose()?
            }
        };
        if shown {
            eprintln!();
        }
        report.ok_or_else(|| Failure::message("the evaluation was stopped", ""))
    }
}

fn is_jsonl(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")
}

/// The rows of a file in the layout of the Hub.
fn read_rows(task: &GenerationTask, path: &Path) -> Result<Vec<Json>, Failure> {
    match is_jsonl(path) {
        true => task.read_rows(path).map_err(|error| Failure::message(chain(&error), "")),
        false => read_parquet(path, |batch| task.rows(batch)),
    }
}

fn read_parquet<T>(
    path: &Path,
    mut read: impl FnMut(&RecordBatch) -> Result<Vec<T>, EvaluateError>,
) -> Result<Vec<T>, Failure> {
    let failed = |path: &Path, error: AnyError<'_>| {
        Failure::message(format!("{}: {}", path.display(), chain(error)), "")
    };
    let mut items = Vec::new();
    for (path, _) in parquet_files(path).map_err(|message| Failure::message(message, ""))? {
        let file = File::open(&path).map_err(|error| failed(&path, &error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&path, &error))?;
        for batch in builder.build().map_err(|error| failed(&path, &error))? {
            let batch = batch.map_err(|error| failed(&path, &error))?;
            items.extend(read(&batch).map_err(|error| failed(&path, &error))?);
        }
    }
    Ok(items)
}

/// A model that is asked.
enum Subject {
    /// A GGUF file.
    Gguf { model: Arc<Model>, engine: EngineOptions, generator: Option<EngineGenerator> },
    /// A folder: a checkpoint, a stage that trains, an export with its tokenizer.
    Trained {
        folder: PathBuf,
        model: Box<LanguageModel>,
        encoder: Box<Encoder>,
        engine: EngineOptions,
        generator: Option<EngineGenerator>,
    },
}

impl Subject {
    fn load(name: &str, args: &EvalArgs) -> Result<Self, Failure> {
        let failed = |error: AnyError<'_>, help: &str| Failure::message(chain(error), help);
        let engine = EngineOptions { threads: args.threads, ..EngineOptions::default() };
        let folder = PathBuf::from(name);
        if !folder.is_dir() {
            let (path, _) = find_model(name)?;
            let model = Model::load(&path, &ModelOptions::default());
            let model = model.map_err(|error| failed(&error, "give `embedded`, a GGUF file or a folder"))?;
            return Ok(Self::Gguf { model: Arc::new(model), engine, generator: None });
        }
        let inside = [folder.join(FINAL_FOLDER), folder.join("model")];
        let folder = inside.into_iter().find(|inside| inside.is_dir()).unwrap_or(folder);
        let tokenizer = args.tokenizer.clone().unwrap_or_else(|| folder.join(TOKENIZER_FILE));
        let help = "a checkpoint has no tokenizer: give it with --tokenizer <stage's folder>/tokenizer.json";
        let encoder = Encoder::load(&tokenizer).map_err(|error| failed(&error, help))?;
        let model = LanguageModel::load(&folder).map_err(|error| failed(&error, ""))?;
        Ok(Self::Trained {
            folder,
            model: Box::new(model),
            encoder: Box::new(encoder),
            engine,
            generator: None,
        })
    }

    fn with_scorer<T>(
        &self,
        ask: impl FnOnce(&mut dyn Scorer) -> Result<T, EvaluateError>,
    ) -> Result<T, Failure> {
        let answer = match self {
            Self::Gguf { model, .. } => ask(&mut GgufScorer::new(model)),
            Self::Trained { model, encoder, .. } => {
                ModelScorer::new(model, encoder).and_then(|mut scorer| ask(&mut scorer))
            }
        };
        answer.map_err(|error| Failure::message(chain(&error), ""))
    }

    /// The engine is started for the first task that needs it.
    fn generator(&mut self) -> Result<&mut dyn Generator, Failure> {
        let failed = |error: EvaluateError| Failure::message(chain(&error), "");
        let (started, place) = match self {
            Self::Gguf { model, engine, generator } => {
                let start = || EngineGenerator::new(Arc::clone(model), engine);
                (generator.is_none().then(start).transpose().map_err(failed)?, generator)
            }
            Self::Trained { folder, encoder, engine, generator, .. } => {
                let start = || EngineGenerator::of_checkpoint(folder, encoder.folder(), engine);
                (generator.is_none().then(start).transpose().map_err(failed)?, generator)
            }
        };
        match (started, place) {
            (Some(started), place) => Ok(place.insert(started)),
            (None, Some(generator)) => Ok(generator),
            (None, None) => Err(Failure::message("the engine was not started", "")),
        }
    }
}
