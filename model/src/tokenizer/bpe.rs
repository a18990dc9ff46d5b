//! Byte-pair encoding of words, remembered from text to text.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::words::words;

type Map<K, V> = HashMap<K, V, RandomState>;

/// Words longer than this are not remembered, in bytes.
const MOST_WORD_BYTES: usize = 64;
/// Words that are remembered for one text at a time; then memory begins anew.
const MOST_WORDS: usize = 1 << 16;
/// From so many symbols on, the next merge is found by a heap.
const LONG: usize = 48;

/// The merges of a tokenizer of the SmolLM family. Its tokens are those of the `tokenizers` library.
pub(super) struct Bpe {
    /// The token of each byte.
    bytes: [u32; 256],
    /// Rank and token of each pair that merges.
    merges: Map<u64, (u32, u32)>,
    /// Memories that no text is using.
    memories: Mutex<Vec<Memory>>,
}

/// The tokens of words that were seen.
#[derive(Default)]
struct Memory {
    /// Where a word's tokens stand.
    words: Map<Box<[u8]>, (u32, u32)>,
    tokens: Vec<u32>,
    /// Of the word at hand.
    symbols: Vec<u32>,
}

/// What of `tokenizer.json` is read here.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Json>,
    pre_tokenizer: Option<Json>,
    post_processor: Option<Json>,
    truncation: Option<Json>,
    padding: Option<Json>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A merge in a `tokenizer.json`: `tokenizers` writes pairs since 0.20, one text before.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Merge {
    Pair(String, String),
    Text(String),
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    /// The merges of a `tokenizer.json`; none where it cuts texts in another way than [`words`], or has tokens
    /// that this does not know how to find.
    pub(super) fn of(json: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(json).ok()?;
        let cuts = file.pre_tokenizer?;
        let [digits, level] = cuts["pretokenizers"].as_array()?.as_slice() else { return None };
        let is_known = cuts["type"] == "Sequence"
            && *digits == json!({"type": "Digits", "individual_digits": true})
            && level["type"] == "ByteLevel"
            && level["add_prefix_space"] == false
            && level["use_regex"].as_bool().unwrap_or(true);
        let others = [file.normalizer, file.truncation, file.padding, file.post_processor.filter(adds)];
        let Model {
            kind,
            dropout,
            continuing_subword_prefix,
            end_of_word_suffix,
            ignore_merges,
            vocab,
            merges,
        } = file.model;
        let is_plain = kind.as_deref().unwrap_or("BPE") == "BPE"
            && dropout.unwrap_or_default() == 0.0
            && continuing_subword_prefix.unwrap_or_default().is_empty()
            && end_of_word_suffix.unwrap_or_default().is_empty()
            && !ignore_merges
            && file.added_tokens.iter().all(|token| token.special);
        if !is_known || !is_plain || others.iter().any(Option::is_some) {
            return None;
        }
        let mut bytes = [0; 256];
        for (byte, token) in bytes.iter_mut().enumerate() {
            *token = *vocab.get(character_of(byte as u8).encode_utf8(&mut [0; 4]))?;
        }
        let mut ranks = Map::default();
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = match merge {
                Merge::Pair(left, right) => (left.as_str(), right.as_str()),
                Merge::Text(text) => text.split_once(' ')?,
            };
            let merged = *vocab.get(&format!("{left}{right}"))?;
            ranks.insert(pair(*vocab.get(left)?, *vocab.get(right)?), (rank as u32, merged));
        }
        Some(Self { bytes, merges: ranks, memories: Mutex::default() })
    }

    /// The tokens of a text, whose special tokens are plain characters.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let spare = self.memories.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = spare.unwrap_or_default();
        let mut tokens = Vec::with_capacity(text.len() / 3);
        for word in words(text) {
            self.word(word.as_bytes(), &mut memory, &mut tokens);
        }
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        tokens
    }

    fn word(&self, word: &[u8], memory: &mut Memory, out: &mut Vec<u32>) {
        if let [byte] = word {
            out.push(self.bytes[usize::from(*byte)]);
            return;
        }
        if let Some(&(start, end)) = memory.words.get(word) {
            out.extend_from_slice(&memory.tokens[start as usize..end as usize]);
            return;
        }
        let symbols = &mut memory.symbols;
        symbols.clear();
        symbols.extend(word.iter().map(|&byte| self.bytes[usize::from(byte)]));
        match symbols.len() < LONG {
            true => self.merge_short(symbols),
            false => self.merge_long(symbols),
        }
        out.extend_from_slice(symbols);
        if word.len() > MOST_WORD_BYTES {
            // Memory for the longest word of all would stay.
            symbols.shrink_to(MOST_WORD_BYTES);
            return;
        }
        if memory.words.len() == MOST_WORDS {
            memory.words.clear();
            memory.tokens.clear();
        }
        let start = memory.tokens.len() as u32;
        memory.tokens.extend_from_slice(symbols);
        memory.words.insert(word.into(), (start, memory.tokens.len() as u32));
    }

    /// Merges the pair of the lowest rank, the leftmost of several, until none merges.
    fn merge_short(&self, symbols: &mut Vec<u32>) {
        const NONE: (u32, u32) = (u32::MAX, 0);
        let find = |left: u32, right: u32| self.merges.get(&pair(left, right)).copied().unwrap_or(NONE);
        let mut found = [NONE; LONG];
        for (slot, two) in found.iter_mut().zip(symbols.windows(2)) {
            *slot = find(two[0], two[1]);
        }
        loop {
            let pairs = symbols.len().saturating_sub(1);
            let best = found[..pairs].iter().enumerate().min_by_key(|(_, (rank, _))| *rank);
            let Some((at, &(rank, merged))) = best else { return };
            if rank == u32::MAX {
                return;
            }
            symbols[at] = merged;
            symbols.remove(at + 1);
            found.copy_within(at + 1..pairs, at);
            if at > 0 {
                found[at - 1] = find(symbols[at - 1], merged);
            }
            if at + 1 < symbols.len() {
                found[at] = find(merged, symbols[at + 1]);
            }
        }
    }

    /// The same for words of any length, in n log n steps.
    fn merge_long(&self, symbols: &mut Vec<u32>) {
        let count = symbols.len();
        // Neighbours of each symbol that is left; `count` and beyond are none.
        let mut next: Vec<usize> = (1..=count).collect();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut gone = vec![false; count];
        let mut queue = BinaryHeap::new();
        let offer = |queue: &mut BinaryHeap<_>, left: u32, right: u32, at: usize| {
            if let Some(&(rank, merged)) = self.merges.get(&pair(left, right)) {
                queue.push(Reverse((rank, at, merged)));
            }
        };
        for at in 0..count - 1 {
            offer(&mut queue, symbols[at], symbols[at + 1], at);
        }
        while let Some(Reverse((rank, at, merged))) = queue.pop() {
            let right = next[at];
            if gone[at] || right >= count {
                continue;
            }
            // The pair may be another one by now.
            if self.merges.get(&pair(symbols[at], symbols[right])) != Some(&(rank, merged)) {
                continue;
            }
            (symbols[at], gone[right], next[at]) = (merged, true, next[right]);
            if next[at] < count {
                previous[next[at]] = at;
                offer(&mut queue, merged, symbols[next[at]], at);
            }
            if previous[at] < count {
                offer(&mut queue, symbols[previous[at]], merged, previous[at]);
            }
        }
        let mut at = 0;
        symbols.retain(|_| {
            at += 1;
            !gone[at - 1]
        });
    }
}

/// A post-processor that adds no tokens only moves the places of those that are there.
fn adds(processor: &Json) -> bool {
    processor["type"] != "ByteLevel"
}

/// The character that stands for a byte in a byte-level vocabulary (openai/gpt-2 `src/encoder.py`,
/// `bytes_to_unicode`): itself where it is printable, else one of those from 256 on, in order.
pub(crate) fn character_of(byte: u8) -> char {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_itself(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !is_itself(other)).count() as u32;
    char::from_u32(256 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn bytes_have_the_characters_of_the_alphabet() {
        let mut ours: Vec<char> = (0..=255).map(character_of).collect();
        let mut library: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        assert_eq!(
            (ours[usize::from(b'a')], ours[usize::from(b' ')], ours[usize::from(b'\n')]),
            ('a', 'Ġ', 'Ċ')
        );
        ours.sort_unstable();
        library.sort_unstable();
        assert_eq!(ours, library);
    }
}
