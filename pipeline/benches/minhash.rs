//! Signatures a second against the plainest way to write the same thing.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use corpusmith::stages::minhash::mt19937::Mt19937;
use corpusmith::stages::minhash::signature::{Scratch, SignatureOptions, Signer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use regex::Regex;
use sha1::{Digest, Sha1};
use unicode_normalization::UnicodeNormalization;

const PAGES: usize = 200;
const WORDS_A_PAGE: usize = 600;
const PRIME: u64 = (1 << 61) - 1;

static NUMBERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\p{Nd}+([.,]\p{Nd}+)?").ok());

/// Pages of invented words with some punctuation, digits and accents.
fn pages() -> Vec<String> {
    let mut random = Mt19937::new(7);
    let mut below = |n: u64| random.randint(0, n);
    // Each ends in `q`, as no contraction does.
    let mut word = || (0..1 + below(8)).map(|_| char::from(b'a' + below(26) as u8)).chain(['q']).collect();
    let vocabulary: Vec<String> = (0..5000).map(|_| word()).collect();
    let mut page = || {
        let mut text = String::new();
        for _ in 0..WORDS_A_PAGE {
            text.push_str(&vocabulary[below(5000) as usize]);
            text.push_str(match below(40) {
                0 => ". The ",
                1 => ", ",
                2 => " 1,024 ",
                3 => " café ",
                4 => "’s ",
                _ => " ",
            });
        }
        text
    };
    (0..PAGES).map(|_| page()).collect()
}

/// One pass for each rule, a string for each word and shingle, a division for each hash. Only for
/// texts like those above: it knows no measures, contractions or symbols.
fn naive_signature(text: &str, a: &[u64], b: &[u64]) -> Vec<u64> {
    let text = text.to_lowercase();
    let numbers = NUMBERS.as_ref().map(|numbers| numbers.replace_all(&text, "0").into_owned());
    let text = numbers.unwrap_or_default();
    let text: String = text.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    let text: String = text.nfd().filter(|&c| !('\u{300}'..'\u{370}').contains(&c)).collect();
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let shingles: Vec<u64> = words
        .windows(5)
        .map(|run| {
            let digest: [u8; 20] = Sha1::digest(run.join(" ")).into();
            digest.iter().take(8).rev().fold(0, |hash, &byte| (hash << 8) | u64::from(byte))
        })
        .collect();
    let hash = |x: u64, a: u64, b: u64| x.wrapping_mul(a).wrapping_add(b) % PRIME;
    let smallest = |(&a, &b)| shingles.iter().map(|&x| hash(x, a, b)).min().unwrap_or(u64::MAX);
    a.iter().zip(b).map(smallest).collect()
}

fn best_of(runs: usize, mut work: impl FnMut()) -> Duration {
    let time = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..runs).map(|_| time(&mut work)).min().unwrap_or_default()
}

fn signatures(c: &mut Criterion) {
    let pages = pages();
    let bytes: usize = pages.iter().map(String::len).sum();
    let signer = Signer::new(SignatureOptions::default());
    let mut random = Mt19937::new(1);
    let a: Vec<u64> = (0..112).map(|_| random.randint(1, PRIME)).collect();
    let b: Vec<u64> = (0..112).map(|_| random.randint(0, PRIME)).collect();
    let mut scratch = Scratch::default();
    for page in &pages {
        let signature = signer.sketch(page, &mut scratch).signature.unwrap_or_default();
        assert!(signature.as_ref() == naive_signature(page, &a, &b), "the two ways must agree");
    }
    let mut group = c.benchmark_group("minhash_signatures");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    group.bench_function("one_thread", |bench| {
        bench.iter(|| pages.iter().map(|page| signer.sketch(page, &mut scratch)).collect::<Vec<_>>());
    });
    group.bench_function("all_threads", |bench| {
        bench.iter(|| {
            let pages = pages.par_iter();
            pages.map_init(Scratch::default, |scratch, page| signer.sketch(page, scratch)).collect::<Vec<_>>()
        });
    });
    group.bench_function("naive", |bench| {
        bench.iter(|| pages.iter().map(|page| naive_signature(page, &a, &b)).collect::<Vec<_>>());
    });
    group.finish();
    let naive = best_of(5, || {
        let signatures: Vec<_> = pages.iter().map(|page| naive_signature(page, &a, &b)).collect();
        std::hint::black_box(signatures);
    });
    let ours = best_of(5, || {
        let sketches: Vec<_> = pages.iter().map(|page| signer.sketch(page, &mut scratch)).collect();
        std::hint::black_box(sketches);
    });
    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    println!(
        "signatures on one thread: {:.1} MB/s, naive {:.1} MB/s, {:.1} times as fast",
        rate(ours),
        rate(naive),
        rate(ours) / rate(naive)
    );
}

criterion_group!(benches, signatures);
criterion_main!(benches);
