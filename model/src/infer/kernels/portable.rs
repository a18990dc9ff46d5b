//! The plain versions: the reference for the others, and what runs on processors that have no
//! kernels of their own.

use half::f16;

use super::{LANES, PANEL};

/// See [`super::panel_tile`].
///
/// # Safety
/// As there.
pub(super) unsafe fn panel_tile(rows: usize, tile: &[f32], weights: &[f32], out: *mut f32, stride: usize) {
    for row in 0..rows {
        // SAFETY: the caller answers for these floats.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride), PANEL) };
        for (a, weights) in tile[row..].iter().step_by(rows).zip(weights.chunks_exact(PANEL)) {
            for (out, &weight) in out.iter_mut().zip(weights) {
                *out = a.mul_add(weight, *out);
            }
        }
    }
}

/// See [`super::f16_chain`].
pub(super) fn f16_chain(
    steps: usize,
    factors: &[f32],
    factor_stride: usize,
    data: &[u16],
    data_stride: usize,
    sums: &mut [[f32; LANES]],
) {
    for i in 0..steps {
        for (query, sums) in sums.iter_mut().enumerate() {
            let factor = factors[query * factor_stride + i];
            for (sum, &bits) in sums.iter_mut().zip(&data[i * data_stride..]) {
                *sum = factor.mul_add(f16::from_bits(bits).to_f32(), *sum);
            }
        }
    }
}
