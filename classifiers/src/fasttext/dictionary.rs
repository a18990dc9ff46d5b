//! Words, labels, and the rows of the input matrix that a text stands for.

use std::io::Read;

use rustc_hash::FxHashMap;

use super::read::Reader;
use super::{FastTextError, Sizes};

/// What fastText reads where a line ends.
const END_OF_LINE: &[u8] = b"</s>";
const LABEL: &[u8] = b"__label__";
/// The factor of fastText's hash of word n-grams (`Dictionary::addWordNgrams`).
const NGRAM_FACTOR: u64 = 116_049_371;

/// Words by their rows, labels, and how letters and words make n-grams.
#[derive(Debug)]
pub struct Dictionary {
    words: FxHashMap<Box<[u8]>, u32>,
    word_count: u32,
    labels: Vec<String>,
    label_counts: Vec<i64>,
    word_ngrams: usize,
    buckets: u32,
    shortest: usize,
    longest: usize,
    /// With a pruned dictionary, the rows (after the words') of the buckets that were kept.
    kept: Option<FxHashMap<u32, u32>>,
    rows: u64,
}

impl Dictionary {
    pub fn read(reader: &mut Reader<'_, impl Read>, sizes: &Sizes) -> Result<Self, FastTextError> {
        let entries = reader.size_i32("number of words and labels", 1)?;
        let word_count = reader.size_i32("number of words", 0)?;
        let label_count = reader.size_i32("number of labels", 1)?;
        if word_count + label_count != entries {
            return Err(reader.wrong(format_args!(
                "{word_count} words and {label_count} labels are not {entries} entries"
            )));
        }
        reader.i64()?;
        // Below zero: not pruned.
        let pruned = reader.i64()?;
        let (mut words, mut labels, mut label_counts) = (FxHashMap::default(), Vec::new(), Vec::new());
        for entry in 0..entries {
            let name = reader.c_string()?;
            let count = reader.i64()?;
            match (reader.u8()?, entry < word_count) {
                (0, true) => {
                    words.insert(name.into_boxed_slice(), entry as u32);
                }
                (1, false) => {
                    let name = name.strip_prefix(LABEL).unwrap_or(&name);
                    labels.push(String::from_utf8_lossy(name).into_owned());
                    label_counts.push(count);
                }
                _ => return Err(reader.wrong("words come first, then labels; this entry is out of place")),
            }
        }
        let kept = (pruned >= 0).then(|| Self::read_kept(reader, pruned)).transpose()?;
        let has_ngrams = sizes.longest > 0 || sizes.word_ngrams > 1;
        let ngram_rows = match &kept {
            Some(kept) => kept.values().max().map_or(0, |row| u64::from(*row) + 1),
            None if has_ngrams => u64::from(sizes.buckets),
            None => 0,
        };
        Ok(Self {
            words,
            word_count: word_count as u32,
            labels,
            label_counts,
            word_ngrams: sizes.word_ngrams,
            buckets: sizes.buckets,
            shortest: sizes.shortest,
            longest: sizes.longest,
            kept,
            rows: word_count as u64 + ngram_rows,
        })
    }

    fn read_kept(
        reader: &mut Reader<'_, impl Read>,
        count: i64,
    ) -> Result<FxHashMap<u32, u32>, FastTextError> {
        let mut kept = FxHashMap::default();
        for _ in 0..count {
            let pair = [reader.size_i32("bucket", 0)?, reader.size_i32("bucket's row", 0)?];
            // Both came from four bytes.
            kept.insert(pair[0] as u32, pair[1] as u32);
        }
        Ok(kept)
    }

    /// So many rows the input matrix has at least.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    pub fn label_counts(&self) -> &[i64] {
        &self.label_counts
    }

    /// The rows of a text's words, of their n-grams of letters, and of its n-grams of words. `hashes` and
    /// `word` are buffers.
    pub fn rows_of(&self, text: &str, rows: &mut Vec<u32>, hashes: &mut Vec<u32>, word: &mut Vec<u8>) {
        rows.clear();
        hashes.clear();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0b | 0x0c | 0);
        let tokens = text.as_bytes().split(is_space).filter(|token| !token.is_empty());
        for token in tokens.chain([END_OF_LINE]) {
            let known = self.words.get(token).copied();
            if known.is_none() && token.starts_with(LABEL) {
                continue;
            }
            hashes.push(hash(token));
            rows.extend(known);
            if token == END_OF_LINE {
                break;
            }
            word.clear();
            word.push(b'<');
            word.extend_from_slice(token);
            word.push(b'>');
            self.push_letter_ngrams(word, rows);
        }
        self.push_word_ngrams(hashes, rows);
    }

    fn push_letter_ngrams(&self, word: &[u8], rows: &mut Vec<u32>) {
        let is_inside = |at: usize| word.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        for start in 0..word.len() {
            if is_inside(start) {
                continue;
            }
            let (mut end, mut hash) = (start, FNV_START);
            for letters in 1..=self.longest {
                if end == word.len() {
                    break;
                }
                // A letter with the bytes that belong to it.
                hash = fnv(hash, word[end]);
                end += 1;
                while is_inside(end) {
                    hash = fnv(hash, word[end]);
                    end += 1;
                }
                let is_edge = letters == 1 && (start == 0 || end == word.len());
                if letters >= self.shortest && !is_edge {
                    self.push_bucket(hash % self.buckets, rows);
                }
            }
        }
    }

    fn push_word_ngrams(&self, hashes: &[u32], rows: &mut Vec<u32>) {
        if self.word_ngrams < 2 {
            return;
        }
        // fastText keeps hashes as signed numbers of 32 bits and widens them so.
        let wide = |hash: u32| i64::from(hash as i32) as u64;
        for start in 0..hashes.len() {
            let mut hash = wide(hashes[start]);
            for next in hashes[start + 1..].iter().take(self.word_ngrams - 1) {
                hash = hash.wrapping_mul(NGRAM_FACTOR).wrapping_add(wide(*next));
                self.push_bucket((hash % u64::from(self.buckets)) as u32, rows);
            }
        }
    }

    fn push_bucket(&self, bucket: u32, rows: &mut Vec<u32>) {
        let bucket = match &self.kept {
            Some(kept) => kept.get(&bucket).copied(),
            None => Some(bucket),
        };
        rows.extend(bucket.map(|bucket| self.word_count + bucket));
    }
}

const FNV_START: u32 = 2_166_136_261;

/// A step of FNV-1a over bytes with a sign, as fastText does (`Dictionary::hash`).
fn fnv(hash: u32, byte: u8) -> u32 {
    (hash ^ i32::from(byte as i8) as u32).wrapping_mul(16_777_619)
}

fn hash(token: &[u8]) -> u32 {
    token.iter().fold(FNV_START, |hash, byte| fnv(hash, *byte))
}
