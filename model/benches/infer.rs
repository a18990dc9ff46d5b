//! Reading and writing with SmolLM2-135M-Instruct at several shapes, and what sharing prompts saves.
//!
//! `cargo bench -p corpusmith-model --bench infer`; with `-- 8,64,64` only that shape (sequences, prompt
//! tokens and new tokens of each), with `--json` as JSON lines for the scripts in `peers/`. Needs the
//! model file that `pipeline assets pull` fetches. Figures are the best of three runs, by the clock and by
//! processor time, which other work on the machine hardly moves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::executor::block_on;
use futures::future::join_all;
use model::infer::{
    Engine, EngineOptions, GenerateRequest, Generation, Model, ModelOptions, Prompt, SamplingOptions,
};
use serde_json::json;

/// One sequence, eight, and the shape of the sample run's `generate` stage.
const SHAPES: [[usize; 3]; 3] = [[1, 512, 128], [8, 128, 128], [32, 300, 300]];
const RUNS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let assets = std::env::var_os("CORPUSMITH_ASSETS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folder = assets.unwrap_or_else(|| home.join(".cache/corpusmith/assets"));
    let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("{} is absent: run `pipeline assets pull` first", path.display());
        return Ok(());
    }
    let as_json = std::env::args().any(|argument| argument == "--json");
    let shapes: Vec<[usize; 3]> = std::env::args().filter_map(|argument| shape(&argument)).collect();
    let start = Instant::now();
    let model = Arc::new(Model::load(&path, &ModelOptions::default())?);
    if !as_json {
        let (load, mib) = (start.elapsed().as_secs_f64(), model.weight_bytes() >> 20);
        println!("load: {load:.2} s, {mib} MiB of weights, {}", peak_memory());
    }
    let threads = std::env::var("CORPUSMITH_BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let options = EngineOptions { prefix_tokens: 0, threads, ..EngineOptions::default() };
    let engine = Engine::new(Arc::clone(&model), &options)?;
    for shape in if shapes.is_empty() { &SHAPES[..] } else { &shapes } {
        let runs = if shape[0] * shape[2] > 2_000 { 1 } else { RUNS };
        let best = best_of(runs, &engine, *shape);
        match as_json {
            true => println!("{}", best.json()),
            false => println!("{best}, {}", peak_memory()),
        }
    }
    if shapes.is_empty() {
        drop(engine);
        sharing(&model, &options)?;
    }
    Ok(())
}

fn shape(argument: &str) -> Option<[usize; 3]> {
    let numbers: Vec<usize> = argument.split(',').map_while(|number| number.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Seconds by the clock and of the processors.
#[derive(Clone, Copy)]
struct Seconds {
    wall: f64,
    cpu: f64,
}

impl Seconds {
    fn of<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let done = work();
        (Self { wall: start.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }, done)
    }

    fn less(self, other: Self) -> Self {
        Self { wall: self.wall - other.wall, cpu: self.cpu - other.cpu }
    }

    fn smaller(self, other: Self) -> Self {
        Self { wall: self.wall.min(other.wall), cpu: self.cpu.min(other.cpu) }
    }
}

struct Measured {
    shape: [usize; 3],
    prompt: Seconds,
    decode: Seconds,
    decoded: usize,
}

impl Measured {
    fn rates(&self) -> [f64; 4] {
        let (prompts, decoded) = ((self.shape[0] * self.shape[1]) as f64, self.decoded as f64);
        [
            prompts / self.prompt.wall,
            decoded / self.decode.wall,
            prompts / self.prompt.cpu,
            decoded / self.decode.cpu,
        ]
    }

    fn json(&self) -> serde_json::Value {
        let [prompt, decode, prompt_cpu, decode_cpu] = self.rates();
        json!({"shape": self.shape, "prompt": prompt, "decode": decode, "prompt_cpu": prompt_cpu, "decode_cpu": decode_cpu})
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([batch, prompt, new], [prompts, decode, prompts_cpu, decode_cpu]) = (self.shape, self.rates());
        write!(
            f,
            "{batch} × ({prompt} + {new}): {prompts:.0} prompt and {decode:.0} new tokens/s, {prompts_cpu:.0} and {decode_cpu:.0} a processor second"
        )
    }
}

fn best_of(runs: usize, engine: &Engine, shape: [usize; 3]) -> Measured {
    let [batch, prompt, new] = shape;
    let mut best: Option<Measured> = None;
    for _ in 0..runs {
        let (prompts, _) = Seconds::of(|| answers(engine, batch, prompt, 0, 1));
        let (all, answers) = Seconds::of(|| answers(engine, batch, prompt, 0, new));
        let decoded = answers.iter().map(|answer| answer.completion_tokens - 1).sum();
        let now = Measured { shape, prompt: prompts, decode: all.less(prompts), decoded };
        best = Some(match best {
            None => now,
            Some(best) => Measured {
                prompt: best.prompt.smaller(now.prompt),
                decode: best.decode.smaller(now.decode),
                ..now
            },
        });
    }
    best.unwrap_or(Measured {
        shape,
        prompt: Seconds { wall: f64::NAN, cpu: f64::NAN },
        decode: Seconds { wall: f64::NAN, cpu: f64::NAN },
        decoded: 0,
    })
}

/// 32 prompts of 300 tokens that begin with the same 200, with and without sharing.
fn sharing(model: &Arc<Model>, options: &EngineOptions) -> Result<(), Box<dyn std::error::Error>> {
    for prefix_tokens in [0, EngineOptions::default().prefix_tokens] {
        let engine = Engine::new(Arc::clone(model), &EngineOptions { prefix_tokens, ..options.clone() })?;
        let (seconds, _) = Seconds::of(|| answers(&engine, 32, 300, 200, 1));
        let stats = engine.stats();
        println!(
            "32 prompts of 300 tokens, 200 in common: {} read, {} shared, {:.2} s, {:.2} processor seconds",
            stats.prompt_tokens_read, stats.prompt_tokens_shared, seconds.wall, seconds.cpu
        );
    }
    Ok(())
}

/// Greedy answers to `batch` prompts of so many tokens, which differ behind the first `common`.
fn answers(engine: &Engine, batch: usize, prompt: usize, common: usize, new: usize) -> Vec<Generation> {
    let token = |index: usize, i: usize| {
        let index = if i < common { 0 } else { index };
        (1_000 + 37 * index + 101 * i % 20_011) as u32
    };
    let request = |index: usize| GenerateRequest {
        max_new_tokens: new,
        sampling: SamplingOptions { temperature: 0.0, repetition_penalty: 1.0, ..SamplingOptions::default() },
        ..GenerateRequest::new(Prompt::Tokens((0..prompt).map(|i| token(index, i)).collect()))
    };
    let all = block_on(join_all((0..batch).map(|index| engine.generate(request(index)))));
    all.into_iter().filter_map(Result::ok).collect()
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
