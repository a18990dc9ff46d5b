//! The tokens of a text, and keys of their runs.

use std::sync::LazyLock;

use regex::Regex;

use crate::stages::minhash::normalise::strip_marks;

/// Python's `\w` beyond ASCII: letters and numbers of any kind, but no marks.
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}]").ok());

/// The tokens of a text, joined by single spaces.
#[derive(Debug, Default)]
pub struct Tokens {
    joined: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    start: usize,
    end: usize,
    hash: u64,
}

/// A run of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ngram<'a> {
    /// Shared by equal runs, and hardly ever by others.
    pub key: u64,
    /// Where it begins in [`Tokens::joined`], in bytes.
    pub start: usize,
    /// The tokens, joined by single spaces.
    pub text: &'a str,
}

/// The base of the n-grams' polynomial: odd, so that no power of it is 0 modulo 2^64.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

impl Tokens {
    /// Decomposes, strips diacritics, lower-cases and takes the runs of word characters.
    pub fn of(text: &str) -> Self {
        let mut plain = String::with_capacity(text.len());
        strip_marks(text, &mut plain);
        // The one letter whose lower case depends on what stands around it.
        if plain.contains('Σ') {
            plain = plain.to_lowercase();
        }
        let mut tokens = Self { joined: String::with_capacity(plain.len()), tokens: Vec::new() };
        let mut word = None;
        for c in plain.chars() {
            if c.is_ascii() {
                let is_word = c.is_ascii_alphanumeric() || c == '_';
                tokens.take(c.to_ascii_lowercase(), is_word, &mut word);
            } else {
                c.to_lowercase().for_each(|c| tokens.take(c, is_word(c), &mut word));
            }
        }
        tokens.tokens.extend(word);
        tokens
    }

    /// The next character, and the word that it goes on with, begins or ends.
    fn take(&mut self, c: char, is_word: bool, word: &mut Option<Token>) {
        if !is_word {
            self.tokens.extend(word.take());
            return;
        }
        if word.is_none() && !self.joined.is_empty() {
            self.joined.push(' ');
        }
        let start = self.joined.len();
        self.joined.push(c);
        let word = word.get_or_insert(Token { start, end: start, hash: 0xcbf2_9ce4_8422_2325 });
        word.end = self.joined.len();
        // FNV-1a, over characters: tokens are short.
        word.hash = (word.hash ^ u64::from(c)).wrapping_mul(0x0100_0000_01b3);
    }

    /// The text that blocks are matched in.
    pub fn joined(&self) -> &str {
        &self.joined
    }

    /// The same, without the places of the tokens.
    pub fn into_joined(self) -> String {
        self.joined
    }

    /// Every run of `words` consecutive tokens. Its key is found from that of the one before in constant
    /// time (Karp and Rabin 1987).
    pub fn ngrams(&self, words: usize) -> impl Iterator<Item = Ngram<'_>> {
        let words = words.max(1);
        let outgoing = (0..words).fold(1_u64, |power, _| power.wrapping_mul(BASE));
        let mut key = 0_u64;
        self.tokens.iter().enumerate().filter_map(move |(at, last)| {
            key = key.wrapping_mul(BASE).wrapping_add(last.hash);
            if let Some(gone) = at.checked_sub(words) {
                key = key.wrapping_sub(self.tokens[gone].hash.wrapping_mul(outgoing));
            }
            let first = self.tokens.get((at + 1).checked_sub(words)?)?;
            let text = &self.joined[first.start..last.end];
            Some(Ngram { key: mix(key), start: first.start, text })
        })
    }
}

/// Spreads a key's entropy over all of its bits (the end of SplitMix64).
fn mix(key: u64) -> u64 {
    let key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

fn is_word(c: char) -> bool {
    let in_class = |class: &Regex| class.is_match(c.encode_utf8(&mut [0; 4]));
    c.is_alphanumeric() && WORD.as_ref().is_some_and(in_class)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_are_word_characters_in_lower_case_without_diacritics() {
        assert_eq!(
            Tokens::of("Café_2½, naïve—ÅNGSTRÖM's x²\u{200d}y").joined(),
            "cafe_2½ naive angstrom s x² y"
        );
        assert_eq!(Tokens::of("").joined(), "");
        // A spacing vowel sign is no letter to Python.
        assert_eq!(Tokens::of("का").joined(), "क");
        assert_eq!(Tokens::of("ΟΔΟΣ, ΣΑΣ").joined(), "οδος σας");
    }

    proptest! {
        /// As Python's `re.findall(r"\w+", …)` takes them.
        #[test]
        fn tokens_are_the_runs_of_word_characters(text in "[a-cA-C_ .,é中ि²½\u{301}\n-]{0,40}") {
            let mut plain = String::new();
            strip_marks(&text, &mut plain);
            let plain = plain.to_lowercase();
            let word = Regex::new(r"[\p{L}\p{N}_]+").unwrap();
            let want: Vec<&str> = word.find_iter(&plain).map(|found| found.as_str()).collect();
            let tokens = Tokens::of(&text);
            prop_assert_eq!(tokens.joined(), want.join(" "));
        }

        #[test]
        fn keys_are_equal_where_runs_are(words in prop::collection::vec("[ab]{1,2}", 0..60), n in 1_usize..5) {
            let tokens = Tokens::of(&words.join(" "));
            let windows: Vec<String> = words.windows(n).map(|run| run.join(" ")).collect();
            let mut keys: HashMap<&str, u64> = HashMap::new();
            let mut count = 0;
            for (Ngram { key, start, text }, want) in tokens.ngrams(n).zip(&windows) {
                prop_assert_eq!(text, want);
                prop_assert!(tokens.joined()[start..].starts_with(text));
                prop_assert_eq!(*keys.entry(text).or_insert(key), key);
                count += 1;
            }
            prop_assert_eq!(count, windows.len());
            let distinct: std::collections::HashSet<u64> = keys.values().copied().collect();
            prop_assert_eq!(distinct.len(), keys.len());
        }
    }
}
