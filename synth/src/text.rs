//! Sentences: where they end, for the cut of seed pages and the clean-up of answers. And patterns.

/// A regular expression that is compiled once, on its first use.
macro_rules! pattern {
    ($name:ident, $text:literal) => {
        #[allow(clippy::expect_used)] // A constant pattern: every test of its file would fail.
        static $name: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new($text).expect("constant pattern"));
    };
}
pub(crate) use pattern;

/// What ends a sentence, in the scripts that most pages are written in.
pub(crate) const SENTENCE_ENDS: [char; 13] =
    ['.', '!', '?', '…', '。', '！', '？', '।', '॥', '؟', '۔', '։', '።'];

/// What may stand between a sentence's end and the space behind it.
pub(crate) const CLOSERS: [char; 12] = ['"', '\'', '”', '’', ')', ']', '*', '_', '»', '」', '』', '）'];

/// Whether the point behind this text belongs to an abbreviation or an initial.
pub(crate) fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    is_initial || ["Dr", "Mr", "Mrs", "Ms", "Prof", "St", "vs", "etc", "e", "g", "i"].contains(&word)
}
