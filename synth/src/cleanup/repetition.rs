//! Repetition, by the measures of Gopher.

use std::collections::{HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest tolerated parts of repeated text, between 0 and 1; a text with more is dropped.
///
/// The values are those of Gopher (Rae et al. 2021, table A1), as in huggingface/datatrove
/// `src/datatrove/pipeline/filters/gopher_repetition_filter.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepetitionLimits {
    /// Part of the lines that were said before.
    pub duplicate_lines: f64,
    /// Part of the paragraphs that were said before.
    pub duplicate_paragraphs: f64,
    /// Part of the characters in lines that were said before.
    pub duplicate_line_chars: f64,
    /// Part of the characters in paragraphs that were said before.
    pub duplicate_paragraph_chars: f64,
    /// Part of the characters in the most frequent run of 2, 3 and 4 words.
    pub top_ngram_chars: [f64; 3],
    /// Part of the characters in runs of 5, 6, … 10 words that were said before.
    pub duplicate_ngram_chars: [f64; 6],
}

impl Default for RepetitionLimits {
    fn default() -> Self {
        Self {
            duplicate_lines: 0.30,
            duplicate_paragraphs: 0.30,
            duplicate_line_chars: 0.20,
            duplicate_paragraph_chars: 0.20,
            top_ngram_chars: [0.20, 0.18, 0.16],
            duplicate_ngram_chars: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        }
    }
}

/// The first measure that a text goes beyond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Repetition {
    /// Lines or paragraphs come again; the part of the text.
    Lines(f64),
    /// Runs of `words` words come again; the part of the text.
    Ngrams {
        /// Length of the run.
        words: usize,
        /// Part of the characters.
        part: f64,
    },
}

/// The first measure of Gopher that the text goes beyond, if any: paragraphs, lines, frequent short
/// runs, repeated long runs. Words are runs of letters, digits and apostrophes, in lower case; a run
/// that occurs once is no repetition, however short the text.
#[must_use]
pub fn find_repetition(text: &str, limits: &RepetitionLimits) -> Option<Repetition> {
    let text = text.trim();
    let chars = text.chars().count().max(1) as f64;
    let paragraphs: Vec<&str> = text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()).collect();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let units = [
        (paragraphs, limits.duplicate_paragraphs, limits.duplicate_paragraph_chars),
        (lines, limits.duplicate_lines, limits.duplicate_line_chars),
    ];
    for (units, count_limit, chars_limit) in units {
        let (count, unit_chars) = said_before(&units);
        let parts = [
            (count as f64 / units.len().max(1) as f64, count_limit),
            (unit_chars as f64 / chars, chars_limit),
        ];
        if let Some((part, _)) = parts.into_iter().find(|(part, limit)| part > limit) {
            return Some(Repetition::Lines(part));
        }
    }

    let lower = text.to_lowercase();
    let words = words(&lower);
    for (words_in_run, limit) in (2..).zip(limits.top_ngram_chars) {
        let part = most_frequent_chars(&words, words_in_run) as f64 / chars;
        if part > limit {
            return Some(Repetition::Ngrams { words: words_in_run, part });
        }
    }
    for (words_in_run, limit) in (5..).zip(limits.duplicate_ngram_chars) {
        let part = repeated_chars(&words, words_in_run) as f64 / chars;
        if part > limit {
            return Some(Repetition::Ngrams { words: words_in_run, part });
        }
    }
    None
}

/// Runs of letters, digits and apostrophes.
pub(crate) fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '’')).filter(|w| !w.is_empty()).collect()
}

/// How many of the units, with how many characters, occurred before.
fn said_before(units: &[&str]) -> (usize, usize) {
    let mut seen = HashSet::new();
    let repeated: Vec<usize> =
        units.iter().filter(|u| !seen.insert(**u)).map(|u| u.chars().count()).collect();
    (repeated.len(), repeated.iter().sum())
}

fn run_chars(run: &[&str]) -> usize {
    run.iter().map(|w| w.chars().count()).sum::<usize>() + run.len() - 1
}

