//! Tasks as data: a file says what a model is asked about a row and how its answer is judged.

use super::judge::{Gold, Judge, Share, figure, run_programs, shares};
use super::{AnswerRequest, Form, Generator, NumberRule, final_number, normalize_answer};
use crate::evaluate::comparison::Figure;
use crate::evaluate::rows::{each_row, rows_of_batch, rows_of_jsonl};
use crate::evaluate::templates::{check_expression, environment_of};
use crate::evaluate::{EvaluateError, IfevalPrompt};
use crate::files::failed;
use crate::sandbox::{Sandbox, SandboxOptions};
use arrow::array::RecordBatch;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// The generation tasks that come with this crate.
pub const GENERATION_TASKS: [(&str, &str); 4] = [
    ("triviaqa", include_str!("../../../tasks/triviaqa.toml")),
    ("gsm8k", include_str!("../../../tasks/gsm8k.toml")),
    ("humaneval", include_str!("../../../tasks/humaneval.toml")),
    ("ifeval", include_str!("../../../tasks/ifeval.toml")),
];

/// What stands between solved examples.
const BETWEEN_SHOTS: &str = "\n\n";

/// What a task file holds. Templates and expressions are Jinja's; a row's columns are their variables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationFile {
    /// The task's name.
    pub name: String,
    /// The data set on the Hugging Face Hub.
    pub dataset: String,
    /// Its subset; none where it has but one.
    #[serde(default)]
    pub subset: Option<String>,
    /// The split that is asked.
    pub split: String,
    /// Template of what the model is asked.
    pub prompt: String,
    /// How it is asked.
    #[serde(default)]
    pub form: Form,
    /// Solved examples before each item: the first rows of a file of examples.
    #[serde(default)]
    pub shots: usize,
    /// Template of an example's answer, which follows its prompt.
    #[serde(default)]
    pub shot_answer: String,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Answers to each item.
    #[serde(default = "one")]
    pub samples: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    #[serde(default)]
    pub temperature: f32,
    /// Share of the probability that is kept.
    #[serde(default = "whole")]
    pub top_p: f32,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// How answers are judged.
    pub judge: Judge,
}

fn one() -> usize {
    1
}

fn whole() -> f32 {
    1.0
}

/// How generation tasks are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationOptions {
    /// Most items of a task; the first ones are taken. FineWeb's set-up asks 1,000.
    pub max_items: usize,
    /// What programs that a model writes may use.
    pub sandbox: SandboxOptions,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self { max_items: 1_000, sandbox: SandboxOptions::default() }
    }
}

/// A question and what its answers are judged by.
#[derive(Clone, Debug)]
pub struct GenerationItem {
    /// What the model is asked, solved examples included.
    pub prompt: String,
    pub(super) gold: Gold,
}

/// What a model was found to do on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationReport {
    /// The task's name.
    pub task: String,
    /// Items answered.
    pub items: usize,
    /// Answers to each.
    pub samples: usize,
    /// Shares of right answers, by the rules of the task.
    pub figures: Vec<Figure>,
}

/// An item's answers with what they were found to be worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnsweredItem {
    /// What was asked.
    pub prompt: String,
    /// The answers.
    pub answers: Vec<String>,
    /// The item's part of each figure of the report: what counted, and out of what.
    pub shares: Vec<(f64, f64)>,
}

/// A task ready to read rows.
#[derive(Debug)]
pub struct GenerationTask {
    file: GenerationFile,
    environment: Environment<'static>,
}

impl GenerationTask {
    /// A task that comes with this crate; none for another name.
    ///
    /// # Errors
    /// [`EvaluateError::Task`] if its file is malformed.
    pub fn named(name: &str) -> Result<Option<Self>, EvaluateError> {
        let known = GENERATION_TASKS.iter().find(|(known, _)| *known == name);
        known.map(|(name, text)| Self::parse(text, name)).transpose()
    }

