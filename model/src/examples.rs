//! Tokenised examples on disk, each with the tokens that are trained on.
//!
//! A folder holds two [token shards](crate::shards): `tokens.bin` with the examples' tokens, and `spans.bin`
//! with the lengths of their parts, not trained on and trained on by turns, the first of them possibly 0.

use crate::files::{FileError, failed};
use crate::shards::{Shard, ShardError, ShardWriter, Verify};
use std::ops::Range;
use std::path::Path;

const TOKENS_FILE: &str = "tokens.bin";
const SPANS_FILE: &str = "spans.bin";
/// Lengths take the place of tokens in `spans.bin`; more do not fit 16 bits.
const MOST_TOKENS: usize = (1 << 16) - 1;

/// A token sequence with the places that the loss falls on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Places of the tokens to be predicted, ascending and apart.
    pub trained: Vec<Range<usize>>,
}

impl Example {
    /// Number of tokens to be predicted; the first of a sequence has nothing before it and does not count.
    #[must_use]
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().map(|span| span.end - span.start.max(1).min(span.end)).sum()
    }

    /// Cuts the example to its first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.trained.retain_mut(|span| {
            span.end = span.end.min(tokens);
            span.start < span.end
        });
    }

    /// Cuts the first `tokens` tokens off.
    pub fn cut_front(&mut self, tokens: usize) {
        let tokens = tokens.min(self.tokens.len());
        self.tokens.drain(..tokens);
        self.trained.retain_mut(|span| {
            *span = span.start.saturating_sub(tokens)..span.end.saturating_sub(tokens);
            span.start < span.end
        });
    }
}

