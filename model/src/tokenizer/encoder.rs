//! Encoding text with a saved tokenizer.

use super::bpe::Bpe;
use super::{END_OF_TEXT, SPECIAL_TOKENS, TokenizerError};
use crate::files::failed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::Tokenizer;

/// A loaded tokenizer.
#[derive(Clone)]
pub struct Encoder {
    /// Reads special tokens in a text as plain characters.
    plain: Tokenizer,
    /// Reads them as special tokens.
    special: Tokenizer,
    /// What `plain` does, faster, for tokenizers of the SmolLM family.
    bpe: Option<Arc<Bpe>>,
    path: PathBuf,
    digest: [u8; 32],
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Loads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] if the file is missing, malformed, or has no `<|endoftext|>` with id 0.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = std::fs::read(path).map_err(failed("read", path))?;
        let library = |error: tokenizers::Error| TokenizerError::Library {
            path: path.to_path_buf(),
            message: error.to_string(),
        };
        let special = Tokenizer::from_bytes(&bytes).map_err(library)?;
        if special.token_to_id(SPECIAL_TOKENS[0]) != Some(END_OF_TEXT) {
            return Err(TokenizerError::NoEndOfText { path: path.to_path_buf() });
        }
        let mut plain = special.clone();
        plain.set_encode_special_tokens(true);
        let bpe = Bpe::of(&bytes).map(Arc::new);
        Ok(Self { plain, special, bpe, path: path.to_path_buf(), digest: *blake3::hash(&bytes).as_bytes() })
    }

    /// Token ids of a corpus text. `<|endoftext|>` and the like are plain characters here: a web page must
    /// not be able to end a document or open a chat turn.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.bpe {
            Some(bpe) => Ok(bpe.encode(text)),
            None => self.run(&self.plain, text),
        }
    }

    /// Token ids of a text of our own making, such as a filled chat template, with special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if the library fails.
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.run(&self.special, text)
    }

    /// The text of `tokens`; special tokens are left out.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if the library fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.special.decode(tokens, true).map_err(|error| self.library(&error))
    }

    /// The special tokens, by id.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.special.get_added_tokens_decoder();
        let mut tokens: Vec<_> = added.into_iter().filter(|(_, token)| token.special).collect();
        tokens.sort_unstable_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, token)| token.content).collect()
    }

    /// Number of entries, special tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.special.get_vocab_size(true)
    }

    /// BLAKE3 of the file, as shards record it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether texts are encoded here, and not by the library.
    #[cfg(test)]
    pub(super) fn is_fast(&self) -> bool {
        self.bpe.is_some()
    }

    /// The folder the tokenizer's files lie in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        crate::files::parent_of(&self.path)
    }

    fn run(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = tokenizer.encode_fast(text, false).map_err(|error| self.library(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn library(&self, error: &tokenizers::Error) -> TokenizerError {
        TokenizerError::Library { path: self.path.clone(), message: error.to_string() }
    }
}

/// How well a tokenizer packs one subset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubsetCount {
    /// Number of texts.
    pub texts: u64,
    /// Their size in UTF-8 (bytes).
    pub bytes: u64,
    /// Their size in tokens.
    pub tokens: u64,
}

impl SubsetCount {
    /// Mean bytes one token stands for; 0 for an empty subset.
    #[must_use]
    pub fn bytes_per_token(&self) -> f64 {
        if self.tokens == 0 {
            return 0.0;
        }
        self.bytes as f64 / self.tokens as f64
    }
}

/// Encodes `(subset, text)` pairs and counts by subset.
///
/// # Errors
/// [`TokenizerError::Library`] if the library fails.
pub fn count_by_subset<S: AsRef<str>, T: AsRef<str>>(
    encoder: &Encoder,
    texts: impl IntoIterator<Item = (S, T)>,
) -> Result<BTreeMap<String, SubsetCount>, TokenizerError> {
    let mut counts: BTreeMap<String, SubsetCount> = BTreeMap::new();
    for (subset, text) in texts {
        let text = text.as_ref();
        let tokens = encoder.encode(text)?.len() as u64;
        let count = counts.entry(subset.as_ref().to_owned()).or_default();
        count.texts += 1;
        count.bytes += text.len() as u64;
        count.tokens += tokens;
    }
    Ok(counts)
}
