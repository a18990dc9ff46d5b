//! Gopher's rules of quality (Rae et al. 2021, appendix A1.1).

use std::borrow::Cow;

use rustc_hash::FxHashSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rejected, TextRule, at_least, at_most, share};
use crate::text::Words;
use crate::text::chars::{ALPHA, SYMBOL_OF_GOPHER, is_space};
use crate::text::lines::split_lines;

/// The bounds between which a page reads like running text. The defaults are the paper's (arXiv
/// 2112.11446, A1.1; datatrove `gopher_quality_filter.py`, release 0.10.1). A least bound of 0 and a
/// share of 1 turn a check off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GopherQuality {
    /// The fewest words that are more than symbols (reason `gopher_short_doc`).
    pub min_doc_words: usize,
    /// The most words that are more than symbols (`gopher_long_doc`).
    pub max_doc_words: usize,
    /// The least mean length of these words, in characters (`gopher_below_avg_threshold`).
    pub min_avg_word_length: f64,
    /// The largest mean length of these words, in characters (`gopher_above_avg_threshold`).
    pub max_avg_word_length: f64,
    /// The most `#` a word (`gopher_too_many_hashes`), and the most ellipses a word
    /// (`gopher_too_many_ellipsis`).
    pub max_symbol_word_ratio: f64,
    /// The largest share of lines that begin with a bullet, 0–1 (`gopher_too_many_bullets`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_bullet_lines_ratio: f64,
    /// The largest share of lines that end with an ellipsis, 0–1 (`gopher_too_many_end_ellipsis`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_ellipsis_lines_ratio: f64,
    /// The least share of words with a letter, 0–1, for all its name in datatrove
    /// (`gopher_below_alpha_threshold`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_non_alpha_words_ratio: f64,
    /// How many of the stop words must be there (`gopher_enough_stop_words`).
    pub min_stop_words: usize,
    /// The stop words, as they are written.
    pub stop_words: Vec<String>,
}

impl Default for GopherQuality {
    fn default() -> Self {
        Self {
            min_doc_words: 50,
            max_doc_words: 100_000,
            min_avg_word_length: 3.0,
            max_avg_word_length: 10.0,
            max_symbol_word_ratio: 0.1,
            max_bullet_lines_ratio: 0.9,
            max_ellipsis_lines_ratio: 0.3,
            max_non_alpha_words_ratio: 0.8,
            min_stop_words: 2,
            stop_words: ["the", "be", "to", "of", "and", "that", "have", "with"].map(str::to_owned).to_vec(),
        }
    }
}

impl TextRule for GopherQuality {
    const NAME: &'static str = "gopher_quality";

