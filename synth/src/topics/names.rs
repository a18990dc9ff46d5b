//! Names of topics: when two are the same, and when one is no name at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Why a line of an answer did not become a subtopic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// Fewer characters than `min_chars`.
    TooShort,
    /// More characters than `max_chars` or words than `max_words`.
    TooLong,
    /// Not written in English, or hardly in letters.
    NotEnglish,
    /// The heading itself or its category again.
    Echo,
    /// A word that fits every subject, such as `Introduction`.
    Generic,
    /// A sentence or a question rather than a name.
    Sentence,
    /// The same words twice, such as `Games and Games`.
    Repeats,
    /// The name of another top category.
    OffTopic,
    /// Said before, but for case, punctuation or plural.
    Duplicate,
    /// Spelled much like a name of the same top category (see [`super::NearIndex`]).
    NearDuplicate,
    /// Means the same as a name of the same top category, by their embeddings.
    SameMeaning,
}

impl Rejection {
    /// The name in snake_case, as in side tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::NotEnglish => "not_english",
            Self::Echo => "echo",
            Self::Generic => "generic",
            Self::Sentence => "sentence",
            Self::Repeats => "repeats",
            Self::OffTopic => "off_topic",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near_duplicate",
            Self::SameMeaning => "same_meaning",
        }
    }
}

/// How often each rejection occurred.
pub type Rejections = BTreeMap<Rejection, u64>;

/// Bounds of a subtopic's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameBounds {
    /// Fewest characters.
    pub min_chars: usize,
    /// Most characters.
    pub max_chars: usize,
    /// Most words.
    pub max_words: usize,
}

impl Default for NameBounds {
    fn default() -> Self {
        Self { min_chars: 3, max_chars: 80, max_words: 10 }
    }
}

/// A key that is equal for names that differ by case, accents, punctuation, articles or plural.
#[must_use]
pub fn dedupe_key(name: &str) -> String {
    let plain: String = name
        .replace('&', " and ")
        .nfkd()
        .filter(|c| !is_combining_mark(*c))
        .flat_map(char::to_lowercase)
        .map(|c| {
            if c.is_alphanumeric() || c == '+' || c == '#' {
                c
            } else if c == '\'' {
                '\u{0}'
            } else {
                ' '
            }
        })
        .filter(|c| *c != '\u{0}')
        .collect();
    let words = plain.split_whitespace().filter(|w| !["the", "a", "an"].contains(w)).map(singular);
    words.collect::<Vec<_>>().join(" ")
}

/// The singular of a regular English plural; both forms of a word give the same, which is all we need.
fn singular(word: &str) -> String {
    let stem = |suffix: &str| word.strip_suffix(suffix).filter(|s| s.chars().count() >= 2);
    if let Some(stem) = stem("ies").filter(|s| s.chars().count() >= 3) {
        return format!("{stem}y");
    }
    for sibilant in ["sses", "shes", "ches", "xes", "zzes"] {
        if word.ends_with(sibilant) {
            return word[..word.len() - 2].to_string();
        }
    }
    let is_singular = ["ss", "us", "is"].iter().any(|s| word.ends_with(s));
    match stem("s") {
        Some(stem) if !is_singular => stem.to_string(),
        _ => word.to_string(),
    }
}

/// Looks at a cleaned name; `taken` are the keys of the heading and its category.
pub(crate) fn check_name(name: &str, bounds: &NameBounds, taken: &[String]) -> Result<(), Rejection> {
    let chars = name.chars().count();
    let letters = name.chars().filter(|c| c.is_alphabetic()).count();
    if chars < bounds.min_chars || letters < 2 {
        return Err(Rejection::TooShort);
    }
    let words: Vec<String> = name.split_whitespace().map(str::to_lowercase).collect();
    let first = words.first().map(|w| w.trim_end_matches(&[',', '\'', ':'][..])).unwrap_or_default();
    let is_sentence = SENTENCE_STARTS.contains(&first) || name.contains(['?', '!']) || name.contains(". ");
    if is_sentence {
        return Err(Rejection::Sentence);
    }
    if chars > bounds.max_chars || words.len() > bounds.max_words {
        return Err(Rejection::TooLong);
    }
    if !is_english(name, &words) {
        return Err(Rejection::NotEnglish);
    }
    let key = dedupe_key(name);
    let bare = INTRODUCTIONS.iter().find_map(|i| key.strip_prefix(i)).unwrap_or(&key);
    if taken.iter().any(|t| t == bare) {
        return Err(Rejection::Echo);
    }
    if GENERIC.contains(&bare) {
        return Err(Rejection::Generic);
    }
    if key.split_once(" and ").is_some_and(|(left, right)| left == right) {
        return Err(Rejection::Repeats);
    }
    Ok(())
}

