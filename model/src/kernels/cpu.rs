//! The fast kernels: the `gemm` crate for products, rayon over rows, vectorised inner loops.

use super::math::{dot, exp_in_place, maximum, sigmoid, sum2, vectorised};
use super::{AdamStep, AttentionShape, Backend, Layout, MatMul, RopeTable, Rotation, Write, attention};
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
        let width = grad_out.len() / tokens.len();
        vectorised(|| {
            for (row, &token) in grad_out.chunks_exact(width).zip(tokens) {
                let sums = &mut grad_table[token as usize * width..][..width];
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
        });
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32]) {
        let width = weight.len();
        let tasks = out
            .par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(inverse_rms.par_chunks_mut(ROWS));
        tasks.for_each(|((out, x), inverse_rms)| {
            vectorised(|| {
                let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(inverse_rms);
                for ((out, x), inverse) in rows {
                    *inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
                    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * *inverse * w;
                    }
                }
            });
        });
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
        let width = weight.len();
        let partial_sums: Vec<Vec<f32>> = grad_x
            .par_chunks_mut(ROWS * width)
            .zip(grad_out.par_chunks(ROWS * width))
            .zip(x.par_chunks(ROWS * width))
            .zip(inverse_rms.par_chunks(ROWS))
            .map(|(((grad_x, grad_out), x), inverse_rms)| {
                let mut sums = vec![0f32; width];
                let mut weighted = vec![0f32; width];
                vectorised(|| {
                    for (row, &inverse) in inverse_rms.iter().enumerate() {
                        let range = row * width..(row + 1) * width;
                        let (g, x) = (&grad_out[range.clone()], &x[range.clone()]);
                        for i in 0..width {
                            weighted[i] = g[i] * weight[i];
                            sums[i] += g[i] * x[i] * inverse;
                        }
                        let mean = dot(&weighted, x) / width as f32;
                        let pull = inverse * inverse * mean;
                        for ((grad, x), w) in grad_x[range].iter_mut().zip(x).zip(&weighted) {
                            *grad += inverse * (w - x * pull);
                        }
                    }
                });
                sums
            })
            .collect();
        for sums in &partial_sums {
            self.add(grad_weight, sums);
        }
    }

    fn rope(&self, shape: &AttentionShape, table: &RopeTable, rotation: Rotation, qkv: &mut [f32]) {
        let (d, width) = (shape.head_dim, shape.qkv_width());
        let rotated = (shape.heads + shape.kv_heads) * d;
        let sign = match rotation {
            Rotation::Forward => 1.0,
            Rotation::Backward => -1.0,
        };
        qkv.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, rows)| {
            vectorised(|| {
                for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                    let (cos, sin) = table.at((task * ROWS + r) % shape.context);
                    for head in row[..rotated].chunks_exact_mut(d) {
                        let (first, second) = head.split_at_mut(d / 2);
                        for i in 0..d / 2 {
                            let (a, b, sine) = (first[i], second[i], sign * sin[i]);
                            first[i] = a * cos[i] - b * sine;
                            second[i] = b * cos[i] + a * sine;
                        }
                    }
                }
            });
        });
    }

    fn attention(&self, shape: &AttentionShape, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        attention::forward(shape, qkv, out, log_sums);
    }

    fn attention_backward(
        &self,
        shape: &AttentionShape,
        qkv: &[f32],
        out: &[f32],
        log_sums: &[f32],
        grad_out: &[f32],
        grad_qkv: &mut [f32],
    ) {
        attention::backward(shape, qkv, out, log_sums, grad_out, grad_qkv);
    }

    fn swiglu(&self, width: usize, gate_up: &[f32], out: &mut [f32]) {
        let tasks = out.par_chunks_mut(ROWS * width).zip(gate_up.par_chunks(2 * ROWS * width));
        tasks.for_each(|(out, gate_up)| {
            vectorised(|| {
                for (row, pair) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
                    let (gate, up) = pair.split_at(width);
                    for i in 0..width {
                        row[i] = gate[i] * sigmoid(gate[i]) * up[i];
                    }
                }
            });
        });
    }

    fn swiglu_backward(&self, width: usize, gate_up: &mut [f32], grad_out: &[f32]) {
        let tasks = gate_up.par_chunks_mut(2 * ROWS * width).zip(grad_out.par_chunks(ROWS * width));
        tasks.for_each(|(gate_up, grad_out)| {
            vectorised(|| {
                let rows = gate_up.chunks_exact_mut(2 * width).zip(grad_out.chunks_exact(width));
                for (pair, grad) in rows {
                    let (gate, up) = pair.split_at_mut(width);
                    for i in 0..width {
                        let s = sigmoid(gate[i]);
                        let gradient = grad[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                        up[i] = grad[i] * gate[i] * s;
                        gate[i] = gradient;
                    }
                }
            });
        });
    }

    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scales: &[f32], losses: &mut [f32]) {
        let width = logits.len() / targets.len();
        let tasks = logits.par_chunks_mut(width).zip(targets).zip(scales).zip(losses);
        tasks.for_each(|(((row, &target), &scale), loss)| {
            vectorised(|| {
                let top = maximum(row);
                let target_logit = row[target as usize];
                let sum = exp_in_place(row, top);
                *loss = top - target_logit + sum.ln();
                let factor = scale / sum;
                for value in row.iter_mut() {
                    *value *= factor;
                }
                row[target as usize] -= scale;
            });
        });
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| {
            vectorised(|| {
                for (a, b) in x.iter_mut().zip(y) {
                    *a += b;
                }
            });
        });
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        // Short f32 sums, added up in f64 in the order of the chunks.
        let parts: Vec<f64> = x
            .par_chunks(CHUNK)
            .map(|chunk| vectorised(|| chunk.chunks(256).map(|c| f64::from(sum2(c, c, |a, b| a * b))).sum()))
            .collect();
        parts.iter().sum()
    }

    fn adamw(&self, step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
        let keep = 1.0 - step.lr * step.weight_decay;
        let rate = step.lr / step.correction1;
        let tasks = params
            .par_chunks_mut(CHUNK)
            .zip(grads.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK));
        tasks.for_each(|(((params, grads), m), v)| {
            vectorised(|| {
                for (((p, g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
                    let g = g * step.gradient_scale;
                    *m = step.beta1 * *m + (1.0 - step.beta1) * g;
                    *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
                    let denominator = v.sqrt() / step.correction2_root + step.eps;
                    *p = *p * keep - rate * *m / denominator;
                }
            });
        });
    }
}
