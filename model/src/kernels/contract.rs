//! The contract: every back end computes what the naive one does, whatever the shape and thread count,
//! and the naive one's gradients are those of finite differences.

use super::*;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.5f32..1.5)).collect()
}

fn tokens(seed: u64, len: usize, below: u32) -> Vec<u32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(0..below)).collect()
}

/// Sequences of these lengths, one after another.
fn bounds(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

#[track_caller]
fn close(name: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        let error = (x - y).abs() / (1.0 + y.abs());
        assert!(error < 2e-5, "{name}[{i}]: {x} against {y}");
    }
}

/// Every kernel once on random data; the outputs in order.
fn run_all(
    backend: &dyn Backend,
    shape: &AttentionShape<'_>,
    width: usize,
    vocab: usize,
    seed: u64,
) -> Vec<(&'static str, Vec<f32>)> {
    let n = shape.tokens();
    let mut results = Vec::new();
    for (name, left, right) in [
        ("matmul forward", Layout::Plain, Layout::Transposed),
        ("matmul input gradient", Layout::Plain, Layout::Plain),
        ("matmul weight gradient", Layout::Transposed, Layout::Plain),
    ] {
        for write in [Write::Replace, Write::Add] {
            let (a, b) = (random(seed, n * width), random(seed + 1, width * vocab));
            let mut out = random(seed + 2, n * vocab);
            let shape = MatMul { rows: n, cols: vocab, depth: width, left, right, write };
            backend.matmul(&shape, &a, &b, &mut out);
            results.push((name, out));
        }
    }

    let ids = tokens(seed, n, vocab as u32);
    let mut out = vec![0.0; n * width];
    backend.embed(&random(seed, vocab * width), &ids, &mut out);
    results.push(("embed", out));
    let mut grad = random(seed + 3, vocab * width);
    backend.embed_backward(&random(seed, n * width), &ids, &mut grad);
    results.push(("embed backward", grad));

    let (x, weight) = (random(seed, n * width), random(seed + 1, width));
    let (mut out, mut inverse) = (vec![0.0; n * width], vec![0.0; n]);
    backend.rms_norm(&x, &weight, 1e-5, &mut out, &mut inverse);
    let (mut grad_x, mut grad_weight) = (random(seed + 4, n * width), random(seed + 5, width));
    backend.rms_norm_backward(
        &random(seed + 6, n * width),
        &x,
        &weight,
        &inverse,
        &mut grad_x,
        &mut grad_weight,
    );
    results.extend([("norm", out), ("norm rms", inverse), ("norm dx", grad_x), ("norm dw", grad_weight)]);

    let mut qkv = random(seed + 7, n * shape.qkv_width());
    let table = RopeTable::new(shape.tokens(), shape.head_dim, 10_000.0);
    backend.rope(shape, &table, Rotation::Forward, &mut qkv);
    results.push(("rope", qkv.clone()));
    let mut out = vec![f32::NAN; n * shape.out_width()];
    let mut log_sums = vec![f32::NAN; n * shape.heads];
    backend.attention(shape, &qkv, &mut out, &mut log_sums);
    let mut grad_qkv = vec![f32::NAN; qkv.len()];
    backend.attention_backward(shape, &qkv, &out, &log_sums, &random(seed + 8, out.len()), &mut grad_qkv);
    backend.rope(shape, &table, Rotation::Backward, &mut qkv);
    results.extend([
        ("attention", out),
        ("log sums", log_sums),
        ("attention dqkv", grad_qkv),
        ("rope back", qkv),
    ]);

    let mut gate_up = random(seed + 9, n * 2 * width);
    let mut out = vec![0.0; n * width];
    backend.swiglu(width, &gate_up, &mut out);
    backend.swiglu_backward(width, &mut gate_up, &random(seed + 10, n * width));
    results.extend([("swiglu", out), ("swiglu backward", gate_up)]);

    let mut logits: Vec<f32> = random(seed + 11, n * vocab).iter().map(|x| x * 4.0).collect();
    let scales: Vec<f32> = (0..n).map(|i| (i % 3) as f32 * 0.25).collect();
    let mut losses = vec![0.0; n];
    backend.cross_entropy(&mut logits, &ids, &scales, &mut losses);
    results.extend([("cross-entropy gradient", logits), ("cross-entropy losses", losses)]);

    let (mut p, mut m) = (random(seed + 12, n * width), random(seed + 13, n * width));
    let mut v: Vec<f32> = random(seed + 14, n * width).iter().map(|x| x * x).collect();
    let step = AdamStep {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        correction1: 0.271,
        correction2_root: 0.37,
        gradient_scale: 0.5,
    };
    backend.adamw(&step, &mut p, &random(seed + 15, n * width), &mut m, &mut v);
    backend.add(&mut p, &m);
    let squares = backend.sum_of_squares(&p) as f32;
    results.extend([("adamw m", m), ("adamw v", v), ("adamw p", p), ("squares", vec![squares])]);
    results
}

fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn cpu_agrees_with_naive(
        lengths in prop::collection::vec(1usize..20, 1..5), kv_heads in 1usize..3, group in 1usize..4,
        half in 1usize..6, width in 1usize..40, vocab in 2usize..50, seed in any::<u64>(),
    ) {
        let bounds = bounds(&lengths);
        let shape =
            AttentionShape { bounds: &bounds, heads: kv_heads * group, kv_heads, head_dim: 2 * half };
        let seed = seed >> 8;
        let expected = run_all(&Naive, &shape, width, vocab, seed);
        for ((name, want), (_, got)) in expected.iter().zip(run_all(&Cpu, &shape, width, vocab, seed)) {
            close(name, &got, want);
        }
    }
}

