//! Weights in panels, and the product of activations with them.
//!
//! A panel holds 32 outputs for all inputs `k`, `[k][32]`, so that one load gives the weights of 32
//! outputs. Values of 4 and 8 bits stay as they are in the file (regrouped), and become f32 by
//! the same arithmetic as in [`TensorKind::dequantize`]; other kinds are kept as f32.

use half::f16;
use rayon::prelude::*;

use crate::gguf::{Tensor, TensorKind};

use super::kernels::{Isa, PANEL, TILE, by_isa, panel_tile};

/// Inputs that are unpacked at a time: 24 KiB, half of the first-level cache.
const CHUNK: usize = 192;
/// Values of one block of the file's format.
const BLOCK: usize = 32;
/// Scales, minima, and 16 rows of 32 byte-wide pairs of nibbles (`k` low, `k + 16` high).
const Q4_BYTES: usize = 2 * 2 * PANEL + BLOCK / 2 * PANEL;
/// Scales and 32 rows of 32 signed bytes.
const Q8_BYTES: usize = 2 * PANEL + BLOCK * PANEL;

enum Storage {
    F32(Vec<f32>),
    Q4(Vec<u8>),
    Q8(Vec<u8>),
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
            TensorKind::Q4_0 => pack_blocks(tensor, inputs, Q4_BYTES, put_q4_0).map(Storage::Q4),
            TensorKind::Q4_1 => pack_blocks(tensor, inputs, Q4_BYTES, put_q4_1).map(Storage::Q4),
            TensorKind::Q8_0 => pack_blocks(tensor, inputs, Q8_BYTES, put_q8_0).map(Storage::Q8),
            _ => None,
        };
        let storage = storage.unwrap_or_else(|| pack_f32(tensor, inputs));
        Self { inputs, outputs, storage }
    }

    /// Outputs, rounded up to whole panels.
    pub(crate) fn padded_outputs(&self) -> usize {
        self.outputs.next_multiple_of(PANEL)
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The weights of output `row` as f32: with tied embeddings, the embedding of a token.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, column) = (row / PANEL, row % PANEL);
        let blocks = self.inputs / BLOCK;
        match &self.storage {
            Storage::F32(all) => {
                let panel = &all[panel * self.inputs * PANEL..];
                for (k, out) in out.iter_mut().enumerate() {
                    *out = panel[k * PANEL + column];
                }
            }
            Storage::Q4(all) => {
                let panel = &all[panel * blocks * Q4_BYTES..][..blocks * Q4_BYTES];
                for (block, out) in panel.chunks_exact(Q4_BYTES).zip(out.chunks_mut(BLOCK)) {
                    let scale = half_at(block, column);
                    let least = half_at(block, PANEL + column);
                    for (k, out) in out.iter_mut().enumerate() {
                        let byte = block[4 * PANEL + k % 16 * PANEL + column];
                        *out = f32::from(byte >> (k / 16 * 4) & 15).mul_add(scale, least);
                    }
                }
            }
            Storage::Q8(all) => {
                let panel = &all[panel * blocks * Q8_BYTES..][..blocks * Q8_BYTES];
                for (block, out) in panel.chunks_exact(Q8_BYTES).zip(out.chunks_mut(BLOCK)) {
                    let scale = half_at(block, column);
                    for (k, out) in out.iter_mut().enumerate() {
                        *out = f32::from(block[2 * PANEL + k * PANEL + column] as i8) * scale;
                    }
                }
            }
        }
    }

    /// The part `[first, first + count)` of a panel's inputs as f32, in `room` unless it is f32
    /// already.
    fn unpacked<'a>(
        &'a self,
        isa: Isa,
        panel: usize,
        first: usize,
        count: usize,
        room: &'a mut [f32],
    ) -> &'a [f32] {
        let blocks = self.inputs / BLOCK;
        let (start, room) = (panel * blocks + first / BLOCK, &mut room[..count * PANEL]);
        match &self.storage {
            Storage::F32(all) => {
                return &all[(panel * self.inputs + first) * PANEL..][..count * PANEL];
            }
            Storage::Q4(all) => unpack_q4(isa, &all[start * Q4_BYTES..], room),
            Storage::Q8(all) => unpack_q8(isa, &all[start * Q8_BYTES..], room),
        }
        room
    }
}

