//! Pages to token ids.

use std::path::Path;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

/// How much of a page is tokenised at first, in bytes for each token wanted.
/// English needs 4–5; more only costs time.
const FIRST_BYTES_PER_TOKEN: usize = 8;

/// A tokenizer that gives at most `max_tokens` ids a page, special tokens
/// included, and reads no more of a long page than that takes.
#[derive(Debug)]
pub(crate) struct PageTokenizer {
    tokenizer: Tokenizer,
    max_tokens: usize,
}

impl PageTokenizer {
    /// Reads a `tokenizer.json`; its own padding and truncation are put aside.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path, max_tokens: usize) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| {
            format!(
                "{} is no tokenizer.json that `tokenizers` reads ({} bytes): {error}",
                path.display(),
                bytes.len()
            )
        })?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams {
                max_length: max_tokens,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: TruncationDirection::Right,
            }))
            .map_err(|error| format!("{}: max_tokens = {max_tokens}: {error}", path.display()))?;
        Ok(Self { tokenizer, max_tokens })
    }

    /// The largest id this tokenizer can give.
    pub(crate) fn largest_id(&self) -> i64 {
        let ids = self.tokenizer.get_vocab(true).into_values();
        ids.max().map_or(0, i64::from)
    }

    /// The ids of the page's first `max_tokens` tokens.
    ///
    /// A long page is tokenised up to a white space only, and further when that
    /// was too little. The ids are those of the whole page, because no token
    /// reaches over a white space.
    pub(crate) fn ids(&self, text: &str) -> Result<Vec<i64>, tokenizers::Error> {
        let mut wanted_bytes = self.max_tokens * FIRST_BYTES_PER_TOKEN;
        loop {
            let prefix = prefix_at_white_space(text, wanted_bytes);
            let encoding = self.tokenizer.encode_fast(prefix, true)?;
            // Something was cut off, so the prefix held more than enough.
            let enough = !encoding.get_overflowing().is_empty();
            if enough || prefix.len() == text.len() {
                return Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect());
            }
            wanted_bytes = prefix.len().saturating_mul(4);
        }
    }
}

/// The shortest prefix of at least `wanted_bytes` that ends before a white
/// space; all of the text when there is none.
///
/// Only the four ASCII white spaces count: a BERT normaliser removes some of
/// the Unicode ones and so joins the words beside them.
fn prefix_at_white_space(text: &str, wanted_bytes: usize) -> &str {
    let bytes = text.as_bytes();
    let Some(rest) = bytes.get(wanted_bytes..) else {
        return text;
    };
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\t' | b'\r');
    match rest.iter().position(is_space) {
        Some(position) => text.get(..wanted_bytes + position).unwrap_or(text),
        None => text,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A word-piece tokenizer of a few pieces, with padding and truncation set
    /// as in the wheel's file.
    pub(crate) fn tiny_tokenizer_json() -> String {
        let mut vocab = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cell", "is"];
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        let pieces: Vec<String> = ('a'..='z').map(|letter| format!("##{letter}")).collect();
        vocab.extend(letters.iter().map(String::as_str));
        vocab.extend(pieces.iter().map(String::as_str));
        vocab.extend([",", ".", "é"]);
        let vocab: serde_json::Map<String, serde_json::Value> =
            vocab.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), id.into())).collect();
        serde_json::json!({
            "version": "1.0",
            "truncation": {"max_length": 128, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                                   "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab}
        })
        .to_string()
    }

    fn tiny(max_tokens: usize) -> PageTokenizer {
        let json = tiny_tokenizer_json();
        PageTokenizer::from_bytes(json.as_bytes(), Path::new("tiny.json"), max_tokens).unwrap()
    }

    #[test]
    fn no_padding_and_our_own_length() {
        assert_eq!(tiny(128).ids("The cell").unwrap(), [2, 4, 5, 3]);
        assert_eq!(tiny(3).ids("the cell is").unwrap(), [2, 4, 3]);
        assert_eq!(tiny(300).ids(&"is ".repeat(1_000)).unwrap().len(), 300);
        assert_eq!(tiny(8).ids("").unwrap(), [2, 3]);
        assert_eq!(tiny(8).largest_id(), 61);
    }

    #[test]
    fn garbage_is_named() {
        let error = PageTokenizer::from_bytes(b"{}", Path::new("odd.json"), 8).unwrap_err();
        assert!(error.contains("odd.json") && error.contains("2 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn a_prefix_gives_the_ids_of_the_whole_page(
            text in "([a-zé]{1,9}|the|cell|[ \n\t\r]{1,40}|[,.]|\u{85}|\u{a0}|\u{301}|中){0,120}",
            max_tokens in 3_usize..20,
        ) {
            let tokenizer = tiny(max_tokens);
            let whole = tokenizer.tokenizer.encode_fast(text.as_str(), true).unwrap();
            let whole: Vec<i64> = whole.get_ids().iter().map(|&id| i64::from(id)).collect();
            prop_assert_eq!(tokenizer.ids(&text).unwrap(), whole);
        }
    }
}
