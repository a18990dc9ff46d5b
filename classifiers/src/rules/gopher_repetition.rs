//! Gopher's rules against repetition (Rae et al. 2021, table A1).

use std::borrow::Cow;

use rustc_hash::{FxHashMap, FxHashSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rejected, TextRule, at_most};
use crate::text::Words;
use crate::text::lines::{Duplicates, split_at_feeds, trim};

/// The largest shares of a page that may be repetition, 0–1; a bound of 1 (or an empty list) turns a
/// check off. The defaults are the paper's (arXiv 2112.11446, table A1; datatrove
/// `gopher_repetition_filter.py`, release 0.10.1). Lengths are in characters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GopherRepetition {
    /// The share of lines that are equal to an earlier one (reason `dup_line_frac`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dup_line_frac: f64,
    /// The share of paragraphs that are equal to an earlier one (`dup_para_frac`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dup_para_frac: f64,
    /// What part of the text such lines are (`dup_line_char_frac`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dup_line_char_frac: f64,
    /// What part of the text such paragraphs are (`dup_para_char_frac`).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dup_para_char_frac: f64,
    /// For runs of n words: `[n, bound]`, what part of the text the most frequent run is in all its places
    /// (`top_<n>_gram`).
    pub top_n_grams: Vec<(usize, f64)>,
    /// For runs of n words: `[n, bound]`, what part of the text are runs that were there before
    /// (`duplicated_<n>_n_grams`).
    pub dup_n_grams: Vec<(usize, f64)>,
}

impl Default for GopherRepetition {
    fn default() -> Self {
        Self {
            dup_line_frac: 0.3,
            dup_para_frac: 0.3,
            dup_line_char_frac: 0.2,
            dup_para_char_frac: 0.2,
            top_n_grams: vec![(2, 0.2), (3, 0.18), (4, 0.16)],
            dup_n_grams: vec![(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)],
        }
    }
}

impl TextRule for GopherRepetition {
    const NAME: &'static str = "gopher_repetition";

    fn apply<'t>(&self, text: &'t str, words: &mut Words) -> Result<Cow<'t, str>, Rejected> {
        if text.is_empty() {
            return Err(Rejected::new("empty", "there is no text"));
        }
        let chars = text.chars().count() as f64;
        let paragraphs = Duplicates::among(split_at_feeds(trim(text), 2));
        at_most("dup_para_frac", paragraphs.share(), self.dup_para_frac)?;
        at_most("dup_para_char_frac", paragraphs.duplicate_chars as f64 / chars, self.dup_para_char_frac)?;
        let lines = Duplicates::among(split_at_feeds(text, 1));
        at_most("dup_line_frac", lines.share(), self.dup_line_frac)?;
        at_most("dup_line_char_frac", lines.duplicate_chars as f64 / chars, self.dup_line_char_frac)?;

        words.set(text);
        for &(n, bound) in &self.top_n_grams {
            at_most(format_args!("top_{n}_gram"), top_run_chars(words, n) as f64 / chars, bound)?;
        }
        let glued = Glued::new(words);
        let mut seen = FxHashSet::with_capacity_and_hasher(words.len(), Default::default());
        for &(n, bound) in &self.dup_n_grams {
            let repeated = glued.repeated_chars(n, &mut seen) as f64;
            at_most(format_args!("duplicated_{n}_n_grams"), repeated / chars, bound)?;
        }
        Ok(Cow::Borrowed(text))
    }
}

/// The length of the most frequent run of `n` words, times how often it is there. Of equally frequent
/// runs the first counts; runs may overlap.
fn top_run_chars(words: &Words, n: usize) -> usize {
    let mut counts: FxHashMap<&str, (usize, usize)> =
        FxHashMap::with_capacity_and_hasher(words.len(), Default::default());
    let mut top = (0, usize::MAX, "");
    for (at, run) in words.runs(n).enumerate() {
        let (count, first) = counts.entry(run).or_insert((0, at));
        *count += 1;
        if *count > top.0 || (*count == top.0 && *first < top.1) {
            top = (*count, *first, run);
        }
    }
    top.2.chars().count() * top.0
}

/// Words without anything between them.
struct Glued {
    text: String,
    /// Where each word begins, and the last one ends: in bytes, and in characters.
    places: Vec<(usize, usize)>,
}

impl Glued {
    fn new(words: &Words) -> Self {
        let (mut text, mut chars) = (String::new(), 0);
        let mut places = vec![(0, 0)];
        for word in words.iter() {
            text.push_str(word);
            chars += word.chars().count();
            places.push((text.len(), chars));
        }
        Self { text, places }
    }

