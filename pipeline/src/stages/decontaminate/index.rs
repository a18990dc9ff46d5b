//! The n-grams of all benchmark texts, and the search for a text that a page copies.
//!
//! Source of the recipe: huggingface/cosmopedia, `decontamination/decontaminate.py`. There a page
//! is compared with one benchmark text, that of the first shared n-gram in the order of a hash set;
//! here with every text that shares one, so that the verdict depends on the page alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use regex::Regex;

use super::benchmark::BenchmarkText;
use super::matching::covered_share;
use crate::stages::minhash::normalise::strip_marks;

/// Blocks must be longer than this, in characters (cosmopedia `decontaminate.py`, `diff_strings`).
const SHORT_BLOCK_CHARS: usize = 5;

/// Python's `\w`: letters, numbers of any kind and the underscore, but no marks.
static TOKEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());

/// The tokens of a text, joined by single spaces.
#[derive(Debug, Default)]
pub struct Tokens {
    joined: String,
    spans: Vec<(usize, usize)>,
}

impl Tokens {
    /// Decomposes, strips diacritics, lower-cases and takes the runs of word characters.
    pub fn of(text: &str) -> Self {
        let mut plain = String::with_capacity(text.len());
        strip_marks(text, &mut plain);
        let plain = plain.to_lowercase();
        let mut tokens = Self::default();
        for token in TOKEN.iter().flat_map(|token| token.find_iter(&plain)) {
            if !tokens.joined.is_empty() {
                tokens.joined.push(' ');
            }
            let start = tokens.joined.len();
            tokens.joined.push_str(token.as_str());
            tokens.spans.push((start, tokens.joined.len()));
        }
        tokens
    }

    /// The text that blocks are matched in.
    pub fn joined(&self) -> &str {
        &self.joined
    }

    /// Every run of `words` consecutive tokens.
    pub fn ngrams(&self, words: usize) -> impl Iterator<Item = &str> {
        self.spans.windows(words.max(1)).filter_map(|run| Some(&self.joined[run.first()?.0..run.last()?.1]))
    }
}

/// A page that copies a benchmark text.
#[derive(Clone, Debug, PartialEq)]
pub struct Contamination {
    /// The benchmark's name.
    pub benchmark: String,
    /// The item and its fields.
    pub label: String,
    /// The first n-gram of the page that stands in the benchmark text.
    pub ngram: String,
    /// The share of the benchmark text that stands in the page.
    pub ratio: f64,
}

#[derive(Debug)]
struct IndexedText {
    benchmark: usize,
    label: String,
    chars: Vec<char>,
}

/// Benchmark texts by n-gram. Texts with fewer tokens than an n-gram have none and are never
/// found, as published. Memory: about 100 bytes for each n-gram.
#[derive(Debug)]
pub struct BenchmarkIndex {
    ngram_words: usize,
    benchmarks: Vec<String>,
    texts: Vec<IndexedText>,
    by_ngram: HashMap<Box<str>, Vec<u32>>,
}

impl BenchmarkIndex {
    /// An index without texts.
    pub fn new(ngram_words: usize) -> Self {
        Self { ngram_words, benchmarks: Vec::new(), texts: Vec::new(), by_ngram: HashMap::new() }
    }

    /// Adds a benchmark's texts.
    pub fn add(&mut self, benchmark: &str, texts: Vec<BenchmarkText>) {
        self.benchmarks.push(benchmark.to_owned());
        for text in texts {
            let tokens = Tokens::of(&text.text);
            let number = self.texts.len() as u32;
            for ngram in tokens.ngrams(self.ngram_words) {
                let texts = self.by_ngram.entry(ngram.into()).or_default();
                if texts.last() != Some(&number) {
                    texts.push(number);
                }
            }
            self.texts.push(IndexedText {
                benchmark: self.benchmarks.len() - 1,
                label: text.label,
                chars: tokens.joined().chars().collect(),
            });
        }
    }

