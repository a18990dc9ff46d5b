//! IFEval: does an answer follow instructions that a program can check?
//!
//! Source: google-research/google-research `instruction_following_eval/` (Zhou et al. 2023). Two things are not to
//! the letter: sentences are found by rules instead of NLTK's trained Punkt model, and languages by `whatlang`
//! instead of `langdetect`, which draws random numbers.

mod instruction;
mod text;

pub use instruction::{Instruction, Relation};

use super::EvaluateError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A prompt with its instructions.
#[derive(Clone, Debug)]
pub struct IfevalPrompt {
    /// Its number in the data set.
    pub key: u64,
    /// What the model is asked.
    pub prompt: String,
    /// The instructions' names, such as `keywords:existence`.
    pub ids: Vec<String>,
    /// The instructions.
    pub instructions: Vec<Instruction>,
}

/// A line of the data set.
#[derive(Deserialize)]
struct Line {
    key: u64,
    prompt: String,
    instruction_id_list: Vec<String>,
    kwargs: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// Which instructions an answer follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// As the answer stands.
    pub strict: Vec<bool>,
    /// In one of eight forms of it: with or without its first line, its last line and its asterisks, which
    /// models add around an answer.
    pub loose: Vec<bool>,
}

/// Shares of one kind of instruction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KindReport {
    /// Instructions of the kind.
    pub count: usize,
    /// Share that is followed.
    pub strict: f64,
    /// Share that is followed in the loose sense.
    pub loose: f64,
}

/// Shares of prompts and instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IfevalReport {
    /// Prompts answered.
    pub prompts: usize,
    /// Share of prompts all of whose instructions are followed.
    pub prompt_strict: f64,
    /// The same in the loose sense.
    pub prompt_loose: f64,
    /// Standard error of `prompt_strict`.
    pub prompt_strict_stderr: f64,
    /// Standard error of `prompt_loose`.
    pub prompt_loose_stderr: f64,
    /// Share of all instructions that are followed.
    pub instruction_strict: f64,
    /// The same in the loose sense.
    pub instruction_loose: f64,
    /// The instructions by kind.
    pub kinds: BTreeMap<String, KindReport>,
}

/// Reads the data set's JSONL `text`; `path` is named in errors.
///
/// # Errors
/// [`EvaluateError::Task`] for the first line that is malformed or has an unknown instruction.
pub fn parse_prompts(text: &str, path: &Path) -> Result<Vec<IfevalPrompt>, EvaluateError> {
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |problem: String| EvaluateError::Task {
            task: "ifeval".to_owned(),
            problem: format!("{}:{}: {problem}", path.display(), number + 1),
        };
        let line: Line = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        prompts.push(line.prompt().map_err(bad)?);
    }
    Ok(prompts)
}

impl Line {
    fn prompt(self) -> Result<IfevalPrompt, String> {
        let (ids, kwargs) = (self.instruction_id_list, self.kwargs);
        if ids.len() != kwargs.len() {
            return Err(format!("{} instructions, but arguments of {}", ids.len(), kwargs.len()));
        }
        let instructions = ids.iter().zip(&kwargs).map(|(id, kwargs)| Instruction::parse(id, kwargs));
        let instructions = instructions.collect::<Result<_, String>>()?;
        Ok(IfevalPrompt { key: self.key, prompt: self.prompt, ids, instructions })
    }
}

impl IfevalPrompt {
    /// The prompt of a row of the data set; in the Hub's layout each instruction has all arguments, those of others
    /// null. What is wrong, if it is malformed or has an unknown instruction.
    pub(crate) fn of_row(row: &serde_json::Value) -> Result<Self, String> {
        Line::deserialize(row).map_err(|error| error.to_string())?.prompt()
    }

    /// Which of its instructions `answer` follows.
    #[must_use]
    pub fn check(&self, answer: &str) -> Followed {
        let follows = |answer: &str, instruction: &Instruction| {
            !answer.trim().is_empty() && instruction.follows(answer)
        };
        let lines: Vec<&str> = answer.split('\n').collect();
        let without = |first: usize, last: usize| {
            let end = lines.len().saturating_sub(last).max(first.min(lines.len()));
            lines.get(first..end).unwrap_or_default().join("\n").trim().to_owned()
        };
        let mut forms = vec![answer.to_owned(), without(1, 0), without(0, 1), without(1, 1)];
        forms.extend(forms.clone().into_iter().map(|form| form.replace('*', "")));
        Followed {
            strict: self.instructions.iter().map(|instruction| follows(answer, instruction)).collect(),
            loose: self
                .instructions
                .iter()
                .map(|instruction| forms.iter().any(|form| follows(form, instruction)))
                .collect(),
        }
    }
}

/// The shares over all `prompts`, answered in order.
///
/// # Errors
/// [`EvaluateError::Nothing`] without a prompt.
pub fn ifeval_report(prompts: &[IfevalPrompt], followed: &[Followed]) -> Result<IfevalReport, EvaluateError> {
    let n = prompts.len().min(followed.len());
    if n == 0 {
        return Err(EvaluateError::Nothing("the list of prompts"));
    }
    let whole = |list: fn(&Followed) -> &Vec<bool>| {
        followed.iter().filter(|followed| list(followed).iter().all(|&one| one)).count() as f64 / n as f64
    };
    let stderr = |p: f64| {
        if n > 1 { (p * (1.0 - p) / (n - 1) as f64).sqrt() } else { 0.0 }
    };
    // Counts first, shares at the end.
    let mut kinds: BTreeMap<String, KindReport> = BTreeMap::new();
    for (prompt, followed) in prompts.iter().zip(followed) {
        for ((id, &strict), &loose) in prompt.ids.iter().zip(&followed.strict).zip(&followed.loose) {
            let kind = kinds.entry(id.clone()).or_default();
            kind.count += 1;
            kind.strict += f64::from(u8::from(strict));
            kind.loose += f64::from(u8::from(loose));
        }
    }
    let all = kinds.values().map(|kind| kind.count).sum::<usize>().max(1) as f64;
    let instruction_strict = kinds.values().map(|kind| kind.strict).sum::<f64>() / all;
    let instruction_loose = kinds.values().map(|kind| kind.loose).sum::<f64>() / all;
    for kind in kinds.values_mut() {
        kind.strict /= kind.count as f64;
        kind.loose /= kind.count as f64;
    }
    let (prompt_strict, prompt_loose) =
        (whole(|followed| &followed.strict), whole(|followed| &followed.loose));
    Ok(IfevalReport {
        prompts: n,
        prompt_strict,
        prompt_loose,
        prompt_strict_stderr: stderr(prompt_strict),
        prompt_loose_stderr: stderr(prompt_loose),
        instruction_strict,
        instruction_loose,
        kinds,
    })
}

#[cfg(test)]
mod tests;
