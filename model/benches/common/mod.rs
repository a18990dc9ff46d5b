//! What the training benches share: processor time, and a back end that notes where time goes.

use model::kernels::{AdamStep, AttentionShape, Backend, Cpu, MatMul, RopeTable, Rotation};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Processor seconds of all threads of this process (Linux; elsewhere 0).
///
/// On a busy machine a step is interrupted many times; what others ran in between must not count.
pub fn cpu_seconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let used = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    used.sum::<f64>() / 1e9
}

/// [`Cpu`] with the seconds, calls and floating-point operations of each kernel added up by name.
#[derive(Clone, Default)]
pub struct Profiled(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Clone, Copy, Default)]
struct Entry {
    seconds: f64,
    calls: u64,
    operations: f64,
}

impl Profiled {
    fn time(&self, name: impl Into<String>, operations: f64, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        let seconds = start.elapsed().as_secs_f64();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(name.into()).or_default();
        entry.seconds += seconds;
        entry.calls += 1;
        entry.operations += operations;
    }

    /// Prints the table, longest first, to standard error.
    pub fn print(&self) {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: f64 = entries.values().map(|entry| entry.seconds).sum();
        let mut rows: Vec<_> = entries.iter().collect();
        rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        for (name, entry) in rows {
            eprintln!(
                "{:5.1} % {:9.3} s {:6} calls {:7.1} GFLOP/s  {name}",
                100.0 * entry.seconds / total,
                entry.seconds,
                entry.calls,
                entry.operations / entry.seconds / 1e9
            );
        }
    }
}

impl Backend for Profiled {
    fn matmul(&self, shape: &MatMul, left: &[f32], right: &[f32], out: &mut [f32]) {
        let &MatMul { rows, cols, depth, .. } = shape;
        let name = format!("matmul {rows} × {cols} × {depth} {:?} {:?}", shape.left, shape.right);
        self.time(name, 2.0 * (rows * cols * depth) as f64, || Cpu.matmul(shape, left, right, out));
    }

    fn embed(&self, table: &[f32], tokens: &[u32], out: &mut [f32]) {
        self.time("embed", 0.0, || Cpu.embed(table, tokens, out));
    }

    fn embed_backward(&self, grad_out: &[f32], tokens: &[u32], grad_table: &mut [f32]) {
        self.time("embed backward", 0.0, || Cpu.embed_backward(grad_out, tokens, grad_table));
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32]) {
        self.time("norm", 0.0, || Cpu.rms_norm(x, weight, eps, out, inverse_rms));
    }

    fn rms_norm_backward(
        &self,
        grad_out: &[f32],
        x: &[f32],
        weight: &[f32],
        inverse_rms: &[f32],
        grad_x: &mut [f32],
        grad_weight: &mut [f32],
    ) {
        self.time("norm backward", 0.0, || {
            Cpu.rms_norm_backward(grad_out, x, weight, inverse_rms, grad_x, grad_weight);
        });
    }

    fn rope(&self, shape: &AttentionShape<'_>, table: &RopeTable, rotation: Rotation, qkv: &mut [f32]) {
        self.time("rope", 0.0, || Cpu.rope(shape, table, rotation, qkv));
    }

    fn attention(&self, shape: &AttentionShape<'_>, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        self.time("attention", 0.0, || Cpu.attention(shape, qkv, out, log_sums));
    }

    fn attention_backward(
        &self,
        shape: &AttentionShape<'_>,
        qkv: &[f32],
        out: &[f32],
        log_sums: &[f32],
        grad_out: &[f32],
        grad_qkv: &mut [f32],
    ) {
        self.time("attention backward", 0.0, || {
            Cpu.attention_backward(shape, qkv, out, log_sums, grad_out, grad_qkv);
        });
    }

    fn swiglu(&self, width: usize, gate_up: &[f32], out: &mut [f32]) {
        self.time("swiglu", 0.0, || Cpu.swiglu(width, gate_up, out));
    }

    fn swiglu_backward(&self, width: usize, gate_up: &mut [f32], grad_out: &[f32]) {
        self.time("swiglu backward", 0.0, || Cpu.swiglu_backward(width, gate_up, grad_out));
    }

    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scales: &[f32], losses: &mut [f32]) {
        self.time("cross-entropy", 0.0, || Cpu.cross_entropy(logits, targets, scales, losses));
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        self.time("add", 0.0, || Cpu.add(x, y));
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        let mut sum = 0.0;
        self.time("sum of squares", 0.0, || sum = Cpu.sum_of_squares(x));
        sum
    }

    fn adamw(&self, step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
        self.time("adamw", 0.0, || Cpu.adamw(step, params, grads, m, v));
    }
}
