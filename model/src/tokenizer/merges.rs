//! Finding the merges of a BPE vocabulary.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

type Pair = (u32, u32);

/// A word as its current symbols.
struct Word {
    symbols: Vec<u32>,
    count: u64,
}

/// Extends `vocabulary` by merging the most frequent pair of neighbours until it has `vocab_size` entries or
/// no pair occurs `min_frequency` times; returns the merges in order.
///
/// `words` are strings over single-character entries of `vocabulary`. Between equally frequent pairs the one
/// with the smaller ids wins, so the result depends on the counts alone.
pub fn learn(
    words: &[(String, u64)],
    vocabulary: &mut Vec<String>,
    vocab_size: usize,
    min_frequency: u64,
) -> Vec<Pair> {
    let mut ids: HashMap<String, u32> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let mut buffer = [0u8; 4];
    let mut words: Vec<Word> = words
        .iter()
        .map(|(word, count)| Word {
            symbols: word.chars().filter_map(|c| ids.get(&*c.encode_utf8(&mut buffer)).copied()).collect(),
            count: *count,
        })
        .collect();

    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
    for (index, word) in words.iter().enumerate() {
        for pair in word.symbols.windows(2) {
            let pair = (pair[0], pair[1]);
            *counts.entry(pair).or_default() += word.count;
            places.entry(pair).or_default().push(index as u32);
        }
    }
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();

    let mut merges = Vec::new();
    while vocabulary.len() < vocab_size {
        let Some((count, Reverse(pair))) = queue.pop() else {
            break;
        };
        let current = counts.get(&pair).copied().unwrap_or(0);
        if current != count {
            // An old entry: the pair lost (or gained) occurrences since it was queued.
            if current > 0 {
                queue.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < min_frequency.max(1) {
            break;
        }
        let token = format!("{}{}", vocabulary[pair.0 as usize], vocabulary[pair.1 as usize]);
        // Two ways of cutting can spell the same token; it gets one entry and both merges.
        let merged = *ids.entry(token.clone()).or_insert_with(|| {
            vocabulary.push(token);
            (vocabulary.len() - 1) as u32
        });
        merges.push(pair);

        let mut touched = places.remove(&pair).unwrap_or_default();
        touched.sort_unstable();
        touched.dedup();
        let mut born: Vec<Pair> = Vec::new();
        for index in touched {
            let word = &mut words[index as usize];
            let before = std::mem::take(&mut word.symbols);
            word.symbols = replace(&before, pair, merged);
            if word.symbols.len() == before.len() {
                word.symbols = before;
                continue;
            }
            for old in before.windows(2) {
                if let Some(count) = counts.get_mut(&(old[0], old[1])) {
                    *count -= word.count;
                }
            }
            for new in word.symbols.windows(2) {
                let new = (new[0], new[1]);
                *counts.entry(new).or_default() += word.count;
                if new.0 == merged || new.1 == merged {
                    places.entry(new).or_default().push(index);
                    born.push(new);
                }
            }
        }
        counts.remove(&pair);
        born.sort_unstable();
        born.dedup();
        for pair in born {
            if let Some(&count) = counts.get(&pair) {
                queue.push((count, Reverse(pair)));
            }
        }
    }
    merges
}

/// Replaces every `pair` in `symbols`, from left to right, by `merged`.
fn replace(symbols: &[u32], pair: Pair, merged: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(symbols.len());
    let mut i = 0;
    while i < symbols.len() {
        if i + 1 < symbols.len() && (symbols[i], symbols[i + 1]) == pair {
            out.push(merged);
            i += 2;
        } else {
            out.push(symbols[i]);
            i += 1;
        }
    }
    out
}
