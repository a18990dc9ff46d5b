//! C4's rules (Raffel et al. 2020, section 2.2), line by line.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rejected, TextRule, at_least};
use crate::text::chars::is_space;
use crate::text::lines::{split_lines, trim};
use crate::text::{Token, Words, sentences};

/// Which lines of a page are kept, and which pages are not. The defaults are C4's (JMLR 21/20-074;
/// datatrove `c4_filters.py`, release 0.10.1); FineWeb turns `filter_no_terminal_punct` off. The text
/// that is kept is that of the kept lines, so counts of its tokens that were made before are too high.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct C4Quality {
    /// What is kept or dropped: `lines` (C4's way) or `sentences`.
    pub unit: Unit,
    /// Take `[1]`, `[edit]` and `[citation needed]` out.
    pub remove_citations: bool,
    /// Drop lines that do not end with `.`, `?`, `!`, `"` or `'`, or that end with an ellipsis.
    pub filter_no_terminal_punct: bool,
    /// The fewest sentences in the lines that are kept (reason `too_few_sentences`); 0 turns it off.
    pub min_num_sentences: usize,
    /// Drop lines of fewer words (runs of characters that are no white space).
    pub min_words_per_line: usize,
    /// Drop lines with a longer word, in characters.
    pub max_word_length: usize,
    /// Drop pages with the placeholder text `lorem ipsum` (reason `lorem_ipsum`).
    pub filter_lorem_ipsum: bool,
    /// Drop lines with the word `javascript`.
    pub filter_javascript: bool,
    /// Drop pages with a `{` (reason `curly_bracket`).
    pub filter_curly_bracket: bool,
    /// Drop lines about cookies, privacy and terms of use.
    pub filter_policy: bool,
}

/// The pieces of a page that are judged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Lines.
    Lines,
    /// Sentences.
    Sentences,
}

impl Default for C4Quality {
    fn default() -> Self {
        Self {
            unit: Unit::Lines,
            remove_citations: true,
            filter_no_terminal_punct: true,
            min_num_sentences: 5,
            min_words_per_line: 3,
            max_word_length: 1000,
            filter_lorem_ipsum: true,
            filter_javascript: true,
            filter_curly_bracket: true,
            filter_policy: true,
        }
    }
}

/// Phrases of notices (datatrove `c4_filters.py`).
const POLICY_PHRASES: [&str; 6] =
    ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"];

/// `None` would leave citations in; the pattern is a part of this program, so it compiles.
static CITATION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\[(?:\d*|edit|citation needed)\]").ok());

impl TextRule for C4Quality {
    const NAME: &'static str = "c4_quality";

    fn apply<'t>(&self, text: &'t str, _words: &mut Words) -> Result<Cow<'t, str>, Rejected> {
        let mut tokens = Vec::new();
        let pieces: Vec<&str> = match self.unit {
            Unit::Lines => split_lines(text).collect(),
            Unit::Sentences => sentences(text, &mut tokens),
        };
        let (mut kept, mut sentence_count) = (Vec::new(), 0);
        for piece in pieces {
            let Some(line) = self.clean_line(trim(piece))? else { continue };
            sentence_count += self.sentences_in(&line, &mut tokens);
            kept.push(line);
        }
        at_least("too_few_sentences", sentence_count as f64, self.min_num_sentences as f64)?;
        let between = match self.unit {
            Unit::Lines => "\n",
            Unit::Sentences => " ",
        };
        Ok(Cow::Owned(trim(&kept.join(between)).to_owned()))
    }
}

