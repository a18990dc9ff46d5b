//! What a page's text says besides its vector: counts and shares that an encoder made for sentences does
//! not see. They stand behind the vector, and a head has a weight for each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How much of a text is looked at, in characters: all of any file that a person wrote. On our annotated
/// files the whole did better than the first 6,000, 3,000 and 1,400, though judges saw only the last.
const READ_CHARS: usize = 100_000;
/// Spaces at the start of a line that count as deep.
const DEEP_SPACES: usize = 12;

/// A set of features, by name and version: what a version counts never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSet {
    /// None: the vector alone, as published.
    #[default]
    None,
    /// How code is commented, documented and laid out (ours).
    CodeV1,
}

impl FeatureSet {
    /// Its name in configs and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CodeV1 => "code_v1",
        }
    }

    /// The features' names, in order.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::CodeV1 => &CODE_NAMES,
        }
    }

    /// The features of a text, in the order of their names. Counts and lengths are `ln(1 + n)`.
    #[must_use]
    pub fn of(self, text: &str) -> Vec<f32> {
        match self {
            Self::None => Vec::new(),
            Self::CodeV1 => code(text).map(|value| value as f32).to_vec(),
        }
    }
}

impl FromStr for FeatureSet {
    type Err = serde_json::Error;

    /// By its name in configs and files.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        serde_json::from_value(name.into())
    }
}

impl fmt::Display for FeatureSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(out, "none"),
            Self::CodeV1 => write!(out, "{} of code (`code_v1`)", CODE_NAMES.len()),
        }
    }
}

const CODE_NAMES: [&str; 20] = [
    "characters",
    "lines",
    "share of comment lines",
    "share of docstring characters",
    "docstrings",
    "docstring characters",
    "import lines",
    "functions",
    "classes",
    "mean identifier length",
    "doctest prompts",
    "return annotations",
    "has a main guard",
    "raise lines",
    "links",
    "mean line length",
    "names doctest",
    "print calls",
    "share of deep lines",
    "longest line",
];

/// The features of source code, of Python above all, by plain search: no parser, so that a cut or broken
/// file has them too. `tests/parity/code_features.py` counts the same in Python.
fn code(text: &str) -> [f64; CODE_NAMES.len()] {
    let end = text.char_indices().nth(READ_CHARS).map_or(text.len(), |(at, _)| at);
    let text = text.get(..end).unwrap_or(text);
    let chars = |text: &str| text.chars().count() as f64;
    let many = |count: usize| (count as f64).ln_1p();
    let times = |what: &str| text.matches(what).count();
    let share = |part: f64, whole: f64| part / whole.max(1.0);
    let has = |what: &str| f64::from(u8::from(text.contains(what)));

    let lines: Vec<&str> = text.split('\n').collect();
    let line_count = lines.len() as f64;
    let with = |starts: &[&str]| {
        lines.iter().filter(|line| starts.iter().any(|start| line.trim().starts_with(start))).count()
    };
    let deep = lines.iter().filter(|line| line.starts_with(&" ".repeat(DEEP_SPACES))).count() as f64;
    let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    // Between the first and the second mark, the third and the fourth, …
    let docstrings: Vec<&str> = text.split("\"\"\"").skip(1).step_by(2).collect();
    let docstring_chars: f64 = docstrings.iter().map(|docstring| chars(docstring)).sum();
    let (identifiers, identifier_chars) = identifiers(text);

    [
        chars(text).ln_1p(),
        many(lines.len()),
        with(&["#"]) as f64 / line_count,
        share(docstring_chars, chars(text)),
        many(docstrings.len()),
        docstring_chars.ln_1p(),
        many(with(&["import ", "from "])),
        many(with(&["def "])),
        many(with(&["class "])),
        share(identifier_chars as f64, identifiers as f64),
        many(times(">>>")),
        many(times("->")),
        has("__main__"),
        many(with(&["raise "])),
        many(times("://")),
        (chars(text) - (line_count - 1.0)) / line_count,
        has("doctest"),
        many(times("print(")),
        deep / line_count,
        many(longest),
    ]
}

/// How many identifiers a text has, keywords and words among them, and their characters together.
fn identifiers(text: &str) -> (usize, usize) {
    let (mut count, mut chars, mut is_inside) = (0, 0, false);
    for byte in text.bytes() {
        let is_letter = byte.is_ascii_alphabetic() || byte == b'_';
        count += usize::from(is_letter && !is_inside);
        is_inside = is_letter || (is_inside && byte.is_ascii_digit());
        chars += usize::from(is_inside);
    }
    (count, chars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Printed by `tests/parity/code_features.py`, which holds the same text.
    #[test]
    fn the_features_are_those_that_python_counts() {
        let found = FeatureSet::CodeV1.of(SAMPLE);
        assert_eq!(found.len(), GOLDEN.len());
        for ((found, golden), name) in found.iter().zip(GOLDEN).zip(CODE_NAMES) {
            assert!((f64::from(*found) - golden).abs() < 1e-6, "{name}: {found}, {golden}");
        }
    }

    const SAMPLE: &str = r##""""Sort a list. See https://example.org/sort"""

from __future__ import annotations

import doctest


class Sorter:
    # One pass: the largest goes last.
    def sort(self, values: list[int]) -> list[int]:
        """
        >>> Sorter().sort([3, 1, 2])
        [1, 2, 3]
        """
        if not values:
            raise ValueError("nothing to sort — leer")
        for end in range(len(values), 1, -1):
            for at in range(end - 1):
                if values[at] > values[at + 1]:
                    values[at], values[at + 1] = values[at + 1], values[at]
        return values


if __name__ == "__main__":
    print(Sorter().sort([2, 1]))
    doctest.testmod()
"##;
    #[allow(clippy::approx_constant, reason = "ln(1 + 1) is what a feature that stands once has")]
    const GOLDEN: [f64; 20] = [
        6.520621127558696,
        3.332204510175204,
        0.037037037037037035,
        0.15486725663716813,
        1.0986122886681096,
        4.663439094112067,
        1.0986122886681096,
        0.6931471805599453,
        0.6931471805599453,
        4.546666666666667,
        0.6931471805599453,
        0.6931471805599453,
        1.0,
        0.6931471805599453,
        0.6931471805599453,
        24.14814814814815,
        1.0,
        0.6931471805599453,
        0.14814814814814814,
        4.330733340286331,
    ];

    #[test]
    fn only_the_start_counts() {
        let long = "x = 'é'\n".repeat(20_000);
        assert_eq!(FeatureSet::CodeV1.of(&long), FeatureSet::CodeV1.of(&long.repeat(2)));
        assert!(FeatureSet::None.of(&long).is_empty());
    }

    proptest! {
        #[test]
        fn every_text_has_finite_features(text in "(\\PC|\n|\"\"\"|>>>| {12}){0,60}") {
            let features = FeatureSet::CodeV1.of(&text);
            prop_assert_eq!(features.len(), FeatureSet::CodeV1.names().len());
            prop_assert!(features.iter().all(|value| value.is_finite() && *value >= 0.0));
        }
    }
}
