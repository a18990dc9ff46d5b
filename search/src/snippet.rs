//! The part of a page that shows best why it was found.

use std::collections::HashSet;
use std::ops::Range;

use tantivy::tokenizer::{TokenStream, Tokenizer};

use crate::analyzer::{English, analyze, clean_query};

/// Finds fragments for one query.
pub struct Snippets {
    terms: HashSet<String>,
    english: English,
}

/// A fragment of a page, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// The fragment; `…` stands where the page goes on.
    pub text: String,
    /// The bytes of `text` that match, in order.
    pub matches: Vec<Range<usize>>,
}

/// A word of the page that matches.
struct Match {
    bytes: Range<usize>,
    term: String,
}

impl Snippets {
    /// Words match as in a search: by their stem, stop words never.
    pub fn new(query: &str) -> Self {
        let terms = analyze(&clean_query(query)).into_iter().collect();
        Self { terms, english: English::new() }
    }

    /// The fragment of at most about `max_chars` characters with the most different words of the
    /// query, then with the most of them, then the first one; the beginning of the page if it has
    /// none.
    pub fn best(&mut self, text: &str, max_chars: usize) -> Snippet {
        let matches = self.matches(text);
        let chosen = best_run(text, &matches, max_chars);
        let core = match chosen.is_empty() {
            true => 0..0,
            false => matches[chosen.start].bytes.start..matches[chosen.end - 1].bytes.end,
        };
        let fragment = widen(text, core, max_chars);
        let inside = |m: &&Match| m.bytes.start >= fragment.start && m.bytes.end <= fragment.end;
        let matches: Vec<Range<usize>> = matches.iter().filter(inside).map(|m| m.bytes.clone()).collect();
        on_one_line(text, fragment, &matches)
    }

    fn matches(&mut self, text: &str) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut words = self.english.token_stream(text);
        while words.advance() {
            let word = words.token();
            if self.terms.contains(&word.text) {
                matches.push(Match { bytes: word.offset_from..word.offset_to, term: word.text.clone() });
            }
        }
        matches
    }
}

impl Snippet {
    /// The fragment with a mark before and after each match.
    pub fn marked(&self, before: &str, after: &str) -> String {
        let mut marked = String::new();
        let mut at = 0;
        for bytes in &self.matches {
            marked.push_str(&self.text[at..bytes.start]);
            marked.push_str(before);
            marked.push_str(&self.text[bytes.clone()]);
            marked.push_str(after);
            at = bytes.end;
        }
        marked.push_str(&self.text[at..]);
        marked
    }
}

/// The run of neighbouring matches that fits and shows most.
fn best_run(text: &str, matches: &[Match], max_chars: usize) -> Range<usize> {
    let mut best = (0, 0, 0..0);
    for start in 0..matches.len() {
        let mut different = HashSet::new();
        let mut end = start;
        while end < matches.len() {
            let bytes = matches[start].bytes.start..matches[end].bytes.end;
            // Bytes are at least as many as characters, so that most runs need no count.
            if bytes.len() > max_chars && text[bytes].chars().count() > max_chars {
                break;
            }
            different.insert(matches[end].term.as_str());
            end += 1;
        }
        if (different.len(), end - start) > (best.0, best.1) {
            best = (different.len(), end - start, start..end);
        }
    }
    best.2
}

/// Adds text on both sides of the core, up to `max_chars` in all, and ends at words where it can.
fn widen(text: &str, core: Range<usize>, max_chars: usize) -> Range<usize> {
    let spare = max_chars.saturating_sub(text[core.clone()].chars().count());
    let before = text[..core.start].chars().rev().take(spare).count().min(spare / 2);
    let start = back(text, core.start, before);
    let end = forward(text, core.end, spare - before);
    let start = match text[start..core.start].find(char::is_whitespace) {
        // Inside a word: go on to the next one.
        Some(space) if start > 0 && !text[..start].ends_with(char::is_whitespace) => start + space,
        _ => start,
    };
    let end = match text[core.end..end].rfind(char::is_whitespace) {
        Some(space) if end < text.len() && !text[end..].starts_with(char::is_whitespace) => core.end + space,
        _ => end,
    };
    start..end
}

