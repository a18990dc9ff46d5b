//! The simplified text that duplicates are compared by: lower case, every number `0`, punctuation
//! as spaces, single spaces, no diacritics.
//!
//! The rules are datatrove's `simplify_text` (`src/datatrove/utils/text.py`, release 0.10.1) with
//! its default options. Unicode tables are those of this program's crates, a few versions newer
//! than Python's: characters assigned since then may be treated otherwise.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A class that the crate is compiled with cannot fail to compile; `None` would match nothing.
fn class(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

static DECIMAL_DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| class(r"\p{Nd}"));
static NONSPACING_MARK: LazyLock<Option<Regex>> = LazyLock::new(|| class(r"\p{Mn}"));

fn is_in(set: &Option<Regex>, c: char) -> bool {
    set.as_ref().is_some_and(|set| set.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && is_in(&DECIMAL_DIGIT, c))
}

/// Between two runs of digits these make one number of them.
fn joins_digits(c: char) -> bool {
    matches!(c, '.' | ',' | '،' | '٫' | '⎖' | '⎗' | '⎘')
}

/// What becomes a space: white space, control characters and datatrove's `PUNCTUATION`.
fn is_space_or_punctuation(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_alphanumeric();
    }
    c.is_whitespace()
        || matches!(
            c,
            '\u{80}'
                ..='\u{9f}'
                    | '—'
                    | '”'
                    | '％'
                    | '〈'
                    | '、'
                    | '━'
                    | '【'
                    | '「'
                    | '」'
                    | '，'
                    | '】'
                    | '；'
                    | '“'
                    | '《'
                    | '„'
                    | '’'
                    | '∶'
                    | '´'
                    | '．'
                    | '（'
                    | '–'
                    | '？'
                    | '！'
                    | '：'
                    | '～'
                    | '«'
                    | '〉'
                    | '》'
                    | '）'
                    | '。'
                    | '…'
                    | '►'
                    | '»'
        )
}

/// The simplified text, in `out`.
pub fn simplify(text: &str, out: &mut String) {
    out.clear();
    // The lower case of a capital sigma depends on its neighbours; nothing else does.
    let text = if text.contains('Σ') { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
    let (mut rest, mut gap) = (&*text, false);
    while let Some(&first) = rest.as_bytes().first() {
        let letters = rest.bytes().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(rest.len());
        if letters > 0 {
            begin(out, &mut gap);
            let (run, after) = rest.split_at(letters);
            out.push_str(run);
            rest = after;
            continue;
        }
        if first.is_ascii() && !first.is_ascii_digit() {
            gap = true;
            rest = &rest[1..];
            continue;
        }
        let digits = number_bytes(rest);
        if digits > 0 {
            begin(out, &mut gap);
            out.push('0');
            rest = &rest[digits..];
            continue;
        }
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { break };
        if is_space_or_punctuation(c) {
            gap = true;
        } else {
            begin(out, &mut gap);
            out.extend(c.to_lowercase());
        }
        rest = chars.as_str();
    }
    // The other letters are in lower case already.
    out.make_ascii_lowercase();
    if !out.is_ascii() {
        let marked = std::mem::take(out);
        strip_marks(&marked, out);
        let trimmed = out.trim();
        if trimmed.len() != out.len() {
            *out = trimmed.to_owned();
        }
    }
}

/// The length in bytes of a number at the beginning: digits, and perhaps a fraction.
fn number_bytes(text: &str) -> usize {
    let digits = |text: &str| text.find(|c| !is_digit(c)).unwrap_or(text.len());
    let whole = digits(text);
    let mut after = text[whole..].chars();
    match after.next() {
        Some(c) if whole > 0 && joins_digits(c) => match digits(after.as_str()) {
            0 => whole,
            fraction => whole + c.len_utf8() + fraction,
        },
        _ => whole,
    }
}

fn begin(out: &mut String, gap: &mut bool) {
    if std::mem::take(gap) && !out.is_empty() {
        out.push(' ');
    }
}

/// Appends the canonical decomposition (NFD) of `text` without its nonspacing marks.
pub fn strip_marks(text: &str, out: &mut String) {
    let mut rest = text;
    while !rest.is_empty() {
        // Marks reorder only among themselves, so a run that begins after an ASCII letter can be
        // decomposed on its own.
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        out.push_str(&rest[..ascii]);
        rest = &rest[ascii..];
        let foreign = rest.bytes().position(|byte| byte.is_ascii()).unwrap_or(rest.len());
        let marked = |c: &char| is_combining_mark(*c) && is_in(&NONSPACING_MARK, *c);
        out.extend(rest[..foreign].nfd().filter(|c| !marked(c)));
        rest = &rest[foreign..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn simplified(text: &str) -> String {
        let mut out = "left over".to_owned();
        simplify(text, &mut out);
        out
    }

    /// Values from datatrove 0.10.1 (`tests/parity/minhash_datatrove.py --simplify`).
    #[test]
    fn texts_come_out_as_datatrove_simplifies_them() {
        for (text, want) in [
            ("Hello,  World!\n", "hello world"),
            ("Numbers 1,234.5 and 7 and 3.1.4", "numbers 0 0 and 0 and 0 0"),
            ("Café Ångström naïve ﬁ", "cafe angstrom naive ﬁ"),
            ("٣٫١٤ १२३", "0 0"),
            ("ΟΔΟΣ ΣΑΣ", "οδος σας"),
            ("don't “stop” now…", "don t stop now"),
            ("x² ½ £5 •a", "x² ½ £0 •a"),
            ("a\u{1c}b\u{85}c\u{a0}d\u{200b}e", "a b c d\u{200b}e"),
            ("\u{301} a \u{301} b", "a  b"),
            ("x≠y", "x=y"),
            ("İstanbul", "istanbul"),
            ("한국", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}"),
            ("!?", ""),
            ("", ""),
        ] {
            assert_eq!(simplified(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn simplifying_twice_changes_nothing_but_what_decomposition_brings(text in "[ -~]{0,80}") {
            let once = simplified(&text);
            prop_assert_eq!(simplified(&once), once);
        }

        #[test]
        fn stripping_in_runs_is_stripping_at_once(text in "\\PC{0,40}") {
            let mut out = String::new();
            strip_marks(&text, &mut out);
            let whole: String = text.nfd().filter(|&c| !is_in(&NONSPACING_MARK, c)).collect();
            prop_assert_eq!(out, whole);
        }
    }
}
