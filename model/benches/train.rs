//! Training speed: a whole step (forward, backward, AdamW) in tokens a second, against the naive back end at a
//! tiny shape and against the raw speed of the `gemm` crate at the sample shape.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::config::{ModelConfig, Preset};
use model::kernels::{Backend, Cpu, Layout, MatMul, Naive, Write};
use model::network::{Batch, Keep, Network, Workspace, even_bounds};
use model::optimizer::{AdamW, OptimizerOptions};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Everything a step needs, over pseudo-random tokens.
struct Step {
    network: Network,
    parameters: Vec<f32>,
    grads: Vec<f32>,
    optimizer: AdamW,
    workspace: Workspace,
    tokens: Vec<u32>,
    scales: Vec<f32>,
}

impl Step {
    fn new(
        config: ModelConfig,
        backend: impl Backend + 'static,
        sequences: usize,
    ) -> Result<Self, model::config::ConfigError> {
        let tokens = sequences * config.context_tokens;
        let vocab_size = config.vocab_size as u32;
        let network = Network::new(config, backend)?;
        let parameters = network.initial_parameters(1);
        Ok(Self {
            grads: vec![0.0; parameters.len()],
            optimizer: AdamW::new(parameters.len()),
            workspace: Workspace::new(network.config(), Keep::Activations),
            tokens: (0..tokens as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect(),
            scales: vec![1.0 / tokens as f32; tokens],
            parameters,
            network,
        })
    }

    fn run(&mut self) {
        let context = self.network.config().context_tokens;
        let batch = Batch {
            bounds: &even_bounds(self.tokens.len() / context, context),
            tokens: &self.tokens,
            targets: &self.tokens,
            scales: &self.scales,
        };
        self.grads.fill(0.0);
        let loss =
            self.network.accumulate_gradients(&self.parameters, &batch, &mut self.grads, &mut self.workspace);
        black_box(loss.is_ok());
        let backend = self.network.backend();
        let norm = backend.sum_of_squares(&self.grads).sqrt();
        self.optimizer.update(
            backend,
            &OptimizerOptions::default(),
            1e-4,
            &mut self.parameters,
            &self.grads,
            norm,
        );
    }
}

/// Processor seconds this thread has used (Linux), else seconds by the clock since `start`.
///
/// On a busy machine a step is interrupted many times; what others ran in between must not count.
fn used_seconds(start: Instant) -> f64 {
    let used = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = used.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |used| used / 1e9)
}

/// Least seconds of `runs` runs of `repeats` calls each, a call.
fn best(runs: usize, repeats: usize, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut shortest = f64::INFINITY;
    for _ in 0..runs {
        let before = used_seconds(start);
        for _ in 0..repeats {
            work();
        }
        shortest = shortest.min((used_seconds(start) - before) / repeats as f64);
    }
    shortest
}

fn train(c: &mut Criterion) {
    let tiny = ModelConfig {
        vocab_size: 512,
        hidden_size: 64,
        intermediate_size: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        context_tokens: 64,
        ..ModelConfig::preset(Preset::Sample)
    };
    let sample = ModelConfig::preset(Preset::Sample);
    let (Ok(mut slow), Ok(mut fast), Ok(mut step)) =
        (Step::new(tiny.clone(), Naive, 1), Step::new(tiny, Cpu, 1), Step::new(sample.clone(), Cpu, 4))
    else {
        eprintln!("the bench's shapes are inconsistent");
        return;
    };

    let mut group = c.benchmark_group("train step");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (name, step) in
        [("naive, tiny shape", &mut slow), ("cpu, tiny shape", &mut fast), ("cpu, sample shape", &mut step)]
    {
        group.throughput(Throughput::Elements(step.tokens.len() as u64));
        group.bench_function(name, |b| b.iter(|| step.run()));
    }
    group.finish();

    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(|| compare(&sample, &mut slow, &mut fast)),
        Err(error) => eprintln!("no thread for the comparison: {error}"),
    }
}

/// Prints a step's share of the raw product's speed and its lead over the naive back end.
///
/// On one thread, in processor time, alternating between short runs of which the best counts: on a busy
/// machine both sides then get the same chance.
fn compare(sample: &ModelConfig, slow: &mut Step, fast: &mut Step) {
    let Ok(mut step) = Step::new(sample.clone(), Cpu, 1) else {
        return;
    };
    let size = 640;
    let square = MatMul {
        rows: size,
        cols: size,
        depth: size,
        left: Layout::Plain,
        right: Layout::Transposed,
        write: Write::Replace,
    };
    let (a, b) = (vec![0.5f32; size * size], vec![0.25f32; size * size]);
    let mut out = vec![0f32; size * size];
    let (mut product, mut whole, mut naive, mut tiny) =
        (f64::INFINITY, f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for _ in 0..40 {
        product = product.min(best(2, 8, || Cpu.matmul(&square, &a, &b, &mut out)));
        whole = whole.min(best(1, 1, || step.run()));
        naive = naive.min(best(1, 1, || slow.run()));
        tiny = tiny.min(best(1, 8, || fast.run()));
    }
    let peak = 2.0 * (size as f64).powi(3) / product / 1e9;
    let tokens = step.tokens.len() as f64;
    // Six floating-point operations a parameter and token, and six a layer, channel and position (of which
    // half are seen, twice: scores and values).
    let attention = 6 * sample.layers * sample.hidden_size * sample.context_tokens;
    let work = 6.0 * step.parameters.len() as f64 + attention as f64;
    let speed = work * tokens / whole / 1e9;
    println!("\none thread, processor time, best of 40 alternating rounds");
    println!("sample shape: {:.0} tokens/s, {speed:.0} GFLOP/s", tokens / whole);
    println!("gemm peak ({size}³): {peak:.0} GFLOP/s; the step reaches {:.0} % of it", 100.0 * speed / peak);
    println!("tiny shape: {:.0} times the naive back end", naive / tiny);
}

criterion_group!(benches, train);
criterion_main!(benches);