impl C4Quality {
    /// A line as it is kept; `None` where it is not. A mark of a page that is none rejects the page.
    fn clean_line<'t>(&self, line: &'t str) -> Result<Option<Cow<'t, str>>, Rejected> {
        let words = || line.split(is_space).filter(|word| !word.is_empty());
        // A word is long in bytes before it is long in characters.
        let is_long =
            |word: &str| word.len() > self.max_word_length && word.chars().count() > self.max_word_length;
        if words().any(is_long) {
            return Ok(None);
        }
        let too_few = words().take(self.min_words_per_line).count() < self.min_words_per_line;
        let line = match (CITATION.as_ref(), self.remove_citations && line.contains('[')) {
            (Some(citation), true) => citation.replace_all(line, ""),
            _ => Cow::Borrowed(line),
        };
        let is_ended = line.ends_with(['.', '?', '!', '"', '\'']) && !line.ends_with("...");
        if too_few || (self.filter_no_terminal_punct && !is_ended) {
            return Ok(None);
        }
        let lower = line.to_lowercase();
        if self.filter_lorem_ipsum && lower.contains("lorem ipsum") {
            return Err(Rejected::new("lorem_ipsum", "there is placeholder text"));
        }
        if self.filter_javascript && lower.contains("javascript") {
            return Ok(None);
        }
        if self.filter_curly_bracket && line.contains('{') {
            return Err(Rejected::new("curly_bracket", "there is a curly bracket"));
        }
        let is_policy = self.filter_policy && POLICY_PHRASES.iter().any(|phrase| lower.contains(phrase));
        Ok((!is_policy).then_some(line))
    }

    fn sentences_in(&self, line: &str, tokens: &mut Vec<Token>) -> usize {
        match self.unit {
            Unit::Lines => sentences(line, tokens).len(),
            Unit::Sentences => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{outcome, reason};
    use super::*;

    const FIVE: &str = "One two three.\nOne two three.\nOne two three.\nOne two three.\nOne two three.";

    fn rule() -> C4Quality {
        C4Quality::default()
    }

    /// What is kept of one line.
    fn line(rule: C4Quality, text: &str) -> String {
        outcome(&C4Quality { min_num_sentences: 0, ..rule }, text).unwrap()
    }

    #[test]
    fn a_page_has_five_sentences() {
        assert_eq!(outcome(&rule(), FIVE), Ok(FIVE.to_owned()));
        let four = FIVE.rsplit_once('\n').unwrap().0;
        assert_eq!(reason(&rule(), four), "too_few_sentences");
        assert_eq!(reason(&rule(), &format!("{four} Four five.")), "");
        assert_eq!(reason(&C4Quality { min_num_sentences: 4, ..rule() }, four), "");
        assert_eq!(reason(&rule(), ""), "too_few_sentences");
    }

    #[test]
    fn lines_have_three_words_and_none_too_long() {
        assert_eq!(line(rule(), "Two words.\r\n\x1c Three words here. \n"), "Three words here.");
        let long = |chars: usize| format!("A word: {}.", "é".repeat(chars - 1));
        assert_eq!([1000, 1001].map(|chars| line(rule(), &long(chars)).is_empty()), [false, true]);
    }

    #[test]
    fn lines_end_as_sentences_do_unless_that_is_turned_off() {
        for (text, ended) in [
            ("This is ended.", true),
            ("Is it ended?", true),
            ("It is ended!", true),
            ("\"It is ended\"", true),
            ("'It is ended'", true),
            ("It is not", false),
            ("It is not...", false),
            ("It is not;", false),
        ] {
            assert_eq!(line(rule(), text), if ended { text } else { "" }, "{text}");
            assert_eq!(line(C4Quality { filter_no_terminal_punct: false, ..rule() }, text), text);
        }
    }

    #[test]
    fn citations_are_taken_out() {
        let text = "As is known[12], it[] is[edit] so[citation needed].[3]";
        assert_eq!(line(rule(), text), "As is known, it is so.");
        let rule = C4Quality { remove_citations: false, filter_no_terminal_punct: false, ..rule() };
        assert_eq!(line(rule, text), text);
        // Words are counted before, lines trimmed only at the page's end.
        let rule = C4Quality { filter_no_terminal_punct: false, ..C4Quality::default() };
        assert_eq!(line(rule, "[1] [2] [3]\nNot a [note].\n[1] [2] [3]"), "Not a [note].");
    }

    #[test]
    fn lines_of_notices_and_scripts_are_dropped() {
        for notice in [
            "Terms of Use",
            "privacy policy",
            "Cookie Policy",
            "uses cookies",
            "use of cookies",
            "use cookies",
            "JavaScript",
        ] {
            let text = format!("Here we have {notice} too.");
            assert_eq!(line(rule(), &text), "", "{notice}");
            let off = C4Quality { filter_policy: false, filter_javascript: false, ..rule() };
            assert_eq!(line(off, &text), text);
        }
        assert_eq!(line(rule(), "These are useful cookies."), "These are useful cookies.");
    }

    #[test]
    fn pages_of_placeholders_and_code_are_dropped() {
        assert_eq!(reason(&rule(), &format!("{FIVE}\nHere: Lorem  Ipsum.")), "");
        assert_eq!(reason(&rule(), &format!("{FIVE}\nHere: Lorem Ipsum.")), "lorem_ipsum");
        assert_eq!(reason(&rule(), &format!("{FIVE}\nA bracket is {{ here.")), "curly_bracket");
        // A line that is dropped before rejects nothing.
        assert_eq!(
            reason(&rule(), &format!("{FIVE}\nlorem ipsum\nA script {{ here\nThe javascript {{ is.")),
            ""
        );
        let off = C4Quality { filter_lorem_ipsum: false, filter_curly_bracket: false, ..rule() };
        assert_eq!(reason(&off, &format!("{FIVE}\nHere: Lorem Ipsum {{.")), "");
    }

    #[test]
    fn sentences_can_be_judged_in_place_of_lines() {
        let rule = C4Quality { unit: Unit::Sentences, min_num_sentences: 2, ..rule() };
        assert_eq!(
            outcome(&rule, "The first one\nis kept. Not. Here is another."),
            Ok("The first one\nis kept. Here is another.".into())
        );
        assert_eq!(reason(&rule, "Only one is long. Not."), "too_few_sentences");
    }
}
