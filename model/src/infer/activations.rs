//! Activations as the kernels read them.

use rayon::prelude::*;

use super::kernels::{BLOCK, Isa, QuantRows, TILE, quantise};
use super::packed::PackedMatrix;

/// Rows of activations, regrouped for weights of f32 and f16, rounded for those of 4 and 8 bits,
/// or both. The buffers are kept from product to product.
#[derive(Default)]
pub(crate) struct Activations {
    rows: usize,
    inputs: usize,
    /// Tiles of up to [`TILE`] rows, each `[k][rows]`.
    tiles: Vec<f32>,
    values: Vec<i16>,
    scales: Vec<f32>,
    sums: Vec<f32>,
}

impl Activations {
    /// Takes `x`, `[rows][inputs]`, in the forms that the matrices need.
    pub(crate) fn fill(&mut self, isa: Isa, x: &[f32], matrices: &[&PackedMatrix]) {
        self.inputs = matrices.first().map_or(1, |matrix| matrix.inputs());
        assert!(matrices.iter().all(|matrix| matrix.inputs() == self.inputs));
        self.rows = x.len() / self.inputs;
        if matrices.iter().any(|matrix| matrix.is_quantised()) {
            self.round(isa, x);
        }
        if matrices.iter().any(|matrix| !matrix.is_quantised()) {
            self.regroup(x);
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Tiles of [`TILE`] rows, the last one with what is left, each `[k][rows]`.
    pub(crate) fn tiles(&self) -> impl Iterator<Item = &[f32]> {
        self.tiles.chunks(TILE * self.inputs)
    }

    pub(crate) fn quantised(&self) -> QuantRows<'_> {
        QuantRows::new(self.inputs, &self.values, &self.scales, &self.sums)
    }

    fn round(&mut self, isa: Isa, x: &[f32]) {
        let blocks = self.inputs / BLOCK;
        self.values.resize(x.len(), 0);
        self.scales.resize(self.rows * blocks, 0.0);
        self.sums.resize(self.rows * blocks, 0.0);
        let scales = self.scales.par_chunks_mut(blocks).zip(self.sums.par_chunks_mut(blocks));
        self.values
            .par_chunks_mut(self.inputs)
            .zip(scales)
            .zip(x.par_chunks(self.inputs))
            .with_min_len(8)
            .for_each(|((values, (scales, sums)), x)| quantise(isa, x, values, scales, sums));
    }

    fn regroup(&mut self, x: &[f32]) {
        let inputs = self.inputs;
        self.tiles.resize(x.len(), 0.0);
        self.tiles.par_chunks_mut(TILE * inputs).zip(x.par_chunks(TILE * inputs)).for_each(|(tile, x)| {
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
