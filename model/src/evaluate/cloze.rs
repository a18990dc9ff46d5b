//! Cloze questions: the likeliest continuation is the answer.

use super::{EvaluateError, Request, Scorer};
use crate::files::failed;
use crate::tokenizer::END_OF_TEXT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// Items that are scored between two calls of a progress callback.
const STEP_ITEMS: usize = 64;

/// A question answered by choosing the likeliest continuation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClozeItem {
    /// The text before the choice, without a space at its end.
    pub context: String,
    /// The continuations, without a space before them.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub answer: usize,
    /// What the item is counted under, beside the whole: a subject of MMLU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What a choice's summed log-probability is divided by for `acc_norm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// Its characters, without the space before it (`loglikelihood_acc_norm_nospace` of huggingface/lighteval
    /// `src/lighteval/metrics/normalizations.py`; EleutherAI/lm-evaluation-harness counts alike).
    #[default]
    Characters,
    /// Its characters and the space before it (lighteval's `loglikelihood_acc_norm`).
    CharactersAndSpace,
    /// Its bytes in UTF-8, without the space before it.
    Bytes,
    /// Its tokens.
    Tokens,
}

/// What a context starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextStart {
    /// Its text, as lighteval has it with tokenizers that put nothing first.
    Text,
    /// `<|endoftext|>`, as documents do in training.
    #[default]
    EndOfText,
}

/// How cloze items are answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClozeOptions {
    /// What a choice's summed log-probability is divided by for `acc_norm`.
    pub normalizer: Normalizer,
    /// What a context starts with.
    pub start: ContextStart,
}

/// A choice's score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChoiceScore {
    /// Summed log-probability of its tokens (nats).
    pub log_probability: f64,
    /// Number of its tokens.
    pub tokens: usize,
}

/// Accuracy on cloze items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClozeReport {
    /// Items answered.
    pub items: usize,
    /// Share where the right choice has the highest summed log-probability.
    pub acc: f64,
    /// Share where it has the highest one divided by its length (see [`Normalizer`]).
    pub acc_norm: f64,
    /// Standard error of `acc`.
    pub acc_stderr: f64,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: f64,
}

/// The cloze items that come with this crate: general science and computing, in our own words.
pub const SAMPLE_ITEMS: &str = include_str!("../../data/cloze_sample.jsonl");