/// Puts one block of the file into column `column` of a packed block; false when a scale is not
/// finite, which the packed form cannot hold.
type Put = fn(block: &[u8], column: usize, packed: &mut [u8]) -> bool;

/// None when a block was refused.
fn pack_blocks(tensor: Tensor<'_>, inputs: usize, packed_bytes: usize, put: Put) -> Option<Vec<u8>> {
    let blocks = inputs / BLOCK;
    let row_bytes = blocks * tensor.info.kind.block_bytes();
    let panels = (tensor.len() / inputs).div_ceil(PANEL);
    let mut packed = vec![0; panels * blocks * packed_bytes];
    let whole = packed
        .par_chunks_mut(blocks * packed_bytes)
        .zip(tensor.bytes.par_chunks(PANEL * row_bytes))
        .all(|(panel, rows)| {
            rows.chunks_exact(row_bytes).enumerate().all(|(column, row)| {
                let from = row.chunks_exact(tensor.info.kind.block_bytes());
                let to = panel.chunks_exact_mut(packed_bytes);
                from.zip(to).fold(true, |ok, (from, to)| put(from, column, to) && ok)
            })
        });
    whole.then_some(packed)
}

fn put_half(packed: &mut [u8], index: usize, value: f16) -> bool {
    packed[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
    value.is_finite()
}

fn put_nibbles(nibbles: &[u8], column: usize, packed: &mut [u8]) {
    for (k, &byte) in nibbles.iter().enumerate() {
        packed[4 * PANEL + k * PANEL + column] = byte;
    }
}

fn put_q4_1(block: &[u8], column: usize, packed: &mut [u8]) -> bool {
    put_nibbles(&block[4..], column, packed);
    let scale = f16::from_le_bytes([block[0], block[1]]);
    let least = f16::from_le_bytes([block[2], block[3]]);
    put_half(packed, column, scale) & put_half(packed, PANEL + column, least)
}

/// (q − 8)·d = q·d + (−8·d): exact, since −8·d is an f16 unless it overflows.
fn put_q4_0(block: &[u8], column: usize, packed: &mut [u8]) -> bool {
    put_nibbles(&block[2..], column, packed);
    let scale = f16::from_le_bytes([block[0], block[1]]);
    let least = f16::from_f32(scale.to_f32() * -8.0);
    put_half(packed, column, scale) & put_half(packed, PANEL + column, least)
}

fn put_q8_0(block: &[u8], column: usize, packed: &mut [u8]) -> bool {
    for (k, &byte) in block[2..].iter().enumerate() {
        packed[2 * PANEL + k * PANEL + column] = byte;
    }
    put_half(packed, column, f16::from_le_bytes([block[0], block[1]]))
}

fn pack_f32(tensor: Tensor<'_>, inputs: usize) -> Storage {
    let kind = tensor.info.kind;
    let row_bytes = inputs / kind.block_values() * kind.block_bytes();
    let panels = (tensor.len() / inputs).div_ceil(PANEL);
    let mut packed = vec![0.0; panels * inputs * PANEL];
    packed.par_chunks_mut(inputs * PANEL).zip(tensor.bytes.par_chunks(PANEL * row_bytes)).for_each_init(
        || vec![0.0; inputs],
        |values, (panel, rows)| {
            for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
                kind.dequantize(row, values);
                for (k, &value) in values.iter().enumerate() {
                    panel[k * PANEL + column] = value;
                }
            }
        },
    );
    Storage::F32(packed)
}

