//! One answer: keep it, mend it, or drop it with a reason.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::copying::longest_common_run;
use super::opening::remove_opening;
use super::refusal::is_refusal;
use super::repetition::{Repetition, RepetitionLimits, find_repetition};
use crate::text::{CLOSERS, SENTENCE_ENDS};

/// Answers below this many tokens are asked for again (huggingface/cosmopedia `generation/`).
pub const PUBLISHED_MIN_TOKENS: u32 = 150;

/// What becomes of an answer that the length limit cut off within a sentence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CutAnswers {
    /// It is dropped as `cut_without_sentence_end`.
    #[default]
    Drop,
    /// It is kept up to its last whole sentence; dropped when it has none.
    KeepWholeSentences,
}

/// Which answers are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CleanOptions {
    /// Fewest tokens of an answer; 150 in the published recipe.
    pub min_tokens: u32,
    /// Longest run of words that an answer may share with its seed page; 100 in the published recipe.
    pub max_copied_words: usize,
    /// What becomes of answers cut by the length limit within a sentence.
    pub cut_answers: CutAnswers,
    /// Largest parts of repeated text.
    pub repetition: RepetitionLimits,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self {
            min_tokens: PUBLISHED_MIN_TOKENS,
            max_copied_words: 100,
            cut_answers: CutAnswers::Drop,
            repetition: RepetitionLimits::default(),
        }
    }
}

/// Why an answer is dropped; the name in rejects is that of [`DropReason::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Nothing was said, or nothing but a formula.
    Empty,
    /// The model declined.
    Refusal,
    /// Fewer tokens than `min_tokens`.
    TooShort,
    /// Cut by the length limit within a sentence.
    CutWithoutSentenceEnd,
    /// Lines or paragraphs come again too often.
    RepeatedLine,
    /// Runs of words come again too often.
    RepeatedNgram,
    /// More than `max_copied_words` words in a row are the seed's.
    CopiesSeed,
}

impl DropReason {
    /// The name in snake_case, as in manifests and side tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Refusal => "refusal",
            Self::TooShort => "too_short",
            Self::CutWithoutSentenceEnd => "cut_without_sentence_end",
            Self::RepeatedLine => "repeated_line",
            Self::RepeatedNgram => "repeated_ngram",
            Self::CopiesSeed => "copies_seed",
        }
    }
}

/// An answer as it came.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// The text.
    pub text: &'a str,
    /// Why it ended; `length` means that the limit cut it.
    pub finish_reason: &'a str,
    /// Its length in the model's tokens.
    pub tokens: u32,
    /// The extract that stood in the prompt.
    pub seed_text: &'a str,
}

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The text to keep.
    pub text: String,
    /// The formula opening that was taken off, if there was one.
    pub removed_opening: Option<String>,
}

/// An answer that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The rule.
    pub reason: DropReason,
    /// What was found, with the bound.
    pub detail: String,
}

/// Applies the rules, in this order: empty, refusal, too short, formula opening (taken off), cut
/// within a sentence, repetition, copy of the seed.
///
/// # Errors
/// [`Dropped`] with the first rule that the answer breaks.
pub fn clean_completion(options: &CleanOptions, completion: &Completion<'_>) -> Result<Cleaned, Dropped> {
    let drop = |reason, detail: String| Err(Dropped { reason, detail });
    if completion.text.trim().is_empty() {
        return drop(DropReason::Empty, "the answer has no text".to_string());
    }
    if is_refusal(completion.text) {
        let opening: String = completion.text.trim().chars().take(80).collect();
        return drop(DropReason::Refusal, format!("the answer begins: {opening}"));
    }
    if completion.tokens < options.min_tokens {
        return drop(
            DropReason::TooShort,
            format!("{} tokens, fewer than {}", completion.tokens, options.min_tokens),
        );
    }
    let opened = remove_opening(completion.text);
    let mut text = opened.text;
    if !text.chars().any(char::is_alphanumeric) {
        return drop(DropReason::Empty, "the answer is nothing but a formula".to_string());
    }
    if completion.finish_reason == "length" && !ends_whole(&text) {
        let kept = match options.cut_answers {
            CutAnswers::Drop => None,
            CutAnswers::KeepWholeSentences => whole_sentences(&text),
        };
        let Some(kept) = kept else {
            let end: String = text.chars().skip(text.chars().count().saturating_sub(40)).collect();
            return drop(DropReason::CutWithoutSentenceEnd, format!("cut by the length limit at: …{end}"));
        };
        text = kept;
    }
    match find_repetition(&text, &options.repetition) {
        Some(Repetition::Lines(part)) => {
            return drop(
                DropReason::RepeatedLine,
                format!("{:.1} % of the text are lines said before", part * 100.0),
            );
        }
        Some(Repetition::Ngrams { words, part }) => {
            return drop(
                DropReason::RepeatedNgram,
                format!("{:.1} % of the text are repeated runs of {words} words", part * 100.0),
            );
        }
        None => {}
    }
    let copied = longest_common_run(&text, completion.seed_text);
    if copied > options.max_copied_words {
        return drop(
            DropReason::CopiesSeed,
            format!("{copied} words in a row are the seed's, more than {}", options.max_copied_words),
        );
    }
    Ok(Cleaned { text, removed_opening: opened.removed })
}

/// Whether a text ends a sentence, a code block or a formula.
fn ends_whole(text: &str) -> bool {
    let text = text.trim_end();
    let closes_block = text.ends_with("```") && text.matches("```").count().is_multiple_of(2);
    let closes_formula =
        text.ends_with("$$") && text.matches("$$").count().is_multiple_of(2) || text.ends_with("\\]");
    closes_block || closes_formula || text.trim_end_matches(CLOSERS).ends_with(SENTENCE_ENDS)
}

/// The text up to its last whole sentence. A full stop of a number (`3.14`, `2.` at the start of a
/// line) ends none.
fn whole_sentences(text: &str) -> Option<String> {
    let ends = text.char_indices().rev().filter(|(_, c)| SENTENCE_ENDS.contains(c));
    for (at, c) in ends {
        let after = &text[at + c.len_utf8()..];
        let tail = after.trim_start_matches(CLOSERS);
        let line = text[..at].rsplit('\n').next().unwrap_or_default();
        let is_number = c == '.' && line.trim().chars().all(|c| c.is_ascii_digit() || "*#".contains(c));
        if (tail.is_empty() || tail.starts_with(char::is_whitespace)) && !is_number {
            let kept = text[..text.len() - tail.len()].trim_end();
            let is_in_code = kept.matches("```").count() % 2 == 1;
            if !is_in_code {
                return Some(kept.to_string());
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
