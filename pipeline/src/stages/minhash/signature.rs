//! MinHash signatures, number for number those of datatrove.
//!
//! Source of the recipe: datatrove 0.10.1, `src/datatrove/pipeline/dedup/minhash.py`
//! (`MinhashDedupSignature`). Each run of `ngram_words` words is hashed to 64 bits; each of
//! `buckets × hashes_per_bucket` permutations `(a·x + b) mod (2^61 − 1)` keeps its smallest value.
//! As in datatrove, `a·x + b` is taken in 64 bits that wrap around before the modulus.

use classifiers::text::Words;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mt19937::Mt19937;
use super::normalise::simplify;
use super::sha1;

/// The Mersenne prime 2^61 − 1: hashes lie below it.
const PRIME: u64 = (1 << 61) - 1;

/// Permutations that are computed side by side, in vector registers.
const LANES: usize = 16;

/// How a run of words becomes 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShingleHash {
    /// The first eight bytes of SHA-1, little-endian (FineWeb).
    Sha1,
    /// XXH64 with seed 0 (datatrove's default; faster).
    Xxhash,
}

impl ShingleHash {
    /// Appends the hashes of shingles, in any order.
    fn all<'a>(self, shingles: impl Iterator<Item = &'a str>, out: &mut Vec<u64>) {
        match self {
            Self::Sha1 => sha1::prefixes(shingles, out),
            Self::Xxhash => {
                out.extend(shingles.map(|shingle| twox_hash::XxHash64::oneshot(0, shingle.as_bytes())));
            }
        }
    }
}

/// What a signature is a function of, beside the text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SignatureOptions {
    /// Words in a run.
    #[schemars(range(min = 1, max = 100))]
    pub ngram_words: usize,
    /// Buckets: two texts are candidates when all hashes of one bucket are equal.
    #[schemars(range(min = 1, max = 1000))]
    pub buckets: usize,
    /// Hashes in a bucket.
    #[schemars(range(min = 1, max = 100))]
    pub hashes_per_bucket: usize,
    /// The seed of the permutations.
    pub seed: u32,
    /// The hash of a run of words.
    pub hash: ShingleHash,
}

/// The published settings: FineWeb, datatrove `examples/fineweb.py`.
impl Default for SignatureOptions {
    fn default() -> Self {
        Self { ngram_words: 5, buckets: 14, hashes_per_bucket: 8, seed: 1, hash: ShingleHash::Sha1 }
    }
}

impl SignatureOptions {
    /// Hashes in a signature.
    pub fn hashes(&self) -> usize {
        self.buckets * self.hashes_per_bucket
    }
}

/// What is remembered of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// The first half of the blake3 digest of the simplified text; `None` when nothing is left of it.
    pub digest: Option<[u8; 16]>,
    /// The signature, bucket after bucket; `None` for a text with fewer words than a run.
    pub signature: Option<Box<[u64]>>,
}

/// Buffers that a thread uses again for each text.
#[derive(Debug, Default)]
pub struct Scratch {
    simplified: String,
    words: Words,
    shingles: Vec<u64>,
}

/// Computes signatures under one set of options.
pub struct Signer {
    options: SignatureOptions,
    /// `a` and `b` of [`LANES`] permutations each; the last block is filled up with zeros.
    blocks: Vec<([u64; LANES], [u64; LANES])>,
    fold: Fold,
}

impl Signer {
    /// A signer; the parameters are drawn here.
    pub fn new(options: SignatureOptions) -> Self {
        let hashes = options.hashes();
        let mut random = Mt19937::new(options.seed);
        let a: Vec<u64> = (0..hashes).map(|_| random.randint(1, PRIME)).collect();
        let b: Vec<u64> = (0..hashes).map(|_| random.randint(0, PRIME)).collect();
        let block = |values: &[u64]| {
            let mut block = [0; LANES];
            block[..values.len()].copy_from_slice(values);
            block
        };
        let blocks = a.chunks(LANES).zip(b.chunks(LANES)).map(|(a, b)| (block(a), block(b))).collect();
        Self { options, blocks, fold: best_fold() }
    }

    /// The options it was made with.
    pub fn options(&self) -> &SignatureOptions {
        &self.options
    }

    /// The sketch of a text.
    pub fn sketch(&self, text: &str, scratch: &mut Scratch) -> Sketch {
        let Scratch { simplified, words, shingles } = scratch;
        simplify(text, simplified);
        let digest = (!simplified.is_empty()).then(|| {
            let mut half = [0; 16];
            half.copy_from_slice(&blake3::hash(simplified.as_bytes()).as_bytes()[..16]);
            half
        });
        words.set(simplified);
        shingles.clear();
        self.options.hash.all(words.runs(self.options.ngram_words), shingles);
        let signature = (!shingles.is_empty()).then(|| {
            let mut signature = Vec::with_capacity(self.blocks.len() * LANES);
            for (a, b) in &self.blocks {
                signature.extend((self.fold)(shingles, a, b));
            }
            signature.truncate(self.options.hashes());
            signature.into_boxed_slice()
        });
        Sketch { digest, signature }
    }
}

