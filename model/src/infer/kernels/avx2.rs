//! AVX2 with FMA: half a tile of 6 rows × 16 columns at a time lives in 12 registers.

use std::arch::x86_64::*;

use super::{LANES, PANEL, with_count};

/// Most rows whose sums fit in the registers.
const ROWS: usize = 6;

/// See [`super::panel_tile`].
///
/// # Safety
/// As there; the processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn panel_tile(rows: usize, tile: &[f32], weights: &[f32], out: *mut f32, stride: usize) {
    for first in (0..rows).step_by(ROWS) {
        for column in [0, 16] {
            let (tile, weights) = (&tile[first..], &weights[column..]);
            let count = (rows - first).min(ROWS);
            // SAFETY: the caller's promise, for a part of its rows and columns.
            unsafe {
                let out = out.add(first * stride + column);
                with_count!(count, tile_of(rows, tile, weights, out, stride));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of<const R: usize>(
    tile_stride: usize,
    tile: &[f32],
    weights: &[f32],
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the last step reads `R` floats of the tile and 16 weights that are there (the
    // slices begin inside the first step), and the caller answers for `out`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            sums[0] = _mm256_loadu_ps(out.add(row * stride));
            sums[1] = _mm256_loadu_ps(out.add(row * stride + 8));
        }
        let (a, w) = (tile.as_ptr(), weights.as_ptr());
        for k in 0..weights.len().div_ceil(PANEL) {
            let w = w.add(k * PANEL);
            let (left, right) = (_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = _mm256_set1_ps(*a.add(k * tile_stride + row));
                sums[0] = _mm256_fmadd_ps(factor, left, sums[0]);
                sums[1] = _mm256_fmadd_ps(factor, right, sums[1]);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.add(row * stride), sums[0]);
            _mm256_storeu_ps(out.add(row * stride + 8), sums[1]);
        }
    }
}

/// See [`super::f16_chain`].
///
/// # Safety
/// The sizes must have been checked; the processor must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn f16_chain(
    steps: usize,
    factors: &[f32],
    factor_stride: usize,
    data: &[u16],
    data_stride: usize,
    sums: &mut [[f32; LANES]],
) {
    for (first, sums) in sums.chunks_mut(ROWS).enumerate() {
        let factors = &factors[first * ROWS * factor_stride..];
        // SAFETY: the caller's promise, for a part of its queries.
        unsafe {
            with_count!(sums.len(), chain_of(steps, factors, factor_stride, data, data_stride, sums));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn chain_of<const Q: usize>(
    steps: usize,
    factors: &[f32],
    factor_stride: usize,
    data: &[u16],
    data_stride: usize,
    sums: &mut [[f32; LANES]],
) {
    // SAFETY: `steps` rows of `LANES` values and `Q` rows of `steps` factors are there.
    unsafe {
        let mut chain = [[_mm256_setzero_ps(); 2]; Q];
        for (chain, sums) in chain.iter_mut().zip(sums.iter()) {
            chain[0] = _mm256_loadu_ps(sums.as_ptr());
            chain[1] = _mm256_loadu_ps(sums.as_ptr().add(8));
        }
        for i in 0..steps {
            let row = data.as_ptr().add(i * data_stride);
            let left = _mm256_cvtph_ps(_mm_loadu_si128(row.cast()));
            let right = _mm256_cvtph_ps(_mm_loadu_si128(row.add(8).cast()));
            for (query, chain) in chain.iter_mut().enumerate() {
                let factor = _mm256_set1_ps(*factors.as_ptr().add(query * factor_stride + i));
                chain[0] = _mm256_fmadd_ps(factor, left, chain[0]);
                chain[1] = _mm256_fmadd_ps(factor, right, chain[1]);
            }
        }
        for (chain, sums) in chain.iter().zip(sums.iter_mut()) {
            _mm256_storeu_ps(sums.as_mut_ptr(), chain[0]);
            _mm256_storeu_ps(sums.as_mut_ptr().add(8), chain[1]);
        }
    }
}
