//! Products of weights of 4 and 8 bits with activations of 16 bits.
//!
//! Activations are rounded, in blocks of 32, to whole numbers of 16 bits times one f32 ([`quantise`]): an
//! error of at most 1.6e-5 of the block's largest value, a thirtieth of what rounding the keys and
//! values to f16 costs. A block's products and their sum are then whole numbers and exact whatever
//! their order, which is what lets each instruction set use its own instructions for them.
//! (8 bits, as llama.cpp rounds them, err by up to 4e-3 of it.)

use super::{LANES, by_isa};

/// Values of a block, of weights or activations.
pub(crate) const BLOCK: usize = 32;

/// How the weights of sixteen outputs lie in memory, block by block of inputs. Each output has one
/// lane, a whole number of 32 bits, in each group of sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockFormat {
    /// Sixteen f16 scales, sixteen f16 minima, then 4 groups of 8 inputs: inputs 0, 2, 4, 6 in the
    /// nibbles of a lane's lower half, 1, 3, 5, 7 in those of the upper. A weight is
    /// `nibble × scale + minimum`.
    Q4,
    /// Sixteen f16 scales, then 8 groups of 4 inputs: inputs 0, 2 in the bytes of a lane's lower half,
    /// 1, 3 in those of the upper. A weight is `signed byte × scale`.
    Q8,
}

impl BlockFormat {
    /// Bytes of one block of sixteen outputs.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Q4 => LANES * (2 + 2 + BLOCK / 2),
            Self::Q8 => LANES * (2 + BLOCK),
        }
    }

    /// Bytes in front of the groups: scales, and minima if it has any.
    pub(crate) const fn header_bytes(self) -> usize {
        match self {
            Self::Q4 => LANES * (2 + 2),
            Self::Q8 => LANES * 2,
        }
    }

    /// Where input `k` of a block lies in a lane: its group, and its first bit.
    pub(crate) const fn place(self, k: usize) -> (usize, usize) {
        match self {
            Self::Q4 => (k / 8, k % 2 * 16 + k % 8 / 2 * 4),
            Self::Q8 => (k / 4, k % 2 * 16 + k % 4 / 2 * 8),
        }
    }
}

/// Rows of rounded activations: value = `values × scales` of its block.
#[derive(Clone, Copy)]
pub(crate) struct QuantRows<'a> {
    inputs: usize,
    /// `[rows][inputs]`
    values: &'a [i16],
    /// `[rows][inputs / BLOCK]`
    scales: &'a [f32],
    /// Scale times the sum of the values, `[rows][inputs / BLOCK]`.
    sums: &'a [f32],
}

impl<'a> QuantRows<'a> {
    /// Checks that the parts fit together.
    pub(crate) fn new(inputs: usize, values: &'a [i16], scales: &'a [f32], sums: &'a [f32]) -> Self {
        assert!(inputs > 0 && inputs.is_multiple_of(BLOCK) && values.len().is_multiple_of(inputs));
        assert!(scales.len() * BLOCK == values.len() && sums.len() == scales.len());
        Self { inputs, values, scales, sums }
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.inputs
    }

    pub(crate) fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// At most `count` rows from `first` on.
    pub(crate) fn part(&self, first: usize, count: usize) -> Self {
        let (end, blocks) = ((first + count).min(self.rows()), self.blocks());
        Self {
            inputs: self.inputs,
            values: &self.values[first * self.inputs..end * self.inputs],
            scales: &self.scales[first * blocks..end * blocks],
            sums: &self.sums[first * blocks..end * blocks],
        }
    }

    /// Values `2 × pair` and `2 × pair + 1` of a block, in the lower and upper half.
    ///
    /// # Safety
    /// The row, its block and the pair (below 16) must exist.
    #[inline(always)]
    pub(super) unsafe fn pair(&self, row: usize, block: usize, pair: usize) -> i32 {
        let at = row * self.inputs + block * BLOCK + 2 * pair;
        // SAFETY: the caller's promise.
        unsafe { self.values.as_ptr().add(at).cast::<i32>().read_unaligned() }
    }

    /// # Safety
    /// The row and its block must exist.
    #[inline(always)]
    pub(super) unsafe fn scale(&self, row: usize, block: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *self.scales.get_unchecked(row * (self.inputs / BLOCK) + block) }
    }

    /// # Safety
    /// The row and its block must exist.
    #[inline(always)]
    pub(super) unsafe fn sum(&self, row: usize, block: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *self.sums.get_unchecked(row * (self.inputs / BLOCK) + block) }
    }
}

/// The greatest whole number that a value is rounded to.
const MOST: f32 = 32_767.0;
/// Blocks whose values are all smaller count as zero: the quotient below would overflow.
const LEAST: f32 = 1e-30;

#[inline(always)]
fn quantise_body(x: &[f32], values: &mut [i16], scales: &mut [f32], sums: &mut [f32]) {
    // Adding 1.5·2²³ rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let (x, _) = x.as_chunks::<BLOCK>();
    let (values, _) = values.as_chunks_mut::<BLOCK>();
    for (((x, values), scale), sum) in x.iter().zip(values).zip(scales).zip(sums) {
        // As whole numbers, NaN is greater than infinity, and that than all others.
        let largest = x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        if !(LEAST..=f32::MAX).contains(&largest) {
            values.fill(0);
            *scale = if largest < LEAST { 0.0 } else { f32::NAN };
            *sum = *scale;
            continue;
        }
        let inverse = MOST / largest;
        for (value, x) in values.iter_mut().zip(x) {
            *value = x.mul_add(inverse, ROUND).to_bits() as i16;
        }
        *scale = largest / MOST;
        *sum = *scale * values.iter().map(|&value| i32::from(value)).sum::<i32>() as f32;
    }
}

by_isa! {
    /// Rounds whole blocks of activations. A block with NaN or infinity gets the scale NaN.
    quantise = quantise_body;
    (x: &[f32], values: &mut [i16], scales: &mut [f32], sums: &mut [f32])
}
