//! Arithmetic that compilers vectorise, as the bodies of the row kernels use it: sums run over sixteen fixed
//! lanes, whatever the vectors' width.

use crate::exp::exp;

/// Lanes of the fixed-order sums below.
const LANES: usize = 16;

/// Adds the lanes pairwise, always in the same order.
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

/// `Σ f(a, b)` over two slices of equal length.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for (i, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] += f(*x, *y);
    }
    fold(lanes)
}

/// Dot product.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum2(a, b, |x, y| x * y)
}

/// Largest value, or −∞ for an empty slice; NaN is passed over.
#[inline(always)]
pub fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    for &value in rest {
        lanes[0] = if value > lanes[0] { value } else { lanes[0] };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Replaces each `x` by `exp(x − shift)` and returns their sum.
#[inline(always)]
pub fn exp_in_place(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - shift);
            lanes[i] += chunk[i];
        }
    }
    for (i, value) in rest.iter_mut().enumerate() {
        *value = exp(*value - shift);
        lanes[i] += *value;
    }
    fold(lanes)
}

/// The logistic function.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
