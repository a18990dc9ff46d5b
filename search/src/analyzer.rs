//! English analysis: text to terms, the same for pages and queries.
//!
//! Split at everything that is not alphanumeric, lower-case, drop stop words, stem
//! (Snowball English). The published search tool does the same with Manticore's `stem_en`
//! morphology and English stop words [cosmo: huggingface/cosmopedia `fulltext_search/`].

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustc_hash::FxHashMap;
use tantivy::tokenizer::{
    Language, LowerCaser, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer, Token, TokenStream,
    Tokenizer,
};

/// Name under which the analyser is known in the index schema.
pub(crate) const TOKENIZER_NAME: &str = "english";

/// Words longer than this many bytes are noise (base64, hashes, scripts without spaces).
const MAX_WORD_BYTES: usize = 64;

/// Words whose stem is remembered. Stemming costs more than everything else in the analysis, and
/// a few ten thousand words make up nearly all running text.
const MEMO_WORDS: usize = 1 << 16;

/// Characters that mean something to the published query language and are replaced by spaces
/// [cosmo: huggingface/cosmopedia `fulltext_search/search_sharded.py`].
const QUERY_OPERATORS: [char; 13] = ['!', '"', '$', '\'', '(', ')', '/', '<', '@', '\\', '^', '|', '~'];

/// Replaces every query operator with a space and trims the ends.
pub fn clean_query(query: &str) -> String {
    query.replace(QUERY_OPERATORS, " ").trim().to_owned()
}

/// The terms of a text in reading order, repeats included.
pub fn analyze(text: &str) -> Vec<String> {
    thread_local! {
        /// Making one costs more than most queries; and topics of one category share their words.
        static ENGLISH: RefCell<English> = RefCell::new(English::new());
    }
    ENGLISH.with_borrow_mut(|english| {
        let mut stream = english.token_stream(text);
        let mut terms = Vec::new();
        while stream.advance() {
            terms.push(stream.token().text.clone());
        }
        terms
    })
}

/// The analyser as a Tantivy tokenizer, with a memory of stems.
#[derive(Clone)]
pub(crate) struct English {
    chain: TextAnalyzer,
    memo: FxHashMap<Box<str>, Option<Box<str>>>,
    token: Token,
    terms_in_last_text: Arc<AtomicU32>,
}

impl English {
    pub(crate) fn new() -> Self {
        Self {
            chain: chain(),
            memo: FxHashMap::default(),
            token: Token::default(),
            terms_in_last_text: Arc::default(),
        }
    }

    /// Holds the number of terms of the text that was analysed last, by this analyser or a clone
    /// of it (Tantivy clones the tokenizers it is given).
    pub(crate) fn terms_in_last_text(&self) -> Arc<AtomicU32> {
        self.terms_in_last_text.clone()
    }

    /// Puts the term of `word` into the token. False if the word has none.
    fn load_term(&mut self, word: &str) -> bool {
        if word.len() > MAX_WORD_BYTES {
            return false;
        }
        self.token.text.clear();
        if let Some(term) = self.memo.get(word) {
            return match term {
                Some(term) => {
                    self.token.text.push_str(term);
                    true
                }
                None => false,
            };
        }
        let mut stream = self.chain.token_stream(word);
        let has_term = stream.advance();
        if has_term {
            self.token.text.push_str(&stream.token().text);
        }
        drop(stream);
        if self.memo.len() < MEMO_WORDS {
            let term = has_term.then(|| self.token.text.as_str().into());
            self.memo.insert(word.into(), term);
        }
        has_term
    }
}

/// The steps a single word goes through.
fn chain() -> TextAnalyzer {
    // The fallback is never taken: the list exists whenever the `stopwords` feature is on.
    let stop_words =
        StopWordFilter::new(Language::English).unwrap_or_else(|| StopWordFilter::remove(Vec::new()));
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(LowerCaser)
        .filter(stop_words)
        .filter(Stemmer::new(Language::English))
        .build()
}

impl Tokenizer for English {
    type TokenStream<'a> = EnglishStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> EnglishStream<'a> {
        self.token.reset();
        EnglishStream { english: self, text, at: 0, terms: 0 }
    }
}

/// The terms of one text.
pub(crate) struct EnglishStream<'a> {
    english: &'a mut English,
    text: &'a str,
    at: usize,
    terms: u32,
}

impl EnglishStream<'_> {
    /// Start and end of the next run of alphanumeric characters.
    fn next_word(&mut self) -> Option<(usize, usize)> {
        let start = next_alphanumeric(self.text, self.at, true);
        if start == self.text.len() {
            return None;
        }
        self.at = next_alphanumeric(self.text, start, false);
        Some((start, self.at))
    }
}

/// Where, from a character's start on, the next character is alphanumeric (or, with `false`, is not); the
/// text's length if none is. Bytes of ASCII are not decoded first: they are nearly all there is.
fn next_alphanumeric(text: &str, mut at: usize, wanted: bool) -> usize {
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        let (is_alphanumeric, length) = match byte.is_ascii() {
            true => (byte.is_ascii_alphanumeric(), 1),
            false => match text[at..].chars().next() {
                Some(character) => (character.is_alphanumeric(), character.len_utf8()),
                None => break,
            },
        };
        if is_alphanumeric == wanted {
            return at;
        }
        at += length;
    }
    text.len()
}

impl TokenStream for EnglishStream<'_> {
    fn advance(&mut self) -> bool {
        while let Some((start, end)) = self.next_word() {
            let text = self.text;
            if self.english.load_term(&text[start..end]) {
                let token = &mut self.english.token;
                token.position = token.position.wrapping_add(1);
                token.offset_from = start;
                token.offset_to = end;
                self.terms += 1;
                return true;
            }
        }
        self.english.terms_in_last_text.store(self.terms, Ordering::Relaxed);
        false
    }

    fn token(&self) -> &Token {
        &self.english.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.english.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_becomes_lower_case_stems_without_stop_words() {
        assert_eq!(
            analyze("The Dogs are RUNNING in Zürich, 42 times!"),
            ["dog", "run", "zürich", "42", "time"]
        );
    }

    #[test]
    fn operators_become_spaces() {
        assert_eq!(clean_query("(C/C++) \"x^2\" ~a|b!"), "C C++   x 2   a b");
        assert_eq!(analyze(&clean_query("\\ / ( ) the")), Vec::<String>::new());
    }

    #[test]
    fn overlong_words_are_dropped() {
        let word = "x".repeat(MAX_WORD_BYTES + 1);
        assert_eq!(analyze(&format!("cat {word} dog")), ["cat", "dog"]);
    }

    #[test]
    fn counts_the_terms_of_the_last_text() {
        let mut english = English::new();
        let count = english.terms_in_last_text();
        english.token_stream("the cat sat on a mat").process(&mut |_| {});
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    proptest! {
        /// The memory of stems changes speed only: the terms are those of the plain chain.
        #[test]
        fn memo_equals_plain_chain(text in "\\PC{0,80}") {
            let mut plain = chain();
            let mut stream = plain.token_stream(&text);
            let mut expected = Vec::new();
            while stream.advance() {
                let token = stream.token();
                if token.offset_to - token.offset_from <= MAX_WORD_BYTES {
                    expected.push(token.text.clone());
                }
            }
            let twice = format!("{text} {text}");
            let both: Vec<String> = expected.iter().chain(&expected).cloned().collect();
            prop_assert_eq!(analyze(&text), expected);
            prop_assert_eq!(analyze(&twice), both);
        }
    }
}
