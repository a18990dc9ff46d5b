//! FineWeb's own rules (Penedo et al. 2024, section 3.6).

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rejected, TextRule, at_least, at_most, share};
use crate::text::Words;
use crate::text::chars::TERMINAL_PUNCTUATION;
use crate::text::lines::{Duplicates, trim};

/// The bounds on how a page's lines look. The defaults are FineWeb's (arXiv 2406.17557; datatrove
/// `fineweb_quality_filter.py`, release 0.10.1). Empty lines do not count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FinewebQuality {
    /// The least share of lines that end with a mark which ends a sentence, 0–1 (reason
    /// `line_punct_ratio`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub line_punct_thr: f64,
    /// Keep pages of which no line ends so.
    pub line_punct_exclude_zero: bool,
    /// The largest share of short lines, 0–1 (`short_line_ratio`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub short_line_thr: f64,
    /// A line of so many characters or fewer is short.
    pub short_line_length: usize,
    /// The largest share of characters in lines that are equal to an earlier one, 0–1
    /// (`char_dup_ratio`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub char_duplicates_ratio: f64,
    /// The most line feeds a word (`list_ratio`).
    pub new_line_ratio: f64,
}

impl Default for FinewebQuality {
    fn default() -> Self {
        Self {
            line_punct_thr: 0.12,
            line_punct_exclude_zero: false,
            short_line_thr: 0.67,
            short_line_length: 30,
            char_duplicates_ratio: 0.01,
            new_line_ratio: 0.3,
        }
    }
}

impl TextRule for FinewebQuality {
    const NAME: &'static str = "fineweb_quality";

    fn apply<'t>(&self, text: &'t str, words: &mut Words) -> Result<Cow<'t, str>, Rejected> {
        let lines: Vec<&str> = text.split('\n').filter(|line| !trim(line).is_empty()).collect();
        if lines.is_empty() {
            return Err(Rejected::new("empty", "there is no text"));
        }
        let ended = lines.iter().filter(|line| line.ends_with(|c| TERMINAL_PUNCTUATION.contains(c))).count();
        if ended > 0 || !self.line_punct_exclude_zero {
            at_least("line_punct_ratio", share(ended, lines.len()), self.line_punct_thr)?;
        }
        let short = lines.iter().filter(|line| line.chars().count() <= self.short_line_length).count();
        at_most("short_line_ratio", share(short, lines.len()), self.short_line_thr)?;

        let feeds = text.matches('\n').count();
        let duplicates = Duplicates::among(lines.into_iter());
        let duplicate_share = share(duplicates.duplicate_chars, text.chars().count() - feeds);
        at_most("char_dup_ratio", duplicate_share, self.char_duplicates_ratio)?;

        words.set(text);
        at_most("list_ratio", share(feeds, words.len()), self.new_line_ratio)?;
        Ok(Cow::Borrowed(text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{reason, words};
    use super::*;

    /// Lines of two hundred characters, no two alike, of which the first `ended` end a sentence.
    fn page(lines: usize, ended: usize) -> String {
        let line = |at: usize| {
            let words = words(45 + at).split_off(at).join(" ");
            format!("{words}{}", if at < ended { "." } else { "" })
        };
        (0..lines).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nothing_and_white_space_are_empty() {
        for text in ["", " \n\t\n"] {
            assert_eq!(reason(&FinewebQuality::default(), text), "empty");
        }
    }

    #[test]
    fn twelve_lines_in_a_hundred_end_a_sentence() {
        let rule = FinewebQuality::default();
        assert_eq!([12, 11].map(|ended| reason(&rule, &page(100, ended))), ["", "line_punct_ratio"]);
        assert_eq!(reason(&rule, &page(100, 12).replace('.', "。")), "");
        assert_eq!(reason(&rule, &page(100, 12).replace('.', ". ")), "line_punct_ratio");
        let rule = FinewebQuality { line_punct_exclude_zero: true, ..rule };
        assert_eq!([0, 1].map(|ended| reason(&rule, &page(100, ended))), ["", "line_punct_ratio"]);
    }

    #[test]
    fn two_lines_in_three_may_be_short() {
        let text = |short: usize, length: usize| {
            let line = |at: usize| format!("{}{at:03}.", "é".repeat(length - 4));
            let short = (0..short).map(line).collect::<Vec<_>>().join("\n");
            format!("{}\n\n\n{short}", page(33, 33))
        };
        let rule = FinewebQuality { new_line_ratio: 1.0, ..FinewebQuality::default() };
        assert_eq!(reason(&rule, &text(67, 30)), "");
        assert_eq!(reason(&rule, &text(68, 30)), "short_line_ratio");
        assert_eq!(reason(&rule, &text(68, 31)), "");
    }

    #[test]
    fn one_character_in_a_hundred_may_be_in_a_repeated_line() {
        // Forty of 4,000 characters, then of 3,999.
        let text = |all: usize| {
            let line = format!("{}.", "a".repeat(39));
            format!(
                "{line}\n{}.\n{line}",
                format!("{} ", "b".repeat(9)).repeat(400).chars().take(all - 81).collect::<String>()
            )
        };
        let rule = FinewebQuality::default();
        assert_eq!([4_000, 3_999].map(|all| reason(&rule, &text(all))), ["", "char_dup_ratio"]);
    }

    #[test]
    fn there_are_three_line_feeds_to_ten_words_at_most() {
        // Thirty line feeds, among a hundred words and among 99.
        let text = |count: usize| {
            let mut lines: Vec<String> =
                words(31).iter().map(|word| format!("{word}{}", "x".repeat(40))).collect();
            lines.push(words(count).split_off(31).join(" "));
            lines.join("\n").replacen('\n', " ", 1)
        };
        let rule = FinewebQuality { line_punct_thr: 0.0, ..FinewebQuality::default() };
        assert_eq!([100, 99].map(|count| reason(&rule, &text(count))), ["", "list_ratio"]);
    }

    #[test]
    fn the_bounds_are_finewebs() {
        let rule = FinewebQuality::default();
        assert_eq!((rule.line_punct_thr, rule.short_line_thr, rule.short_line_length), (0.12, 0.67, 30));
        assert_eq!((rule.char_duplicates_ratio, rule.new_line_ratio), (0.01, 0.3));
    }
}