/// Why examples could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    /// A file could not be read or written, or is damaged.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A folder could not be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// An example is longer than the files can say.
    #[error("an example of {tokens} tokens is too long; at most {MOST_TOKENS} fit, lower length_tokens")]
    Length {
        /// Its tokens.
        tokens: usize,
    },
    /// The two files do not belong together.
    #[error("examples in {}: {problem}; encode them again", folder.display())]
    Damaged {
        /// The folder.
        folder: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Writes examples to a folder; its files appear when it is [finished](ExampleWriter::finish).
///
/// Memory: 16 bytes an example.
#[derive(Debug)]
pub struct ExampleWriter {
    tokens: ShardWriter,
    spans: ShardWriter,
}

impl ExampleWriter {
    /// Starts the files in `folder`, for tokens of the tokenizer with `tokenizer_digest`.
    ///
    /// # Errors
    /// [`ExampleError`] if the vocabulary is too large or a file cannot be created.
    pub fn create(
        folder: &Path,
        vocab_size: usize,
        tokenizer_digest: [u8; 32],
    ) -> Result<Self, ExampleError> {
        std::fs::create_dir_all(folder).map_err(failed("create folder", folder))?;
        Ok(Self {
            tokens: ShardWriter::create(&folder.join(TOKENS_FILE), vocab_size, tokenizer_digest)?,
            spans: ShardWriter::create(&folder.join(SPANS_FILE), MOST_TOKENS + 1, tokenizer_digest)?,
        })
    }

    /// Adds an example.
    ///
    /// # Errors
    /// [`ExampleError`] if it is too long or has foreign tokens, or an I/O failure.
    pub fn push(&mut self, example: &Example) -> Result<(), ExampleError> {
        if example.tokens.len() > MOST_TOKENS {
            return Err(ExampleError::Length { tokens: example.tokens.len() });
        }
        let mut lengths = Vec::with_capacity(2 * example.trained.len());
        let mut at = 0;
        for span in &example.trained {
            lengths.extend([(span.start - at) as u32, (span.end - span.start) as u32]);
            at = span.end;
        }
        self.tokens.push(&example.tokens)?;
        self.spans.push(&lengths)?;
        Ok(())
    }

    /// Makes the files appear.
    ///
    /// # Errors
    /// Any I/O failure.
    pub fn finish(self) -> Result<(), ExampleError> {
        // Readers look for the tokens first.
        self.spans.finish()?;
        self.tokens.finish()?;
        Ok(())
    }
}

/// Memory-mapped examples, by number.
#[derive(Debug)]
pub struct Examples {
    tokens: Shard,
    spans: Shard,
    digest: String,
}

impl Examples {
    /// Opens the examples in `folder` and checks every byte.
    ///
    /// # Errors
    /// [`ExampleError`] if a file is missing or damaged.
    pub fn open(folder: &Path) -> Result<Self, ExampleError> {
        let tokens = Shard::open(&folder.join(TOKENS_FILE), Verify::Everything)?;
        let spans = Shard::open(&folder.join(SPANS_FILE), Verify::Everything)?;
        let damaged = |problem: String| ExampleError::Damaged { folder: folder.to_path_buf(), problem };
        if tokens.documents() != spans.documents() {
            let (tokens, spans) = (tokens.documents(), spans.documents());
            return Err(damaged(format!("{tokens} examples, but the spans of {spans}")));
        }
        let digest = [tokens.digest(), spans.digest()].concat();
        let examples = Self { digest: blake3::hash(&digest).to_hex().to_string(), tokens, spans };
        for number in 0..examples.len() {
            let spans = examples.spans.document(number).and_then(|spans| spans.split_last());
            let covered: usize =
                spans.iter().flat_map(|(_, lengths)| *lengths).map(|&n| usize::from(n)).sum();
            if spans.is_none_or(|(_, lengths)| lengths.len() % 2 == 1) || covered > examples.tokens(number) {
                return Err(damaged(format!("the spans of example {number} do not fit its tokens")));
            }
        }
        Ok(examples)
    }

    /// Number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.documents()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of one example; 0 past the last.
    #[must_use]
    pub fn tokens(&self, number: usize) -> usize {
        self.tokens.document(number).map_or(0, |document| document.len() - 1)
    }

    /// One example; an empty one past the last.
    #[must_use]
    pub fn get(&self, number: usize) -> Example {
        let document = self.tokens.document(number).and_then(|document| document.split_last());
        let lengths = self.spans.document(number).and_then(|spans| spans.split_last());
        let mut at = 0;
        let pairs = lengths.map_or(&[][..], |(_, lengths)| lengths.as_chunks::<2>().0);
        Example {
            tokens: document.map_or(&[][..], |(_, tokens)| tokens).iter().map(|&t| t.into()).collect(),
            trained: pairs
                .iter()
                .map(|&[skipped, trained]| {
                    let start = at + usize::from(skipped);
                    at = start + usize::from(trained);
                    start..at
                })
                .collect(),
        }
    }

    /// Size of the tokenizer's vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokens.vocab_size()
    }

    /// BLAKE3 of the tokenizer file.
    #[must_use]
    pub fn tokenizer_digest(&self) -> [u8; 32] {
        self.tokens.tokenizer_digest()
    }

    /// A digest of all examples.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

#[cfg(test)]
// An example with one trained range is meant, not a `Vec` of the range's numbers.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn examples_come_back_as_they_were() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("examples");
        let examples = [
            Example { tokens: vec![5, 6, 7, 8], trained: vec![1..2, 3..4] },
            Example { tokens: vec![9], trained: vec![] },
            Example { tokens: vec![0, 1, 2], trained: vec![0..3] },
        ];
        let mut writer = ExampleWriter::create(&folder, 10, [3; 32]).unwrap();
        for example in &examples {
            writer.push(example).unwrap();
        }
        let long = Example { tokens: vec![1; 65_536], trained: vec![] };
        assert!(matches!(writer.push(&long), Err(ExampleError::Length { tokens: 65_536 })));
        writer.finish().unwrap();
        let read = Examples::open(&folder).unwrap();
        assert_eq!((0..read.len()).map(|i| read.get(i)).collect::<Vec<_>>(), examples);
        assert_eq!((read.tokens(0), read.tokens(2), read.vocab_size()), (4, 3, 10));
        assert_eq!(examples.each_ref().map(Example::trained_tokens), [2, 0, 2]);

        let path = folder.join(SPANS_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[130] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Examples::open(&folder).unwrap_err().to_string().contains("spans.bin"));
    }

    #[test]
    fn cuts_keep_the_spans_in_place() {
        let whole = Example { tokens: (0..10).collect(), trained: vec![2..4, 7..10] };
        let mut example = whole.clone();
        example.truncate(8);
        assert_eq!(example, Example { tokens: (0..8).collect(), trained: vec![2..4, 7..8] });
        example.truncate(7);
        assert_eq!(example.trained, [2..4]);
        let mut example = whole.clone();
        example.cut_front(3);
        assert_eq!(example, Example { tokens: (3..10).collect(), trained: vec![0..1, 4..7] });
        example.cut_front(100);
        assert_eq!(example, Example::default());
    }
}
