//! The fast kernels: the `gemm` crate for products, rayon over rows, vectorised inner loops.

use super::{AdamStep, AttentionShape, Backend, Layout, MatMul, RopeTable, Rotation, Write, attention, rows};
use crate::isa::Isa;
use gemm::Parallelism;
use rayon::prelude::*;

/// Values an element-wise task works on; fixed, so that sums do not depend on the thread count.
const CHUNK: usize = 16_384;

/// Rows a row-wise task works on, for the same reason.
const ROWS: usize = 32;

/// Multi-threaded kernels; they use the rayon pool they are called in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Backend for Cpu {
    fn matmul(&self, shape: &MatMul, left: &[f32], right: &[f32], out: &mut [f32]) {
        let &MatMul { rows, cols, depth, .. } = shape;
        assert_eq!(left.len(), rows * depth);
        assert_eq!(right.len(), depth * cols);
        assert_eq!(out.len(), rows * cols);
        let (left_column, left_row) = match shape.left {
            Layout::Plain => (1, depth as isize),
            Layout::Transposed => (rows as isize, 1),
        };
        let (right_column, right_row) = match shape.right {
            Layout::Plain => (1, cols as isize),
            Layout::Transposed => (depth as isize, 1),
        };
        // SAFETY: the three lengths were just checked against the shape.
        unsafe {
            gemm::gemm(
                rows,
                cols,
                depth,
                out.as_mut_ptr(),
                1,
                cols as isize,
                shape.write == Write::Add,
                left.as_ptr(),
                left_column,
                left_row,
                right.as_ptr(),
                right_column,
                right_row,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    }

    fn embed(&self, table: &[f32], tokens: &[u32], out: &mut [f32]) {
        let width = out.len() / tokens.len();
        for (row, &token) in out.chunks_exact_mut(width).zip(tokens) {
            row.copy_from_slice(&table[token as usize * width..][..width]);
        }
    }

    fn embed_backward(&self, grad_out: &[f32], tokens: &[u32], grad_table: &mut [f32]) {
        // One thread: rows of the same token must be added in order, and the work is small.
        let isa = Isa::detect();
        let width = grad_out.len() / tokens.len();
        for (row, &token) in grad_out.chunks_exact(width).zip(tokens) {
            rows::add(isa, &mut grad_table[token as usize * width..][..width], row);
        }
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32]) {
        let (isa, width) = (Isa::detect(), weight.len());
        let tasks = out
            .par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(inverse_rms.par_chunks_mut(ROWS));
        tasks.for_each(|((out, x), inverse_rms)| rows::rms_norm(isa, x, weight, eps, out, inverse_rms));
    }

    fn rms_norm_backward(
        &self,
        grad_out: &[f32],
        x: &[f32],
        weight: &[f32],
        inverse_rms: &[f32],
        grad_x: &mut [f32],
        grad_weight: &mut [f32],
    ) {
        let (isa, width) = (Isa::detect(), weight.len());
        let partial_sums: Vec<Vec<f32>> = grad_x
            .par_chunks_mut(ROWS * width)
            .zip(grad_out.par_chunks(ROWS * width))
            .zip(x.par_chunks(ROWS * width))
            .zip(inverse_rms.par_chunks(ROWS))
            .map(|(((grad_x, grad_out), x), inverse_rms)| {
                let mut sums = vec![0f32; width];
                rows::rms_norm_backward(isa, grad_out, x, weight, inverse_rms, grad_x, &mut sums);
                sums
            })
            .collect();
        for sums in &partial_sums {
            self.add(grad_weight, sums);
        }
    }

    fn rope(&self, shape: &AttentionShape<'_>, table: &RopeTable, rotation: Rotation, qkv: &mut [f32]) {
        let isa = Isa::detect();
        let sign = match rotation {
            Rotation::Forward => 1.0,
            Rotation::Backward => -1.0,
        };
        qkv.par_chunks_mut(ROWS * shape.qkv_width())
            .enumerate()
            .for_each(|(task, part)| rows::rope(isa, shape, table, sign, task * ROWS, part));
    }

    fn attention(&self, shape: &AttentionShape<'_>, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        attention::forward(shape, qkv, out, log_sums);
    }

    fn attention_backward(
        &self,
        shape: &AttentionShape<'_>,
        qkv: &[f32],
        out: &[f32],
        log_sums: &[f32],
        grad_out: &[f32],
        grad_qkv: &mut [f32],
    ) {
        attention::backward(shape, qkv, out, log_sums, grad_out, grad_qkv);
    }

    fn swiglu(&self, width: usize, gate_up: &[f32], out: &mut [f32]) {
        let isa = Isa::detect();
        let tasks = out.par_chunks_mut(ROWS * width).zip(gate_up.par_chunks(2 * ROWS * width));
        tasks.for_each(|(out, gate_up)| rows::swiglu(isa, width, gate_up, out));
    }

    fn swiglu_backward(&self, width: usize, gate_up: &mut [f32], grad_out: &[f32]) {
        let isa = Isa::detect();
        let tasks = gate_up.par_chunks_mut(2 * ROWS * width).zip(grad_out.par_chunks(ROWS * width));
        tasks.for_each(|(gate_up, grad_out)| rows::swiglu_backward(isa, width, gate_up, grad_out));
    }

    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scales: &[f32], losses: &mut [f32]) {
        let isa = Isa::detect();
        let width = logits.len() / targets.len();
        let tasks = logits.par_chunks_mut(width).zip(targets).zip(scales).zip(losses);
        tasks.for_each(|(((row, &target), &scale), loss)| {
            *loss = rows::cross_entropy(isa, row, target as usize, scale);
        });
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        let isa = Isa::detect();
        x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| rows::add(isa, x, y));
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        let isa = Isa::detect();
        // Added up in the order of the chunks.
        let parts: Vec<f64> = x.par_chunks(CHUNK).map(|chunk| rows::sum_of_squares(isa, chunk)).collect();
        parts.iter().sum()
    }

    fn adamw(&self, step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
        let isa = Isa::detect();
        let tasks = params
            .par_chunks_mut(CHUNK)
            .zip(grads.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK));
        tasks.for_each(|(((params, grads), m), v)| rows::adamw(isa, step, params, grads, m, v));
    }
}
