//! Counting words with bounded memory.

use super::{TokenizerError, pre_tokenizer};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Text gathered before it is counted in parallel.
const BATCH_BYTES: usize = 4 << 20;

/// How often each word (as the pre-tokenizer cuts it, in byte-level characters) was seen.
///
/// When more than `max_distinct_words` are held, the rarest go, as in lossy counting: the limit of what is
/// rare rises until at most three quarters are left. Batches are cut by bytes, so what is forgotten depends
/// on the texts and their order alone.
#[derive(Debug)]
pub struct WordCounts {
    words: HashMap<String, u64>,
    batch: Vec<String>,
    batch_bytes: usize,
    max_distinct_words: usize,
    forgotten: u64,
}

impl WordCounts {
    /// An empty count that holds at most `max_distinct_words` words between batches.
    #[must_use]
    pub fn new(max_distinct_words: usize) -> Self {
        Self {
            words: HashMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            max_distinct_words: max_distinct_words.max(1),
            forgotten: 0,
        }
    }

    /// Counts the words of one text.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if the pre-tokenizer fails.
    pub fn push(&mut self, text: &str) -> Result<(), TokenizerError> {
        self.batch_bytes += text.len();
        self.batch.push(text.to_owned());
        if self.batch_bytes >= BATCH_BYTES {
            self.count_batch()?;
        }
        Ok(())
    }

    /// Occurrences dropped because too many words were distinct.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The words in alphabetical order with their counts.
    pub(super) fn finish(mut self) -> Result<Vec<(String, u64)>, TokenizerError> {
        self.count_batch()?;
        if self.forgotten > 0 {
            tracing::info!(
                occurrences = self.forgotten,
                "rare words were forgotten while counting; raise max_distinct_words to keep them"
            );
        }
        let mut words: Vec<_> = self.words.into_iter().collect();
        words.sort_unstable();
        Ok(words)
    }

    fn count_batch(&mut self) -> Result<(), TokenizerError> {
        let texts = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let cutter = pre_tokenizer();
        let counted = texts
            .par_iter()
            .try_fold(HashMap::new, |mut counts: HashMap<String, u64>, text| {
                let mut cut = PreTokenizedString::from(text.as_str());
                cutter.pre_tokenize(&mut cut)?;
                for (word, _, _) in cut.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                    match counts.get_mut(word) {
                        Some(count) => *count += 1,
                        None => {
                            counts.insert(word.to_owned(), 1);
                        }
                    }
                }
                Ok::<_, tokenizers::Error>(counts)
            })
            .try_reduce(HashMap::new, |a, b| {
                let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
                for (word, count) in small {
                    *large.entry(word).or_default() += count;
                }
                Ok(large)
            })
            .map_err(|error| TokenizerError::Library {
                path: PathBuf::from("(training text)"),
                message: error.to_string(),
            })?;
        for (word, count) in counted {
            *self.words.entry(word).or_default() += count;
        }
        if self.words.len() > self.max_distinct_words {
            self.forget_rare();
        }
        Ok(())
    }

    fn forget_rare(&mut self) {
        let goal = (self.max_distinct_words / 4 * 3).max(1);
        let mut counts: Vec<u64> = self.words.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let limit = counts.get(goal).copied().unwrap_or(0);
        let forgotten = &mut self.forgotten;
        self.words.retain(|_, count| {
            let keep = *count > limit;
            if !keep {
                *forgotten += *count;
            }
            keep
        });
    }
}
