//! Tasks as data: a file says how rows of a data set become cloze items.

use super::rows::{each_row, rows_of_batch, rows_of_jsonl};
use super::templates::{check_expression, environment_of};
use super::{
    ClozeItem, ClozeOptions, ClozeReport, ContextStart, EvaluateError, Normalizer, Scorer, judge,
    judge_groups, score_items,
};
use crate::files::failed;
use arrow::array::RecordBatch;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// The cloze tasks that come with this crate: the cloze set-up of FineWeb and Cosmopedia.
pub const TASKS: [(&str, &str); 11] = [
    ("hellaswag", include_str!("../../tasks/hellaswag.toml")),
    ("winogrande", include_str!("../../tasks/winogrande.toml")),
    ("piqa", include_str!("../../tasks/piqa.toml")),
    ("siqa", include_str!("../../tasks/siqa.toml")),
    ("openbookqa", include_str!("../../tasks/openbookqa.toml")),
    ("arc_easy", include_str!("../../tasks/arc_easy.toml")),
    ("arc_challenge", include_str!("../../tasks/arc_challenge.toml")),
    ("commonsense_qa", include_str!("../../tasks/commonsense_qa.toml")),
    ("mmlu", include_str!("../../tasks/mmlu.toml")),
    ("mmlu_pro", include_str!("../../tasks/mmlu_pro.toml")),
    ("boolq", include_str!("../../tasks/boolq.toml")),
];

/// What a task file holds. Templates and expressions are Jinja's; a row's columns are their variables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// The task's name.
    pub name: String,
    /// The data set on the Hugging Face Hub.
    pub dataset: String,
    /// Its subset; none where it has but one.
    #[serde(default)]
    pub subset: Option<String>,
    /// The split that is asked.
    pub split: String,
    /// Template of the text before a choice; white space at its end is left out.
    pub prompt: String,
    /// Expression of the list of choices.
    pub choices: String,
    /// Template of a choice's text, with the variable `choice`. A space is put before it.
    #[serde(default = "plain_choice")]
    pub choice: String,
    /// Expression of the list of the choices' labels, where the answer is one of them.
    #[serde(default)]
    pub labels: Option<String>,
    /// Expression of the answer: a label, or the number of a choice. Rows where it is empty are left out.
    pub answer: String,
    /// Number of the first choice, where the answer is a number.
    #[serde(default)]
    pub first_answer: usize,
    /// Expression of what an item is counted under, beside the whole.
    #[serde(default)]
    pub group: Option<String>,
    /// What a choice's summed log-probability is divided by for `acc_norm`.
    #[serde(default)]
    pub normalizer: Normalizer,
}

fn plain_choice() -> String {
    "{{ choice }}".to_owned()
}

/// How tasks are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskOptions {
    /// Most items of a task, or of each of its groups; the first ones are taken. FineWeb's set-up asks 1,000.
    pub max_items: usize,
    /// What a context starts with.
    pub start: ContextStart,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self { max_items: 1_000, start: ContextStart::Text }
    }
}

/// A task ready to read rows.
#[derive(Debug)]
pub struct Task {
    file: TaskFile,
    environment: Environment<'static>,
}

/// Accuracy on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task's name.
    pub task: String,
    /// Accuracy over all items.
    #[serde(flatten)]
    pub all: ClozeReport,
    /// Accuracy by group; empty for a task without groups.
    pub groups: BTreeMap<String, ClozeReport>,
    /// Mean of the groups' `acc`, each weighing the same; `acc` where there are none.
    pub mean_acc: f64,
    /// Mean of the groups' `acc_norm`.
    pub mean_acc_norm: f64,
}

impl Task {
    /// A task that comes with this crate.
    ///
    /// # Errors
    /// [`EvaluateError::Task`] for a name that is not in [`TASKS`].
    pub fn named(name: &str) -> Result<Self, EvaluateError> {
        let known = TASKS.iter().find(|(known, _)| *known == name);
        let (_, text) = known.ok_or_else(|| EvaluateError::Task {
            task: name.to_owned(),
            problem: format!("it is not known; the tasks are {}", TASKS.map(|(name, _)| name).join(", ")),
        })?;
        Self::parse(text, name)
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
        let file: TaskFile = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        let templates = [("prompt", &file.prompt), ("choice", &file.choice)];
        let mut environment = environment_of(origin, templates)?;
        let brackets = Regex::new(r"\[.*?\]").map_err(|error| bad(error.to_string()))?;
        environment.add_filter("wikihow", move |text: String| wikihow(&brackets, &text));
        let expressions =
            [Some(&file.choices), file.labels.as_ref(), Some(&file.answer), file.group.as_ref()];
        for expression in expressions.into_iter().flatten() {
            check_expression(origin, &environment, expression)?;
        }
        Ok(Self { file, environment })
    }

    /// What the file says.
    #[must_use]
    pub fn file(&self) -> &TaskFile {
        &self.file
    }