/// A finite f16 as f32. By whole numbers and one product, which compilers turn into vectors.
#[inline(always)]
fn half_at(bytes: &[u8], index: usize) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits((112 + 127) << 23);
    let bits = u32::from(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * TWO_TO_112;
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

#[inline(always)]
fn halves(bytes: &[u8]) -> [f32; PANEL] {
    std::array::from_fn(|column| half_at(bytes, column))
}

#[inline(always)]
fn unpack_q4_body(packed: &[u8], out: &mut [f32]) {
    let blocks = packed.chunks_exact(Q4_BYTES);
    for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK * PANEL)) {
        let (scales, minima) = (halves(&block[..2 * PANEL]), halves(&block[2 * PANEL..4 * PANEL]));
        let (low, high) = out.split_at_mut(BLOCK / 2 * PANEL);
        let rows = block[4 * PANEL..].chunks_exact(PANEL);
        let outs = low.chunks_exact_mut(PANEL).zip(high.chunks_exact_mut(PANEL));
        for (bytes, (low, high)) in rows.zip(outs) {
            for column in 0..PANEL {
                let byte = i32::from(bytes[column]);
                low[column] = ((byte & 15) as f32).mul_add(scales[column], minima[column]);
                high[column] = ((byte >> 4) as f32).mul_add(scales[column], minima[column]);
            }
        }
    }
}

#[inline(always)]
fn unpack_q8_body(packed: &[u8], out: &mut [f32]) {
    let blocks = packed.chunks_exact(Q8_BYTES);
    for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK * PANEL)) {
        let scales = halves(&block[..2 * PANEL]);
        let rows = block[2 * PANEL..].chunks_exact(PANEL);
        for (bytes, out) in rows.zip(out.chunks_exact_mut(PANEL)) {
            for column in 0..PANEL {
                out[column] = f32::from(bytes[column] as i8) * scales[column];
            }
        }
    }
}

by_isa! {
    unpack_q4 = unpack_q4_body;
    (packed: &[u8], out: &mut [f32])
}
by_isa! {
    unpack_q8 = unpack_q8_body;
    (packed: &[u8], out: &mut [f32])
}

/// Activations regrouped for the kernels: tiles of up to 12 rows, each `[k][rows]`.
#[derive(Default)]
pub(crate) struct Tiles {
    rows: usize,
    inputs: usize,
    values: Vec<f32>,
}

impl Tiles {
    /// Regroups `x`, `[rows][inputs]`.
    pub(crate) fn fill(&mut self, x: &[f32], inputs: usize) {
        self.rows = x.len() / inputs;
        self.inputs = inputs;
        self.values.resize(x.len(), 0.0);
        self.values.par_chunks_mut(TILE * inputs).zip(x.par_chunks(TILE * inputs)).for_each(|(tile, x)| {
            let rows = x.len() / inputs;
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                for (&x, tile) in x.iter().zip(tile[row..].iter_mut().step_by(rows)) {
                    *tile = x;
                }
            }
        });
    }
}

/// A buffer whose parts different threads write.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: whoever calls `at` promises that the parts do not overlap.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// # Safety
    /// `index` must lie in the buffer, and no other thread may touch what is reached from there.
    pub(crate) unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

