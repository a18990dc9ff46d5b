//! Weights in the order in which the kernels read them, and the product of activations with them.
//!
//! Weights of 4 and 8 bits stay as they are in the file, regrouped by sixteen outputs ([`BlockFormat`]),
//! and are multiplied with activations of 16 bits. Weights of f16 stay f16 and become f32 on the
//! way into the products; other kinds are kept as f32. Both lie in panels of 32 outputs for
//! all inputs `k`, `[k][32]`, so that one load gives the weights of 32 outputs.

use half::f16;
use rayon::prelude::*;

use crate::gguf::{Tensor, TensorKind};

use super::activations::{Activations, Shared};
use super::kernels::{BLOCK, BlockFormat, Isa, LANES, PANEL, TILE, block_tile, by_isa, panel_tile};

/// Inputs that are unpacked at a time: 24 KiB, half of the first-level cache.
const CHUNK: usize = 192;

enum Storage {
    F32(Vec<f32>),
    F16(Vec<u16>),
    /// `[outputs / 16][inputs / 32]` blocks.
    Blocks(BlockFormat, Vec<u8>),
}

/// A linear layer's weights: `outputs` rows of `inputs` values.
pub(crate) struct PackedMatrix {
    inputs: usize,
    outputs: usize,
    storage: Storage,
}

impl PackedMatrix {
    /// Packs a tensor of dimensions `[inputs, outputs]`.
    pub(crate) fn new(tensor: Tensor<'_>) -> Self {
        let inputs = tensor.info.dims[0] as usize;
        let outputs = tensor.len() / inputs;
        let storage = match tensor.info.kind {
            TensorKind::Q4_0 => pack_blocks(tensor, inputs, BlockFormat::Q4, put_q4_0),
            TensorKind::Q4_1 => pack_blocks(tensor, inputs, BlockFormat::Q4, put_q4_1),
            TensorKind::Q8_0 => pack_blocks(tensor, inputs, BlockFormat::Q8, put_q8_0),
            TensorKind::F16 => pack_f16(tensor, inputs),
            _ => None,
        };
        let storage = storage.unwrap_or_else(|| Storage::F32(pack_panels(tensor, inputs, |value| value)));
        Self { inputs, outputs, storage }
    }

    /// Outputs, rounded up to whole panels.
    pub(crate) fn padded_outputs(&self) -> usize {
        self.outputs.next_multiple_of(PANEL)
    }

    /// Inputs of each output.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether it is multiplied with rounded activations.
    pub(crate) fn is_quantised(&self) -> bool {
        matches!(self.storage, Storage::Blocks(..))
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(all) => 4 * all.len(),
            Storage::F16(all) => 2 * all.len(),
            Storage::Blocks(_, all) => all.len(),
        }
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The blocks of sixteen outputs.
    fn strip<'a>(&self, format: BlockFormat, all: &'a [u8], strip: usize) -> &'a [u8] {
        let bytes = self.inputs / BLOCK * format.bytes();
        &all[strip * bytes..][..bytes]
    }

    /// The weights of output `row` as f32: with tied embeddings, the embedding of a token.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, column) = (row / PANEL * PANEL * self.inputs, row % PANEL);
        match &self.storage {
            Storage::F32(all) => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = all[panel + k * PANEL + column];
                }
            }
            Storage::F16(all) => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = f16::from_bits(all[panel + k * PANEL + column]).to_f32();
                }
            }
            Storage::Blocks(format, all) => {
                let (strip, lane) = (self.strip(*format, all, row / LANES), row % LANES);
                for (block, out) in strip.chunks_exact(format.bytes()).zip(out.chunks_mut(BLOCK)) {
                    block_row(*format, block, lane, out);
                }
            }
        }
    }

    /// Products of all rows with the 32 outputs of a panel.
    ///
    /// # Safety
    /// `out` must be valid for `(rows - 1) * stride + PANEL` floats that no other thread touches.
    unsafe fn multiply_panel(&self, isa: Isa, x: &Activations, panel: usize, out: *mut f32, stride: usize) {
        if let Storage::Blocks(format, all) = &self.storage {
            for half in 0..PANEL / LANES {
                let weights = self.strip(*format, all, panel * (PANEL / LANES) + half);
                // SAFETY: the caller's promise, for a part of the columns.
                unsafe { block_tile(isa, *format, &x.quantised(), weights, out.add(half * LANES), stride) };
            }
            return;
        }
        for row in 0..x.rows() {
            // SAFETY: the caller's promise.
            unsafe { out.add(row * stride).write_bytes(0, PANEL) };
        }
        let mut room = [0.0; CHUNK * PANEL];
        for first in (0..self.inputs).step_by(CHUNK) {
            let count = CHUNK.min(self.inputs - first);
            let range = (panel * self.inputs + first) * PANEL..(panel * self.inputs + first + count) * PANEL;
            let weights = match &self.storage {
                Storage::F32(all) => &all[range],
                Storage::F16(all) => {
                    widen(isa, &all[range], &mut room);
                    &room[..count * PANEL]
                }
                Storage::Blocks(..) => return,
            };
            for (index, tile) in x.tiles().enumerate() {
                let rows = tile.len() / self.inputs;
                let tile = &tile[first * rows..(first + count) * rows];
                // SAFETY: the caller's promise, for a part of the rows.
                unsafe { panel_tile(isa, rows, tile, weights, out.add(index * TILE * stride), stride) };
            }
        }
    }
}

