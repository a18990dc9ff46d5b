//! Near-duplicate names: spelled alike, or meaning the same.

use std::collections::HashMap;

use async_trait::async_trait;

use super::names::dedupe_key;

/// Words that do not tell one name from another.
const STOP_WORDS: [&str; 10] = ["and", "of", "in", "for", "to", "with", "on", "by", "from", "its"];

/// Turns names into vectors of length 1, so that their dot product is the cosine.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// One vector a name, all of one length.
    ///
    /// # Errors
    /// The model cannot be run.
    async fn embed(
        &self,
        names: &[String],
    ) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Names of one top category, asked which of them a new one is spelled like.
///
/// Two names are alike when the Jaccard similarity of their character trigrams reaches a threshold;
/// the order of the words, their plural and words such as `of` do not count, but names with different
/// numbers in them are never alike. Only names that share a trigram of their prefixes are compared
/// (Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search"), which loses none.
#[derive(Clone, Debug)]
pub struct NearIndex {
    threshold: f64,
    names: Vec<Features>,
    /// The names with a trigram in their prefix, by trigram and numbers: names with other numbers need
    /// no comparing.
    by_trigram: HashMap<(u64, Vec<String>), Vec<u32>>,
}

#[derive(Clone, Debug)]
struct Features {
    name: String,
    /// Sorted by hash: one order for all names, as prefixes need it.
    trigrams: Vec<u64>,
    /// Words with digits in them.
    numbers: Vec<String>,
}

impl NearIndex {
    /// An empty index; `threshold` is the least similarity of near-duplicates, between 0 and 1.
    #[must_use]
    pub fn new(threshold: f64) -> Self {
        Self { threshold: threshold.clamp(0.01, 1.0), names: Vec::new(), by_trigram: HashMap::new() }
    }

    /// The first name of the index that this one is spelled like.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        let new = Features::of(name);
        let prefix = new.prefix(self.threshold);
        let named = |trigram: &u64| self.by_trigram.get(&(*trigram, new.numbers.clone()));
        let mut candidates: Vec<u32> = prefix.iter().filter_map(named).flatten().copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        let known = candidates.into_iter().filter_map(|i| self.names.get(i as usize));
        let mut alike = known.filter(|known| known.jaccard(&new) >= self.threshold);
        alike.next().map(|known| known.name.as_str())
    }

    /// Adds a name.
    pub fn insert(&mut self, name: &str) {
        let new = Features::of(name);
        let number = self.names.len() as u32;
        for trigram in new.prefix(self.threshold) {
            self.by_trigram.entry((*trigram, new.numbers.clone())).or_default().push(number);
        }
        self.names.push(new);
    }
}

impl Features {
    fn of(name: &str) -> Self {
        let key = dedupe_key(name);
        let mut words: Vec<&str> = key.split(' ').filter(|w| !STOP_WORDS.contains(w)).collect();
        words.sort_unstable();
        words.dedup();
        let numbers = words.iter().filter(|w| w.contains(|c: char| c.is_ascii_digit()));
        let numbers = numbers.map(|w| (*w).to_string()).collect();
        let padded: Vec<char> = format!(" {} ", words.join(" ")).chars().collect();
        let mut trigrams: Vec<u64> = padded.windows(3).map(|w| hash(w[0], w[1], w[2])).collect();
        trigrams.sort_unstable();
        trigrams.dedup();
        Self { name: name.to_string(), trigrams, numbers }
    }

    /// The trigrams of which two sets of similarity `threshold` or more share one.
    fn prefix(&self, threshold: f64) -> &[u64] {
        let all = self.trigrams.len();
        let shared = (threshold * all as f64 - 1e-9).ceil() as usize;
        &self.trigrams[..(all + 1).saturating_sub(shared.max(1)).min(all)]
    }

    fn jaccard(&self, other: &Self) -> f64 {
        let (mut i, mut j, mut shared) = (0, 0, 0_usize);
        while let (Some(left), Some(right)) = (self.trigrams.get(i), other.trigrams.get(j)) {
            shared += usize::from(left == right);
            i += usize::from(left <= right);
            j += usize::from(right <= left);
        }
        shared as f64 / (self.trigrams.len() + other.trigrams.len() - shared).max(1) as f64
    }
}

/// Three characters as one number, mixed so that the order of prefixes does not follow the alphabet.
fn hash(a: char, b: char, c: char) -> u64 {
    let packed = u64::from(u32::from(a)) << 42 | u64::from(u32::from(b)) << 21 | u64::from(u32::from(c));
    // The multiplication is a bijection on 64 bits: no two trigrams become one.
    packed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Vectors of one top category, asked whether a new one points the same way.
#[derive(Clone, Debug, Default)]
pub(super) struct VectorIndex {
    vectors: Vec<Vec<f32>>,
}

impl VectorIndex {
    /// Whether a vector of the index has at least this cosine with the new one.
    pub(super) fn has_like(&self, new: &[f32], cosine: f64) -> bool {
        let dot = |known: &Vec<f32>| known.iter().zip(new).map(|(a, b)| a * b).sum::<f32>();
        self.vectors.iter().any(|known| f64::from(dot(known)) >= cosine)
    }

    pub(super) fn insert(&mut self, vector: Vec<f32>) {
        self.vectors.push(vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alike(a: &str, b: &str) -> bool {
        let mut index = NearIndex::new(0.85);
        index.insert(a);
        index.find(b).is_some()
    }

    #[test]
    fn order_plural_and_small_words_make_no_difference_and_meaning_does() {
        for (a, b) in [
            ("Machine Learning Basics", "Basics of Machine Learning"),
            ("Training Neural Networks", "Neural Network Training"),
            ("Introduction to Thermodynamics in Engineering", "Introduction to Thermodynamic Engineering"),
        ] {
            assert!(alike(a, b), "{a} | {b}");
        }
        for (a, b) in [
            ("Supervised Learning", "Unsupervised Learning"),
            ("Art of the 19th Century", "Art of the 20th Century"),
            ("Data Structures", "Advanced Data Structures"),
            ("World War I", "World War II"),
            ("Organic Chemistry", "Inorganic Chemistry"),
        ] {
            assert!(!alike(a, b), "{a} | {b}");
        }
    }

    #[test]
    fn vectors_are_compared_by_their_cosine() {
        let mut index = VectorIndex::default();
        index.insert(vec![1.0, 0.0]);
        assert!(index.has_like(&[0.96, 0.28], 0.95) && !index.has_like(&[0.8, 0.6], 0.95));
    }

    proptest! {
        #[test]
        fn the_index_finds_what_comparing_all_finds(
            names in proptest::collection::vec("[abc]{1,4}( [abc]{1,4}){0,3}", 1..25),
            threshold in 0.3f64..1.0,
        ) {
            let mut index = NearIndex::new(threshold);
            let mut kept: Vec<Features> = Vec::new();
            for name in &names {
                let new = Features::of(name);
                let slow = kept.iter().find(|k| k.jaccard(&new) >= threshold).map(|k| k.name.clone());
                prop_assert_eq!(index.find(name).map(str::to_string), slow.clone());
                if slow.is_none() {
                    index.insert(name);
                    kept.push(new);
                }
            }
        }
    }
}
