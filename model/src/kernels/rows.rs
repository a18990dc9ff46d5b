//! What a task of the fast back end does with its rows, compiled once for each instruction set.
//!
//! The bits are the same on each: sums run over sixteen fixed lanes and no multiply-add is fused (but in
//! `exp`, where it always is), so wider vectors change speed and nothing else.

use super::math::{dot, exp_in_place, maximum, sigmoid, sum2};
use super::{AdamStep, AttentionShape, RopeTable};
use crate::isa::by_isa;

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    for (a, b) in x.iter_mut().zip(y) {
        *a += b;
    }
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32]) {
    let width = weight.len();
    for ((out, x), inverse) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(inverse_rms) {
        *inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * *inverse * w;
        }
    }
}

#[inline(always)]
fn rms_norm_backward_body(
    grad_out: &[f32],
    x: &[f32],
    weight: &[f32],
    inverse_rms: &[f32],
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
) {
    let width = weight.len();
    let mut weighted = vec![0f32; width];
    for (row, &inverse) in inverse_rms.iter().enumerate() {
        let range = row * width..(row + 1) * width;
        let (g, x) = (&grad_out[range.clone()], &x[range.clone()]);
        for i in 0..width {
            weighted[i] = g[i] * weight[i];
            grad_weight[i] += g[i] * x[i] * inverse;
        }
        let mean = dot(&weighted, x) / width as f32;
        let pull = inverse * inverse * mean;
        for ((grad, x), w) in grad_x[range].iter_mut().zip(x).zip(&weighted) {
            *grad += inverse * (w - x * pull);
        }
    }
}

#[inline(always)]
fn rope_body(shape: &AttentionShape<'_>, table: &RopeTable, sign: f32, first: usize, rows: &mut [f32]) {
    let d = shape.head_dim;
    let rotated = (shape.heads + shape.kv_heads) * d;
    let mut sequence = shape.sequence(shape.sequence_of(first));
    for (token, row) in (first..).zip(rows.chunks_exact_mut(shape.qkv_width())) {
        if token >= sequence.end {
            sequence = shape.sequence(shape.sequence_of(token));
        }
        let (cos, sin) = table.at(token - sequence.start);
        for head in row[..rotated].chunks_exact_mut(d) {
            let (first, second) = head.split_at_mut(d / 2);
            for i in 0..d / 2 {
                let (a, b, sine) = (first[i], second[i], sign * sin[i]);
                first[i] = a * cos[i] - b * sine;
                second[i] = b * cos[i] + a * sine;
            }
        }
    }
}

#[inline(always)]
fn causal_softmax_body(first: usize, scores: &mut [f32], log_sums: &mut [f32], inverse_sums: &mut [f32]) {
    let keys = scores.len() / log_sums.len();
    let rows = scores.chunks_exact_mut(keys).zip(log_sums).zip(inverse_sums);
    for (r, ((row, log_sum), inverse)) in rows.enumerate() {
        let (seen, future) = row.split_at_mut(first + r + 1);
        let top = maximum(seen);
        let sum = exp_in_place(seen, top);
        future.fill(0.0);
        *log_sum = top + sum.ln();
        *inverse = 1.0 / sum;
    }
}

#[inline(always)]
fn causal_softmax_backward_body(
    first: usize,
    scale: f32,
    scores: &mut [f32],
    grads: &mut [f32],
    log_sums: &[f32],
    inner: &[f32],
) {
    let keys = scores.len() / log_sums.len();
    let rows = scores.chunks_exact_mut(keys).zip(grads.chunks_exact_mut(keys));
    for (r, (p_row, g_row)) in rows.enumerate() {
        let (p_seen, p_future) = p_row.split_at_mut(first + r + 1);
        let (g_seen, g_future) = g_row.split_at_mut(first + r + 1);
        exp_in_place(p_seen, log_sums[r]);
        for (grad, p) in g_seen.iter_mut().zip(&*p_seen) {
            *grad = p * (*grad - inner[r]) * scale;
        }
        p_future.fill(0.0);
        g_future.fill(0.0);
    }
}

#[inline(always)]
fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b)
}