    /// The item of a row; none where the row has no answer (a test split keeps them back).
    ///
    /// # Errors
    /// [`EvaluateError::Task`] if the row has other columns or its answer is none of its choices.
    pub fn item(&self, row: &serde_json::Value) -> Result<Option<ClozeItem>, EvaluateError> {
        let bad = |problem: String| EvaluateError::Task { task: self.file.name.clone(), problem };
        let row = Value::from(Serde(row));
        let engine = |error: minijinja::Error| bad(format!("{error:#}"));
        let expression = |text: &str| self.environment.compile_expression(text)?.eval(row.clone());
        let answer = expression(&self.file.answer).map_err(engine)?;
        if answer.is_none() || answer.as_str().is_some_and(|answer| answer.trim().is_empty()) {
            return Ok(None);
        }
        let render = |name: &str, variables: &Value| {
            self.environment
                .get_template(name)
                .and_then(|template| template.render(variables.clone()))
                .map_err(engine)
        };
        let context = render("prompt", &row)?.trim_end().to_owned();
        let mut choices = Vec::new();
        for choice in expression(&self.file.choices).and_then(|list| list.try_iter()).map_err(engine)? {
            let variables = minijinja::context! { choice, ..row.clone() };
            choices.push(render("choice", &variables)?);
        }
        let answer = match &self.file.labels {
            Some(labels) => {
                let mut labels = expression(labels).and_then(|list| list.try_iter()).map_err(engine)?;
                let same = |label: &Value| match (label.as_str(), answer.as_str()) {
                    (Some(label), Some(answer)) => label.trim() == answer.trim(),
                    _ => *label == answer,
                };
                labels
                    .position(|label| same(&label))
                    .ok_or_else(|| bad(format!("no choice is labelled {answer}")))?
            }
            None => {
                let number = match answer.as_str() {
                    Some(text) => text.trim().parse().ok(),
                    None => answer.as_usize(),
                };
                let number = number.and_then(|number| number.checked_sub(self.file.first_answer));
                number.ok_or_else(|| bad(format!("the answer {answer} is no number of a choice")))?
            }
        };
        let group = self.file.group.as_deref().map(expression).transpose().map_err(engine)?;
        let item = ClozeItem { context, choices, answer, group: group.map(|group| group.to_string()) };
        match item.problem() {
            Some(problem) => Err(bad(problem)),
            None => Ok(Some(item)),
        }
    }

    /// The items of a batch in the layout of the data set on the Hub.
    ///
    /// # Errors
    /// As [`Task::item`], with the row.
    pub fn items(&self, batch: &RecordBatch) -> Result<Vec<ClozeItem>, EvaluateError> {
        self.items_of(&rows_of_batch(batch, &self.file.name)?)
    }

    /// The items of a JSONL file with the columns of the Hub's layout; `labels` is a file that holds a line for
    /// each row, which becomes its column `label` (PIQA is published so).
    ///
    /// # Errors
    /// As [`Task::item`], or a file cannot be read.
    pub fn read_jsonl(&self, path: &Path, labels: Option<&Path>) -> Result<Vec<ClozeItem>, EvaluateError> {
        let mut rows = rows_of_jsonl(path, &self.file.name)?;
        if let Some(labels) = labels {
            let text = std::fs::read_to_string(labels).map_err(failed("read", labels))?;
            if text.lines().count() != rows.len() {
                let (lines, rows) = (text.lines().count(), rows.len());
                return Err(EvaluateError::Task {
                    task: self.file.name.clone(),
                    problem: format!("{} has {lines} lines for {rows} rows", labels.display()),
                });
            }
            for (row, label) in rows.iter_mut().zip(text.lines()) {
                row["label"] = label.trim().into();
            }
        }
        self.items_of(&rows)
    }

    fn items_of(&self, rows: &[serde_json::Value]) -> Result<Vec<ClozeItem>, EvaluateError> {
        Ok(each_row(rows, |row| self.item(row))?.into_iter().flatten().collect())
    }

    /// Asks `items`, or the first of them (see [`TaskOptions::max_items`]). `progress` hears the items done and
    /// those in all; when it breaks, there is no report.
    ///
    /// # Errors
    /// [`EvaluateError`] if scoring fails or there is no item.
    pub fn run(
        &self,
        scorer: &mut dyn Scorer,
        items: Vec<ClozeItem>,
        options: &TaskOptions,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<TaskReport>, EvaluateError> {
        let mut asked: BTreeMap<Option<String>, usize> = BTreeMap::new();
        let first = |item: &ClozeItem| {
            let count = asked.entry(item.group.clone()).or_default();
            *count += 1;
            *count <= options.max_items
        };
        let items: Vec<ClozeItem> = items.into_iter().filter(first).collect();
        let cloze = ClozeOptions { normalizer: self.file.normalizer, start: options.start };
        let Some(scores) = score_items(scorer, &items, &cloze, progress)? else { return Ok(None) };
        let all = judge(&items, &scores, cloze.normalizer)?;
        let groups = judge_groups(&items, &scores, cloze.normalizer)?;
        let mean = |figure: fn(&ClozeReport) -> f64| match groups.len() {
            0 => figure(&all),
            count => groups.values().map(figure).sum::<f64>() / count as f64,
        };
        let (mean_acc, mean_acc_norm) = (mean(|report| report.acc), mean(|report| report.acc_norm));
        Ok(Some(TaskReport { task: self.file.name.clone(), all, groups, mean_acc, mean_acc_norm }))
    }
}

/// Takes the marks of WikiHow out of a text of HellaSwag.
///
/// Source: EleutherAI/lm-evaluation-harness `lm_eval/tasks/hellaswag/utils.py` (`preprocess`).
fn wikihow(brackets: &Regex, text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    brackets.replace_all(&text, "").replace("  ", " ")
}

#[cfg(test)]
mod tests;
