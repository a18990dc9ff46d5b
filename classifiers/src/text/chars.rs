//! Sets of characters: those of Python's string methods, of spaCy's English tokenizer and of
//! datatrove. Each is a character class in the syntax of the `regex` crate.
//!
//! Unicode tables are those of the crates here, a few versions newer than Python's: characters
//! assigned since then may be treated otherwise.

use std::cmp::Ordering;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// A set of characters.
#[derive(Debug)]
pub struct CharSet {
    /// One bit for each ASCII character.
    ascii: u128,
    /// First and last characters of all ranges, in order.
    ranges: Vec<(char, char)>,
}

impl CharSet {
    /// The set of a class such as `[\p{L}--[a-z]]`. The classes are parts of this program and its tests,
    /// so they parse; one that did not would be empty.
    fn of(class: &str) -> Self {
        let ranges: Vec<(char, char)> = match regex_syntax::parse(class).map(|hir| hir.into_kind()) {
            Ok(HirKind::Class(Class::Unicode(set))) => {
                set.iter().map(|range| (range.start(), range.end())).collect()
            }
            _ => Vec::new(),
        };
        let bit = |code: u8| u128::from(find(&ranges, char::from(code))) << code;
        Self { ascii: (0..128).map(bit).sum(), ranges }
    }

    /// Whether the character is in the set.
    #[must_use]
    pub fn contains(&self, c: char) -> bool {
        if c.is_ascii() { (self.ascii >> u32::from(c)) & 1 == 1 } else { find(&self.ranges, c) }
    }

    /// Whether every character of a text is in the set.
    #[must_use]
    pub fn covers(&self, text: &str) -> bool {
        text.chars().all(|c| self.contains(c))
    }
}

fn find(ranges: &[(char, char)], c: char) -> bool {
    let place = |&(first, last): &(char, char)| match (c < first, c > last) {
        (true, _) => Ordering::Greater,
        (_, true) => Ordering::Less,
        _ => Ordering::Equal,
    };
    ranges.binary_search_by(place).is_ok()
}

/// White space in Python's sense (`str.isspace`, `str.strip`, `str.split`): Unicode's, and four
/// separators of ASCII.
#[must_use]
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// Letters with case in spaCy's sense (`spacy/lang/char_classes.py`, 3.8.18).
const CASED: &str = "A-Za-zÀ-ÖØ-öø-\u{1bf}\u{1c4}-\u{2af}ΆΈ-ΊΌΎΏΑ-Ωά-ία-ωό-ώ\
    ЀЁЃ-ЊЌЍА-ёѓ-њќѝҐґҖҗҢңҮүҺһӘәӨө\u{1d00}-\u{1d25}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1eff}\
    \u{2c60}-\u{2c7b}\u{2c7e}\u{2c7f}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{a790}-\u{a7b9}\
    \u{a7fa}\u{ab30}-\u{ab5a}\u{ab60}-\u{ab64}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}";

/// Blocks without case that are letters from end to end to spaCy, signs and unassigned places
/// included. They count as lower and as upper case.
const UNCASED: &str = "\u{591}-\u{5f4}\u{620}-\u{64a}\u{66e}-\u{6d5}\u{6e5}-\u{6ff}\u{750}-\u{77f}\u{8a0}-\u{8bd}\
    \u{900}-\u{9ff}\u{b80}-\u{cff}\u{d80}-\u{dff}\u{1100}-\u{137f}\u{2e80}-\u{2fdf}\u{2ff0}-\u{30ff}\u{31c0}-\u{31ef}\
    \u{3200}-\u{4dbf}\u{4e00}-\u{9fff}\u{ac00}-\u{d7af}\u{f900}-\u{faff}\u{fb1d}-\u{fbb1}\u{fbd3}-\u{fd3d}\
    \u{fd50}-\u{fdc7}\u{fdf0}-\u{fdfb}\u{fe30}-\u{fe4f}\u{fe70}-\u{fefc}\u{1ee00}-\u{1eebb}\u{1f200}-\u{1f2ff}\
    \u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}\u{2f800}-\u{2fa1f}";

/// Punctuation and quotation marks in spaCy's sense.
const PUNCTUATION: &str = r"!#\&(-*,:;<>?\[\]_\{\}¡·¿،؛؟٪۔।…、。！，：；？～";
const QUOTES: &str = "\"'`«´»‘-‚“-„\u{2329}\u{232a}⟦⟧\u{3008}-】〔〕（）";

/// Unicode's "other symbols" as of version 11, the version of spaCy's list; U+166D has become one
/// since then.
const SYMBOLS: &str = r"[\p{So}&&\p{Age:11.0}--\x{166D}]";

/// What datatrove 0.10.1 counts as the end of a sentence (`src/datatrove/utils/text.py`,
/// `TERMINAL_PUNCTUATION`): Unicode's property, but for what it gained and lost.
const TERMINAL: &str = r"[[\p{Sentence_Terminal}&&\p{Age:15.0}--[\x{2024}\x{2cf9}-\x{2cfb}\x{fe12}\x{fe15}\x{fe16}]]\x{17d6}\x{17d9}\x{17da}]";

/// spaCy's letters, and those of them that can stand before and after the period inside two words.
pub(super) static LETTERS: LazyLock<CharSet> = LazyLock::new(|| CharSet::of(&format!("[{CASED}{UNCASED}]")));
pub(super) static LOWER: LazyLock<CharSet> =
    LazyLock::new(|| CharSet::of(&format!(r"[[{CASED}&&[\p{{Lowercase}}ʔ]]{UNCASED}]")));