#[test]
fn attention_blocks_agree_across_their_borders() {
    for lengths in [[63, 63], [64, 64], [65, 1], [150, 64]] {
        let bounds = bounds(&lengths);
        let shape = AttentionShape { bounds: &bounds, heads: 4, kv_heads: 2, head_dim: 16 };
        let expected = run_all(&Naive, &shape, 24, 33, 5);
        for ((name, want), (_, got)) in expected.iter().zip(run_all(&Cpu, &shape, 24, 33, 5)) {
            close(name, &got, want);
        }
    }
}

#[test]
fn the_thread_count_changes_no_bit() {
    let bounds = bounds(&[130, 1, 200, 64, 70]);
    let shape = AttentionShape { bounds: &bounds, heads: 6, kv_heads: 2, head_dim: 32 };
    let run = |threads| in_pool(threads, || run_all(&Cpu, &shape, 200, 700, 9));
    let one = run(1);
    for threads in [2, 3, 8] {
        for ((name, a), (_, b)) in one.iter().zip(run(threads)) {
            let same = a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{name} differs between 1 and {threads} threads");
        }
    }
}

/// Checks `analytic` against central differences of `f` at `x`.
#[track_caller]
fn finite_differences(name: &str, x: &[f32], analytic: &[f32], f: impl Fn(&[f32]) -> f64) {
    let mut point = x.to_vec();
    for i in 0..x.len() {
        let h = 1e-2f32;
        point[i] = x[i] + h;
        let up = f(&point);
        point[i] = x[i] - h;
        let down = f(&point);
        point[i] = x[i];
        let numeric = (up - down) / (2.0 * f64::from(h));
        let error = (numeric - f64::from(analytic[i])).abs() / (1.0 + numeric.abs());
        assert!(error < 2e-3, "{name}[{i}]: {} against {numeric}", analytic[i]);
    }
}

fn weighted(values: &[f32], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn naive_gradients_are_finite_differences() {
    let backend = Naive;
    // Two documents: a gradient that leaked from one to the other would differ.
    let shape = AttentionShape { bounds: &[0, 3, 4], heads: 2, kv_heads: 1, head_dim: 4 };
    let n = shape.tokens();

    let qkv = random(1, n * shape.qkv_width());
    let grad_out = random(2, n * shape.out_width());
    let forward = |qkv: &[f32]| {
        let (mut out, mut sums) = (vec![0.0; n * shape.out_width()], vec![0.0; n * shape.heads]);
        backend.attention(&shape, qkv, &mut out, &mut sums);
        (out, sums)
    };
    let (out, sums) = forward(&qkv);
    let mut grad = vec![0.0; qkv.len()];
    backend.attention_backward(&shape, &qkv, &out, &sums, &grad_out, &mut grad);
    finite_differences("attention", &qkv, &grad, |qkv| weighted(&forward(qkv).0, &grad_out));

    let table = RopeTable::new(shape.tokens(), shape.head_dim, 100.0);
    let rope_out = random(12, qkv.len());
    let mut grad = rope_out.clone();
    backend.rope(&shape, &table, Rotation::Backward, &mut grad);
    finite_differences("rope", &qkv, &grad, |qkv| {
        let mut rotated = qkv.to_vec();
        backend.rope(&shape, &table, Rotation::Forward, &mut rotated);
        weighted(&rotated, &rope_out)
    });

    let width = 6;
    let (x, weight, grad_out) = (random(3, n * width), random(4, width), random(5, n * width));
    let norm = |x: &[f32], weight: &[f32]| {
        let (mut out, mut inverse) = (vec![0.0; n * width], vec![0.0; n]);
        backend.rms_norm(x, weight, 1e-5, &mut out, &mut inverse);
        (weighted(&out, &grad_out), inverse)
    };
    let (mut grad_x, mut grad_weight) = (vec![0.0; n * width], vec![0.0; width]);
    backend.rms_norm_backward(&grad_out, &x, &weight, &norm(&x, &weight).1, &mut grad_x, &mut grad_weight);
    finite_differences("norm x", &x, &grad_x, |x| norm(x, &weight).0);
    finite_differences("norm weight", &weight, &grad_weight, |weight| norm(&x, weight).0);

    let gate_up = random(6, n * 2 * width);
    let mut grad = gate_up.clone();
    backend.swiglu_backward(width, &mut grad, &grad_out);
    finite_differences("swiglu", &gate_up, &grad, |gate_up| {
        let mut out = vec![0.0; n * width];
        backend.swiglu(width, gate_up, &mut out);
        weighted(&out, &grad_out)
    });

    let logits = random(7, n * 9);
    let (targets, scales) = (tokens(8, n, 9), [1.0, 0.5, 0.0, 2.0]);
    let losses = |logits: &[f32]| {
        let (mut grad, mut losses) = (logits.to_vec(), vec![0.0; n]);
        backend.cross_entropy(&mut grad, &targets, &scales, &mut losses);
        (grad, losses)
    };
    finite_differences("cross-entropy", &logits, &losses(&logits).0, |logits| {
        weighted(&losses(logits).1, &scales)
    });
}
