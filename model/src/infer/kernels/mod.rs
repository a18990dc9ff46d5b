//! The arithmetic of the forward pass, once portable and once for each instruction set.
//!
//! **Every output is the same on every machine and in every batch.** Two rules give that:
//! sums run in an order fixed by the data's shape (a chain of fused multiply-adds over `k`, or
//! sixteen lanes folded in a fixed tree) or are whole numbers, and nothing but `+ − × ÷`, fused
//! multiply-add, comparison and rounding is used, all of which IEEE 754 defines exactly. So the
//! AVX-512, AVX2, NEON and portable versions give the same bits, and tests compare them with
//! `assert_eq!`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;

pub(crate) use blocks::{BLOCK, BlockFormat, QuantRows, quantise};
pub(crate) use math::{add_assign, log_sum_exp, rms_norm, rope, softmax_unscaled, swiglu};

pub(crate) use crate::isa::{Isa, by_isa};

/// Columns of a weight panel.
pub(crate) const PANEL: usize = 32;
/// Most rows of a tile of activations.
pub(crate) const TILE: usize = 12;
/// Tokens in one page of the key-value cache, and lanes of [`f16_chain`].
pub(crate) const LANES: usize = 16;
/// Most queries that [`f16_chain`] takes at once.
pub(crate) const QUERIES: usize = 12;

/// Calls the function of that name in the module of the instruction set.
macro_rules! on_isa {
    ($isa:expr, $function:ident($($arg:expr),*)) => {
        match $isa {
            Isa::Portable => portable::$function($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::$function($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::$function($($arg),*),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::$function($($arg),*),
        }
    };
}

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
    unsafe { on_isa!(isa, panel_tile(rows, tile, weights, out, stride)) }
}

/// `out[r][c] = Σ_k w[k][c] x[r][k]` for the rows of `x` and sixteen outputs whose weights are
/// packed in `format`. Block by block, `d` being the exact sum of the products of whole numbers:
/// `out = fma(weight scale, d × activation scale, out)`, then, if there are minima,
/// `out = fma(minimum, activation sum, out)`.
///
/// * `weights`: one block of the format for each block of `x`;
/// * `out`: row `r` begins at `r * stride` and has [`LANES`] columns.
///
/// # Safety
/// `out` must be valid for `(rows - 1) * stride + LANES` floats that no other thread touches.
pub(crate) unsafe fn block_tile(
    isa: Isa,
    format: BlockFormat,
    x: &QuantRows<'_>,
    weights: &[u8],
    out: *mut f32,
    stride: usize,
) {
    assert_eq!(weights.len(), x.blocks() * format.bytes());
    // SAFETY: sizes were checked here; the caller answers for `out`, detection for `isa`.
    unsafe { on_isa!(isa, block_tile(format, x, weights, out, stride)) }
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
    // SAFETY: sizes were checked here; detection answers for `isa`.
    unsafe { on_isa!(isa, f16_chain(steps, factors, factor_stride, data, data_stride, sums)) }
}

/// Calls a `const`-generic function with a run-time number from 1 to 12.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
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
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
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

    /// Weights of sixteen outputs with random bits and finite scales.
    fn packed(format: BlockFormat, blocks: usize) -> Vec<u8> {
        let bits = numbers(blocks * format.bytes() / 2, 6)
            .into_iter()
            .flat_map(|x| (x.to_bits() as u16).to_le_bytes());
        let mut bytes: Vec<u8> = bits.collect();
        for block in bytes.chunks_exact_mut(format.bytes()) {
            let halves = numbers(format.header_bytes() / 2, 7);
            for (bytes, half) in block.chunks_exact_mut(2).zip(halves) {
                bytes.copy_from_slice(&half::f16::from_f32(half).to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn block_tile_gives_the_same_bits_on_every_isa() {
        let (blocks, stride) = (3, LANES + 5);
        for format in [BlockFormat::Q4, BlockFormat::Q8] {
            for rows in 1..=2 * TILE + 1 {
                let x = numbers(rows * blocks * BLOCK, rows as u32);
                let mut values = vec![0; x.len()];
                let (mut scales, mut sums) = (vec![0.0; rows * blocks], vec![0.0; rows * blocks]);
                quantise(Isa::Portable, &x, &mut values, &mut scales, &mut sums);
                let (x, weights) =
                    (QuantRows::new(blocks * BLOCK, &values, &scales, &sums), packed(format, blocks));
                let run = |isa: Isa| {
                    let mut out = vec![0.25; rows * stride];
                    // SAFETY: `out` has a whole row of `stride` for every row.
                    unsafe { block_tile(isa, format, &x, &weights, out.as_mut_ptr(), stride) };
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let expected = run(Isa::Portable);
                assert!(expected.iter().skip(LANES).take(5).all(|&bits| bits == 0.25f32.to_bits()));
                for isa in Isa::available() {
                    assert_eq!(run(isa), expected, "{isa:?} {format:?} {rows}");
                }
            }
        }
    }

    #[test]
    fn quantise_rounds_to_sixteen_bits_on_every_isa() {
        let mut x = numbers(6 * BLOCK, 8);
        x[BLOCK..2 * BLOCK].iter_mut().for_each(|x| *x *= 1e-33);
        x[2 * BLOCK + 3] = f32::NAN;
        x[3 * BLOCK + 4] = f32::NEG_INFINITY;
        x[4 * BLOCK + 5] = f32::MAX;
        for isa in Isa::available() {
            let mut values = vec![1i16; x.len()];
            let (mut scales, mut sums) = (vec![1.0f32; 6], vec![1.0f32; 6]);
            quantise(isa, &x, &mut values, &mut scales, &mut sums);
            assert_eq!((scales[1], sums[1]), (0.0, 0.0));
            assert!(scales[2].is_nan() && sums[2].is_nan() && scales[3].is_nan() && sums[3].is_nan());
            assert_eq!(values[4 * BLOCK + 5], 32_767);
            for block in [0, 4, 5] {
                let (scale, x) = (scales[block], &x[block * BLOCK..][..BLOCK]);
                let values = &values[block * BLOCK..][..BLOCK];
                for (x, value) in x.iter().zip(values) {
                    let exact = f64::from(*x) / f64::from(scale);
                    assert!((exact - f64::from(*value)).abs() < 0.51, "{isa:?} {x} {value} {scale}");
                }
                let total: i32 = values.iter().map(|&value| i32::from(value)).sum();
                assert_eq!(sums[block], scale * total as f32);
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
