//! The n-grams of all benchmark texts, and the search for a text that a page copies.
//!
//! Source of the recipe: huggingface/cosmopedia, `decontamination/decontaminate.py`. There a page
//! is compared with one benchmark text, that of the first shared n-gram in the order of a hash set;
//! here with every text that shares one, so that the verdict depends on the page alone.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::benchmark::BenchmarkText;
use super::matching::covered_share;
use super::tokens::{Ngram, Tokens};

/// Blocks must be longer than this, in characters (cosmopedia `decontaminate.py`, `diff_strings`).
const SHORT_BLOCK_CHARS: usize = 5;

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
    tokens: String,
}

/// An n-gram of a benchmark text.
#[derive(Debug)]
struct Entry {
    text: u32,
    /// Where it begins in the text's tokens, in bytes.
    start: u32,
    /// The entry before it with the same key, counted from 1; 0 where there is none.
    older: u32,
}

/// Keys are hashes already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// Which keys there may be: 2 MiB, which a processor's cache holds, so that most n-grams of a page, which no
/// benchmark has, are done with by one look. A key is two bits of one word (Putze et al. 2007, blocked Bloom
/// filters).
#[derive(Debug)]
struct Sieve(Vec<u64>);

impl Sieve {
    const BITS: u32 = 24;

    fn place(key: u64) -> (usize, u64) {
        let bit = key >> (u64::BITS - Self::BITS);
        ((bit / 64) as usize, 1 << (bit % 64) | 1 << (key % 64))
    }

    fn add(&mut self, key: u64) {
        let (word, bits) = Self::place(key);
        self.0[word] |= bits;
    }

    fn may_hold(&self, key: u64) -> bool {
        let (word, bits) = Self::place(key);
        self.0[word] & bits == bits
    }
}

/// Benchmark texts by n-gram. Texts with fewer tokens than an n-gram have none and are never
/// found, as published. Memory: about 40 bytes for each n-gram.
#[derive(Debug)]
pub struct BenchmarkIndex {
    ngram_words: usize,
    benchmarks: Vec<String>,
    texts: Vec<IndexedText>,
    sieve: Sieve,
    /// By key: the newest entry, counted from 1.
    newest: HashMap<u64, u32, BuildHasherDefault<KeyHasher>>,
    entries: Vec<Entry>,
}

impl BenchmarkIndex {
    /// An index without texts.
    pub fn new(ngram_words: usize) -> Self {
        Self {
            ngram_words,
            benchmarks: Vec::new(),
            texts: Vec::new(),
            sieve: Sieve(vec![0; 1 << (Sieve::BITS - 6)]),
            newest: HashMap::default(),
            entries: Vec::new(),
        }
    }

    /// Adds a benchmark's texts.
    pub fn add(&mut self, benchmark: &str, texts: Vec<BenchmarkText>) {
        self.benchmarks.push(benchmark.to_owned());
        // A word with its space has six characters in English.
        let words = texts.iter().map(|text| text.text.len() / 6).sum();
        self.newest.reserve(words);
        self.entries.reserve(words);
        for text in texts {
            let tokens = Tokens::of(&text.text);
            let number = self.texts.len() as u32;
            for Ngram { key, start, text } in tokens.ngrams(self.ngram_words) {
                let newest = self.newest.entry(key).or_default();
                let last = (*newest as usize).checked_sub(1).and_then(|at| self.entries.get(at));
                let repeats = |last: &Entry| {
                    last.text == number && tokens.joined()[last.start as usize..].starts_with(text)
                };
                if last.is_some_and(repeats) {
                    continue;
                }
                self.entries.push(Entry { text: number, start: start as u32, older: *newest });
                *newest = self.entries.len() as u32;
                self.sieve.add(key);
            }
            self.texts.push(IndexedText {
                benchmark: self.benchmarks.len() - 1,
                label: text.label,
                tokens: tokens.into_joined(),
            });
        }
    }

    /// The texts that hold an n-gram, newest first, each once.
    fn texts_with<'a>(&'a self, ngram: Ngram<'a>) -> impl Iterator<Item = u32> + 'a {
        let key = ngram.key;
        let newest = self.sieve.may_hold(key).then(|| self.newest.get(&key).copied()).flatten();
        let mut next = newest.unwrap_or(0);
        let mut last = None;
        std::iter::from_fn(move || {
            while let Some(entry) = (next as usize).checked_sub(1).and_then(|at| self.entries.get(at)) {
                next = entry.older;
                if last != Some(entry.text) && self.stands_at(entry, ngram.text) {
                    last = Some(entry.text);
                    return last;
                }
            }
            None
        })
    }

    /// Whether an entry's n-gram is this one: another may have its key.
    fn stands_at(&self, entry: &Entry, ngram: &str) -> bool {
        let text = self.texts.get(entry.text as usize);
        let rest = text.and_then(|text| text.tokens.get(entry.start as usize..)?.strip_prefix(ngram));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }

    /// The first benchmark text of which more than `max_ratio` stands in the page; those that share
    /// the most n-grams with it are looked at first.
    pub fn find(&self, page: &str, max_ratio: f64) -> Option<Contamination> {
        let tokens = Tokens::of(page);
        // By text: how many n-grams it shares, and the first of them.
        let mut shared: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
        for ngram in tokens.ngrams(self.ngram_words) {
            for text in self.texts_with(ngram) {
                shared.entry(text).or_insert((0, ngram.text)).0 += 1;
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
            let chars: Vec<char> = text.tokens.chars().collect();
            let ratio = covered_share(&page, &chars, SHORT_BLOCK_CHARS);
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
