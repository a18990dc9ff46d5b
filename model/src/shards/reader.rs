//! Memory-mapped shards.

use super::{HEADER_BYTES, Header, ShardError};
use crate::files::failed;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How much of a shard is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Header, file length and document index; cheap.
    Structure,
    /// Also every token and the payload's digest; reads the whole file.
    Everything,
}

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Header,
    tokens: Range<usize>,
    index: Range<usize>,
}

impl Shard {
    /// Maps the shard at `path`.
    ///
    /// # Errors
    /// [`ShardError`] if the file is missing, truncated, of another version or damaged.
    pub fn open(path: &Path, verify: Verify) -> Result<Self, ShardError> {
        let damaged =
            |offset: u64, problem: String| ShardError::Damaged { path: path.to_path_buf(), offset, problem };
        let file = File::open(path).map_err(failed("open", path))?;
        // SAFETY: shards are written once and renamed into place; nothing changes them afterwards.
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map", path))?;
        let header = Header::parse(path, &map)?;
        let Some((tokens, index)) = header.places() else {
            return Err(damaged(16, "the counts in the header overflow".to_owned()));
        };
        if index.end != map.len() as u64 {
            return Err(damaged(
                map.len() as u64,
                format!("the file has {} bytes where its header says {}", map.len(), index.end),
            ));
        }
        // Both ranges end inside the file, so they fit usize.
        let as_usize = |range: Range<u64>| range.start as usize..range.end as usize;
        let shard =
            Self { path: path.to_path_buf(), header, tokens: as_usize(tokens), index: as_usize(index), map };
        shard.check_index()?;
        if verify == Verify::Everything {
            shard.check_payload()?;
        }
        Ok(shard)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tokens, the documents' ends included.
    #[must_use]
    pub fn tokens(&self) -> &[u16] {
        // The header is 128 bytes and maps start on a page, so the cast is aligned.
        bytemuck::cast_slice(&self.map[self.tokens.clone()])
    }

    /// First token of each document.
    #[must_use]
    pub fn starts(&self) -> &[u64] {
        bytemuck::cast_slice(&self.map[self.index.clone()])
    }

    /// Number of documents.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.starts().len()
    }

    /// Tokens of one document with its end, or `None` past the last.
    #[must_use]
    pub fn document(&self, number: usize) -> Option<&[u16]> {
        let starts = self.starts();
        let start = *starts.get(number)? as usize;
        let end = starts.get(number + 1).map_or(self.tokens().len(), |&next| next as usize);
        self.tokens().get(start..end)
    }

    /// Size of the tokenizer's vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// BLAKE3 of the tokenizer file.
    #[must_use]
    pub fn tokenizer_digest(&self) -> [u8; 32] {
        self.header.tokenizer_digest
    }

    /// BLAKE3 of the tokens and the index.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.header.payload_digest
    }

    fn damaged(&self, offset: usize, problem: impl Into<String>) -> ShardError {
        ShardError::Damaged { path: self.path.clone(), offset: offset as u64, problem: problem.into() }
    }

    fn check_index(&self) -> Result<(), ShardError> {
        let starts = self.starts();
        if starts.first().is_some_and(|&first| first != 0) {
            return Err(self.damaged(self.index.start, "the first document does not start at token 0"));
        }
        if let Some(place) = starts.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(self
                .damaged(self.index.start + 8 * (place + 1), "documents do not start one after the other"));
        }
        let tokens = self.tokens().len() as u64;
        if starts.last().is_some_and(|&last| last >= tokens) || (starts.is_empty() && tokens > 0) {
            return Err(self.damaged(self.index.start, "the index does not cover the tokens"));
        }
        Ok(())
    }

    fn check_payload(&self) -> Result<(), ShardError> {
        let digest = blake3::hash(&self.map[HEADER_BYTES..]);
        if *digest.as_bytes() != self.header.payload_digest {
            return Err(self.damaged(HEADER_BYTES, "the tokens' digest does not match the header"));
        }
        let vocab_size = self.vocab_size();
        if let Some(place) = self.tokens().iter().position(|&token| usize::from(token) >= vocab_size) {
            return Err(self.damaged(
                HEADER_BYTES + 2 * place,
                format!("a token is outside the vocabulary of {vocab_size}"),
            ));
        }
        Ok(())
    }
}