    /// The first benchmark text of which more than `max_ratio` stands in the page; those that share
    /// the most n-grams with it are looked at first.
    pub fn find(&self, page: &str, max_ratio: f64) -> Option<Contamination> {
        let tokens = Tokens::of(page);
        // By text: how many n-grams it shares, and the first of them.
        let mut shared: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
        for ngram in tokens.ngrams(self.ngram_words) {
            for &text in self.by_ngram.get(ngram).into_iter().flatten() {
                shared.entry(text).or_insert((0, ngram)).0 += 1;
            }
        }
        if shared.is_empty() {
            return None;
        }
        let mut candidates: Vec<(u32, (usize, &str))> = shared.into_iter().collect();
        candidates.sort_by_key(|&(text, (count, _))| (std::cmp::Reverse(count), text));
        let page: Vec<char> = tokens.joined().chars().collect();
        candidates.into_iter().find_map(|(number, (_, ngram))| {
            let text = self.texts.get(number as usize)?;
            let ratio = covered_share(&page, &text.chars, SHORT_BLOCK_CHARS);
            (ratio > max_ratio).then(|| Contamination {
                benchmark: self.benchmarks[text.benchmark].clone(),
                label: text.label.clone(),
                ngram: ngram.to_owned(),
                ratio,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(texts: &[&str]) -> BenchmarkIndex {
        let mut index = BenchmarkIndex::new(10);
        let texts = texts.iter().enumerate();
        let texts = texts.map(|(i, &text)| BenchmarkText { label: i.to_string(), text: text.to_owned() });
        index.add("bench", texts.collect());
        index
    }

    const ITEM: &str = "one two three four five six seven eight nine ten";

    #[test]
    fn tokens_are_word_characters_in_lower_case_without_diacritics() {
        assert_eq!(
            Tokens::of("Café_2½, naïve—ÅNGSTRÖM's x²\u{200d}y").joined(),
            "cafe_2½ naive angstrom s x² y"
        );
        assert_eq!(Tokens::of("").joined(), "");
        // A spacing vowel sign is no letter to Python.
        assert_eq!(Tokens::of("का").joined(), "क");
    }

    #[test]
    fn ten_shared_words_make_a_candidate_and_nine_do_not() {
        let index = index(&[ITEM]);
        let found = index.find(&format!("So: {} eleven", ITEM.to_uppercase()), 0.5).unwrap();
        assert_eq!((found.benchmark.as_str(), found.label.as_str()), ("bench", "0"));
        assert_eq!((found.ngram.as_str(), found.ratio), (ITEM, 1.0));
        // All but the last word: most of the text is there, but no n-gram.
        assert_eq!(index.find(ITEM.trim_end_matches(" ten"), 0.5), None);
    }

    #[test]
    fn a_text_shorter_than_an_ngram_is_never_found() {
        assert_eq!(index(&["one two three"]).find("one two three", 0.5), None);
    }

    #[test]
    fn more_than_the_ratio_must_be_there() {
        // The page holds the first ten words, 48 characters; the item is twice as long less one
        // space, plus what is put behind.
        let tail = "q".repeat(ITEM.len() - 1);
        let just_half = format!("{ITEM} {tail}");
        assert_eq!(just_half.len(), 2 * ITEM.len());
        assert_eq!(index(&[&just_half]).find(ITEM, 0.5), None);
        let shorter = just_half.trim_end_matches('q').to_owned() + &"q".repeat(ITEM.len() - 2);
        let found = index(&[&shorter]).find(ITEM, 0.5).unwrap();
        assert!(found.ratio > 0.5 && found.ratio < 0.51, "{}", found.ratio);
        assert_eq!(index(&[&shorter]).find(ITEM, 0.51), None);
    }

    /// The first text shares the n-gram but is mostly something else; the second is copied.
    #[test]
    fn every_text_that_shares_an_ngram_is_compared() {
        let long = format!("{ITEM} {}", "other words ".repeat(30));
        let index = index(&[&long, ITEM]);
        assert_eq!(index.find(&format!("x {ITEM} y"), 0.5).unwrap().label, "1");
    }
}
