//! Cutting a text into words without a regular expression.
//!
//! The cuts are those of HuggingFaceTB/cosmo2-tokenizer's pre-tokenizer: each number character stands alone, and
//! what lies between is cut by GPT-2's pattern
//! (`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, openai/gpt-2 `src/encoder.py`).

use std::sync::OnceLock;

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

/// What the pattern takes a character for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Neither of the others.
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`, as far as it does not stand alone.
    Number,
    /// `\s`
    Space,
    /// A number by Rust's tables: it stands alone.
    Alone,
}

/// Endings that are words, longest first where one begins another.
const CONTRACTIONS: [&[u8]; 7] = [b"'s", b"'t", b"'re", b"'ve", b"'m", b"'ll", b"'d"];

/// Beyond are no letters, numbers or spaces: variation selectors, private use, nothing.
const MOST: usize = 0x3_4000;

/// The words of a text, which together are the text.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a str,
    classes: &'static [Class; 128],
}

/// Cuts a text into words.
pub fn words(text: &str) -> Words<'_> {
    Words { rest: text, classes: &ASCII }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = self.at(0)?;
        let end = match first {
            (Class::Alone, length) => length,
            (Class::Space, length) => {
                // One space may lead a word.
                match self.at(length).filter(|_| self.rest.as_bytes()[0] == b' ') {
                    Some((class @ (Class::Letter | Class::Number | Class::Other), _)) => {
                        self.run(length, class)
                    }
                    _ => self.spaces(length),
                }
            }
            (class, length) => self.contraction().unwrap_or_else(|| self.run(length, class)),
        };
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(word)
    }
}

impl Words<'_> {
    /// Class and length of the character at a place; none at the end.
    #[inline]
    fn at(&self, place: usize) -> Option<(Class, usize)> {
        let byte = *self.rest.as_bytes().get(place)?;
        if byte < 128 {
            return Some((self.classes[usize::from(byte)], 1));
        }
        let character = self.rest[place..].chars().next()?;
        Some((class_of(character), character.len_utf8()))
    }

    /// The end of a run of one class.
    #[inline]
    fn run(&self, mut end: usize, class: Class) -> usize {
        while let Some((_, length)) = self.at(end).filter(|(next, _)| *next == class) {
            end += length;
        }
        end
    }

    /// The end of a run of spaces. Its last one belongs to what follows, unless nothing does or it is the only
    /// one; what stands alone follows as the end does, since the text is cut there first.
    fn spaces(&self, first: usize) -> usize {
        let (mut end, mut last) = (first, 0);
        loop {
            match self.at(end) {
                Some((Class::Space, length)) => (last, end) = (end, end + length),
                None | Some((Class::Alone, _)) => return end,
                Some(_) => return if last == 0 { end } else { last },
            }
        }
    }

    fn contraction(&self) -> Option<usize> {
        let bytes = self.rest.as_bytes();
        if bytes[0] != b'\'' {
            return None;
        }
        CONTRACTIONS.iter().find(|ending| bytes.starts_with(ending)).map(|ending| ending.len())
    }
}

static ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut byte = 0_usize;
    while byte < 128 {
        let character = byte as u8;
        if character.is_ascii_alphabetic() {
            classes[byte] = Class::Letter;
        } else if character.is_ascii_digit() {
            classes[byte] = Class::Alone;
        } else if matches!(character, b' ' | 9..=13) {
            classes[byte] = Class::Space;
        }
        byte += 1;
    }
    classes
};

fn class_of(character: char) -> Class {
    static TABLE: OnceLock<Vec<Class>> = OnceLock::new();
    let table = TABLE.get_or_init(table);
    table.get(character as usize).copied().unwrap_or(Class::Other)
}

/// Asks the library's own tables, which are those of another version of Unicode than Rust's.
fn table() -> Vec<Class> {
    let all: String = (0..MOST as u32).filter_map(char::from_u32).collect();
    let mut table = vec![Class::Other; MOST];
    for (pattern, class) in [(r"\p{L}+", Class::Letter), (r"\p{N}+", Class::Number), (r"\s+", Class::Space)] {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let mut others = PreTokenizedString::from(all.as_str());
        let removed = Split::new(pattern, SplitDelimiterBehavior::Removed, false)
            .and_then(|split| split.pre_tokenize(&mut others));
        // The patterns are good; were one not, words would be cut at other places, which the tests would show.
        debug_assert!(removed.is_ok());
        let mut from = 0;
        let ends = [("", (all.len(), all.len()), &None)];
        let kept = others.get_splits(OffsetReferential::Original, OffsetType::Byte);
        for (_, (start, end), _) in kept.into_iter().chain(ends) {
            for character in all[from..start].chars() {
                table[character as usize] = class;
            }
            from = end;
        }
    }
    for character in all.chars().filter(|character| character.is_numeric()) {
        table[character as usize] = Class::Alone;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pre_tokenizer;
    use super::*;

    /// The library's words.
    fn library(text: &str) -> Vec<&str> {
        let mut cut = PreTokenizedString::from(text);
        pre_tokenizer().pre_tokenize(&mut cut).unwrap();
        let places = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        places.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect()
    }

    fn same(text: &str) {
        assert_eq!(words(text).collect::<Vec<_>>(), library(text), "{text:?}");
    }

    #[test]
    fn every_character_is_of_the_library_s_class() {
        let all: Vec<char> = (0..=u32::from(char::MAX)).filter_map(char::from_u32).collect();
        for some in all.chunks(4096) {
            // Between letters, behind and before spaces, behind its like.
            let text: String = some.iter().map(|c| format!("a{c}b {c}{c}!{c}  {c}\n")).collect();
            same(&text);
        }
    }

    #[test]
    fn words_known_from_gpt_2() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(
            cut("I'll say it's 2 o'clock"),
            ["I", "'ll", " say", " it", "'s", " ", "2", " o", "'", "clock"]
        );
        assert_eq!(cut("  a\n\n b  "), [" ", " a", "\n\n", " b", "  "]);
        assert_eq!(cut("x\u{a0}y\u{3000}1 !?"), ["x", "\u{a0}", "y", "\u{3000}", "1", " !?"]);
        assert_eq!(cut(""), [""; 0]);
    }

    proptest! {
        #[test]
        fn words_are_the_library_s(text in "\\PC*|[ \\n\\t\u{a0}a'sLl1²½٣Ⅷé中!👍\u{301}\u{85}]{0,40}") {
            same(&text);
        }
    }
}
