//! Training a tokenizer of 49,152 entries and encoding with it, beside the `tokenizers` crate of Hugging Face, on
//! the same texts in the same run; the ratios are of the best times.
//!
//! `cargo bench -p corpusmith-model --bench tokenizer`. The texts are the documentation and the source of this
//! repository, or the column `text` of the JSON lines that `CORPUSMITH_BENCH_TEXTS` names. Encoding is on one
//! thread, training on all (`RAYON_NUM_THREADS`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use model::tokenizer::{Encoder, SPECIAL_TOKENS, TOKENIZER_FILE, TokenizerOptions, train};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// The best time of each side.
#[derive(Default)]
struct Best(RefCell<BTreeMap<&'static str, Duration>>);

impl Best {
    fn measure<T>(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &'static str,
        mut prepare: impl FnMut() -> T,
        mut work: impl FnMut(T),
    ) {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| {
                        let prepared = prepare();
                        let start = Instant::now();
                        work(prepared);
                        let took = start.elapsed();
                        let mut best = self.0.borrow_mut();
                        let best = best.entry(name).or_insert(took);
                        *best = took.min(*best);
                        took
                    })
                    .sum()
            });
        });
    }

    fn print(self, what: &str, bytes: usize) {
        let best = self.0.into_inner();
        if let (Some(ours), Some(theirs)) = (best.get("corpusmith"), best.get("tokenizers")) {
            let speed = |time: &Duration| bytes as f64 / 1e6 / time.as_secs_f64();
            println!(
                "{what}: {:.1} MB/s, tokenizers {:.1} MB/s: {:.2} x\n",
                speed(ours),
                speed(theirs),
                theirs.as_secs_f64() / ours.as_secs_f64()
            );
        }
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let texts = texts()?;
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{} texts, {:.1} MB", texts.len(), bytes as f64 / 1e6);
    let folder = tempfile::tempdir()?;
    let options = TokenizerOptions::default();
    let encoder = train(&options, &texts, folder.path())?;
    let file = folder.path().join(TOKENIZER_FILE);
    let library = tokenizers(&file)?;
    for text in &texts {
        let same = library
            .encode_fast(text.as_str(), false)
            .is_ok_and(|encoding| encoder.encode(text).is_ok_and(|tokens| tokens == encoding.get_ids()));
        assert!(same, "other tokens than the library's");
    }

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(bytes as u64));
    let best = Best::default();
    // Each time a fresh tokenizer: both remember words.
    best.measure(
        &mut group,
        "corpusmith",
        || Encoder::load(&file),
        |encoder| {
            for text in &texts {
                black_box(encoder.as_ref().is_ok_and(|encoder| encoder.encode(text).is_ok()));
            }
        },
    );
    best.measure(
        &mut group,
        "tokenizers",
        || tokenizers(&file),
        |library| {
            for text in &texts {
                black_box(
                    library.as_ref().is_ok_and(|library| library.encode_fast(text.as_str(), false).is_ok()),
                );
            }
        },
    );
    group.finish();
    best.print("encoding, one thread", bytes);

    let mut group = criterion.benchmark_group("train");
    group.throughput(Throughput::Bytes(bytes as u64));
    let best = Best::default();
    best.measure(
        &mut group,
        "corpusmith",
        || (),
        |()| {
            black_box(train(&options, &texts, folder.path()).is_ok());
        },
    );
    best.measure(
        &mut group,
        "tokenizers",
        || (),
        |()| {
            black_box(train_by_library(&library, &texts).is_ok());
        },
    );
    group.finish();
    best.print("training", bytes);
    criterion.final_summary();
    Ok(())
}

/// The library with our file; special tokens are plain characters, as in a corpus.
fn tokenizers(file: &Path) -> Result<Tokenizer, tokenizers::Error> {
    let mut library = Tokenizer::from_file(file)?;
    library.set_encode_special_tokens(true);
    Ok(library)
}

fn train_by_library(cuts: &Tokenizer, texts: &[String]) -> Result<Tokenizer, tokenizers::Error> {
    let special = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)).to_vec();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(TokenizerOptions::default().vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut library = Tokenizer::new(BPE::default());
    library.with_pre_tokenizer(cuts.get_pre_tokenizer().cloned());
    library.train(&mut trainer, texts.iter())?;
    Ok(library)
}

fn texts() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    if let Some(path) = std::env::var_os("CORPUSMITH_BENCH_TEXTS") {
        let lines = std::fs::read_to_string(path)?;
        let text = |line: &str| -> Result<String, Box<dyn Error + Send + Sync>> {
            let row: serde_json::Value = serde_json::from_str(line)?;
            Ok(row["text"].as_str().unwrap_or_default().to_owned())
        };
        return lines.lines().map(text).collect();
    }
    let mut texts = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type()?.is_dir() {
                if !["target", "node_modules", "runs"].contains(&&*name) && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if [".md", ".rs", ".py", ".toml"].iter().any(|ending| name.ends_with(ending)) {
                texts.push(std::fs::read_to_string(path)?);
            }
        }
    }
    texts.sort();
    Ok(texts)
}