impl ClozeItem {
    /// What makes the item unusable, if anything does.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.choices.len() < 2 || self.answer >= self.choices.len() {
            return Some(format!("answer {} of {} choices", self.answer, self.choices.len()));
        }
        let empty = self.choices.iter().any(|choice| choice.trim().is_empty());
        empty.then(|| "a choice is empty".to_owned())
    }
}

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
        if let Some(problem) = item.problem() {
            return Err(bad(problem));
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

/// Answers `items` zero-shot with the default options. A context too long for the model loses its beginning.
///
/// # Errors
/// [`EvaluateError`] if scoring fails or there is no item.
pub fn cloze(scorer: &mut dyn Scorer, items: &[ClozeItem]) -> Result<ClozeReport, EvaluateError> {
    let options = ClozeOptions::default();
    let go_on = &mut |_, _| ControlFlow::Continue(());
    // Nothing stops it, so that there is an answer.
    let scores = score_items(scorer, items, &options, go_on)?.unwrap_or_default();
    judge(items, &scores, options.normalizer)
}

/// The scores of every item's choices, in order. `progress` hears the items done and those in all; when it
/// breaks, there is none.
///
/// Items are taken longest first, so that those scored together are about equally long. A context too long for
/// the model loses its beginning.
///
/// # Errors
/// [`EvaluateError`] if scoring fails or there is no item.
pub fn score_items(
    scorer: &mut dyn Scorer,
    items: &[ClozeItem],
    options: &ClozeOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<ChoiceScore>>>, EvaluateError> {
    if items.is_empty() {
        return Err(EvaluateError::Nothing("the list of cloze items"));
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    let letters = |item: &ClozeItem| item.context.len() + item.choices.iter().map(String::len).sum::<usize>();
    order.sort_by_key(|&i| (std::cmp::Reverse(letters(&items[i])), i));
    let mut scores = vec![Vec::new(); items.len()];
    let mut done = 0;
    for group in order.chunks(STEP_ITEMS) {
        let requests = group
            .iter()
            .map(|&i| request(scorer, &items[i], options.start))
            .collect::<Result<Vec<_>, EvaluateError>>()?;
        let answers = scorer.continuations(&requests)?;
        for (&i, answer) in group.iter().zip(answers) {
            let sum = |tokens: &Vec<f32>| ChoiceScore {
                log_probability: tokens.iter().map(|&token| f64::from(token)).sum(),
                tokens: tokens.len(),
            };
            scores[i] = answer.iter().map(sum).collect();
        }
        done += group.len();
        if progress(done, items.len()).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(scores))
}

/// An item's tokens, within the model's context.
fn request(scorer: &dyn Scorer, item: &ClozeItem, start: ContextStart) -> Result<Request, EvaluateError> {
    let longest = scorer.context_tokens();
    let mut context = match start {
        ContextStart::Text => Vec::new(),
        ContextStart::EndOfText => vec![END_OF_TEXT],
    };
    context.extend(scorer.encode(&item.context)?);
    if context.is_empty() {
        // The first token needs something to be predicted from.
        context.push(END_OF_TEXT);
    }
    let mut continuations = Vec::with_capacity(item.choices.len());
    for choice in &item.choices {
        let mut choice = scorer.encode(&format!(" {choice}"))?;
        choice.truncate(longest - 1);
        continuations.push(choice);
    }
    let room = longest - continuations.iter().map(Vec::len).max().unwrap_or(0);
    context.drain(..context.len().saturating_sub(room));
    Ok(Request { context, continuations })
}

/// Accuracy of scored items.
///
/// # Errors
/// [`EvaluateError::Nothing`] without an item.
pub fn judge(
    items: &[ClozeItem],
    scores: &[Vec<ChoiceScore>],
    normalizer: Normalizer,
) -> Result<ClozeReport, EvaluateError> {
    let (mut right, mut right_norm) = (0usize, 0usize);
    for (item, scores) in items.iter().zip(scores) {
        let plain: Vec<f64> = scores.iter().map(|score| score.log_probability).collect();
        let length = |choice: &str, tokens: usize| match normalizer {
            Normalizer::Characters => choice.chars().count(),
            Normalizer::CharactersAndSpace => choice.chars().count() + 1,
            Normalizer::Bytes => choice.len(),
            Normalizer::Tokens => tokens,
        };
        let normalised: Vec<f64> = scores
            .iter()
            .zip(&item.choices)
            .map(|(score, choice)| score.log_probability / length(choice, score.tokens).max(1) as f64)
            .collect();
        right += usize::from(best(&plain) == item.answer);
        right_norm += usize::from(best(&normalised) == item.answer);
    }
    let n = items.len().min(scores.len());
    if n == 0 {
        return Err(EvaluateError::Nothing("the list of cloze items"));
    }
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

/// Accuracy by [group](ClozeItem::group); empty where no item has one.
///
/// # Errors
/// As [`judge`].
pub fn judge_groups(
    items: &[ClozeItem],
    scores: &[Vec<ChoiceScore>],
    normalizer: Normalizer,
) -> Result<BTreeMap<String, ClozeReport>, EvaluateError> {
    let mut groups: BTreeMap<&str, (Vec<ClozeItem>, Vec<Vec<ChoiceScore>>)> = BTreeMap::new();
    for (item, scores) in items.iter().zip(scores) {
        if let Some(group) = &item.group {
            let (items, all) = groups.entry(group).or_default();
            items.push(item.clone());
            all.push(scores.clone());
        }
    }
    let judged = groups
        .into_iter()
        .map(|(name, (items, scores))| Ok((name.to_owned(), judge(&items, &scores, normalizer)?)));
    judged.collect()
}

/// Index of the largest value; the first of equals.
fn best(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, &value)| if value > values[best] { i } else { best })
}