/// The share of equal hashes: an unbiased estimate of the Jaccard similarity of two texts' runs.
pub fn similarity(left: &[u64], right: &[u64]) -> f64 {
    let equal = left.iter().zip(right).filter(|(left, right)| left == right).count();
    equal as f64 / left.len().max(1) as f64
}

/// The smallest value of each of [`LANES`] permutations over all shingles.
type Fold = fn(&[u64], &[u64; LANES], &[u64; LANES]) -> [u64; LANES];

#[inline(always)]
fn fold(shingles: &[u64], a: &[u64; LANES], b: &[u64; LANES]) -> [u64; LANES] {
    let mut smallest = [u64::MAX; LANES];
    for &shingle in shingles {
        for lane in 0..LANES {
            let sum = shingle.wrapping_mul(a[lane]).wrapping_add(b[lane]);
            // 2^61 is 1 modulo the prime, so the upper three bits are added to the lower ones.
            let folded = (sum & PRIME) + (sum >> 61);
            let hash = folded.min(folded.wrapping_sub(PRIME));
            smallest[lane] = smallest[lane].min(hash);
        }
    }
    smallest
}

fn fold_portable(shingles: &[u64], a: &[u64; LANES], b: &[u64; LANES]) -> [u64; LANES] {
    fold(shingles, a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn fold_with_avx512(shingles: &[u64], a: &[u64; LANES], b: &[u64; LANES]) -> [u64; LANES] {
    fold(shingles, a, b)
}

#[cfg(target_arch = "x86_64")]
fn fold_avx512(shingles: &[u64], a: &[u64; LANES], b: &[u64; LANES]) -> [u64; LANES] {
    // SAFETY: only `best_fold` hands this function out, after it has found the three features.
    unsafe { fold_with_avx512(shingles, a, b) }
}

/// The same loop, compiled for what this processor has: 64-bit vector products came with AVX-512.
fn best_fold() -> Fold {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        return fold_avx512;
    }
    fold_portable
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(text: &str, hash: ShingleHash) -> Sketch {
        let signer = Signer::new(SignatureOptions { hash, ..SignatureOptions::default() });
        signer.sketch(text, &mut Scratch::default())
    }

    const TEXT: &str = "The quick brown fox doesn’t jump over 3 lazy dogs, naïvely: 12,5 km a day!";

    /// The first and the last hashes of that text's signatures.
    const GOLDEN: [(ShingleHash, [u64; 4], [u64; 2]); 2] = [
        (
            ShingleHash::Sha1,
            [
                209_705_765_882_702_712,
                307_470_271_634_611_624,
                520_782_528_860_162_810,
                13_997_560_327_796_879,
            ],
            [137_867_844_595_971_664, 606_457_954_796_750_876],
        ),
        (
            ShingleHash::Xxhash,
            [
                269_753_386_994_449_892,
                71_392_806_247_073_412,
                579_045_925_962_190_108,
                102_144_992_355_466_921,
            ],
            [150_710_242_761_754_982, 97_822_061_974_658_617],
        ),
    ];

    /// Values from datatrove 0.10.1 (`tests/parity/minhash_datatrove.py --signature`).
    #[test]
    fn signatures_are_datatroves() {
        for (hash, first, last) in GOLDEN {
            let signature = sketch(TEXT, hash).signature.unwrap();
            assert_eq!(signature.len(), 112);
            assert_eq!((&signature[..4], &signature[110..]), (&first[..], &last[..]), "{hash:?}");
        }
    }

    #[test]
    fn a_text_shorter_than_a_run_has_a_digest_only_and_an_empty_one_nothing() {
        let four = sketch("one two three four", ShingleHash::Sha1);
        assert!(four.signature.is_none() && four.digest.is_some());
        assert!(sketch("one two three four five", ShingleHash::Sha1).signature.is_some());
        assert_eq!(sketch("?!", ShingleHash::Sha1), Sketch { digest: None, signature: None });
    }

    #[test]
    fn texts_that_differ_in_case_and_punctuation_have_one_sketch() {
        let loud = sketch("ONE, two – three: (four) FÏVE six!", ShingleHash::Sha1);
        assert_eq!(loud, sketch("one two three four five six", ShingleHash::Sha1));
    }

    #[test]
    fn every_count_of_hashes_is_a_prefix_free_of_padding() {
        let options = SignatureOptions { buckets: 3, hashes_per_bucket: 7, ..SignatureOptions::default() };
        let signature = Signer::new(options).sketch(TEXT, &mut Scratch::default()).signature.unwrap();
        assert_eq!(signature.len(), 21);
        assert!(signature.iter().all(|&hash| 0 < hash && hash < PRIME));
    }

    proptest! {
        #[test]
        fn every_fold_is_the_plain_formula(shingles in prop::collection::vec(any::<u64>(), 1..40)) {
            let (a, b) = Signer::new(SignatureOptions::default()).blocks[0];
            let want: Vec<u64> = (0..LANES)
                .map(|i| shingles.iter().map(|x| x.wrapping_mul(a[i]).wrapping_add(b[i]) % PRIME).min().unwrap())
                .collect();
            prop_assert_eq!(fold_portable(&shingles, &a, &b).to_vec(), want.clone());
            prop_assert_eq!(best_fold()(&shingles, &a, &b).to_vec(), want);
        }
    }
}