/// One output's part of a block as f32.
fn block_row(format: BlockFormat, block: &[u8], lane: usize, out: &mut [f32]) {
    let half = |index: usize| f16::from_le_bytes([block[2 * index], block[2 * index + 1]]).to_f32();
    for (k, out) in out.iter_mut().enumerate() {
        let (byte, shift) = byte_of(format, lane, k);
        *out = match format {
            BlockFormat::Q4 => f32::from(block[byte] >> shift & 15).mul_add(half(lane), half(LANES + lane)),
            BlockFormat::Q8 => f32::from(block[byte] as i8) * half(lane),
        };
    }
}

/// Where in a block's bytes input `k` of an output lies, and from which bit on.
fn byte_of(format: BlockFormat, lane: usize, k: usize) -> (usize, usize) {
    let (group, bit) = format.place(k);
    (format.header_bytes() + (group * LANES + lane) * 4 + bit / 8, bit % 8)
}

/// Puts one block of the file into lane `lane` of a packed block; false when a scale is not
/// finite, which the packed form cannot hold.
type Put = fn(block: &[u8], lane: usize, packed: &mut [u8]) -> bool;

/// None when a block was refused.
fn pack_blocks(tensor: Tensor<'_>, inputs: usize, format: BlockFormat, put: Put) -> Option<Storage> {
    let (blocks, file_bytes) = (inputs / BLOCK, tensor.info.kind.block_bytes());
    let panels = (tensor.len() / inputs).div_ceil(PANEL);
    let mut packed = vec![0; panels * (PANEL / LANES) * blocks * format.bytes()];
    let whole = packed
        .par_chunks_mut(blocks * format.bytes())
        .zip(tensor.bytes.par_chunks(LANES * blocks * file_bytes))
        .all(|(strip, rows)| {
            rows.chunks_exact(blocks * file_bytes).enumerate().all(|(lane, row)| {
                let to = strip.chunks_exact_mut(format.bytes());
                row.chunks_exact(file_bytes).zip(to).fold(true, |ok, (from, to)| put(from, lane, to) && ok)
            })
        });
    whole.then_some(Storage::Blocks(format, packed))
}