fn back(text: &str, from: usize, chars: usize) -> usize {
    match chars {
        0 => from,
        _ => text[..from].char_indices().rev().nth(chars - 1).map_or(0, |(at, _)| at),
    }
}

fn forward(text: &str, from: usize, chars: usize) -> usize {
    text[from..].char_indices().nth(chars).map_or(text.len(), |(at, _)| from + at)
}

/// The fragment with every run of white space and control characters as one space: a page must not
/// speak to the terminal.
fn on_one_line(text: &str, fragment: Range<usize>, matches: &[Range<usize>]) -> Snippet {
    let mut line = String::new();
    if !text[..fragment.start].trim().is_empty() {
        line.push('…');
    }
    let mut places = Vec::new();
    let mut rest = matches.iter();
    let mut next = rest.next();
    let mut match_start = 0;
    let mut space = false;
    for (at, c) in text[fragment.clone()].char_indices().map(|(at, c)| (fragment.start + at, c)) {
        if c.is_whitespace() || c.is_control() {
            space = true;
            continue;
        }
        if std::mem::take(&mut space) && !line.is_empty() {
            line.push(' ');
        }
        if next.is_some_and(|bytes| bytes.start == at) {
            match_start = line.len();
        }
        line.push(c);
        if next.is_some_and(|bytes| bytes.end == at + c.len_utf8()) {
            places.push(match_start..line.len());
            next = rest.next();
        }
    }
    if !text[fragment.end..].trim().is_empty() {
        line.push_str(" …");
    }
    Snippet { text: line, matches: places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marked(query: &str, text: &str, max_chars: usize) -> String {
        Snippets::new(query).best(text, max_chars).marked("[", "]")
    }

    #[test]
    fn what_matched_by_its_stem_is_marked() {
        let text = "Dogs were running.\nA dog runs; the runner\trested.";
        assert_eq!(marked("run dog", text, 200), "[Dogs] were [running]. A [dog] [runs]; the runner rested.");
        assert_eq!(marked("the a", text, 200), "Dogs were running. A dog runs; the runner rested.");
    }

    #[test]
    fn the_fragment_with_most_different_words_wins() {
        let filler = "and so it went on for a good while without end ".repeat(20);
        let text = format!("memory memory memory. {filler} Long-term memory of words. {filler}");
        let snippet = marked("long term memory", &text, 80);
        assert!(snippet.contains("[Long]-[term] [memory] of words."), "{snippet}");
        assert!(snippet.starts_with('…') && snippet.ends_with(" …"), "{snippet}");
        assert!(snippet.chars().count() <= 80 + 6 + 3, "{snippet}");
    }

    #[test]
    fn other_scripts_are_cut_between_characters() {
        let text = "日本語の文章です。".repeat(30) + " Äpfel " + &"語".repeat(100);
        let snippet = marked("äpfel", &text, 40);
        assert!(snippet.contains("[Äpfel]"), "{snippet}");
    }

    #[test]
    fn nothing_of_a_page_reaches_the_terminal_as_a_command() {
        assert_eq!(marked("cat", "a\u{1b}[31m cat\u{7}\r\nend", 100), "a [31m [cat] end");
    }

    proptest! {
        /// Any text, any length: no panic, matches stand in order inside the line, and each is a
        /// word that the query finds.
        #[test]
        fn any_text_is_cut_safely(text in "(cat|cats|\\PC|[\\s\\x00-\\x1f]){0,120}", max_chars in 0_usize..60) {
            let snippet = Snippets::new("cat").best(&text, max_chars);
            let mut last = 0;
            for bytes in &snippet.matches {
                prop_assert!(bytes.start >= last && bytes.end <= snippet.text.len());
                last = bytes.end;
                prop_assert_eq!(analyze(&snippet.text[bytes.clone()]), ["cat"]);
            }
        }
    }
}