pub(super) static UPPER: LazyLock<CharSet> =
    LazyLock::new(|| CharSet::of(&format!(r"[[{CASED}&&[\p{{Uppercase}}\x{{3a2}}]]{UNCASED}]")));
pub(super) static LOWER_OR_QUOTE: LazyLock<CharSet> =
    LazyLock::new(|| CharSet::of(&format!(r"[[{CASED}&&[\p{{Lowercase}}ʔ]]{UNCASED}{QUOTES}]")));
pub(super) static UPPER_OR_QUOTE: LazyLock<CharSet> =
    LazyLock::new(|| CharSet::of(&format!(r"[[{CASED}&&[\p{{Uppercase}}\x{{3a2}}]]{UNCASED}{QUOTES}]")));

/// spaCy's symbols, which split a word wherever they stand.
pub(super) static SYMBOL: LazyLock<CharSet> = LazyLock::new(|| CharSet::of(SYMBOLS));

/// Single characters that come off the front of a word (`TOKENIZER_PREFIXES` of
/// `spacy/lang/punctuation.py`), beside those that depend on what follows.
pub(super) static PREFIX: LazyLock<CharSet> = LazyLock::new(|| {
    CharSet::of(&format!("[{PUNCTUATION}{QUOTES}{SYMBOLS}§%=–—$£¥฿\u{20a0}-\u{20bf}\u{fdfc}]"))
});

/// Single characters that come off the end of a word (`TOKENIZER_SUFFIXES`), beside those that depend
/// on what comes before.
pub(super) static SUFFIX: LazyLock<CharSet> =
    LazyLock::new(|| CharSet::of(&format!("[{PUNCTUATION}{QUOTES}{SYMBOLS}–—]")));

/// Characters after which a last period is a token of its own.
pub(super) static BEFORE_PERIOD: LazyLock<CharSet> = LazyLock::new(|| {
    CharSet::of(&format!(r"[0-9%²\-+|[{CASED}&&[\p{{Lowercase}}ʔ]]{UNCASED}{PUNCTUATION}{QUOTES}]"))
});

/// Characters of a host name to spaCy's `URL_MATCH` (`spacy/lang/tokenizer_exceptions.py`).
pub(super) static HOST: LazyLock<CharSet> = LazyLock::new(|| CharSet::of("[A-Za-z0-9\u{a1}-\u{ffff}]"));

/// Unicode's punctuation (spaCy's `is_punct`).
pub(super) static UNICODE_PUNCTUATION: LazyLock<CharSet> = LazyLock::new(|| CharSet::of(r"[\p{P}]"));

/// Marks that end a sentence to spaCy's sentencizer (`spacy/pipeline/sentencizer.pyx`): Unicode's as of
/// version 10, but for some.
pub(super) static SENTENCE_END: LazyLock<CharSet> = LazyLock::new(|| {
    CharSet::of(&format!(
        r"[{TERMINAL}&&\p{{Age:10.0}}--[\x{{61e}}\x{{837}}\x{{839}}\x{{83d}}\x{{83e}}\x{{17d4}}-\x{{17da}}]]"
    ))
});

/// Letters in Python's sense (`str.isalpha`).
pub static ALPHA: LazyLock<CharSet> = LazyLock::new(|| CharSet::of(r"[\p{L}]"));

/// Marks at which a line ends whole to FineWeb's rule: see [`TERMINAL`].
pub static TERMINAL_PUNCTUATION: LazyLock<CharSet> = LazyLock::new(|| CharSet::of(TERMINAL));

/// A word of these alone is a symbol to Gopher's rules (`PUNCTUATION_SET` of datatrove's
/// `utils/text.py`): marks of several scripts, control characters, and [`TERMINAL_PUNCTUATION`].
pub static SYMBOL_OF_GOPHER: LazyLock<CharSet> = LazyLock::new(|| {
    CharSet::of(&format!(
        r"[[\x00-\x7f--[A-Za-z0-9\t\n ]]\x{{80}}-\x{{9f}}«´»–—’“-„…∶━►、-。\x{{3008}}-」【】！％（），．１：；？～{TERMINAL}]"
    ))
});

#[cfg(test)]
mod tests {
    use super::*;

    /// How many characters there are, and the sum of their code points: from spaCy 3.8.18 and datatrove
    /// 0.10.1 (`tests/parity/rules_datatrove.py --sets`).
    #[test]
    fn the_sets_are_those_of_spacy_and_datatrove() {
        for (name, set, want) in [
            ("letters", &LETTERS, (105_724, 11_323_317_574)),
            ("lower", &LOWER, (105_177, 11_317_229_817)),
            ("upper", &UPPER, (104_939, 11_314_187_375)),
            ("symbols", &SYMBOL, (5_984, 437_027_415)),
            ("prefix", &PREFIX, (6_091, 438_184_335)),
            ("suffix", &SUFFIX, (6_051, 437_847_279)),
            ("before_period", &BEFORE_PERIOD, (105_241, 11_317_857_857)),
            ("sentence_end", &SENTENCE_END, (128, 5_880_871)),
            ("terminal", &TERMINAL_PUNCTUATION, (159, 7_117_962)),
            ("symbol_of_gopher", &SYMBOL_OF_GOPHER, (281, 7_844_189)),
        ] {
            let members = ('\0'..=char::MAX).filter(|&c| set.contains(c));
            let found = members.fold((0, 0), |(count, sum), c| (count + 1, sum + u64::from(u32::from(c))));
            assert_eq!(found, want, "{name}");
        }
    }
}