fn put_half(packed: &mut [u8], index: usize, value: f16) -> bool {
    packed[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
    value.is_finite()
}

/// Byte `k` of the file holds input `k` below and `k + 16` above.
fn put_nibbles(nibbles: &[u8], lane: usize, packed: &mut [u8]) {
    for (k, &both) in nibbles.iter().enumerate() {
        for (k, nibble) in [(k, both & 15), (k + BLOCK / 2, both >> 4)] {
            let (byte, shift) = byte_of(BlockFormat::Q4, lane, k);
            packed[byte] |= nibble << shift;
        }
    }
}

fn put_q4_1(block: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    put_nibbles(&block[4..], lane, packed);
    let scale = f16::from_le_bytes([block[0], block[1]]);
    let least = f16::from_le_bytes([block[2], block[3]]);
    put_half(packed, lane, scale) & put_half(packed, LANES + lane, least)
}

/// (q − 8)·d = q·d + (−8·d): exact, since −8·d is an f16 unless it overflows.
fn put_q4_0(block: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    put_nibbles(&block[2..], lane, packed);
    let scale = f16::from_le_bytes([block[0], block[1]]);
    let least = f16::from_f32(scale.to_f32() * -8.0);
    put_half(packed, lane, scale) & put_half(packed, LANES + lane, least)
}

fn put_q8_0(block: &[u8], lane: usize, packed: &mut [u8]) -> bool {
    for (k, &value) in block[2..].iter().enumerate() {
        packed[byte_of(BlockFormat::Q8, lane, k).0] = value;
    }
    put_half(packed, lane, f16::from_le_bytes([block[0], block[1]]))
}

/// Panels of 32 outputs, `[k][32]`, each value changed by `form`.
fn pack_panels<T: Copy + Default + Send>(tensor: Tensor<'_>, inputs: usize, form: fn(f32) -> T) -> Vec<T> {
    let kind = tensor.info.kind;
    let row_bytes = inputs / kind.block_values() * kind.block_bytes();
    let panels = (tensor.len() / inputs).div_ceil(PANEL);
    let mut packed = vec![T::default(); panels * inputs * PANEL];
    packed.par_chunks_mut(inputs * PANEL).zip(tensor.bytes.par_chunks(PANEL * row_bytes)).for_each_init(
        || vec![0.0; inputs],
        |values, (panel, rows)| {
            for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
                kind.dequantize(row, values);
                for (k, &value) in values.iter().enumerate() {
                    panel[k * PANEL + column] = form(value);
                }
            }
        },
    );
    packed
}

/// None when a value is not finite, which `widen` cannot read.
fn pack_f16(tensor: Tensor<'_>, inputs: usize) -> Option<Storage> {
    let packed = pack_panels(tensor, inputs, |value| f16::from_f32(value).to_bits());
    packed.iter().all(|&bits| f16::from_bits(bits).is_finite()).then_some(Storage::F16(packed))
}

/// A finite f16 as f32. By whole numbers and one product, which compilers turn into vectors.
#[inline(always)]
fn finite_half(bits: u16) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits((112 + 127) << 23);
    let bits = u32::from(bits);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * TWO_TO_112;
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

#[inline(always)]
fn widen_body(packed: &[u16], out: &mut [f32]) {
    for (out, &bits) in out.iter_mut().zip(packed) {
        *out = finite_half(bits);
    }
}

by_isa! {
    widen = widen_body;
    (packed: &[u16], out: &mut [f32])
}

/// Multiplies the rows of `x`, `[rows][inputs]`, with several matrices of the same inputs at once.
/// Row `r` of `out` (its length is set here) begins at `r * stride`; matrix `m` fills the columns
/// that follow those of matrix `m − 1`, each padded to whole panels. Returns the stride.
pub(crate) fn multiply(
    isa: Isa,
    x: &[f32],
    room: &mut Activations,
    matrices: &[&PackedMatrix],
    out: &mut Vec<f32>,
) -> usize {
    let stride: usize = matrices.iter().map(|m| m.padded_outputs()).sum();
    room.fill(isa, x, matrices);
    out.resize(room.rows() * stride, 0.0);
    let (shared, x) = (Shared::new(out), &*room);
    (0..stride / PANEL).into_par_iter().for_each(|column| {
        let (mut matrix, mut panel) = (0, column);
        while panel >= matrices[matrix].panels() {
            panel -= matrices[matrix].panels();
            matrix += 1;
        }
        // SAFETY: this thread alone has this panel's columns, of every row.
        unsafe { matrices[matrix].multiply_panel(isa, x, panel, shared.at(column * PANEL), stride) };
    });
    stride
}

#[cfg(test)]
mod tests;