    /// Reads a task file.
    ///
    /// # Errors
    /// [`EvaluateError`] if it cannot be read or is malformed.
    pub fn read(path: &Path) -> Result<Self, EvaluateError> {
        let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// A task from the text of its file; `origin` is named in errors.
    ///
    /// # Errors
    /// [`EvaluateError::Task`] if it is malformed.
    pub fn parse(text: &str, origin: &str) -> Result<Self, EvaluateError> {
        let bad = |problem: String| EvaluateError::Task { task: origin.to_owned(), problem };
        let file: GenerationFile = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        if file.samples == 0 || file.max_new_tokens == 0 {
            return Err(bad("samples and max_new_tokens must be at least 1".to_owned()));
        }
        let judged = match &file.judge {
            Judge::Number { answer } => Some(("answer", answer)),
            Judge::Program { program } => Some(("program", program)),
            Judge::ExactMatch { .. } | Judge::Instructions => None,
        };
        let templates = [("prompt", &file.prompt), ("shot_answer", &file.shot_answer)];
        let environment = environment_of(origin, templates.into_iter().chain(judged))?;
        if let Judge::ExactMatch { answers } = &file.judge {
            check_expression(origin, &environment, answers)?;
        }
        Ok(Self { file, environment })
    }

    /// What the file says.
    #[must_use]
    pub fn file(&self) -> &GenerationFile {
        &self.file
    }

    /// The items of JSONL files with the columns of the Hub's layout, perhaps packed by gzip; `examples` is the file
    /// of solved examples.
    ///
    /// # Errors
    /// [`EvaluateError`] if a file cannot be read, or a row has other columns.
    pub fn read_jsonl(
        &self,
        path: &Path,
        examples: Option<&Path>,
    ) -> Result<Vec<GenerationItem>, EvaluateError> {
        let examples = examples.map(|path| self.read_rows(path)).transpose()?.unwrap_or_default();
        self.items(&self.read_rows(path)?, &examples)
    }

    /// The rows of a JSONL file, perhaps packed by gzip, for [`GenerationTask::items`].
    ///
    /// # Errors
    /// [`EvaluateError`] if it cannot be read, or a line is no JSON.
    pub fn read_rows(&self, path: &Path) -> Result<Vec<serde_json::Value>, EvaluateError> {
        rows_of_jsonl(path, &self.file.name)
    }

    /// The rows of a batch in the layout of the data set on the Hub, for [`GenerationTask::items`].
    ///
    /// # Errors
    /// [`EvaluateError::Task`] if a column cannot be read.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<serde_json::Value>, EvaluateError> {
        rows_of_batch(batch, &self.file.name)
    }

    /// The items of rows. Before each stand the first of the `examples`, solved.
    ///
    /// # Errors
    /// [`EvaluateError::Task`] if a row has other columns, or there are too few examples.
    pub fn items(
        &self,
        rows: &[serde_json::Value],
        examples: &[serde_json::Value],
    ) -> Result<Vec<GenerationItem>, EvaluateError> {
        let shots = self.file.shots;
        let Some(examples) = examples.get(..shots) else {
            let have = examples.len();
            return Err(self.bad(format!(
                "it asks with {shots} solved examples, and there are {have}; give their file (the train split) behind a comma"
            )));
        };
        let solved = each_row(examples, |row| {
            Ok(self.render("prompt", row)? + &self.render("shot_answer", row)? + BETWEEN_SHOTS)
        })?;
        let solved = solved.concat();
        each_row(rows, |row| {
            let prompt = format!("{solved}{}", self.render("prompt", row)?);
            Ok(GenerationItem { prompt, gold: self.gold(row)? })
        })
    }

    fn bad(&self, problem: String) -> EvaluateError {
        EvaluateError::Task { task: self.file.name.clone(), problem }
    }

    fn render(&self, template: &str, row: &serde_json::Value) -> Result<String, EvaluateError> {
        self.render_value(template, Value::from(Serde(row)))
    }

    fn render_value(&self, template: &str, variables: Value) -> Result<String, EvaluateError> {
        let rendered =
            self.environment.get_template(template).and_then(|template| template.render(variables));
        rendered.map_err(|error| self.bad(format!("{error:#}")))
    }

    fn gold(&self, row: &serde_json::Value) -> Result<Gold, EvaluateError> {
        Ok(match &self.file.judge {
            Judge::ExactMatch { answers } => {
                let listed = || -> Result<Vec<String>, minijinja::Error> {
                    let list = self.environment.compile_expression(answers)?.eval(Value::from(Serde(row)))?;
                    Ok(list.try_iter()?.map(|answer| normalize_answer(&answer.to_string())).collect())
                };
                let mut right = listed().map_err(|error| self.bad(format!("{error:#}")))?;
                right.retain(|answer| !answer.is_empty());
                if right.is_empty() {
                    return Err(self.bad("it has no right answer".to_owned()));
                }
                Gold::Texts(right)
            }
            Judge::Number { .. } => {
                let answer = self.render("answer", row)?;
                let number = final_number(&answer, NumberRule::Strict);
                Gold::Number(
                    number.ok_or_else(|| self.bad("its answer has no number behind `#### `".to_owned()))?,
                )
            }
            Judge::Program { .. } => {
                // Says now, not after an hour, that a column is missing.
                self.program(row, "")?;
                Gold::Row(row.clone())
            }
            Judge::Instructions => {
                let prompt = IfevalPrompt::of_row(row).map_err(|problem| self.bad(problem))?;
                Gold::Instructions(Box::new(prompt))
            }
        })
    }