/// Characters in all occurrences of the run that covers most, among those that occur twice or more.
fn most_frequent_chars(words: &[&str], n: usize) -> usize {
    let mut counts: HashMap<&[&str], usize> = HashMap::new();
    for run in words.windows(n) {
        *counts.entry(run).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0);
    if most < 2 {
        return 0;
    }
    // Of runs equally frequent the longest counts, so that the result does not hang on their order.
    counts
        .iter()
        .filter(|(_, count)| **count == most)
        .map(|(run, count)| run_chars(run) * count)
        .max()
        .unwrap_or(0)
}

/// Characters in runs of `n` words that occurred before; a repeated run is counted once and skipped.
fn repeated_chars(words: &[&str], n: usize) -> usize {
    let mut seen: HashSet<&[&str]> = HashSet::new();
    let (mut at, mut chars) = (0, 0);
    while at + n <= words.len() {
        let run = &words[at..at + n];
        if seen.insert(run) {
            at += 1;
        } else {
            chars += run_chars(run);
            at += n;
        }
    }
    chars
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` different words.
    fn prose(n: usize, from: usize) -> String {
        (from..from + n).map(|i| format!("w{i}x")).collect::<Vec<_>>().join(" ")
    }

    fn find(text: &str) -> Option<Repetition> {
        find_repetition(text, &RepetitionLimits::default())
    }

    #[test]
    fn lines_are_measured_on_both_sides_of_the_bound() {
        // Ten lines, of which 3 (0.30, allowed) or 4 (0.40) were said before; their characters are few.
        let text = |repeated: usize| {
            let mut lines: Vec<String> = (0..10 - repeated).map(|i| prose(30, i * 30)).collect();
            lines[0] = "one".into();
            lines.extend(vec!["one".to_string(); repeated]);
            lines.join("\n")
        };
        assert_eq!(find(&text(3)), None);
        assert_eq!(find(&text(4)), Some(Repetition::Lines(0.4)));
    }

    #[test]
    fn characters_in_repeated_lines_are_measured_too() {
        let long = prose(40, 0);
        let others: Vec<String> = (1..6).map(|i| prose(18, i * 100)).collect();
        let text = format!("{long}\n{}\n{long}", others.join("\n"));
        assert!(matches!(find(&text), Some(Repetition::Lines(part)) if part > 0.2 && part < 0.3));
    }

    #[test]
    fn paragraphs_that_come_again_are_found_though_their_lines_are_counted_together() {
        let text = format!("{}\n\n{}\n\n{}", prose(30, 0), prose(30, 50), prose(30, 0));
        assert!(matches!(find(&text), Some(Repetition::Lines(_))));
    }

    #[test]
    fn a_frequent_pair_of_words_is_measured_on_both_sides_of_the_bound() {
        // "ab cd" is 5 characters; 8 of them are 40 of the text's characters.
        let text = |other_chars: usize| {
            let fill = prose(400, 1000);
            let mut pieces = Vec::new();
            let mut rest = fill.split(' ');
            for _ in 0..8 {
                pieces.push("ab cd".to_string());
                pieces.push(rest.next().unwrap().to_string());
            }
            let mut text = pieces.join(" ");
            let missing = other_chars + 40 - text.len() - 1;
            text.push(' ');
            text.push_str(&fill[fill.len() - missing..]);
            text
        };
        assert_eq!(find(&text(160)), None);
        assert_eq!(find(&text(159)), Some(Repetition::Ngrams { words: 2, part: 40.0 / 199.0 }));
    }

    #[test]
    fn a_long_run_that_comes_again_is_found_and_once_is_no_repetition() {
        let run = prose(12, 0);
        let text = |gap: usize| format!("{run} {} {run}", prose(gap, 100));
        assert!(
            matches!(find(&text(20)), Some(Repetition::Ngrams { words: 5.., .. })),
            "{:?}",
            find(&text(20))
        );
        assert_eq!(find(&text(200)), None);
        assert_eq!(find("One two three four."), None);
        assert_eq!(find(""), None);
    }
}
