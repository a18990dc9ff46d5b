//! Pages a second: one page a run on several sessions (what `score_stream`
//! does) against padded batches of 32 through one session of the same model
//! with as many threads, in the order of the pages and sorted by length.
//!
//! `CORPUSMITH_ASSETS=… cargo bench -p corpusmith-classifiers`

use classifiers::{Backbone, BackboneOptions, Runtime};
use criterion::{BenchmarkId, Criterion, Throughput};
use ort::{
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};
use std::{error::Error, path::PathBuf, time::Duration};
use tokenizers::{Tokenizer, TruncationParams};

const PAGES: usize = 64;
const BATCH_PAGES: usize = 32;

/// Pages of words the tokenizer knows. Their lengths are spread evenly from an
/// eighth of `max_tokens` to twice it, so that somewhat more than half are cut.
fn made_up_pages(tokenizer: &Tokenizer, max_tokens: usize) -> Vec<String> {
    let mut words: Vec<String> = tokenizer
        .get_vocab(false)
        .into_keys()
        .filter(|word| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        .collect();
    words.sort_unstable();
    (0..PAGES)
        .map(|page| {
            // 37 and 64 have no common factor: each length stands once, in a mixed order.
            let place = page * 37 % PAGES;
            let tokens = max_tokens / 8 + place * max_tokens * 15 / 8 / PAGES;
            let word = |at: usize| words[(page * 7_919 + at * 104_729) % words.len()].as_str();
            (0..tokens).map(word).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// The peer: padded batches through one session.
fn embed_in_batches(session: &mut Session, ids: &[Vec<i64>]) -> ort::Result<usize> {
    let mut values = 0;
    for batch in ids.chunks(BATCH_PAGES) {
        let longest = batch.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [batch.len(), longest];
        let (mut padded, mut mask) = (Vec::new(), Vec::new());
        for page in batch {
            padded.extend(page.iter().copied().chain(std::iter::repeat_n(0, longest - page.len())));
            mask.extend((0..longest).map(|at| i64::from(at < page.len())));
        }
        let types = vec![0_i64; padded.len()];
        let outputs = session.run(ort::inputs! {
            "input_ids" => TensorRef::from_array_view((shape, padded.as_slice()))?,
            "attention_mask" => TensorRef::from_array_view((shape, mask.as_slice()))?,
            "token_type_ids" => TensorRef::from_array_view((shape, types.as_slice()))?,
        })?;
        values += outputs["last_hidden_state"].try_extract_tensor::<f32>()?.1.len();
    }
    Ok(values)
}

fn peer_session(runtime: &Runtime, model: &PathBuf, threads: usize) -> ort::Result<Session> {
    Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .commit_from_file(model)
}

fn bench(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let Some(assets) = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from) else {
        println!("skipped: set CORPUSMITH_ASSETS to the assets' folder");
        return Ok(());
    };
    let runtime = Runtime::load(&assets.join("libonnxruntime.so.1.31.1"))?;
    let (model, tokenizer_json) = (assets.join("model.onnx"), assets.join("tokenizer.json"));
    let mut group = criterion.benchmark_group("embed");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Elements(PAGES as u64));
    for max_tokens in [256, 512] {
        let options = BackboneOptions { max_tokens, ..Default::default() };
        let backbone = Backbone::load(&runtime, &model, &tokenizer_json, &options)?;
        let mut tokenizer = Tokenizer::from_file(&tokenizer_json).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams { max_length: max_tokens, ..Default::default() }))
            .map_err(|error| error.to_string())?;
        let pages = made_up_pages(&tokenizer, max_tokens);
        let texts: Vec<&str> = pages.iter().map(String::as_str).collect();
        let tokenise = || -> Vec<Vec<i64>> {
            let ids = |text: &&str| {
                let encoding = tokenizer.encode_fast(*text, true);
                encoding.map_or_else(
                    |_| Vec::new(),
                    |page| page.get_ids().iter().map(|&id| i64::from(id)).collect(),
                )
            };
            texts.iter().map(ids).collect()
        };
        let mut session = peer_session(&runtime, &model, backbone.sessions())?;
        group.bench_function(BenchmarkId::new("page by page", max_tokens), |bencher| {
            bencher.iter(|| backbone.embed(&texts));
        });
        group.bench_function(BenchmarkId::new("padded batches of 32", max_tokens), |bencher| {
            bencher.iter(|| embed_in_batches(&mut session, &tokenise()));
        });
        group.bench_function(BenchmarkId::new("batches of 32 by length", max_tokens), |bencher| {
            bencher.iter(|| {
                let mut ids = tokenise();
                ids.sort_by_key(Vec::len);
                embed_in_batches(&mut session, &ids)
            });
        });
    }
    group.finish();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
