//! The plain versions: the reference for the others, and what runs on processors that have no
//! kernels of their own.

use half::f16;

use super::blocks::{BLOCK, BlockFormat, QuantRows};
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

/// See [`super::block_tile`].
///
/// # Safety
/// As there.
pub(super) unsafe fn block_tile(
    format: BlockFormat,
    x: &QuantRows<'_>,
    weights: &[u8],
    out: *mut f32,
    stride: usize,
) {
    for row in 0..x.rows() {
        // SAFETY: the caller answers for these floats.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride), LANES) };
        out.fill(0.0);
        for (block, weights) in weights.chunks_exact(format.bytes()).enumerate() {
            let (halves, groups) = weights.split_at(format.header_bytes());
            let mut dots = [0i32; LANES];
            for pair in 0..BLOCK / 2 {
                // SAFETY: the row and block exist, and a block has so many pairs.
                let both = unsafe { x.pair(row, block, pair) };
                let (first, second) = (i32::from(both as i16), both >> 16);
                let (group, bit) = format.place(2 * pair);
                for (dot, lane) in dots.iter_mut().zip(groups[group * 4 * LANES..].chunks_exact(4)) {
                    let lane = u32::from_le_bytes([lane[0], lane[1], lane[2], lane[3]]);
                    let weight = |bit: usize| match format {
                        BlockFormat::Q4 => (lane >> bit & 15) as i32,
                        BlockFormat::Q8 => i32::from((lane >> bit) as i8),
                    };
                    *dot += first * weight(bit) + second * weight(bit + 16);
                }
            }
            let half = |index: usize| f16::from_le_bytes([halves[2 * index], halves[2 * index + 1]]).to_f32();
            // SAFETY: the row and block exist.
            let (x_scale, x_sum) = unsafe { (x.scale(row, block), x.sum(row, block)) };
            for (lane, (out, dot)) in out.iter_mut().zip(dots).enumerate() {
                *out = half(lane).mul_add(dot as f32 * x_scale, *out);
                if format == BlockFormat::Q4 {
                    *out = half(LANES + lane).mul_add(x_sum, *out);
                }
            }
        }
    }
}
