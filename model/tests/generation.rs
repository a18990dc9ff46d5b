//! The generation tasks on their published files.
//!
//! Needs `../shared/data` (and, for programs, Linux with Landlock and Python 3; for answers, the model that the assets
//! command fetches); prints why and returns without them. `CORPUSMITH_GENERATION_ITEMS=200` asks the model more items.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use model::evaluate::{
    AnswerRequest, EngineGenerator, EvaluateError, GenerationOptions, GenerationReport, GenerationTask,
    Generator,
};
use model::infer::{EngineOptions, Model, ModelOptions};
use model::sandbox::{Ending, Sandbox, SandboxOptions};
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A published file, or nothing and why.
fn published(name: &str) -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/benchmarks"));
    // What the assets command fetches has the same name.
    let assets = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/corpusmith/assets"));
    let places = [Some(folder.to_path_buf()), assets, home];
    let found = places.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.exists());
    if found.is_none() {
        println!("not tested: {name} is absent");
    }
    found
}

fn rows(path: &Path) -> Vec<serde_json::Value> {
    let bytes = std::fs::read(path).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn task(name: &str) -> GenerationTask {
    GenerationTask::named(name).unwrap().unwrap()
}

/// The published solutions pass in the sandbox; the same with a wrong answer fail.
#[test]
fn humaneval_passes_its_own_solutions() {
    let Some(path) = published("HumanEval.jsonl.gz") else { return };
    let sandbox = match Sandbox::new(&SandboxOptions::default()) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            println!("not tested: {error}");
            return;
        }
    };
    let task = task("humaneval");
    let rows = rows(&path);
    assert_eq!((rows.len(), task.read_jsonl(&path, None).unwrap().len()), (164, 164));
    let start = Instant::now();
    let wrong: Vec<String> = rows
        .par_iter()
        .enumerate()
        .flat_map_iter(|(number, row)| {
            let solution = row["canonical_solution"].as_str().unwrap().trim_end();
            let program = |completion: &str| task.program(row, &format!("\n{completion}")).unwrap();
            let right = sandbox.run(&program(solution)).unwrap();
            let name = row["task_id"].as_str().unwrap();
            let right = (right.ending != Ending::Completed).then(|| format!("{name}: {right:?}"));
            // Of every fifth problem, which saves time.
            let answerless = || sandbox.run(&program("    return 'no answer'")).unwrap();
            let wrong = number.is_multiple_of(5).then(answerless);
            let wrong = wrong.filter(|wrong| wrong.ending == Ending::Completed);
            let wrong = wrong.map(|_| format!("{name} passes without an answer"));
            right.into_iter().chain(wrong)
        })
        .collect();
    println!("197 programs in {:.1} s", start.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Gives the published answers.
struct Oracle(Vec<String>);

impl Generator for Oracle {
    fn answers(
        &mut self,
        requests: &[AnswerRequest],
        _: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<String>>, EvaluateError> {
        assert_eq!(requests.len(), self.0.len());
        Ok(Some(self.0.clone()))
    }
}

#[test]
fn gsm8k_agrees_with_its_own_answers() {
    let Some((test, train)) = published("gsm8k_test.jsonl").zip(published("gsm8k_train.jsonl")) else {
        return;
    };
    let task = task("gsm8k");
    let items = task.read_jsonl(&test, Some(&train)).unwrap();
    assert_eq!(items.len(), 1_319);
    assert_eq!(items[0].prompt.matches("Question: ").count(), 6);
    let text = std::fs::read_to_string(&test).unwrap();
    let answer = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["answer"].as_str().unwrap().to_owned()
    };
    let answers = text.lines().map(answer).collect();
    let options = GenerationOptions { max_items: 2_000, ..GenerationOptions::default() };
    let (report, _) = task
        .run(&mut Oracle(answers), &items, &options, &mut |_, _| ControlFlow::Continue(()))
        .unwrap()
        .unwrap();
    let values: Vec<f64> = report.figures.iter().map(|figure| figure.value).collect();
    assert_eq!((report.items, values), (1_319, vec![1.0, 1.0]));
}

/// The embedded model answers each task; the figures are printed.
#[test]
fn the_embedded_model_answers() {
    let Some(model) = published("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let files = ["gsm8k_test.jsonl", "gsm8k_train.jsonl", "HumanEval.jsonl.gz", "ifeval_input_data.jsonl"];
    let files: Vec<PathBuf> = files.into_iter().filter_map(published).collect();
    let [test, train, humaneval, ifeval] = &files[..] else { return };
    let items =
        std::env::var("CORPUSMITH_GENERATION_ITEMS").ok().map(|count| count.parse::<usize>().unwrap());
    let model = Arc::new(Model::load(model, &ModelOptions::default()).unwrap());
    let ask = |name: &str, path: &Path, examples: Option<&Path>, few: usize| {
        let mut generator = EngineGenerator::new(Arc::clone(&model), &EngineOptions::default()).unwrap();
        let task = task(name);
        let asked = task.read_jsonl(path, examples).unwrap();
        let max_items = items.unwrap_or(few);
        let options = GenerationOptions { max_items, ..GenerationOptions::default() };
        let start = Instant::now();
        let answered = task.run(&mut generator, &asked, &options, &mut |_, _| ControlFlow::Continue(()));
        let (report, answered) = match answered {
            Err(EvaluateError::Sandbox(error)) => {
                println!("not tested: {error}");
                return;
            }
            other => other.unwrap().unwrap(),
        };
        let seconds = start.elapsed().as_secs_f64();
        println!("{report:?}\n{seconds:.1} s, {:?}", generator.engine().stats());
        let GenerationReport { items, samples, .. } = &report;
        assert_eq!(*items, max_items.min(asked.len()));
        assert!(answered.iter().all(|item| item.answers.len() == *samples));
        // It says something nearly always.
        let said = answered.iter().flat_map(|item| &item.answers).filter(|answer| !answer.trim().is_empty());
        assert!(said.count() * 2 > items * samples);
    };
    ask("gsm8k", test, Some(train), 2);
    ask("humaneval", humaneval, None, 1);
    // An answer may have 1,280 tokens: a minute.
    if items.is_some() {
        ask("ifeval", ifeval, None, 0);
    }
}
