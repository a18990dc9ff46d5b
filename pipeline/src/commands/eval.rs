//! `pipeline eval`: what models do on benchmarks, side by side.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::evaluate::{
    Comparison, EngineGenerator, EvaluateError, Figure, GenerationOptions, Generator, GgufScorer, Measured,
    ModelScorer, Report, Scorer, TaskOptions, TextsReport, perplexity,
};
use model::infer::{EngineOptions, Model, ModelOptions};
use model::language_model::LanguageModel;
use model::sandbox::SandboxOptions;
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use serde_json::json;

use super::Failure;
use super::llm::{find_model, trained_folder};
use crate::benchmarks::{self, Benchmark, PERPLEXITY};
use crate::cli::EvalArgs;
use crate::durable;
use crate::report::plot::{self, Bar};
use crate::runner::error::chain;

type AnyError<'a> = &'a (dyn std::error::Error + 'static);

/// Asks each model each task.
///
/// # Errors
/// A model, a task or its file cannot be read.
pub fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let failed = |error: AnyError<'_>| Failure::message(chain(error), "");
    let tasks = args.tasks.iter().map(|task| parse_task(task, args)).collect::<Result<Vec<_>, _>>()?;
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
        for task in &tasks {
            let report = match task {
                Asked::Benchmark(benchmark) => ask(benchmark, name, &mut subject, args, answers.as_mut())?,
                Asked::Texts(task, texts) => {
                    let perplexity = subject.with_scorer(|scorer| perplexity(scorer, texts))?;
                    Report::Texts(TextsReport { task: task.clone(), perplexity })
                }
            };
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
    if let Some(path) = &args.plot {
        durable::write_file(path, plot(&comparison).as_bytes()).map_err(|error| failed(&error))?;
    }
    match (args.json, args.csv) {
        (true, _) => {}
        (false, true) => println!("{}", comparison.csv()),
        (false, false) => println!("{}", comparison.markdown()),
    }
    Ok(())
}

/// A task's leading figure, of each model: `acc_norm` where a task has it, else its first.
fn plot(comparison: &Comparison) -> String {
    let mut figures: Vec<(&str, Bar)> = Vec::new();
    for Measured { model, report } in comparison.reports() {
        let all = report.figures();
        let leading = all.iter().find(|figure| figure.name == "acc_norm").or(all.first());
        if let Some(Figure { name, value, .. }) = leading {
            let label = format!("{} {name} · {}", report.task(), short(model));
            figures.push((report.task(), Bar { label, value: (value * 1e4).round() / 1e4 }));
        }
    }
    figures
        .sort_by_key(|(task, _)| comparison.reports().iter().position(|other| other.report.task() == *task));
    plot::file(&plot::bars(&figures.into_iter().map(|(_, bar)| bar).collect::<Vec<_>>()))
}

/// A model's name without the folders before it.
fn short(model: &str) -> &str {
    model.trim_end_matches('/').rsplit('/').next().unwrap_or(model)
}

/// What models are asked.
enum Asked {
    Benchmark(Box<Benchmark>),
    /// To predict texts; with the name for the table.
    Texts(String, Vec<String>),
}

/// `piqa=valid.jsonl`, or `piqa=valid.jsonl,labels.lst`, or `gsm8k=test.parquet,train.parquet`, or
/// `perplexity=pages.parquet`; a task file of one's own by its path.
fn parse_task(text: &str, args: &EvalArgs) -> Result<Asked, Failure> {
    let wrong =
        || Failure::message(format!("`{text}` names no file"), "write --task piqa=validation.parquet");
    let (name, files) = text.split_once('=').ok_or_else(wrong)?;
    if name == PERPLEXITY {
        let texts = benchmarks::texts(Path::new(files), args.max_items);
        let texts = texts.map_err(|error| Failure::message(chain(&error), ""))?;
        return Ok(Asked::Texts(format!("{PERPLEXITY} ({})", short(files)), texts));
    }
    let (path, beside) = match files.split_once(',') {
        Some((path, beside)) => (path, Some(Path::new(beside))),
        None => (files, None),
    };
    let benchmark = Benchmark::read(name, Path::new(path), beside);
    benchmark
        .map(|benchmark| Asked::Benchmark(Box::new(benchmark)))
        .map_err(|error| Failure::message(chain(&error), ""))
}

/// Asks a model a task.
fn ask(
    benchmark: &Benchmark,
    model: &str,
    subject: &mut Subject,
    args: &EvalArgs,
    answers: Option<&mut BufWriter<File>>,
) -> Result<Report, Failure> {
    let name = benchmark.name();
    let shown = std::io::stderr().is_terminal();
    let mut progress = |done: usize, all: usize| {
        if shown {
            eprint!("\r{model}: {name}: {done} of {all} ");
            let _ = std::io::stderr().flush();
        }
        ControlFlow::Continue(())
    };
    let max_items = args.max_items;
    let report = match benchmark {
        Benchmark::Cloze(task, items) => {
            let options = TaskOptions { max_items, ..TaskOptions::default() };
            let run = |scorer: &mut dyn Scorer| task.run(scorer, items.clone(), &options, &mut progress);
            subject.with_scorer(run)?.map(Report::Cloze)
        }
        Benchmark::Generation(task, items) => {
            let sandbox = SandboxOptions { python: args.python.clone(), ..SandboxOptions::default() };
            let options = GenerationOptions { max_items, sandbox };
            let asked = task.run(subject.generator()?, items, &options, &mut progress);
            let asked = asked.map_err(|error| Failure::message(chain(&error), ""))?;
            asked
                .map(|(report, answered)| -> Result<Report, Failure> {
                    if let Some(file) = answers {
                        for item in answered {
                            let line = json!({"model": model, "task": name, "item": item});
                            writeln!(file, "{line}").map_err(|error| Failure::message(chain(&error), ""))?;
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
        let folder = Path::new(name);
        if !folder.is_dir() {
            let (path, _) = find_model(name)?;
            let model = Model::load(&path, &ModelOptions::default());
            let model = model.map_err(|error| failed(&error, "give `embedded`, a GGUF file or a folder"))?;
            return Ok(Self::Gguf { model: Arc::new(model), engine, generator: None });
        }
        let folder = trained_folder(folder);
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
