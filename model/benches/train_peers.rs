//! Training steps on request, for `peers/beside_torch.py`: one command a line on standard input, one line of
//! JSON for each on standard output.
//!
//! usage: train_peers SHAPE SEQUENCES CONTEXT THREADS MODE FOLDER
//!
//! SHAPE is a preset, perhaps with a number of layers (`135m:4`); MODE is `plain`, `bfloat16` or `recompute`. `init.f32` and
//! `layout.json` in FOLDER receive the first weights, so that a peer can start from the same ones. Commands:
//! `step` makes an update, `gemm` measures the raw product, `reset` forgets the peak of memory, `profile` prints
//! where the time of all steps so far went to standard error.

#[path = "common/mod.rs"]
mod common;

use common::{Profiled, cpu_seconds};
use model::config::{ModelConfig, ModelOptions, Preset};
use model::kernels::{Backend, Cpu, Layout, MatMul, Write};
use model::network::{Batch, Keep, Network, Workspace, even_bounds};
use model::optimizer::{AdamW, OptimizerOptions};
use rayon::prelude::*;
use std::error::Error;
use std::io::{BufRead, Write as _};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [shape, sequences, context, threads, mode, folder] = arguments.as_slice() else {
        // `cargo bench` without arguments runs every bench; this one is run by its peers' script.
        eprintln!("train_peers is run by peers/beside_torch.py (make bench-train)");
        return Ok(());
    };
    let keep = match mode.as_str() {
        "plain" => Keep::Activations,
        "bfloat16" => Keep::Bfloat16,
        "recompute" => Keep::Inputs,
        other => return Err(format!("unknown mode {other}").into()),
    };
    let mut steps =
        Steps::new(config(shape, context.parse()?)?, sequences.parse()?, keep, Path::new(folder))?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).build()?;
    let mut out = std::io::stdout();
    writeln!(out, "{{\"ready\":true,\"parameters\":{}}}", steps.parameters.len())?;
    for command in std::io::stdin().lock().lines() {
        let answer = match command?.as_str() {
            "step" => {
                let (start, cpu) = (Instant::now(), cpu_seconds());
                let loss = pool.install(|| steps.run())?;
                let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
                format!("{{\"wall\":{wall},\"cpu\":{cpu},\"loss\":{loss},\"peak\":{}}}", peak_bytes())
            }
            "gemm" => {
                let (wall, cpu) = pool.install(gemm_rate);
                format!("{{\"gflops_wall\":{wall},\"gflops_cpu\":{cpu}}}")
            }
            "reset" => {
                std::fs::write("/proc/self/clear_refs", "5").ok();
                "{}".to_owned()
            }
            "profile" => {
                steps.profile.print();
                "{}".to_owned()
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn config(shape: &str, context_tokens: usize) -> Result<ModelConfig, Box<dyn Error + Send + Sync>> {
    let (preset, layers) = match shape.split_once(':') {
        Some((preset, layers)) => (preset, Some(layers.parse()?)),
        None => (shape, None),
    };
    let preset: Preset = serde_json::from_value(serde_json::Value::String(preset.to_owned()))?;
    let options = ModelOptions { layers, context_tokens: Some(context_tokens), ..ModelOptions::from(preset) };
    Ok(options.resolve()?)
}

/// Everything a step needs, over pseudo-random tokens.
struct Steps {
    network: Network,
    profile: Profiled,
    parameters: Vec<f32>,
    grads: Vec<f32>,
    optimizer: AdamW,
    workspace: Workspace,
    bounds: Vec<usize>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    scales: Vec<f32>,
}

impl Steps {
    fn new(
        config: ModelConfig,
        sequences: usize,
        keep: Keep,
        folder: &Path,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (count, vocab) = (sequences * config.context_tokens, config.vocab_size as u32);
        let bounds = even_bounds(sequences, config.context_tokens);
        let workspace = Workspace::new(&config, keep);
        let profile = Profiled::default();
        let network = Network::new(config, profile.clone())?;
        let parameters = network.initial_parameters(1);
        std::fs::write(folder.join("init.f32"), bytemuck::cast_slice::<f32, u8>(&parameters))?;
        let tensors: Vec<_> = network
            .layout()
            .tensors()
            .iter()
            .map(|tensor| serde_json::json!([tensor.name, tensor.shape, tensor.range.start]))
            .collect();
        std::fs::write(folder.join("layout.json"), serde_json::to_vec(&tensors)?)?;
        // The same numbers in the peer's script.
        let token = |i: u32| i.wrapping_mul(2_654_435_761) % vocab;
        Ok(Self {
            grads: vec![0.0; parameters.len()],
            optimizer: AdamW::new(parameters.len()),
            workspace,
            bounds,
            tokens: (0..count as u32).map(token).collect(),
            targets: (1..=count as u32).map(token).collect(),
            scales: vec![1.0 / count as f32; count],
            parameters,
            network,
            profile,
        })
    }

    fn run(&mut self) -> Result<f64, Box<dyn Error + Send + Sync>> {
        let batch = Batch {
            bounds: &self.bounds,
            tokens: &self.tokens,
            targets: &self.targets,
            scales: &self.scales,
        };
        self.grads.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0));
        let loss = self.network.accumulate_gradients(
            &self.parameters,
            &batch,
            &mut self.grads,
            &mut self.workspace,
        )?;
        let backend = self.network.backend();
        let norm = backend.sum_of_squares(&self.grads).sqrt();
        let options = OptimizerOptions::default();
        self.optimizer.update(backend, &options, 1e-3, &mut self.parameters, &self.grads, norm);
        Ok(loss)
    }
}

/// Peak of resident memory (Linux), 0 where unknown.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// The fastest of several products, in GFLOP/s by the clock and by processor time.
fn gemm_rate() -> (f64, f64) {
    let (rows, cols, depth) = (1024, 2048, 1024);
    let shape =
        MatMul { rows, cols, depth, left: Layout::Plain, right: Layout::Transposed, write: Write::Replace };
    let (a, b) = (vec![0.5f32; rows * depth], vec![0.25f32; depth * cols]);
    let mut out = vec![0f32; rows * cols];
    let work = 2.0 * (rows * cols * depth) as f64 / 1e9;
    let (mut wall, mut cpu) = (0f64, 0f64);
    for _ in 0..6 {
        let (start, before) = (Instant::now(), cpu_seconds());
        for _ in 0..4 {
            Cpu.matmul(&shape, &a, &b, &mut out);
        }
        wall = wall.max(4.0 * work / start.elapsed().as_secs_f64());
        cpu = cpu.max(4.0 * work / (cpu_seconds() - before));
    }
    (wall, cpu)
}
