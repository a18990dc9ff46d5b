//! Seed extracts: the start of a page, safe to stand inside a prompt.

use unicode_segmentation::UnicodeSegmentation;

use super::template::SeedKind;
use crate::text::{CLOSERS, SENTENCE_ENDS, is_abbreviation};

/// The deepest indentation that is kept, in spaces.
const MAX_INDENT: usize = 40;

/// What a tab at the start of a line is worth, in spaces.
const TAB_SPACES: usize = 4;

/// A cut at the end of a sentence or line may not cost more than this part of the extract.
const MOST_LOST: usize = 2;

/// The start of a page as it goes into a prompt, `max_chars` characters at most.
///
/// The text is cleaned as [`clean_start`] says. A page that is longer is cut at the end of a sentence
/// (by Unicode's rules, UAX #29), source code at the end of a line; where that would cost more than
/// half of the extract, at the end of a line or else of a word. Only the start of the page is looked
/// at, so a page of many megabytes costs no more than a short one.
#[must_use]
pub fn seed_extract(text: &str, max_chars: usize, kind: SeedKind) -> String {
    let mut extract = clean_start(text, max_chars.saturating_add(1));
    let Some((limit, _)) = extract.char_indices().nth(max_chars) else {
        return extract;
    };
    let line = || extract[..limit].rfind('\n');
    let whole = match kind {
        SeedKind::Code => line(),
        SeedKind::Page | SeedKind::Instruction => last_sentence_end(&extract, limit),
    };
    let is_enough = |end: &usize| extract[..*end].chars().count() * MOST_LOST >= max_chars;
    let end = whole.filter(is_enough).or_else(|| line().filter(is_enough));
    let end = end.unwrap_or_else(|| word_end(&extract, limit));
    extract.truncate(extract[..end].trim_end().len());
    extract
}

/// The first characters of a text, until `chars` of them are there.
///
/// Control characters become spaces, runs of spaces become one (but for the indentation of a line,
/// which carries the meaning of Python code), more than one empty line becomes one, and what chat
/// templates and tokenizers read as a marker (`<|im_end|>`, `[INST]`, `</s>`, …) is left out: it
/// would end the turn. A blank and the character behind it come together, so that one more than
/// `chars` may be there.
#[must_use]
pub(crate) fn clean_start(text: &str, chars: usize) -> String {
    let mut start = String::with_capacity(chars.saturating_add(1).min(text.len()));
    let mut count = 0;
    let mut blank = Blank::default();
    let mut rest = text;
    while let Some(c) = rest.chars().next().filter(|_| count < chars) {
        if let Some(marker_bytes) = chat_marker(rest) {
            rest = &rest[marker_bytes..];
            blank.gap = true;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        if c.is_whitespace() || is_unprintable(c) {
            blank.add(c);
            continue;
        }
        if count > 0 {
            count += blank.write(&mut start);
        }
        blank = Blank::default();
        start.push(c);
        count += 1;
    }
    start
}

/// The longest delimiter-like run of `mark` in the text, and one more: CommonMark's way to write a
/// fence that its content cannot close.
pub(super) fn fence(text: &str, mark: char) -> String {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == mark { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    std::iter::repeat_n(mark, (longest + 1).max(3)).collect()
}

/// What stands between two visible characters.
#[derive(Default)]
struct Blank {
    newlines: usize,
    indent: usize,
    gap: bool,
}

impl Blank {
    fn add(&mut self, c: char) {
        match c {
            '\n' => (self.newlines, self.indent) = (self.newlines + 1, 0),
            ' ' if self.newlines > 0 => self.indent += 1,
            '\t' if self.newlines > 0 => self.indent += TAB_SPACES,
            _ => self.gap = true,
        }
    }

    /// Writes at most one empty line, or one space; returns the number of characters.
    fn write(&self, to: &mut String) -> usize {
        let (newlines, spaces) = match self.newlines {
            0 => (0, usize::from(self.gap)),
            lines => (lines.min(2), self.indent.min(MAX_INDENT)),
        };
        to.extend(std::iter::repeat_n('\n', newlines));
        to.extend(std::iter::repeat_n(' ', spaces));
        newlines + spaces
    }
}

/// Where the last sentence within `limit` bytes ends. Line ends are no sentence ends, since many
/// pages are wrapped; neither is the point of an abbreviation or of a number at a line's start.
fn last_sentence_end(text: &str, limit: usize) -> Option<usize> {
    let mut last = None;
    for (at, sentence) in text.split_sentence_bound_indices() {
        if at >= limit {
            break;
        }
        let end = at + sentence.trim_end().len();
        let bare = text[..end].trim_end_matches(CLOSERS);
        let is_number = bare.strip_suffix('.').is_some_and(|before| {
            let line = before.rsplit('\n').next().unwrap_or_default().trim();
            !line.is_empty() && line.chars().all(|c| c.is_ascii_digit())
        });
        let is_short = bare.strip_suffix('.').is_some_and(is_abbreviation);
        // The text goes on behind `limit`: a sentence that ends with the text may be cut itself.
        let goes_on = end < text.len();
        if end <= limit && goes_on && bare.ends_with(SENTENCE_ENDS) && !is_number && !is_short {
            last = Some(end);
        }
    }
    last
}

/// The end of the last whole word within `limit` bytes; no more than `WORD_CHARS` characters are
/// given up for it.
fn word_end(text: &str, limit: usize) -> usize {
    const WORD_CHARS: usize = 40;
    let is_between_words = text[limit..].starts_with(char::is_whitespace);
    if is_between_words || text[..limit].ends_with(char::is_whitespace) {
        return limit;
    }
    let space = text[..limit].char_indices().rev().take(WORD_CHARS).find(|(_, c)| c.is_whitespace());
    space.map(|(at, _)| text[..at].trim_end().len()).filter(|end| *end > 0).unwrap_or(limit)
}

/// Markers without bars of chat templates and tokenizers: Llama 2 and Mistral, Gemma, and the
/// sentence markers of SentencePiece models.
const CHAT_MARKERS: [&str; 16] = [
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<s>",
    "</s>",
];

/// The length of a marker at the start of the text, if one stands there: one of the list, or any of
/// the form `<|endoftext|>`, also with the wide bars of DeepSeek.
fn chat_marker(text: &str) -> Option<usize> {
    const NAME_BYTES: usize = 48;
    if !text.starts_with(['<', '[']) {
        return None;
    }
    if let Some(marker) = CHAT_MARKERS.iter().find(|marker| text.starts_with(**marker)) {
        return Some(marker.len());
    }
    for bar in ['|', '｜'] {
        let Some(inner) = text.strip_prefix('<').and_then(|t| t.strip_prefix(bar)) else { continue };
        let is_name_char = |c: char| c.is_alphanumeric() || "_-▁".contains(c);
        let name = inner.find(|c| !is_name_char(c)).filter(|bytes| *bytes <= NAME_BYTES)?;
        let is_closed = inner[name..].strip_prefix(bar).is_some_and(|t| t.starts_with('>'));
        return is_closed.then_some(name + 2 * (1 + bar.len_utf8()));
    }
    None
}

/// Control characters, and those that are invisible or reorder the line: they carry no text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{FEFF}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}' | '\u{2060}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FFFD}')
}

#[cfg(test)]
#[path = "seed_tests.rs"]
mod tests;
