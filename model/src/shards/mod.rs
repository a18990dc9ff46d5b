//! Token shards: encoded documents as memory-mapped `u16` files.
//!
//! A file is a header, the tokens, and an index of where each document starts:
//!
//! | bytes | field |
//! |---|---|
//! | 0–7 | magic `CSMTOKEN` |
//! | 8–11 | version, `u32` |
//! | 12–15 | vocabulary size, `u32` |
//! | 16–23 | number of tokens, `u64` |
//! | 24–31 | number of documents, `u64` |
//! | 32–63 | BLAKE3 of the tokenizer file |
//! | 64–95 | BLAKE3 of everything after the header |
//! | 96–119 | zero |
//! | 120–127 | first 8 bytes of the BLAKE3 of bytes 0–119 |
//! | 128… | tokens, `u16` each, then zeros up to a multiple of 8 |
//! | … | first token of each document, `u64` each |
//!
//! All numbers are little-endian. Every document ends with `<|endoftext|>` (id 0).

mod dataset;
mod foreign;
mod permutation;
mod reader;
mod writer;

pub use dataset::{Source, SourceUse, TokenDataset};
pub use foreign::{ForeignTokens, write_datatrove, write_megatron};
pub use permutation::Permutation;
pub use reader::{Shard, Verify};
pub use writer::{ShardSetWriter, ShardSummary, ShardWriter};

use crate::files::FileError;
use std::path::PathBuf;

pub(crate) const MAGIC: &[u8; 8] = b"CSMTOKEN";
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 128;
/// Header bytes under the header's own checksum.
const CHECKED_BYTES: usize = 120;

/// Why a shard could not be written, opened or sampled.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a shard, or a damaged one.
    #[error("token shard {}: {problem} (at byte {offset}); pack the tokens again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the problem was seen.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A token file of another program is damaged, or its parts disagree.
    #[error("token file {}: {problem}; write it again with the program it is from", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A shard of another format version.
    #[error("token shard {}: format version {version}, this program reads version {VERSION}; pack the tokens again with this program", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A token does not fit the vocabulary or 16 bits.
    #[error("document {document} of token shard {}: token {token} is outside the vocabulary of {vocab_size}", path.display())]
    Token {
        /// The file being written.
        path: PathBuf,
        /// Number of the document in the shard.
        document: u64,
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocab_size: u32,
    },
    /// The vocabulary does not fit 16 bits.
    #[error(
        "a vocabulary of {vocab_size} does not fit 16-bit token shards; use a tokenizer of at most 65,536 entries"
    )]
    VocabSize {
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// Shards of different tokenizers were mixed.
    #[error("token shard {} was made with another tokenizer than {}; pack both with the same one", path.display(), first.display())]
    Tokenizer {
        /// The odd one out.
        path: PathBuf,
        /// The first shard.
        first: PathBuf,
    },
    /// Nothing, or too little, to sample from.
    #[error(
        "source {name} has {tokens} tokens in {shards} shards, fewer than one sequence of {context_tokens} tokens and its target; add data or lower context_tokens"
    )]
    TooSmall {
        /// The source.
        name: String,
        /// Its tokens.
        tokens: u64,
        /// Its shards.
        shards: usize,
        /// The wanted context.
        context_tokens: usize,
    },
    /// The weights of the sources make no mixture.
    #[error(
        "the weight of source {name} is {weight}; weights must be finite, not negative, and at least one must be above 0"
    )]
    Weight {
        /// The source.
        name: String,
        /// Its weight.
        weight: f64,
    },
    /// No source was given.
    #[error("a dataset needs at least one source of token shards")]
    NoSource,
}

/// The numbers in a shard's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub vocab_size: u32,
    pub tokens: u64,
    pub documents: u64,
    pub tokenizer_digest: [u8; 32],
    pub payload_digest: [u8; 32],
}

impl Header {
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.vocab_size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.documents.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.tokenizer_digest);
        bytes[64..96].copy_from_slice(&self.payload_digest);
        let check = blake3::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check.as_bytes()[..8]);
        bytes
    }

    pub fn parse(path: &std::path::Path, bytes: &[u8]) -> Result<Self, ShardError> {
        let damaged = |offset, problem: &str| ShardError::Damaged {
            path: path.to_path_buf(),
            offset,
            problem: problem.to_owned(),
        };
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(damaged(bytes.len() as u64, "the file ends inside the header"));
        };
        if &bytes[..8] != MAGIC {
            return Err(damaged(0, "the file does not start with CSMTOKEN, it is no token shard"));
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let digest_at = |at: usize| {
            let mut digest = [0u8; 32];
            digest.copy_from_slice(&bytes[at..at + 32]);
            digest
        };
        let version = u32_at(8);
        if version != VERSION {
            return Err(ShardError::Version { path: path.to_path_buf(), version });
        }
        let check = blake3::hash(&bytes[..CHECKED_BYTES]);
        if bytes[CHECKED_BYTES..] != check.as_bytes()[..8] {
            return Err(damaged(CHECKED_BYTES as u64, "the header's checksum does not match"));
        }
        let header = Self {
            vocab_size: u32_at(12),
            tokens: u64_at(16),
            documents: u64_at(24),
            tokenizer_digest: digest_at(32),
            payload_digest: digest_at(64),
        };
        if header.vocab_size == 0 || header.vocab_size > 1 << 16 {
            return Err(damaged(12, "the vocabulary size is not between 1 and 65,536"));
        }
        if header.documents > header.tokens {
            return Err(damaged(24, "there are more documents than tokens"));
        }
        if header.to_bytes() != *bytes {
            return Err(damaged(96, "the header's reserved bytes are not zero"));
        }
        Ok(header)
    }

    /// Byte ranges of the tokens and the index, and the file's length; `None` if they overflow.
    pub fn places(&self) -> Option<(std::ops::Range<u64>, std::ops::Range<u64>)> {
        let tokens_end = (HEADER_BYTES as u64).checked_add(self.tokens.checked_mul(2)?)?;
        let index_start = tokens_end.checked_next_multiple_of(8)?;
        let index_end = index_start.checked_add(self.documents.checked_mul(8)?)?;
        Some((HEADER_BYTES as u64..tokens_end, index_start..index_end))
    }
}

#[cfg(test)]
mod tests;