#[inline(always)]
fn swiglu_body(width: usize, gate_up: &[f32], out: &mut [f32]) {
    for (row, pair) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
        let (gate, up) = pair.split_at(width);
        for i in 0..width {
            row[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
    }
}

#[inline(always)]
fn swiglu_backward_body(width: usize, gate_up: &mut [f32], grad_out: &[f32]) {
    for (pair, grad) in gate_up.chunks_exact_mut(2 * width).zip(grad_out.chunks_exact(width)) {
        let (gate, up) = pair.split_at_mut(width);
        for i in 0..width {
            let s = sigmoid(gate[i]);
            let gradient = grad[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
            up[i] = grad[i] * gate[i] * s;
            gate[i] = gradient;
        }
    }
}

#[inline(always)]
fn cross_entropy_body(logits: &mut [f32], target: usize, scale: f32) -> f32 {
    let top = maximum(logits);
    let target_logit = logits[target];
    let sum = exp_in_place(logits, top);
    let factor = scale / sum;
    for value in logits.iter_mut() {
        *value *= factor;
    }
    logits[target] -= scale;
    top - target_logit + sum.ln()
}

#[inline(always)]
fn sum_of_squares_body(x: &[f32]) -> f64 {
    // Short f32 sums, added up in f64.
    x.chunks(256).map(|c| f64::from(sum2(c, c, |a, b| a * b))).sum()
}

#[inline(always)]
fn adamw_body(step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
    let keep = 1.0 - step.lr * step.weight_decay;
    let rate = step.lr / step.correction1;
    for (((p, g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
        let g = g * step.gradient_scale;
        *m = step.beta1 * *m + (1.0 - step.beta1) * g;
        *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
        let denominator = v.sqrt() / step.correction2_root + step.eps;
        *p = *p * keep - rate * *m / denominator;
    }
}

by_isa! {
    /// `x += y`.
    add = add_body;
    (x: &mut [f32], y: &[f32])
}
by_isa! {
    /// Dot product.
    dot_product = dot_body;
    (a: &[f32], b: &[f32]) -> f32
}
by_isa! {
    /// Rows of [`super::Backend::rms_norm`].
    rms_norm = rms_norm_body;
    (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32])
}
by_isa! {
    /// Rows of [`super::Backend::rms_norm_backward`]; adds to both gradients.
    rms_norm_backward = rms_norm_backward_body;
    (grad_out: &[f32], x: &[f32], weight: &[f32], inverse_rms: &[f32], grad_x: &mut [f32], grad_weight: &mut [f32])
}
by_isa! {
    /// Rows of [`super::Backend::rope`] from row `first` on; `sign` is −1 for the inverse rotation.
    rope = rope_body;
    (shape: &AttentionShape<'_>, table: &RopeTable, sign: f32, first: usize, rows: &mut [f32])
}
by_isa! {
    /// Replaces rows of scores, of which row `r` sees the first `first + r + 1` keys, by `e^(score − max)`;
    /// keeps the logarithms of the softmax sums and what the rows must be multiplied by.
    causal_softmax = causal_softmax_body;
    (first: usize, scores: &mut [f32], log_sums: &mut [f32], inverse_sums: &mut [f32])
}
by_isa! {
    /// Replaces scores by probabilities, and the probabilities' gradients by the scores'; `inner` is each
    /// row's output times its gradient.
    causal_softmax_backward = causal_softmax_backward_body;
    (first: usize, scale: f32, scores: &mut [f32], grads: &mut [f32], log_sums: &[f32], inner: &[f32])
}
by_isa! {
    /// Rows of [`super::Backend::swiglu`].
    swiglu = swiglu_body;
    (width: usize, gate_up: &[f32], out: &mut [f32])
}
by_isa! {
    /// Rows of [`super::Backend::swiglu_backward`].
    swiglu_backward = swiglu_backward_body;
    (width: usize, gate_up: &mut [f32], grad_out: &[f32])
}
by_isa! {
    /// One row of [`super::Backend::cross_entropy`]; the loss.
    cross_entropy = cross_entropy_body;
    (logits: &mut [f32], target: usize, scale: f32) -> f32
}
by_isa! {
    /// Sum of squares.
    sum_of_squares = sum_of_squares_body;
    (x: &[f32]) -> f64
}
by_isa! {
    /// See [`super::Backend::adamw`].
    adamw = adamw_body;
    (step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_instruction_sets_give_the_same_bits(x in prop::collection::vec(-13.0f32..13.0, 2..300)) {
            let step = AdamStep {
                lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01,
                correction1: 0.3, correction2_root: 0.4, gradient_scale: 0.7,
            };
            let half = x.len() / 2;
            let results: Vec<Vec<u32>> = Isa::available().into_iter().map(|isa| {
                let mut all = x.clone();
                let mut pair = x[..2 * half].to_vec();
                swiglu_backward(isa, half, &mut pair, &x[..half]);
                all.extend(&pair);
                let loss = cross_entropy(isa, &mut pair, half, 0.5);
                all.push(loss);
                all.extend(&pair);
                let mut inverse = [0.0];
                let mut out = vec![0.0; x.len()];
                rms_norm(isa, &x, &x, 1e-5, &mut out, &mut inverse);
                let (mut grad_x, mut grad_weight) = (x.clone(), x.clone());
                rms_norm_backward(isa, &out, &x, &x, &inverse, &mut grad_x, &mut grad_weight);
                for part in [&out, &grad_x, &grad_weight] {
                    all.extend(part);
                }
                let (mut p, mut m, mut v) = (x.clone(), out, vec![0.5; x.len()]);
                adamw(isa, &step, &mut p, &x, &mut m, &mut v);
                for part in [&p, &m, &v] {
                    all.extend(part);
                }
                let mut log_sums = [0.0];
                causal_softmax(isa, half, &mut p, &mut log_sums, &mut inverse);
                causal_softmax_backward(isa, half, 0.1, &mut m, &mut v, &log_sums, &[0.2]);
                for part in [&p, &m, &v] {
                    all.extend(part);
                }
                all.extend([log_sums[0], dot_product(isa, &x, &x), sum_of_squares(isa, &x) as f32]);
                all.into_iter().map(f32::to_bits).collect()
            }).collect();
            for other in &results[1..] {
                prop_assert_eq!(other, &results[0]);
            }
        }
    }
}
