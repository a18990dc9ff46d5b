//! Writing shards, one document at a time.

use super::{HEADER_BYTES, Header, ShardError};
use crate::files::{failed, publish, temporary_name};
use crate::tokenizer::END_OF_TEXT;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A finished shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSummary {
    /// The file.
    pub path: PathBuf,
    /// Tokens in it, the documents' ends included.
    pub tokens: u64,
    /// Documents in it.
    pub documents: u64,
    /// BLAKE3 of the tokens and the index.
    pub digest: [u8; 32],
}

/// Writes one shard under a temporary name; [`ShardWriter::finish`] makes it appear.
///
/// Memory: 8 bytes a document for the index.
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
    hasher: blake3::Hasher,
    header: Header,
    starts: Vec<u64>,
}

impl ShardWriter {
    /// Starts the shard `path` for tokens of the tokenizer with `tokenizer_digest`.
    ///
    /// # Errors
    /// [`ShardError`] if the vocabulary is too large or the file cannot be created.
    pub fn create(path: &Path, vocab_size: usize, tokenizer_digest: [u8; 32]) -> Result<Self, ShardError> {
        if vocab_size == 0 || vocab_size > 1 << 16 {
            return Err(ShardError::VocabSize { vocab_size });
        }
        let temporary = temporary_name(path);
        let mut file = BufWriter::with_capacity(
            1 << 18,
            File::create(&temporary).map_err(failed("create", &temporary))?,
        );
        // Room for the header, which is known last.
        file.write_all(&[0; HEADER_BYTES]).map_err(failed("write", &temporary))?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
            file: Some(file),
            hasher: blake3::Hasher::new(),
            header: Header {
                vocab_size: vocab_size as u32,
                tokens: 0,
                documents: 0,
                tokenizer_digest,
                payload_digest: [0; 32],
            },
            starts: Vec::new(),
        })
    }

    /// Adds a document and its end; `tokens` comes without `<|endoftext|>`.
    ///
    /// # Errors
    /// [`ShardError::Token`] for a token outside the vocabulary, or an I/O failure.
    pub fn push(&mut self, tokens: &[u32]) -> Result<(), ShardError> {
        let vocab_size = self.header.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token >= vocab_size) {
            return Err(ShardError::Token {
                path: self.path.clone(),
                document: self.header.documents,
                token,
                vocab_size,
            });
        }
        let mut bytes = Vec::with_capacity(2 * tokens.len() + 2);
        for &token in tokens.iter().chain(&[END_OF_TEXT]) {
            bytes.extend_from_slice(&(token as u16).to_le_bytes());
        }
        self.write(&bytes)?;
        self.starts.push(self.header.tokens);
        self.header.tokens += tokens.len() as u64 + 1;
        self.header.documents += 1;
        Ok(())
    }

    /// Tokens written so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Writes the index and the header, syncs, and gives the file its name.
    ///
    /// # Errors
    /// Any I/O failure; the shard then does not appear.
    pub fn finish(mut self) -> Result<ShardSummary, ShardError> {
        let padding = (8 - (2 * self.header.tokens) % 8) % 8;
        self.write(&[0; 8][..padding as usize])?;
        let starts = std::mem::take(&mut self.starts);
        self.write(bytemuck::cast_slice(&starts))?;
        self.header.payload_digest = *self.hasher.finalize().as_bytes();
        let header = self.header.to_bytes();
        if let Some(mut file) = self.file.take() {
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.write_all(&header))
                .and_then(|()| file.flush())
                .and_then(|()| file.get_ref().sync_all())
                .map_err(failed("write", &self.temporary))?;
        }
        publish(&self.temporary, &self.path)?;
        Ok(ShardSummary {
            path: self.path.clone(),
            tokens: self.header.tokens,
            documents: self.header.documents,
            digest: self.header.payload_digest,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ShardError> {
        self.hasher.update(bytes);
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(failed("write", &self.temporary))?;
        }
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // Not finished: leave nothing behind.
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a folder of shards `tokens-00000.bin`, `tokens-00001.bin`, … of about equal size.
#[derive(Debug)]
pub struct ShardSetWriter {
    folder: PathBuf,
    vocab_size: usize,
    tokenizer_digest: [u8; 32],
    shard_tokens: u64,
    current: Option<ShardWriter>,
    finished: Vec<ShardSummary>,
}

impl ShardSetWriter {
    /// Shards in `folder` that are closed once they hold `shard_tokens` tokens or more.
    ///
    /// # Errors
    /// An I/O failure if the folder cannot be made.
    pub fn create(
        folder: &Path,
        vocab_size: usize,
        tokenizer_digest: [u8; 32],
        shard_tokens: u64,
    ) -> Result<Self, ShardError> {
        std::fs::create_dir_all(folder).map_err(failed("create folder", folder))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            vocab_size,
            tokenizer_digest,
            shard_tokens: shard_tokens.max(1),
            current: None,
            finished: Vec::new(),
        })
    }

    /// Adds a document; see [`ShardWriter::push`].
    ///
    /// # Errors
    /// As [`ShardWriter::push`].
    pub fn push(&mut self, tokens: &[u32]) -> Result<(), ShardError> {
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => {
                let path = self.folder.join(format!("tokens-{:05}.bin", self.finished.len()));
                ShardWriter::create(&path, self.vocab_size, self.tokenizer_digest)?
            }
        };
        shard.push(tokens)?;
        if shard.tokens() >= self.shard_tokens {
            self.finished.push(shard.finish()?);
        } else {
            self.current = Some(shard);
        }
        Ok(())
    }

    /// Closes the last shard; the shards in order.
    ///
    /// # Errors
    /// Any I/O failure.
    pub fn finish(mut self) -> Result<Vec<ShardSummary>, ShardError> {
        if let Some(shard) = self.current.take() {
            self.finished.push(shard.finish()?);
        }
        Ok(self.finished)
    }
}
