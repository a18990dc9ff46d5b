//! AVX-512: a tile of 12 rows × 32 columns lives in 24 registers.

use std::arch::x86_64::*;

use super::{LANES, PANEL, with_count};

/// See [`super::panel_tile`].
///
/// # Safety
/// As there; the processor must have AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn panel_tile(rows: usize, tile: &[f32], weights: &[f32], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise is passed on.
    unsafe { with_count!(rows, tile_of(tile, weights, out, stride)) }
}

#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const R: usize>(tile: &[f32], weights: &[f32], out: *mut f32, stride: usize) {
    // SAFETY: the tile holds `k * R` floats, the weights `k * PANEL`, and the caller answers for
    // `R` rows of `PANEL` floats at `out`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            sums[0] = _mm512_loadu_ps(out.add(row * stride));
            sums[1] = _mm512_loadu_ps(out.add(row * stride + 16));
        }
        let (mut a, mut w) = (tile.as_ptr(), weights.as_ptr());
        for _ in 0..tile.len() / R {
            let (left, right) = (_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.add(row));
                sums[0] = _mm512_fmadd_ps(factor, left, sums[0]);
                sums[1] = _mm512_fmadd_ps(factor, right, sums[1]);
            }
            a = a.add(R);
            w = w.add(PANEL);
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.add(row * stride), sums[0]);
            _mm512_storeu_ps(out.add(row * stride + 16), sums[1]);
        }
    }
}

/// See [`super::f16_chain`].
///
/// # Safety
/// The sizes must have been checked; the processor must have AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn f16_chain(
    steps: usize,
    factors: &[f32],
    factor_stride: usize,
    data: &[u16],
    data_stride: usize,
    sums: &mut [[f32; LANES]],
) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        with_count!(sums.len(), chain_of(steps, factors, factor_stride, data, data_stride, sums));
    }
}

#[target_feature(enable = "avx512f")]
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
        let mut chain = [_mm512_setzero_ps(); Q];
        for (chain, sums) in chain.iter_mut().zip(sums.iter()) {
            *chain = _mm512_loadu_ps(sums.as_ptr());
        }
        for i in 0..steps {
            let bits = _mm256_loadu_si256(data.as_ptr().add(i * data_stride).cast());
            let values = _mm512_cvtph_ps(bits);
            for (query, chain) in chain.iter_mut().enumerate() {
                let factor = *factors.as_ptr().add(query * factor_stride + i);
                *chain = _mm512_fmadd_ps(_mm512_set1_ps(factor), values, *chain);
            }
        }
        for (chain, sums) in chain.iter().zip(sums.iter_mut()) {
            _mm512_storeu_ps(sums.as_mut_ptr(), *chain);
        }
    }
}
