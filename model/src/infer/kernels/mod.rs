//! The arithmetic of the forward pass, once portable and once for each instruction set.
//!
//! **Every output is the same on every machine and in every batch.** Two rules give that:
//! sums run in an order fixed by the data's shape (a chain of fused multiply-adds over `k`, or
//! sixteen lanes folded in a fixed tree), and nothing but `+ − × ÷`, fused multiply-add,
//! comparison and rounding is used, all of which IEEE 754 defines exactly. So the AVX-512, AVX2
//! and portable versions give the same bits, and tests compare them with `assert_eq!`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
pub(crate) mod portable;

pub(crate) use math::{add_assign, exp, log_sum_exp, rms_norm, rope, softmax_unscaled, swiglu};

use std::sync::OnceLock;

/// Columns of a weight panel.
pub(crate) const PANEL: usize = 32;
/// Most rows of a tile of activations.
pub(crate) const TILE: usize = 12;
/// Tokens in one page of the key-value cache, and lanes of [`f16_chain`].
pub(crate) const LANES: usize = 16;
/// Most queries that [`f16_chain`] takes at once.
pub(crate) const QUERIES: usize = 12;

/// The instruction sets that have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best set that this processor has. The kernels below are `unsafe` to reach with a set
    /// that it lacks, so values come from here only (tests: from [`Isa::available`]).
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Portable))
    }

    /// All sets that this processor has, the best last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                sets.push(Self::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                sets.push(Self::Avx512);
            }
        }
        sets
    }
}

/// Compiles an `#[inline(always)]` body once per instruction set and picks by `Isa`. The compiler
/// then uses that set's vectors and fused multiply-add, without changing any result.
macro_rules! by_isa {
    ($(#[$doc:meta])* $name:ident = $body:path; ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name(isa: $crate::infer::kernels::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            match isa {
                $crate::infer::kernels::Isa::Portable => $body($($arg),*),
                // SAFETY: an `Isa` other than `Portable` comes from detection.
                #[cfg(target_arch = "x86_64")]
                $crate::infer::kernels::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::infer::kernels::Isa::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use by_isa;

/// `out[r][c] = fma(tile[k][r], weights[k][c], …)`, `k` ascending, starting from what `out` holds.
///
/// * `tile`: activations, `[k][rows]`, `rows` ≤ [`TILE`];
/// * `weights`: `[k][PANEL]`;
/// * `out`: row `r` begins at `r * stride` and has [`PANEL`] columns.
///
/// # Safety
/// `out` must be valid for `(rows - 1) * stride + PANEL` floats that no other thread touches.
pub(crate) unsafe fn panel_tile(
    isa: Isa,
    rows: usize,
    tile: &[f32],
    weights: &[f32],
    out: *mut f32,
    stride: usize,
) {
    assert!((1..=TILE).contains(&rows));
    assert_eq!(weights.len() / PANEL, tile.len() / rows);
    // SAFETY: sizes were checked here; the caller answers for `out`, detection for `isa`.
    unsafe {
        match isa {
            Isa::Portable => portable::panel_tile(rows, tile, weights, out, stride),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::panel_tile(rows, tile, weights, out, stride),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::panel_tile(rows, tile, weights, out, stride),
        }
    }
}

/// `sums[q][lane] = fma(factors[q * factor_stride + i], data[i * data_stride + lane], …)`, `i`
/// ascending over `steps`, starting from what `sums` holds; `data` are f16. Both halves of
/// attention are this: scores (`i` = dimension, lane = token) and values (`i` = token, lane =
/// dimension).
pub(crate) fn f16_chain(
    isa: Isa,
    steps: usize,
    factors: &[f32],
    factor_stride: usize,
    data: &[u16],
    data_stride: usize,
    sums: &mut [[f32; LANES]],
) {
    if steps == 0 || sums.is_empty() {
        return;
    }
    assert!(sums.len() <= QUERIES);
    assert!(factors.len() >= (sums.len() - 1) * factor_stride + steps);
    assert!(data.len() >= (steps - 1) * data_stride + LANES);
    match isa {
        Isa::Portable => {
            portable::f16_chain(steps, factors, factor_stride, data, data_stride, sums);
        }
        // SAFETY: sizes were checked above; detection answers for `isa`.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe {
            avx2::f16_chain(steps, factors, factor_stride, data, data_stride, sums);
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe {
            avx512::f16_chain(steps, factors, factor_stride, data, data_stride, sums);
        },
    }
}

/// Calls a `const`-generic function with a run-time number from 1 to 12.
#[cfg(target_arch = "x86_64")]
macro_rules! with_count {
    ($count:expr, $function:ident($($arg:expr),*)) => {
        match $count {
            1 => $function::<1>($($arg),*),
            2 => $function::<2>($($arg),*),
            3 => $function::<3>($($arg),*),
            4 => $function::<4>($($arg),*),
            5 => $function::<5>($($arg),*),
            6 => $function::<6>($($arg),*),
            7 => $function::<7>($($arg),*),
            8 => $function::<8>($($arg),*),
            9 => $function::<9>($($arg),*),
            10 => $function::<10>($($arg),*),
            11 => $function::<11>($($arg),*),
            _ => $function::<12>($($arg),*),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use with_count;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn panel_tile_is_one_chain_on_every_isa() {
        for isa in Isa::available() {
            for rows in 1..=TILE {
                let k = 37;
                let (tile, weights) = (numbers(k * rows, 1), numbers(k * PANEL, 2));
                let stride = PANEL + 5;
                let start = numbers(rows * stride, 3);
                let mut out = start.clone();
                // SAFETY: `out` has a whole row of `stride` for every row.
                unsafe { panel_tile(isa, rows, &tile, &weights, out.as_mut_ptr(), stride) };
                for (i, (&got, &begin)) in out.iter().zip(&start).enumerate() {
                    let (row, column) = (i / stride, i % stride);
                    let chain =
                        |sum: f32, k: usize| tile[k * rows + row].mul_add(weights[k * PANEL + column], sum);
                    let expected = match column < PANEL {
                        true => (0..k).fold(begin, chain),
                        false => begin,
                    };
                    assert_eq!(got.to_bits(), expected.to_bits(), "{isa:?} {rows} {i}");
                }
            }
        }
    }

    #[test]
    fn f16_chain_is_one_chain_on_every_isa() {
        for isa in Isa::available() {
            for queries in 1..=QUERIES {
                let (steps, factor_stride, data_stride) = (13, 17, 24);
                let factors = numbers(queries * factor_stride, 4);
                let data: Vec<u16> = numbers(steps * data_stride, 5)
                    .iter()
                    .map(|&v| half::f16::from_f32(v).to_bits())
                    .collect();
                let mut sums = vec![[0.25; LANES]; queries];
                f16_chain(isa, steps, &factors, factor_stride, &data, data_stride, &mut sums);
                for (query, sums) in sums.iter().enumerate() {
                    for (lane, got) in sums.iter().enumerate() {
                        let expected = (0..steps).fold(0.25f32, |sum, i| {
                            let value = half::f16::from_bits(data[i * data_stride + lane]);
                            factors[query * factor_stride + i].mul_add(value.to_f32(), sum)
                        });
                        assert_eq!(got.to_bits(), expected.to_bits(), "{isa:?} {queries}");
                    }
                }
            }
        }
    }
}
