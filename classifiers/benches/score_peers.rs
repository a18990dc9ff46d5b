//! Writes made-up pages and how many a second this crate embeds, for `peers/score_peers.py` to run
//! onnxruntime on.
//!
//! ```text
//! CORPUSMITH_ASSETS=… CORPUSMITH_BENCH_FOLDER=… cargo bench -p corpusmith-classifiers --bench score_peers
//! ```
//!
//! The folder may hold `float.onnx` (`peers/float_minilm.py` makes it); the int8 model is among the assets.

use classifiers::{Backbone, BackboneOptions, Runtime};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use std::{error::Error, fs, path::PathBuf, time::Instant};
use tokenizers::Tokenizer;

/// Pages of a run; `CORPUSMITH_BENCH_PAGES` sets another number.
const PAGES: usize = 400;
/// Runs of each way, of which the fastest counts.
const RUNS: usize = 3;
const MAX_TOKENS: usize = 512;
const BATCH_TOKENS: usize = 4_096;

/// Pages of words the tokenizer knows, a token each, of log-normal length as pages of the web: half have
/// fewer than 400 words, a sixth fewer than 130, a sixth more than 1,200.
fn made_up_pages(tokenizer: &Tokenizer, pages: usize) -> Vec<String> {
    let mut words: Vec<String> = tokenizer
        .get_vocab(false)
        .into_keys()
        .filter(|word| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        .collect();
    words.sort_unstable();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut page = || {
        // The sum of twelve even numbers less 6 is nearly normal.
        let normal: f64 = (0..12).map(|_| random.random_range(0.0..1.0)).sum::<f64>() - 6.0;
        let length = (400.0 * (1.1 * normal).exp()).clamp(5.0, 5_000.0) as usize;
        let word = |_| words.choose(&mut random).map_or("", String::as_str);
        (0..length).map(word).collect::<Vec<_>>().join(" ")
    };
    (0..pages).map(|_| page()).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(assets), Some(folder)) = (folder("CORPUSMITH_ASSETS"), folder("CORPUSMITH_BENCH_FOLDER"))
    else {
        println!("skipped: set CORPUSMITH_ASSETS and CORPUSMITH_BENCH_FOLDER");
        return Ok(());
    };
    let pages = std::env::var("CORPUSMITH_BENCH_PAGES").ok().and_then(|pages| pages.parse().ok());
    let tokenizer_json = assets.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&tokenizer_json).map_err(|error| error.to_string())?;
    let pages = made_up_pages(&tokenizer, pages.unwrap_or(PAGES));
    let texts: Vec<&str> = pages.iter().map(String::as_str).collect();
    let runtime = Runtime::load(&assets.join("libonnxruntime.so.1.31.1"))?;
    let mut rates = serde_json::Map::new();
    let ways = [
        ("int8", assets.join("model.onnx"), None),
        ("float", folder.join("float.onnx"), None),
        ("float", folder.join("float.onnx"), Some(BATCH_TOKENS)),
    ];
    for (model, path, batch_tokens) in ways.into_iter().filter(|(_, path, _)| path.is_file()) {
        let options = BackboneOptions { max_tokens: MAX_TOKENS, batch_tokens, ..Default::default() };
        let backbone = Backbone::load(&runtime, &path, &tokenizer_json, &options)?;
        let mut fastest = f64::MAX;
        for _ in 0..RUNS {
            let started = Instant::now();
            backbone.embed(&texts)?;
            fastest = fastest.min(started.elapsed().as_secs_f64());
        }
        let way = batch_tokens.map_or("page by page", |_| "batches by length");
        let rate = texts.len() as f64 / fastest;
        println!("{model}, {way}: {rate:.1} pages a second on {} sessions", backbone.sessions());
        rates.insert(format!("{model}, {way}"), rate.into());
    }
    fs::write(folder.join("pages.json"), serde_json::to_vec(&pages)?)?;
    fs::write(folder.join("ours.json"), serde_json::to_vec(&rates)?)?;
    Ok(())
}