    /// The program of a row that the answer `completion` completes.
    ///
    /// # Errors
    /// [`EvaluateError::Task`] if the task's answers are no programs, or the row has other columns.
    pub fn program(&self, row: &serde_json::Value, completion: &str) -> Result<String, EvaluateError> {
        let row = Value::from(Serde(row));
        self.render_value("program", context! { completion, ..row })
    }

    /// Asks `items`, or the first of them (see [`GenerationOptions::max_items`]); the report, and the answers it is
    /// made of. `progress` hears the answers done and those in all; when it breaks, there is no report.
    ///
    /// # Errors
    /// [`EvaluateError`] if an answer fails, there is no item, or programs cannot be run here: that is said before
    /// the first question.
    pub fn run(
        &self,
        generator: &mut dyn Generator,
        items: &[GenerationItem],
        options: &GenerationOptions,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<(GenerationReport, Vec<AnsweredItem>)>, EvaluateError> {
        let items = &items[..items.len().min(options.max_items)];
        if items.is_empty() {
            return Err(EvaluateError::Nothing("the list of items"));
        }
        let sandbox = match self.file.judge {
            Judge::Program { .. } => Some(Sandbox::new(&options.sandbox)?),
            _ => None,
        };
        let requests: Vec<AnswerRequest> = items.iter().flat_map(|item| self.requests(item)).collect();
        let all = requests.len();
        let Some(answers) = generator.answers(&requests, &mut |done| progress(done, all))? else {
            return Ok(None);
        };
        let answers: Vec<Vec<String>> = answers.chunks(self.file.samples).map(<[String]>::to_vec).collect();
        let passed = match &sandbox {
            Some(sandbox) => run_programs(sandbox, &self.programs(items, &answers)?)?,
            None => vec![false; all],
        };
        let passed = passed.chunks(self.file.samples);
        let judged = items.iter().zip(answers).zip(passed).map(|((item, answers), passed)| AnsweredItem {
            prompt: item.prompt.clone(),
            shares: shares(&item.gold, &answers, passed),
            answers,
        });
        let judged: Vec<AnsweredItem> = judged.collect();
        let figures = self.file.judge.figures(self.file.samples).into_iter().enumerate().map(|(at, name)| {
            let shares: Vec<Share> = judged.iter().map(|item| item.shares[at]).collect();
            figure(&name, &shares)
        });
        let report = GenerationReport {
            task: self.file.name.clone(),
            items: items.len(),
            samples: self.file.samples,
            figures: figures.collect(),
        };
        Ok(Some((report, judged)))
    }

    /// The questions of an item, one a sample. An answer's seed follows from the question and its number, so that it
    /// does not depend on what else is asked.
    fn requests(&self, item: &GenerationItem) -> Vec<AnswerRequest> {
        let file = &self.file;
        let seed = |sample: usize| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(item.prompt.as_bytes()).update(&(sample as u64).to_le_bytes());
            let mut seed = [0; 8];
            hasher.finalize_xof().fill(&mut seed);
            u64::from_le_bytes(seed)
        };
        let request = |sample: usize| AnswerRequest {
            prompt: item.prompt.clone(),
            form: file.form,
            max_new_tokens: file.max_new_tokens,
            temperature: file.temperature,
            top_p: file.top_p,
            stop: file.stop.clone(),
            seed: seed(sample),
        };
        (0..file.samples).map(request).collect()
    }

    fn programs(
        &self,
        items: &[GenerationItem],
        answers: &[Vec<String>],
    ) -> Result<Vec<String>, EvaluateError> {
        let mut programs = Vec::new();
        for (item, answers) in items.iter().zip(answers) {
            let Gold::Row(row) = &item.gold else { continue };
            for answer in answers {
                programs.push(self.program(row, answer)?);
            }
        }
        Ok(programs)
    }
}