/// Mostly plain Latin letters, and not held together by function words of another language.
fn is_english(name: &str, words: &[String]) -> bool {
    let visible = name.chars().filter(|c| !c.is_whitespace()).count();
    let letters = name.chars().filter(|c| c.is_alphabetic()).count();
    let ascii = name.chars().filter(char::is_ascii_alphabetic).count();
    let count = |list: &[&str]| words.iter().filter(|w| list.contains(&w.as_str())).count();
    let (foreign, borrowed, english) = (count(FOREIGN), count(BORROWED), count(ENGLISH));
    let is_foreign = 2 * foreign + borrowed >= 2 && foreign + borrowed > english;
    letters * 10 >= visible * 7 && ascii * 10 >= letters * 8 && !is_foreign
}

const SENTENCE_STARTS: &[&str] = &[
    "this",
    "these",
    "those",
    "it",
    "it's",
    "you",
    "your",
    "we",
    "i",
    "i'm",
    "here",
    "here's",
    "there",
    "they",
    "sure",
    "please",
    "note",
    "if",
    "let",
    "let's",
    "certainly",
    "okay",
    "ok",
    "yes",
    "no",
    "as",
];

/// What a name may begin with and still say only what the heading says.
const INTRODUCTIONS: &[&str] = &[
    "introduction to ",
    "introduction of ",
    "overview of ",
    "basic of ",
    "fundamental of ",
    "definition of ",
    "what is ",
    "basic concept of ",
    "importance of ",
    "understanding ",
    "study of ",
];

/// Keys (see [`dedupe_key`]) that fit every subject.
const GENERIC: &[&str] = &[
    "introduction",
    "overview",
    "conclusion",
    "summary",
    "basic",
    "fundamental",
    "general",
    "other",
    "miscellaneou",
    "definition",
    "example",
    "application",
    "reference",
    "resource",
    "topic",
    "subtopic",
    "name",
    "list",
    "chapter",
    "note",
    "explanation",
    "description",
    "benefit",
    "advantage",
    "history",
    "exercise",
    "question",
    "answer",
    "definition and purpose",
    "other topic",
    "further reading",
    "course",
    "short name",
    "none",
    "basic and fundamental",
];

/// Function words that do not occur in English names.
const FOREIGN: &[&str] = &[
    "der", "und", "das", "ein", "eine", "für", "mit", "zur", "zum", "des", "et", "une", "pour", "para",
    "una", "della", "delle", "het", "een",
];

/// Function words that English names borrow, one at a time (`El Niño`, `Le Chatelier`).
const BORROWED: &[&str] =
    &["le", "la", "les", "du", "de", "el", "los", "las", "del", "il", "gli", "di", "da", "dos", "von"];

const ENGLISH: &[&str] =
    &["of", "and", "the", "in", "for", "to", "with", "on", "from", "by", "at", "as", "or"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_articles_and_plural_make_no_difference() {
        for (a, b) in [
            ("Neural Networks", "neural network"),
            ("The Theory of Queries", "theory of query"),
            ("Search & Sorting", "search and sorting"),
            ("Boxes", "box"),
            ("Classes", "class"),
            ("Gödel's theorem", "Godels Theorem"),
            ("Object-Oriented Design", "object oriented design"),
        ] {
            assert_eq!(dedupe_key(a), dedupe_key(b), "{a} | {b}");
        }
        for (a, b) in [("C", "C++"), ("C++", "C#"), ("Analysis", "Analyses of Data"), ("Physics", "Physical")]
        {
            assert_ne!(dedupe_key(a), dedupe_key(b), "{a} | {b}");
        }
    }

    #[test]
    fn each_rule_takes_out_what_it_names() {
        let taken = [dedupe_key("Compilers"), dedupe_key("Computers")];
        let check = |name: &str| check_name(name, &NameBounds::default(), &taken);
        for name in [
            "Register Allocation",
            "C++ Templates",
            "Poincaré Maps",
            "Die Casting",
            "El Niño",
            "Physics of Music",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        assert_eq!(check("C"), Err(Rejection::TooShort));
        assert_eq!(check("1 2 3"), Err(Rejection::TooShort));
        assert_eq!(check(&"x".repeat(80)), Ok(()));
        assert_eq!(check(&"x".repeat(81)), Err(Rejection::TooLong));
        assert_eq!(check("a1 b2 c3 d4 e5 f6 g7 h8 i9 j0 k"), Err(Rejection::TooLong));
        assert_eq!(check("編譯器設計"), Err(Rejection::NotEnglish));
        assert_eq!(check("Aufbau der Compiler und Werkzeuge"), Err(Rejection::NotEnglish));
        assert_eq!(check("HACK 3496, 208347-12"), Err(Rejection::NotEnglish));
        assert_eq!(check("The compiler"), Err(Rejection::Echo));
        assert_eq!(check("Introduction to Compilers"), Err(Rejection::Echo));
        assert_eq!(check("Overview"), Err(Rejection::Generic));
        assert_eq!(check("These are subtopics"), Err(Rejection::Sentence));
        assert_eq!(check("What is parsing?"), Err(Rejection::Sentence));
        assert_eq!(check("Parsers and parser"), Err(Rejection::Repeats));
    }
}