/// Multiplies the activations with several matrices of the same inputs at once. Row `r` of `out`
/// (its length is resized here) begins at `r * stride`; matrix `m` fills the columns that follow
/// those of matrix `m − 1`, each padded to whole panels. Returns the stride.
pub(crate) fn multiply(isa: Isa, x: &Tiles, matrices: &[&PackedMatrix], out: &mut Vec<f32>) -> usize {
    let stride: usize = matrices.iter().map(|m| m.padded_outputs()).sum();
    out.resize(x.rows * stride, 0.0);
    assert!(matrices.iter().all(|m| m.inputs == x.inputs));
    let shared = Shared::new(out);
    (0..stride / PANEL).into_par_iter().for_each(|column| {
        let (mut matrix, mut panel) = (0, column);
        while panel >= matrices[matrix].panels() {
            panel -= matrices[matrix].panels();
            matrix += 1;
        }
        let mut room = [0.0; CHUNK * PANEL];
        for row in 0..x.rows {
            // SAFETY: this thread alone has this panel's columns, of every row.
            unsafe { shared.at(row * stride + column * PANEL).write_bytes(0, PANEL) };
        }
        for first in (0..x.inputs).step_by(CHUNK) {
            let count = CHUNK.min(x.inputs - first);
            let weights = matrices[matrix].unpacked(isa, panel, first, count, &mut room);
            for (index, tile) in x.values.chunks(TILE * x.inputs).enumerate() {
                let rows = tile.len() / x.inputs;
                let tile = &tile[first * rows..(first + count) * rows];
                // SAFETY: as above; `out` has `x.rows` rows of `stride` floats.
                unsafe {
                    let out = shared.at(index * TILE * stride + column * PANEL);
                    panel_tile(isa, rows, tile, weights, out, stride);
                }
            }
        }
    });
    stride
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{TensorInfo, encode};

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let next = |i: u64| {
            let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed << 17);
            (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count as u64).map(next).collect()
    }

    /// Packs random weights of a kind; also gives them as f32.
    fn matrix(kind: TensorKind, inputs: usize, outputs: usize) -> (PackedMatrix, Vec<f32>) {
        let bytes = encode(kind, &numbers(inputs * outputs, kind.number().into())).unwrap();
        let info = TensorInfo {
            dims: vec![inputs as u64, outputs as u64],
            kind,
            start_byte: 0,
            size_bytes: bytes.len() as u64,
        };
        let tensor = Tensor { info: &info, bytes: &bytes };
        (PackedMatrix::new(tensor), tensor.to_f32())
    }

    const KINDS: [TensorKind; 5] =
        [TensorKind::F32, TensorKind::F16, TensorKind::Q8_0, TensorKind::Q4_0, TensorKind::Q4_1];

    #[test]
    fn products_are_chains_over_the_dequantised_weights() {
        for kind in KINDS {
            let (inputs, rows) = (224, 26);
            let (first, first_values) = matrix(kind, inputs, 40);
            let (second, second_values) = matrix(kind, inputs, 64);
            let x = numbers(rows * inputs, 9);
            let mut tiles = Tiles::default();
            tiles.fill(&x, inputs);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; 7];
                let stride = multiply(isa, &tiles, &[&first, &second], &mut out);
                assert_eq!(stride, 64 + 64);
                for row in 0..rows {
                    let x = &x[row * inputs..][..inputs];
                    let chain = |w: &[f32]| x.iter().zip(w).fold(0.0f32, |s, (x, w)| x.mul_add(*w, s));
                    let out = &out[row * stride..][..stride];
                    for (output, w) in first_values.chunks(inputs).enumerate() {
                        assert_eq!(out[output].to_bits(), chain(w).to_bits(), "{kind:?} {isa:?}");
                    }
                    for (output, w) in second_values.chunks(inputs).enumerate() {
                        assert_eq!(out[64 + output].to_bits(), chain(w).to_bits(), "{kind:?} {isa:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_come_back() {
        for kind in KINDS {
            let (packed, values) = matrix(kind, 64, 70);
            let mut out = vec![0.0; 64];
            for row in [0, 1, 31, 32, 69] {
                packed.row(row, &mut out);
                assert_eq!(out, values[row * 64..][..64], "{kind:?} {row}");
            }
        }
    }

    #[test]
    fn infinite_scales_fall_back_to_f32() {
        let mut bytes = encode(TensorKind::Q4_0, &[1.0; 32]).unwrap();
        bytes[..2].copy_from_slice(&f16::from_f32(60_000.0).to_le_bytes());
        let info = TensorInfo { dims: vec![32, 1], kind: TensorKind::Q4_0, start_byte: 0, size_bytes: 18 };
        let tensor = Tensor { info: &info, bytes: &bytes };
        let packed = PackedMatrix::new(tensor);
        let mut out = vec![0.0; 32];
        packed.row(0, &mut out);
        assert_eq!(out, tensor.to_f32());
    }

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits);
            if expected.is_finite() {
                let got = half_at(&bits.to_le_bytes(), 0);
                assert_eq!(got.to_bits(), expected.to_f32().to_bits());
            }
        }
    }
}