    fn apply<'t>(&self, text: &'t str, words: &mut Words) -> Result<Cow<'t, str>, Rejected> {
        words.set(text);
        let (mut full_words, mut full_chars, mut alpha_words) = (0, 0, 0);
        for word in words.iter() {
            if !SYMBOL_OF_GOPHER.covers(word) {
                full_words += 1;
                full_chars += word.chars().count();
            }
            alpha_words += usize::from(word.contains(|c| ALPHA.contains(c)));
        }
        at_least("gopher_short_doc", full_words as f64, self.min_doc_words as f64)?;
        at_most("gopher_long_doc", full_words as f64, self.max_doc_words as f64)?;

        let mean = share(full_chars, full_words);
        at_least("gopher_below_avg_threshold", mean, self.min_avg_word_length)?;
        at_most("gopher_above_avg_threshold", mean, self.max_avg_word_length)?;

        let hashes = text.matches('#').count();
        at_most("gopher_too_many_hashes", share(hashes, words.len()), self.max_symbol_word_ratio)?;
        let ellipses = text.matches("...").count() + text.matches('…').count();
        at_most("gopher_too_many_ellipsis", share(ellipses, words.len()), self.max_symbol_word_ratio)?;

        let (mut lines, mut bullets, mut cut) = (0, 0, 0);
        for line in split_lines(text) {
            lines += 1;
            bullets += usize::from(line.trim_start_matches(is_space).starts_with(['•', '-']));
            let end = line.trim_end_matches(is_space);
            cut += usize::from(end.ends_with("...") || end.ends_with('…'));
        }
        at_most("gopher_too_many_bullets", share(bullets, lines), self.max_bullet_lines_ratio)?;
        at_most("gopher_too_many_end_ellipsis", share(cut, lines), self.max_ellipsis_lines_ratio)?;

        let alpha = share(alpha_words, words.len());
        at_least("gopher_below_alpha_threshold", alpha, self.max_non_alpha_words_ratio)?;

        let stop_words: FxHashSet<&str> = self.stop_words.iter().map(String::as_str).collect();
        let found: FxHashSet<&str> = words.iter().filter(|word| stop_words.contains(word)).collect();
        at_least("gopher_enough_stop_words", found.len() as f64, self.min_stop_words as f64)?;
        Ok(Cow::Borrowed(text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{reason, words};
    use super::*;

    /// `count` words in which two stop words are.
    fn page(count: usize) -> String {
        format!("the of {}", words(count - 2).join(" "))
    }

    #[test]
    fn a_page_has_between_fifty_and_a_hundred_thousand_words() {
        let rule = GopherQuality::default();
        assert_eq!([49, 50].map(|count| reason(&rule, &page(count))), ["gopher_short_doc", ""]);
        // Symbols are no words here.
        assert_eq!(reason(&rule, &format!("{} - ,", page(49))), "gopher_short_doc");
        let rule = GopherQuality { max_doc_words: 60, ..rule };
        assert_eq!([60, 61].map(|count| reason(&rule, &page(count))), ["", "gopher_long_doc"]);
        assert_eq!(GopherQuality::default().max_doc_words, 100_000);
    }

    #[test]
    fn words_are_three_to_ten_characters_long_on_average() {
        let rule = GopherQuality { min_stop_words: 0, ..GopherQuality::default() };
        let text = |length: usize, last: usize| {
            format!("{}{}", format!("{} ", "é".repeat(length)).repeat(49), "é".repeat(last))
        };
        assert_eq!(reason(&rule, &text(3, 3)), "");
        assert_eq!(reason(&rule, &text(3, 2)), "gopher_below_avg_threshold");
        assert_eq!(reason(&rule, &text(10, 10)), "");
        assert_eq!(reason(&rule, &text(10, 11)), "gopher_above_avg_threshold");
    }

    #[test]
    fn one_word_in_ten_may_be_a_hash_or_an_ellipsis() {
        let rule = GopherQuality { max_non_alpha_words_ratio: 0.0, ..GopherQuality::default() };
        for (mark, wanted) in [
            ("#", "gopher_too_many_hashes"),
            ("...", "gopher_too_many_ellipsis"),
            ("…", "gopher_too_many_ellipsis"),
        ] {
            // Marks are words to the ratio: 6 of 60, then 7 of 61.
            let text = |marks: usize| format!("{}{} quzz", page(53), format!(" {mark}").repeat(marks));
            assert_eq!([6, 7].map(|marks| reason(&rule, &text(marks))), ["", wanted], "{mark}");
        }
    }

    #[test]
    fn lines_may_begin_with_bullets_and_end_with_ellipses_up_to_a_share() {
        let rule = GopherQuality { max_non_alpha_words_ratio: 0.0, ..GopherQuality::default() };
        let lines = |bulleted: usize, cut: usize| {
            let line = |at: usize| {
                let (bullet, end) =
                    (if at < bulleted { " - " } else { "" }, if at < cut { "... " } else { "" });
                format!("{bullet}the of {}{end}", words(20).join(" "))
            };
            (0..10).map(line).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(reason(&rule, &lines(9, 0)), "");
        assert_eq!(reason(&rule, &lines(10, 0)), "gopher_too_many_bullets");
        assert_eq!(reason(&rule, &lines(10, 0).replace('-', "•")), "gopher_too_many_bullets");
        assert_eq!(reason(&rule, &lines(0, 3)), "");
        assert_eq!(reason(&rule, &lines(0, 4)), "gopher_too_many_end_ellipsis");
        assert_eq!(reason(&rule, &lines(0, 4).replace("...", "…")), "gopher_too_many_end_ellipsis");
    }

    #[test]
    fn four_words_in_five_have_a_letter() {
        let rule = GopherQuality::default();
        // 48 of 60 words, then 48 of 61.
        let text = |numbers: usize| format!("{} {}", page(48), vec!["12345"; numbers].join(" "));
        assert_eq!(
            [12, 13].map(|numbers| reason(&rule, &text(numbers))),
            ["", "gopher_below_alpha_threshold"]
        );
    }

    #[test]
    fn two_stop_words_are_there_as_they_are_written() {
        let rule = GopherQuality::default();
        let text = |stop_words: &str| format!("{stop_words} {}", words(50).join(" "));
        assert_eq!(reason(&rule, &text("the that")), "");
        for too_few in ["the the", "the", "The That", ""] {
            assert_eq!(reason(&rule, &text(too_few)), "gopher_enough_stop_words", "{too_few}");
        }
    }

    #[test]
    fn nothing_is_no_page_even_without_a_least_length() {
        let rule = GopherQuality { min_doc_words: 0, ..GopherQuality::default() };
        assert_eq!(reason(&rule, ""), "gopher_below_avg_threshold");
    }
}
