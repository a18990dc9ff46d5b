//! Element-wise functions and sums over a row. Sums use sixteen lanes (element `i` goes to lane
//! `i % 16`) folded as a tree, whatever the vector width.

use crate::exp::exp;

use super::by_isa;

const LANES: usize = 16;

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ term(x[i]) in lanes.
#[inline(always)]
fn lane_sum(x: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = term(x, *lane);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = term(x, *lane);
    }
    fold(lanes)
}

#[inline(always)]
fn greatest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let squares = lane_sum(x, |x, sum| x.mul_add(x, sum));
    let scale = 1.0 / (squares / x.len() as f32 + epsilon).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
fn swiglu_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

#[inline(always)]
fn softmax_unscaled_body(x: &mut [f32]) -> f32 {
    let max = greatest(x);
    for x in x.iter_mut() {
        *x = exp(*x - max);
    }
    lane_sum(x, |x, sum| sum + x)
}

#[inline(always)]
fn log_sum_exp_body(x: &[f32]) -> f32 {
    let max = greatest(x);
    max + lane_sum(x, |x, sum| sum + exp(x - max)).ln()
}

#[inline(always)]
fn add_assign_body(x: &mut [f32], y: &[f32]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
fn rope_body(head: &mut [f32], cos_sin: &[[f32; 2]]) {
    for (pair, &[cos, sin]) in head.chunks_exact_mut(2).zip(cos_sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

by_isa! {
    /// `out = x / √(mean(x²) + ε) × weight`; all of one length.
    rms_norm = rms_norm_body;
    (x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32])
}
by_isa! {
    /// `out = silu(gate) × up`, silu(x) = x / (1 + e⁻ˣ); all of one length.
    swiglu = swiglu_body;
    (gate: &[f32], up: &[f32], out: &mut [f32])
}
by_isa! {
    /// Replaces `x` by e^(x − max x) and returns the sum, by which the caller divides.
    softmax_unscaled = softmax_unscaled_body;
    (x: &mut [f32]) -> f32
}
by_isa! {
    /// ln Σ eˣ.
    log_sum_exp = log_sum_exp_body;
    (x: &[f32]) -> f32
}
by_isa! {
    /// `x += y`.
    add_assign = add_assign_body;
    (x: &mut [f32], y: &[f32])
}
by_isa! {
    /// Turns the pairs (2i, 2i + 1) of one head by the angles of its position. That is the order
    /// in which llama.cpp's converter stores the rows of the q and k projections of Llama models.
    rope = rope_body;
    (head: &mut [f32], cos_sin: &[[f32; 2]])
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let isa = Isa::detect();
        let mut out = [0.0; 2];
        rms_norm(isa, &[3.0, 4.0], &[1.0, 2.0], 0.0, &mut out);
        let rms = 12.5f32.sqrt();
        assert!((out[0] - 3.0 / rms).abs() < 1e-6 && (out[1] - 8.0 / rms).abs() < 1e-6);
        swiglu(isa, &[0.0, 20.0], &[5.0, 0.5], &mut out);
        assert!(out[0] == 0.0 && (out[1] - 10.0).abs() < 1e-5);
        let mut x = [1.0, 1.0, 1.0 + 2f32.ln()];
        let sum = softmax_unscaled(isa, &mut x);
        assert!((x[2] / sum - 0.5).abs() < 1e-6);
        assert!((log_sum_exp(isa, &[0.0; 8]) - 8f32.ln()).abs() < 1e-6);
        let mut head = [1.0, 0.0, 0.0, 2.0];
        rope(isa, &mut head, &[[0.0, 1.0], [-1.0, 0.0]]);
        assert_eq!(head, [0.0, 1.0, -0.0, -2.0]);
    }

    proptest! {
        #[test]
        fn all_isas_give_the_same_bits(x in prop::collection::vec(-30.0f32..30.0, 1..200)) {
            let results: Vec<Vec<u32>> = Isa::available().into_iter().map(|isa| {
                let mut all = vec![log_sum_exp(isa, &x)];
                let mut out = vec![0.0; x.len()];
                rms_norm(isa, &x, &x, 1e-5, &mut out);
                all.extend(&out);
                swiglu(isa, &x, &all[1..], &mut out);
                all.extend(&out);
                all.push(softmax_unscaled(isa, &mut out));
                all.extend(&out);
                all.into_iter().map(f32::to_bits).collect()
            }).collect();
            for other in &results[1..] {
                prop_assert_eq!(other, &results[0]);
            }
        }
    }
}