    /// The length of all runs of `n` words that were there before. A run that was is stepped over as a
    /// whole. `seen` is a buffer.
    fn repeated_chars<'g>(&'g self, n: usize, seen: &mut FxHashSet<&'g str>) -> usize {
        seen.clear();
        let (mut at, mut repeated, n) = (0, 0, n.max(1));
        while at + n < self.places.len() {
            let ((start, chars_before), (end, chars)) = (self.places[at], self.places[at + n]);
            if seen.insert(&self.text[start..end]) {
                at += 1;
            } else {
                repeated += chars - chars_before;
                at += n;
            }
        }
        repeated
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{reason, words};
    use super::*;

    /// Every check turned off.
    fn none() -> GopherRepetition {
        GopherRepetition {
            dup_line_frac: 1.0,
            dup_para_frac: 1.0,
            dup_line_char_frac: 1.0,
            dup_para_char_frac: 1.0,
            top_n_grams: Vec::new(),
            dup_n_grams: Vec::new(),
        }
    }

    #[test]
    fn an_empty_text_is_rejected() {
        assert_eq!(reason(&none(), ""), "empty");
        assert_eq!(reason(&GopherRepetition::default(), " "), "");
    }

    #[test]
    fn lines_and_paragraphs_may_be_repeated_up_to_their_share() {
        // Three of ten are repetitions, then four of eleven.
        let text = |between: &str, copies: usize| {
            let mut pieces: Vec<String> = words(7);
            pieces.extend(vec!["quaa".to_owned(); copies]);
            pieces.join(between)
        };
        let rule = GopherRepetition { dup_line_frac: 0.3, ..none() };
        assert_eq!([3, 4].map(|copies| reason(&rule, &text("\n", copies))), ["", "dup_line_frac"]);
        let rule = GopherRepetition { dup_para_frac: 0.3, ..none() };
        assert_eq!([3, 4].map(|copies| reason(&rule, &text("\n\n\n", copies))), ["", "dup_para_frac"]);
        assert_eq!(reason(&rule, &text("\n", 4)), "");
    }

    #[test]
    fn repeated_lines_and_paragraphs_may_be_so_much_of_the_text() {
        // Twenty of a hundred characters are repetition, then twenty of 99.
        let text = |between: &str, rest: usize| {
            [&"a".repeat(20), &"b".repeat(rest - 40 - 2 * between.len()), &"a".repeat(20)]
                .map(String::as_str)
                .join(between)
        };
        let rule = GopherRepetition { dup_line_char_frac: 0.2, ..none() };
        assert_eq!([100, 99].map(|all| reason(&rule, &text("\n", all))), ["", "dup_line_char_frac"]);
        let rule = GopherRepetition { dup_para_char_frac: 0.2, ..none() };
        assert_eq!([100, 99].map(|all| reason(&rule, &text("\n\n", all))), ["", "dup_para_char_frac"]);
    }

    #[test]
    fn the_most_frequent_run_may_be_so_much_of_the_text() {
        // Each pair stands twice, so the first one counts: 2 × 9 of 45 and of 44 characters.
        for (n, chars) in [(2, 9), (3, 14), (4, 19)] {
            let run = words(n).join(" ");
            let text = |rest: usize| format!("{run} {} {run}", "z".repeat(rest));
            let all = (2 * chars * 5) / 2;
            let rule = GopherRepetition { top_n_grams: vec![(n, 0.4)], ..none() };
            let rest = all - 2 * chars - 2;
            let wanted = format!("top_{n}_gram");
            assert_eq!([rest, rest - 1].map(|rest| reason(&rule, &text(rest))), ["", wanted.as_str()]);
        }
        // Of runs that are equally frequent the first counts, though a later one is longer.
        let mut all = Words::default();
        all.set("a b longer still longer still a b");
        assert_eq!(top_run_chars(&all, 2), 6);
    }

    #[test]
    fn runs_that_were_there_before_may_be_so_much_of_the_text() {
        for n in 5..=10 {
            // The run is 4 n characters without its spaces.
            let run = words(n).join(" ");
            let text = |all: usize| format!("{run} {} {run}", "z".repeat(all - 2 * run.len() - 2));
            let rule = GopherRepetition { dup_n_grams: vec![(n, 0.1)], ..none() };
            let wanted = format!("duplicated_{n}_n_grams");
            assert_eq!([40 * n, 40 * n - 1].map(|all| reason(&rule, &text(all))), ["", wanted.as_str()]);
        }
    }

    #[test]
    fn the_bounds_are_the_papers() {
        let rule = GopherRepetition::default();
        assert_eq!((rule.dup_line_frac, rule.dup_para_frac), (0.3, 0.3));
        assert_eq!((rule.dup_line_char_frac, rule.dup_para_char_frac), (0.2, 0.2));
        assert_eq!(rule.top_n_grams, [(2, 0.2), (3, 0.18), (4, 0.16)]);
        assert_eq!(rule.dup_n_grams, [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)]);
    }
}
