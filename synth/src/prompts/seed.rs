//! Seed extracts: the start of a page, safe to stand inside a prompt.

/// The deepest indentation that is kept, in spaces.
const MAX_INDENT: usize = 40;

/// What a tab at the start of a line is worth, in spaces.
const TAB_SPACES: usize = 4;

/// The first `max_chars` characters of a page as they go into a prompt.
///
/// Control characters become spaces, runs of spaces become one (but for the indentation of a line,
/// which carries the meaning of Python code), more than one empty line becomes one, and markers such
/// as `<|im_end|>` are left out: they would end the turn in a chat template. The cut falls on a
/// character boundary and, where a space is near, not inside a word. Only the start of the page is
/// looked at, so a page of many megabytes costs no more than a short one.
#[must_use]
pub fn seed_extract(text: &str, max_chars: usize) -> String {
    let mut extract = String::with_capacity((max_chars + 1).min(text.len()));
    let mut chars = 0;
    let mut blank = Blank::default();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
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
        if chars > 0 {
            chars += blank.write(&mut extract);
        }
        blank = Blank::default();
        if chars >= max_chars {
            return whole_words(extract, max_chars);
        }
        extract.push(c);
        chars += 1;
    }
    extract
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

/// Takes an unfinished last word off, and never more than `WORD_CHARS` characters.
fn whole_words(mut extract: String, max_chars: usize) -> String {
    const WORD_CHARS: usize = 40;
    let next = extract.char_indices().nth(max_chars);
    if let Some((cut, _)) = next {
        extract.truncate(cut);
    }
    if extract.ends_with(char::is_whitespace) || next.is_some_and(|(_, c)| c.is_whitespace()) {
        extract.truncate(extract.trim_end().len());
        return extract;
    }
    let space = extract.char_indices().rev().take(WORD_CHARS).find(|(_, c)| c.is_whitespace());
    if let Some((at, _)) = space {
        let kept = extract[..at].trim_end().len();
        if kept > 0 {
            extract.truncate(kept);
        }
    }
    extract
}

/// The length of a marker such as `<|endoftext|>` at the start of the text, if one stands there.
fn chat_marker(text: &str) -> Option<usize> {
    const MARKER_BYTES: usize = 48;
    let inner = text.strip_prefix("<|")?;
    let end = inner.find("|>").filter(|end| *end <= MARKER_BYTES)?;
    let is_name = inner[..end].chars().all(|c| c.is_alphanumeric() || "_-▁".contains(c));
    is_name.then_some(end + 4)
}

/// Control characters, and those that are invisible or reorder the line: they carry no text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{FEFF}' | '\u{200B}' | '\u{2060}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FFFD}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cut_keeps_whole_words_and_whole_characters() {
        assert_eq!(seed_extract("alpha beta gamma", 10), "alpha beta");
        assert_eq!(seed_extract("alpha beta gamma", 12), "alpha beta");
        assert_eq!(seed_extract("alpha beta gamma", 16), "alpha beta gamma");
        assert_eq!(seed_extract("ééééé", 3), "ééé");
        assert_eq!(seed_extract("", 10), "");
        assert_eq!(seed_extract("abc", 0), "");
    }

    #[test]
    fn a_thousand_characters_are_kept_and_one_more_is_cut() {
        let word = "x".repeat(1000);
        assert_eq!(seed_extract(&word, 1000).chars().count(), 1000);
        assert_eq!(seed_extract(&(word + "y"), 1000).chars().count(), 1000);
    }

    #[test]
    fn control_characters_and_chat_markers_go() {
        assert_eq!(seed_extract("a\u{0}b\r\n\n\n\n c<|im_end|>\u{202E}d <| e |>", 99), "a b\n\n c d <| e |>");
    }

    #[test]
    fn the_indentation_of_code_is_kept() {
        let code = "def f(x):\n    if x:\n\treturn  1\n\n\n\n    return 0";
        let kept = "def f(x):\n    if x:\n    return 1\n\n    return 0";
        assert_eq!(seed_extract(code, 99), kept);
    }

    proptest! {
        #[test]
        fn never_longer_than_asked_and_never_a_control_character(
            chars in proptest::collection::vec(
                prop_oneof![any::<char>(), proptest::sample::select("a \n\t<|>\r\u{0}é".chars().collect::<Vec<_>>())],
                0..90,
            ),
            max in 0usize..60,
        ) {
            let text: String = chars.into_iter().collect();
            let extract = seed_extract(&text, max);
            prop_assert!(extract.chars().count() <= max);
            prop_assert!(extract.chars().all(|c| c == '\n' || !c.is_control()));
            prop_assert_eq!(seed_extract(&extract, max), extract.clone());
        }
    }
}
