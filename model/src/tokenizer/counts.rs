//! Counting words with bounded memory.

use super::bpe::character_of;
use super::words::words;
use foldhash::fast::RandomState;
use rayon::prelude::*;

type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// Text gathered before it is counted in parallel.
const BATCH_BYTES: usize = 4 << 20;

/// How often each word, as [`words`] cuts it, was seen.
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
            words: HashMap::default(),
            batch: Vec::new(),
            batch_bytes: 0,
            max_distinct_words: max_distinct_words.max(1),
            forgotten: 0,
        }
    }

    /// Counts the words of one text.
    pub fn push(&mut self, text: &str) {
        self.batch_bytes += text.len();
        self.batch.push(text.to_owned());
        if self.batch_bytes >= BATCH_BYTES {
            self.count_batch();
        }
    }

    /// Occurrences dropped because too many words were distinct.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The words in byte-level characters and alphabetical order, with their counts.
    pub(super) fn finish(mut self) -> Vec<(String, u64)> {
        self.count_batch();
        if self.forgotten > 0 {
            tracing::info!(
                occurrences = self.forgotten,
                "rare words were forgotten while counting; raise max_distinct_words to keep them"
            );
        }
        let characters: Vec<char> = (0..=255).map(character_of).collect();
        let in_characters =
            |word: String| word.bytes().map(|byte| characters[usize::from(byte)]).collect::<String>();
        let mut words: Vec<_> =
            self.words.into_iter().map(|(word, count)| (in_characters(word), count)).collect();
        words.sort_unstable();
        words
    }

    fn count_batch(&mut self) {
        let texts = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let counted = texts
            .par_iter()
            .fold(HashMap::default, |mut counts: HashMap<&str, u64>, text| {
                words(text).for_each(|word| *counts.entry(word).or_default() += 1);
                counts
            })
            .reduce(HashMap::default, |a, b| {
                let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
                for (word, count) in small {
                    *large.entry(word).or_default() += count;
                }
                large
            });
        for (word, count) in counted {
            match self.words.get_mut(word) {
                Some(known) => *known += count,
                None => {
                    self.words.insert(word.to_owned(), count);
                }
            }
        }
        if self.words.len() > self.max_distinct_words {
            self.forget_rare();
        }
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
