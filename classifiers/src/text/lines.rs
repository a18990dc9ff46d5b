//! Lines and paragraphs, and what is there twice.

use rustc_hash::FxHashSet;

use super::chars::is_space;

/// The lines of a text in Python's sense (`str.splitlines`): at line feeds, carriage returns, form feeds,
/// separators; none after a break at the end.
pub fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(at) = rest.find(is_line_break) else { return Some(std::mem::take(&mut rest)) };
        let (line, broken) = rest.split_at(at);
        let after_pair = broken.strip_prefix("\r\n");
        rest = after_pair.or_else(|| broken.strip_prefix(is_line_break)).unwrap_or_default();
        Some(line)
    })
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// The pieces between runs of `least` or more line feeds; shorter runs stay inside.
pub fn split_at_feeds(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut at = 0;
        while let Some(feed) = text[at..].find('\n') {
            let start = at + feed;
            let after = text[start..].trim_start_matches('\n');
            let end = text.len() - after.len();
            if end - start >= least {
                rest = Some(after);
                return Some(&text[..start]);
            }
            at = end;
        }
        rest = None;
        Some(text)
    })
}

/// A text without white space at both ends, in Python's sense.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// How much of a list has been there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Pieces in all.
    pub pieces: usize,
    /// Pieces that are equal to an earlier one.
    pub duplicates: usize,
    /// Their length, in characters.
    pub duplicate_chars: usize,
}

impl Duplicates {
    /// Counts among pieces of text.
    pub fn among<'t>(pieces: impl Iterator<Item = &'t str>) -> Self {
        let (mut seen, mut found) = (FxHashSet::default(), Self::default());
        for piece in pieces {
            found.pieces += 1;
            if !seen.insert(piece) {
                found.duplicates += 1;
                found.duplicate_chars += piece.chars().count();
            }
        }
        found
    }

    /// The share of pieces that are duplicates, 0–1.
    #[must_use]
    pub fn share(self) -> f64 {
        self.duplicates as f64 / self.pieces.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_pythons() {
        let lines = |text| split_lines(text).collect::<Vec<_>>().join("|");
        assert_eq!(lines("a\r\nb\n\nc\u{2028}d\x0be\n"), "a|b||c|d|e");
        assert_eq!(lines("\n"), "");
        assert_eq!(split_lines("").count(), 0);
        assert_eq!(split_lines("\n").count(), 1);
    }

    #[test]
    fn runs_of_line_feeds_divide() {
        let pieces = |text, least| split_at_feeds(text, least).collect::<Vec<_>>().join("|");
        assert_eq!(pieces("a\nb\n\n\nc", 2), "a\nb|c");
        assert_eq!(pieces("\na\n\nb\n", 1), "|a|b|");
        assert_eq!(pieces("", 1), "");
    }

    #[test]
    fn duplicates_are_counted_from_the_second_on() {
        let found = Duplicates::among(["é", "b", "é", "é"].into_iter());
        assert_eq!(found, Duplicates { pieces: 4, duplicates: 2, duplicate_chars: 2 });
        assert_eq!(found.share(), 0.5);
    }
}
