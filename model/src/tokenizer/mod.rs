//! A byte-level BPE tokenizer: trained here, loaded by `transformers` and `tokenizers`.
//!
//! Word counting and encoding cut words alike, as the `tokenizers` crate does ([`words`]), and encode them to the
//! same tokens ([`bpe`]) several times faster; tokenizers of other families are left to the crate. The merges are
//! found by [`merges`], because the crate's trainer counts pairs in 32 bits and walks hash maps in random order;
//! ours gives the same vocabulary for the same texts, byte for byte.

mod bpe;
mod counts;
mod encoder;
mod gguf;
mod merges;
mod words;

pub(crate) use bpe::{Merge, character_of};
pub use counts::WordCounts;
pub use encoder::{Encoder, SubsetCount, count_by_subset};
pub use gguf::tokenizer_of_gguf;

use crate::files::{FileError, write_whole};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// The special tokens in the order of their ids; a document ends with the first.
///
/// Source: the vocabulary of HuggingFaceTB/cosmo2-tokenizer.
pub const SPECIAL_TOKENS: [&str; 17] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
];

/// Id of `<|endoftext|>`.
pub const END_OF_TEXT: u32 = 0;

/// Name of the vocabulary file in a tokenizer folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// How a tokenizer is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerOptions {
    /// Size of the vocabulary (entries), special tokens and the 256 bytes included.
    pub vocab_size: usize,
    /// A pair of symbols is merged only if it was seen at least so often (occurrences).
    pub min_frequency: u64,
    /// Distinct words held while counting (entries); beyond it the rarest are forgotten.
    pub max_distinct_words: usize,
    /// Longest context written to tokenizer_config.json (tokens).
    pub model_max_length_tokens: usize,
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        Self {
            vocab_size: 49_152,
            min_frequency: 2,
            max_distinct_words: 10_000_000,
            model_max_length_tokens: 2_048,
        }
    }
}

/// Why a tokenizer could not be trained, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The vocabulary cannot hold the special tokens and all bytes, or exceeds `u16` shards.
    #[error(
        "tokenizer.vocab_size = {vocab_size} is not usable: it must lie between {least} (special tokens and all bytes) and 65,536 (what token shards can hold)"
    )]
    VocabSize {
        /// The option's value.
        vocab_size: usize,
        /// The least usable value.
        least: usize,
    },
    /// There was no text.
    #[error(
        "no text to train the tokenizer on: check that the input stage has rows and a non-empty text column"
    )]
    NoText,
    /// The `tokenizers` crate refused.
    #[error("tokenizer {}: {message}; the file must be a tokenizer.json of this or the Hugging Face tokenizers library", path.display())]
    Library {
        /// The file, or the folder being written.
        path: PathBuf,
        /// The library's message.
        message: String,
    },
    /// The tokenizer has no end-of-text token where shards need it.
    #[error("tokenizer {} has no {} with id 0; token shards end documents with it: use a tokenizer of the SmolLM family", path.display(), SPECIAL_TOKENS[0])]
    NoEndOfText {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The library's pre-tokenizer of this family: cuts digits one by one, then words as GPT-2 does, in byte-level
/// characters.
///
/// Source: the pre-tokenizer of HuggingFaceTB/cosmo2-tokenizer.
pub(crate) fn pre_tokenizer() -> Sequence {
    Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])
}

/// Trains a tokenizer on `texts` and writes its files into the folder `out_dir`.
///
/// The texts are counted as they come; memory holds at most `max_distinct_words` words. The same texts in the
/// same order give the same files.
///
/// # Errors
/// [`TokenizerError`] if the options are unusable, there is no text, or a file cannot be written.
pub fn train<T: AsRef<str> + Send>(
    options: &TokenizerOptions,
    texts: impl IntoIterator<Item = T>,
    out_dir: &Path,
) -> Result<Encoder, TokenizerError> {
    let mut counts = WordCounts::new(options.max_distinct_words);
    for text in texts {
        counts.push(text.as_ref());
    }
    train_on_counts(options, counts, out_dir)
}

/// The second half of [`train`], for callers that feed [`WordCounts`] themselves.
///
/// # Errors
/// As [`train`].
pub fn train_on_counts(
    options: &TokenizerOptions,
    counts: WordCounts,
    out_dir: &Path,
) -> Result<Encoder, TokenizerError> {
    let least = SPECIAL_TOKENS.len() + 256;
    if options.vocab_size < least || options.vocab_size > 1 << 16 {
        return Err(TokenizerError::VocabSize { vocab_size: options.vocab_size, least });
    }
    let words = counts.finish();
    if words.is_empty() {
        return Err(TokenizerError::NoText);
    }
    let mut vocabulary: Vec<String> = SPECIAL_TOKENS.iter().map(ToString::to_string).collect();
    let mut alphabet: Vec<char> = (0..=255).map(character_of).collect();
    alphabet.sort_unstable();
    vocabulary.extend(alphabet.iter().map(char::to_string));
    let merges = merges::learn(&words, &mut vocabulary, options.vocab_size, options.min_frequency);
    save(options, &vocabulary, &merges, out_dir)?;
    Encoder::load(&out_dir.join(TOKENIZER_FILE))
}

fn save(
    options: &TokenizerOptions,
    vocabulary: &[String],
    merges: &[(u32, u32)],
    out_dir: &Path,
) -> Result<(), TokenizerError> {
    let library = |message: String| TokenizerError::Library { path: out_dir.to_path_buf(), message };
    let entries: serde_json::Map<String, serde_json::Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let pairs: Vec<[&str; 2]> = merges
        .iter()
        .map(|&(a, b)| [vocabulary[a as usize].as_str(), vocabulary[b as usize].as_str()])
        .collect();
    let added = |id: usize| {
        serde_json::json!({
            "id": id, "content": SPECIAL_TOKENS[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let document = serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": (0..SPECIAL_TOKENS.len()).map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level]},
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": entries, "merges": pairs,
        },
    });
    // Through the library and back: it checks the merges and writes the vocabulary in the order of ids.
    let text = serde_json::to_vec(&document).map_err(|error| library(error.to_string()))?;
    let tokenizer = tokenizers::Tokenizer::from_bytes(text).map_err(|error| library(error.to_string()))?;
    let text = tokenizer.to_string(true).map_err(|error| library(error.to_string()))?;
    std::fs::create_dir_all(out_dir).map_err(crate::files::failed("create folder", out_dir))?;

    let end = SPECIAL_TOKENS[0];
    let decoder: serde_json::Map<String, serde_json::Value> = (0..SPECIAL_TOKENS.len())
        .map(|id| {
            let mut entry = added(id);
            if let Some(fields) = entry.as_object_mut() {
                fields.remove("id");
            }
            (id.to_string(), entry)
        })
        .collect();
    let config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": false,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": SPECIAL_TOKENS,
        "bos_token": end, "eos_token": end, "unk_token": end,
        "clean_up_tokenization_spaces": false,
        "model_max_length": options.model_max_length_tokens,
        "vocab_size": vocabulary.len(),
    });
    let special = serde_json::json!({
        "additional_special_tokens": SPECIAL_TOKENS, "bos_token": end, "eos_token": end, "unk_token": end,
    });
    write_whole(&out_dir.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())?;
    write_whole(&out_dir.join("special_tokens_map.json"), format!("{special:#}\n").as_bytes())?;
    write_whole(&out_dir.join(TOKENIZER_FILE), text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests;
