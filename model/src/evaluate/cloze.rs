//! Cloze questions: the likeliest continuation is the answer.

use super::{EvaluateError, Scorer};
use crate::files::failed;
use crate::tokenizer::END_OF_TEXT;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A question answered by choosing the likeliest continuation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClozeItem {
    /// The text before the choice, without a space at its end.
    pub context: String,
    /// The continuations, without a space before them.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub answer: usize,
}

/// Accuracy on cloze items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClozeReport {
    /// Items answered.
    pub items: usize,
    /// Share where the right choice has the highest summed log-probability.
    pub acc: f64,
    /// Share where it has the highest one divided by the choice's characters.
    ///
    /// Source: huggingface/lighteval `src/lighteval/metrics/` (length normalisation by characters, without
    /// the space before the choice).
    pub acc_norm: f64,
    /// Standard error of `acc`.
    pub acc_stderr: f64,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: f64,
}

/// The cloze items that come with this crate: general science and computing, in our own words.
pub const SAMPLE_ITEMS: &str = include_str!("../../data/cloze_sample.jsonl");

/// Reads cloze items from JSONL `text`; `path` is named in errors.
///
/// # Errors
/// [`EvaluateError::Item`] for the first line that is no item.
pub fn parse_cloze(text: &str, path: &Path) -> Result<Vec<ClozeItem>, EvaluateError> {
    let mut items = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let bad =
            |problem: String| EvaluateError::Item { path: path.to_path_buf(), line: number + 1, problem };
        let item: ClozeItem = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        if item.choices.len() < 2 || item.answer >= item.choices.len() {
            return Err(bad(format!("answer {} of {} choices", item.answer, item.choices.len())));
        }
        if item.choices.iter().any(|choice| choice.trim().is_empty()) {
            return Err(bad("a choice is empty".to_owned()));
        }
        items.push(item);
    }
    Ok(items)
}

/// Reads a JSONL file of cloze items.
///
/// # Errors
/// [`EvaluateError`] if the file cannot be read or has a malformed line.
pub fn read_cloze(path: &Path) -> Result<Vec<ClozeItem>, EvaluateError> {
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    parse_cloze(&text, path)
}

/// Answers `items` zero-shot. A context too long for the model loses its beginning.
///
/// # Errors
/// [`EvaluateError`] if scoring fails or there is no item.
pub fn cloze(scorer: &mut dyn Scorer, items: &[ClozeItem]) -> Result<ClozeReport, EvaluateError> {
    if items.is_empty() {
        return Err(EvaluateError::Nothing("the list of cloze items"));
    }
    let longest = scorer.context_tokens();
    let (mut right, mut right_norm) = (0usize, 0usize);
    for group in items.chunks(64) {
        let mut sequences = Vec::new();
        let mut choice_tokens = Vec::new();
        for item in group {
            let context: Vec<u32> =
                std::iter::once(END_OF_TEXT).chain(scorer.encode(&item.context)?).collect();
            for choice in &item.choices {
                let mut choice = scorer.encode(&format!(" {choice}"))?;
                choice.truncate(longest - 1);
                let room = longest - choice.len();
                let kept = &context[context.len().saturating_sub(room)..];
                choice_tokens.push(choice.len());
                sequences.push([kept, &choice].concat());
            }
        }
        let losses = scorer.losses(&sequences)?;
        let mut sums = losses.iter().zip(&choice_tokens).map(|(losses, &tokens)| {
            -losses[losses.len().saturating_sub(tokens)..].iter().map(|&loss| f64::from(loss)).sum::<f64>()
        });
        for item in group {
            let log_probabilities: Vec<f64> = sums.by_ref().take(item.choices.len()).collect();
            let normalised: Vec<f64> = log_probabilities
                .iter()
                .zip(&item.choices)
                .map(|(sum, choice)| sum / choice.chars().count() as f64)
                .collect();
            right += usize::from(best(&log_probabilities) == item.answer);
            right_norm += usize::from(best(&normalised) == item.answer);
        }
    }
    let n = items.len();
    let share = |count: usize| count as f64 / n as f64;
    let stderr = |p: f64| {
        if n > 1 { (p * (1.0 - p) / (n - 1) as f64).sqrt() } else { 0.0 }
    };
    Ok(ClozeReport {
        items: n,
        acc: share(right),
        acc_norm: share(right_norm),
        acc_stderr: stderr(share(right)),
        acc_norm_stderr: stderr(share(right_norm)),
    })
}

/// Index of the largest value; the first of equals.
fn best(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, &value)| if value > values[best] { i } else { best })
}
