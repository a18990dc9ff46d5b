//! The dozen operations a SmolLM step is made of, forward and backward.
//!
//! [`Backend`] is the boundary: [`Naive`] says in plain loops what every kernel means, [`Cpu`] does
//! the same fast. Buffers are plain `f32` slices, matrices are row-major. Every result is a function of
//! the arguments alone: no kernel's rounding depends on the number of threads or their timing.

mod attention;
#[cfg(test)]
mod contract;
mod cpu;
mod math;
mod naive;
mod rows;

pub use cpu::Cpu;
pub use naive::Naive;

use std::ops::Range;

/// How a matrix operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major as the product reads it.
    Plain,
    /// Row-major with the product's rows and columns exchanged.
    Transposed,
}

/// What becomes of the output's old values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// The product `out[rows, cols] = left[rows, depth] · right[depth, cols]`.
#[derive(Clone, Copy, Debug)]
pub struct MatMul {
    /// Rows of the output.
    pub rows: usize,
    /// Columns of the output.
    pub cols: usize,
    /// Length of the summed dimension.
    pub depth: usize,
    /// How `left` lies in memory.
    pub left: Layout,
    /// How `right` lies in memory.
    pub right: Layout,
    /// Overwrite or add.
    pub write: Write,
}

/// Shapes of one attention call over sequences that lie one after another, of any lengths.
///
/// A token sees the tokens of its own sequence up to itself, and its position counts from the sequence's
/// start: documents that are packed together, one a sequence, know nothing of each other.
///
/// `qkv` rows hold all query heads, then the key heads, then the value heads, `head_dim` values each;
/// output rows hold the query heads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape<'a> {
    /// First token of each sequence, then the number of tokens; ascending from 0 (`cu_seqlens` of
    /// Dao-AILab/flash-attention).
    pub bounds: &'a [usize],
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl AttentionShape<'_> {
    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.bounds.last().copied().unwrap_or(0)
    }

    /// Number of sequences.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// The tokens of one sequence.
    #[must_use]
    pub fn sequence(&self, index: usize) -> Range<usize> {
        self.bounds[index]..self.bounds[index + 1]
    }

    /// The sequence that holds a token.
    pub(crate) fn sequence_of(&self, token: usize) -> usize {
        self.bounds.partition_point(|&bound| bound <= token) - 1
    }

    /// Where the `log_sums` of one sequence and head begin: they lie by sequence, head, position.
    pub(crate) fn log_sums_at(&self, sequence: usize, head: usize) -> usize {
        let tokens = self.sequence(sequence);
        tokens.start * self.heads + head * tokens.len()
    }

    /// Width of a `qkv` row.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of an output row.
    #[must_use]
    pub fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Query heads that share one key head.
    #[must_use]
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Direction of the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// As in the forward pass.
    Forward,
    /// The inverse, which takes gradients back.
    Backward,
}

/// Sines and cosines of the rotary embedding.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for `context` positions of heads `head_dim` wide, with frequencies `theta^(-2i/head_dim)`.
    #[must_use]
    pub fn new(context: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let angles = (0..context).flat_map(|position| {
            (0..half).map(move |i| position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64))
        });
        let (sin, cos) = angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
        Self { half, cos, sin }
    }

    /// Cosines and sines (`head_dim / 2` each) of one position.
    #[must_use]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// The scalars of one AdamW update.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// `1 − beta1^t`.
    pub correction1: f32,
    /// `√(1 − beta2^t)`.
    pub correction2_root: f32,
    /// Factor on every gradient (1 unless the norm is clipped).
    pub gradient_scale: f32,
}

/// The operations of a training step.
pub trait Backend: Send + Sync {
    /// A matrix product, see [`MatMul`].
    fn matmul(&self, shape: &MatMul, left: &[f32], right: &[f32], out: &mut [f32]);

    /// `out[t] = table[tokens[t]]`; the row width is `out.len() / tokens.len()`.
    fn embed(&self, table: &[f32], tokens: &[u32], out: &mut [f32]);

    /// `grad_table[tokens[t]] += grad_out[t]`, in the order of `t`.
    fn embed_backward(&self, grad_out: &[f32], tokens: &[u32], grad_table: &mut [f32]);

    /// `out = x · inverse_rms · weight` by rows of `weight.len()`; keeps `inverse_rms` (one a row).
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32]);

    /// Adds the gradients of [`Backend::rms_norm`] to `grad_x` and `grad_weight`.
    fn rms_norm_backward(
        &self,
        grad_out: &[f32],
        x: &[f32],
        weight: &[f32],
        inverse_rms: &[f32],
        grad_x: &mut [f32],
        grad_weight: &mut [f32],
    );

    /// Rotates the query and key heads of `qkv` in place (first half of a head against its second).
    fn rope(&self, shape: &AttentionShape<'_>, table: &RopeTable, rotation: Rotation, qkv: &mut [f32]);

    /// Causal attention within each sequence; keeps the logarithm of each row's softmax sum in `log_sums`,
    /// by sequence, head and position.
    fn attention(&self, shape: &AttentionShape<'_>, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]);

    /// Writes the gradient of [`Backend::attention`] with respect to `qkv`.
    fn attention_backward(
        &self,
        shape: &AttentionShape<'_>,
        qkv: &[f32],
        out: &[f32],
        log_sums: &[f32],
        grad_out: &[f32],
        grad_qkv: &mut [f32],
    );

    /// `out = silu(gate) · up`, rows of `gate_up` hold `width` gates, then `width` ups.
    fn swiglu(&self, width: usize, gate_up: &[f32], out: &mut [f32]);

    /// Replaces `gate_up` by its gradient.
    fn swiglu_backward(&self, width: usize, gate_up: &mut [f32], grad_out: &[f32]);

    /// Cross-entropy by rows of `logits.len() / targets.len()`: `losses[t] = −log p(target)`, and
    /// `logits` becomes the gradient of `Σ scales[t] · losses[t]`.
    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scales: &[f32], losses: &mut [f32]);

    /// `x += y`.
    fn add(&self, x: &mut [f32], y: &[f32]);

    /// Sum of squares, in `f64`.
    fn sum_of_squares(&self, x: &[f32]) -> f64;

    /// One AdamW update with the gradient's clipping fused in.
    fn adamw(&self, step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]);
}
