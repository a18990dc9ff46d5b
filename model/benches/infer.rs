//! Generation and prompt reading with SmolLM2-135M-Instruct, beside the `gemm` crate doing the
//! same matrix products on f32 weights.
//!
//! `cargo bench -p corpusmith-model --bench infer`; with `CORPUSMITH_BENCH_FULL=1` also 32
//! sequences of 1,500 tokens, with the process's peak memory. Needs the model file that
//! `pipeline assets pull` fetches.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures::executor::block_on;
use futures::future::join_all;
use model::infer::{
    Engine, EngineOptions, GenerateRequest, Generation, Model, ModelOptions, Prompt, SamplingOptions,
};

const BATCHES: [usize; 3] = [1, 8, 32];
const NEW_TOKENS: usize = 32;

fn main() {
    let assets = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folder = assets.unwrap_or_else(|| home.join(".cache/corpusmith/assets"));
    let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("{} is absent: run `pipeline assets pull` first", path.display());
        return;
    }
    let start = Instant::now();
    let model = match Model::load(&path, &ModelOptions::default()) {
        Ok(model) => Arc::new(model),
        Err(error) => {
            eprintln!("{error}");
            return;
        }
    };
    println!("load: {:.2} s, then {}", start.elapsed().as_secs_f64(), peak_memory());
    let engine = match Engine::new(Arc::clone(&model), &EngineOptions::default()) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("{error}");
            return;
        }
    };
    if std::env::var_os("CORPUSMITH_BENCH_FULL").is_some() {
        full_load(&engine);
    }
    beside_gemm(&engine);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let mut group = criterion.benchmark_group("decode");
    for batch in BATCHES {
        let tokens = completion_tokens(&answers(&engine, batch, 4, NEW_TOKENS));
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_with_input(BenchmarkId::from_parameter(batch), &batch, |b, &batch| {
            b.iter(|| answers(&engine, batch, 4, NEW_TOKENS));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("prefill");
    group.throughput(Throughput::Elements(512));
    group.bench_function("512", |b| b.iter(|| answers(&engine, 1, 512, 1)));
    group.finish();
    criterion.final_summary();
}

/// Greedy answers to `batch` prompts of so many tokens, all different.
fn answers(engine: &Engine, batch: usize, prompt: usize, new: usize) -> Vec<Generation> {
    let request = |index: usize| GenerateRequest {
        max_new_tokens: new,
        sampling: SamplingOptions { temperature: 0.0, ..SamplingOptions::default() },
        ..GenerateRequest::new(Prompt::Tokens(
            (0..prompt).map(|i| (1_000 + 37 * index + 101 * i % 20_011) as u32).collect(),
        ))
    };
    let all = block_on(join_all((0..batch).map(|index| engine.generate(request(index)))));
    all.into_iter().filter_map(Result::ok).collect()
}

fn completion_tokens(answers: &[Generation]) -> usize {
    answers.iter().map(|answer| answer.completion_tokens).sum()
}

/// Tokens per second of whole steps, beside the share of them that `gemm` needs for the products
/// alone (same shapes, f32 weights of all layers, so that nothing stays in the caches).
fn beside_gemm(engine: &Engine) {
    let config = engine.model().config();
    let pairs = config.kv_heads * config.head_dim;
    let queries = config.heads * config.head_dim;
    let mut shapes = Vec::new();
    for _ in 0..config.layers {
        shapes.push((queries + 2 * pairs, config.hidden));
        shapes.push((config.hidden, queries));
        shapes.push((2 * config.intermediate, config.hidden));
        shapes.push((config.hidden, config.intermediate));
    }
    shapes.push((config.vocab_size, config.hidden));
    let weights: Vec<Vec<f32>> = shapes.iter().map(|(m, k)| vec![0.01; m * k]).collect();
    for batch in BATCHES {
        let start = Instant::now();
        let tokens = completion_tokens(&answers(engine, batch, 4, NEW_TOKENS));
        let ours = start.elapsed().as_secs_f64() / tokens as f64;
        let x = vec![0.5f32; batch * config.intermediate];
        let mut out = vec![0.0f32; batch * config.vocab_size];
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            for (&(m, k), weights) in shapes.iter().zip(&weights) {
                product(m, batch, k, weights, &x, &mut out);
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let peer = best / batch as f64;
        println!(
            "batch {batch}: {:.0} tokens/s for everything; gemm's products alone would allow {:.0} tokens/s (ratio {:.2})",
            1.0 / ours,
            1.0 / peer,
            peer / ours
        );
    }
}

/// `out[row][m] = Σ_k weights[m][k] x[row][k]`.
fn product(m: usize, rows: usize, k: usize, weights: &[f32], x: &[f32], out: &mut [f32]) {
    assert!(weights.len() >= m * k && x.len() >= rows * k && out.len() >= rows * m);
    let (m_stride, k_stride) = (m as isize, k as isize);
    // SAFETY: the sizes were checked.
    unsafe {
        gemm::gemm(
            m,
            rows,
            k,
            out.as_mut_ptr(),
            m_stride,
            1,
            false,
            weights.as_ptr(),
            1,
            k_stride,
            x.as_ptr(),
            k_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

/// 32 sequences of 1,200 prompt and 300 new tokens, by the clock and by processor time (which
/// other work on the machine hardly moves).
fn full_load(engine: &Engine) {
    let timed = |new: usize| {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let tokens = completion_tokens(&answers(engine, 32, 1_200, new));
        (tokens, start.elapsed().as_secs_f64(), cpu_seconds() - cpu)
    };
    let (_, prefill, prefill_cpu) = timed(1);
    let (tokens, all, all_cpu) = timed(300);
    let prompts = 32.0 * 1_200.0;
    println!(
        "32 × 1,500 tokens: {:.0} prompt tokens/s, {:.0} prompt tokens a processor second, {}",
        prompts / prefill,
        prompts / prefill_cpu,
        peak_memory()
    );
    println!(
        "{tokens} new tokens: {:.0} tokens/s, {:.0} tokens a processor second",
        tokens as f64 / (all - prefill),
        tokens as f64 / (all_cpu - prefill_cpu)
    );
}

/// Processor time of this process so far, where the system tells (Linux counts 100 a second).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The greatest resident size so far, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    format!("peak memory {}", line.map_or("unknown", str::trim))
}
