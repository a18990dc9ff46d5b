//! How answers are judged.

use super::answers::{NumberRule, final_number, normalize_answer, pass_at_k};
use crate::evaluate::comparison::Figure;
use crate::evaluate::{EvaluateError, IfevalPrompt};
use crate::sandbox::{Ending, Sandbox};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How a task's answers are judged. Templates and expressions are Jinja's over a row's columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Judge {
    /// The answer is one of several, case and punctuation aside.
    ExactMatch {
        /// Expression of the list of right answers.
        answers: String,
    },
    /// The answer's final number is right.
    Number {
        /// Template of a text that ends with the right one behind `#### `.
        answer: String,
    },
    /// The answer completes a program that then runs to its end.
    Program {
        /// Template of the program; the answer is its variable `completion`.
        program: String,
    },
    /// The answer follows the row's instructions (IFEval's columns).
    Instructions,
}

/// What an item's answers are judged by.
#[derive(Clone, Debug)]
pub enum Gold {
    /// Right answers, normalised.
    Texts(Vec<String>),
    /// The right number.
    Number(String),
    /// The columns that the program's template reads.
    Row(serde_json::Value),
    /// Instructions.
    Instructions(Box<IfevalPrompt>),
}

/// A share of one item: what counts, out of what may count.
pub(super) type Share = (f64, f64);

/// Numbers of answers for which pass@k is told, where there are as many.
const PASS_AT: [usize; 2] = [1, 10];

impl Judge {
    /// Names of the figures.
    pub(super) fn figures(&self, samples: usize) -> Vec<String> {
        match self {
            Self::ExactMatch { .. } => vec!["exact_match".to_owned()],
            Self::Number { .. } => ["strict", "flexible"].map(str::to_owned).to_vec(),
            Self::Program { .. } => {
                PASS_AT.iter().filter(|&&k| k <= samples).map(|k| format!("pass@{k}")).collect()
            }
            Self::Instructions => {
                ["prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"]
                    .map(str::to_owned)
                    .to_vec()
            }
        }
    }
}

/// The shares of an item with these answers, one a figure. Programs are judged before, see [`run_programs`].
pub(super) fn shares(gold: &Gold, answers: &[String], passed: &[bool]) -> Vec<Share> {
    let mean = |right: &dyn Fn(&String) -> bool| {
        let count = answers.iter().filter(|answer| right(answer)).count();
        (count as f64 / answers.len().max(1) as f64, 1.0)
    };
    match gold {
        Gold::Texts(right) => vec![mean(&|answer| right.contains(&normalize_answer(answer)))],
        Gold::Number(right) => [NumberRule::Strict, NumberRule::Flexible]
            .map(|rule| mean(&|answer| final_number(answer, rule).as_ref() == Some(right)))
            .to_vec(),
        Gold::Row(_) => {
            let right = passed.iter().filter(|&&passed| passed).count();
            let at = PASS_AT.iter().filter_map(|&k| pass_at_k(passed.len(), right, k));
            at.map(|chance| (chance, 1.0)).collect()
        }
        Gold::Instructions(prompt) => {
            let mut sums = [(0.0, 0.0); 4];
            for answer in answers {
                let followed = prompt.check(answer);
                for (at, list) in [followed.strict, followed.loose].into_iter().enumerate() {
                    let count = list.iter().filter(|&&one| one).count();
                    sums[at].0 += f64::from(u8::from(count == list.len()));
                    sums[at].1 += 1.0;
                    sums[at + 2].0 += count as f64;
                    sums[at + 2].1 += list.len() as f64;
                }
            }
            sums.to_vec()
        }
    }
}

/// Which programs run to their end, as many at once as the pool has threads.
pub(super) fn run_programs(sandbox: &Sandbox, programs: &[String]) -> Result<Vec<bool>, EvaluateError> {
    let run = |program: &String| Ok(sandbox.run(program)?.ending == Ending::Completed);
    programs.par_iter().map(run).collect()
}

/// A figure over items: the sum of what counts over the sum of what may count. The standard error is that of a ratio
/// estimator, items being drawn independently; where each item weighs the same it is that of their mean.
pub(super) fn figure(name: &str, shares: &[Share]) -> Figure {
    let n = shares.len() as f64;
    let (counted, all) = shares.iter().fold((0.0, 0.0), |sum, share| (sum.0 + share.0, sum.1 + share.1));
    let value = if all > 0.0 { counted / all } else { 0.0 };
    let squares: f64 = shares.iter().map(|share| (share.0 - value * share.1).powi(2)).sum();
    let stderr = if n > 1.0 && all > 0.0 { (squares / (n - 1.0) * n).sqrt() / all } else { 0.0 };
    Figure { name: name.to_owned(), value, stderr: Some(stderr) }
}
