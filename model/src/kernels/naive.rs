//! The reference: every kernel as its definition reads, sums in `f64`, one thread.

use super::{AdamStep, AttentionShape, Backend, Layout, MatMul, RopeTable, Rotation, Write};

/// Slow and plain; what [`super::Cpu`] and any later back end are tested against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Naive;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

impl Backend for Naive {
    fn matmul(&self, shape: &MatMul, left: &[f32], right: &[f32], out: &mut [f32]) {
        let &MatMul { rows, cols, depth, .. } = shape;
        for i in 0..rows {
            for j in 0..cols {
                let mut sum = 0f64;
                for k in 0..depth {
                    let a = match shape.left {
                        Layout::Plain => left[i * depth + k],
                        Layout::Transposed => left[k * rows + i],
                    };
                    let b = match shape.right {
                        Layout::Plain => right[k * cols + j],
                        Layout::Transposed => right[j * depth + k],
                    };
                    sum += f64::from(a) * f64::from(b);
                }
                let old = match shape.write {
                    Write::Replace => 0.0,
                    Write::Add => f64::from(out[i * cols + j]),
                };
                out[i * cols + j] = (old + sum) as f32;
            }
        }
    }

    fn embed(&self, table: &[f32], tokens: &[u32], out: &mut [f32]) {
        let width = out.len() / tokens.len();
        for (row, &token) in out.chunks_exact_mut(width).zip(tokens) {
            row.copy_from_slice(&table[token as usize * width..][..width]);
        }
    }

    fn embed_backward(&self, grad_out: &[f32], tokens: &[u32], grad_table: &mut [f32]) {
        let width = grad_out.len() / tokens.len();
        for (row, &token) in grad_out.chunks_exact(width).zip(tokens) {
            for (sum, value) in grad_table[token as usize * width..].iter_mut().zip(row) {
                *sum += value;
            }
        }
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inverse_rms: &mut [f32]) {
        let width = weight.len();
        for (row, inverse) in inverse_rms.iter_mut().enumerate() {
            let x = &x[row * width..][..width];
            let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            *inverse = scale as f32;
            for i in 0..width {
                out[row * width + i] = (f64::from(x[i]) * scale * f64::from(weight[i])) as f32;
            }
        }
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
        let mut weight_sums: Vec<f64> = grad_weight.iter().map(|&v| f64::from(v)).collect();
        for (row, &inverse) in inverse_rms.iter().enumerate() {
            let at = row * width;
            let inverse = f64::from(inverse);
            let product =
                |i: usize| f64::from(grad_out[at + i]) * f64::from(weight[i]) * f64::from(x[at + i]);
            let mean = (0..width).map(product).sum::<f64>() / width as f64;
            for i in 0..width {
                let (g, xi) = (f64::from(grad_out[at + i]), f64::from(x[at + i]));
                let grad = inverse * (g * f64::from(weight[i]) - xi * inverse * inverse * mean);
                grad_x[at + i] = (f64::from(grad_x[at + i]) + grad) as f32;
                weight_sums[i] += g * xi * inverse;
            }
        }
        for (out, sum) in grad_weight.iter_mut().zip(weight_sums) {
            *out = sum as f32;
        }
    }

    fn rope(&self, shape: &AttentionShape<'_>, table: &RopeTable, rotation: Rotation, qkv: &mut [f32]) {
        let half = shape.head_dim / 2;
        for token in 0..shape.tokens() {
            let (cos, sin) = table.at(token - shape.sequence(shape.sequence_of(token)).start);
            for head in 0..shape.heads + shape.kv_heads {
                let at = token * shape.qkv_width() + head * shape.head_dim;
                for i in 0..half {
                    let (a, b) = (qkv[at + i], qkv[at + half + i]);
                    let sine = match rotation {
                        Rotation::Forward => sin[i],
                        Rotation::Backward => -sin[i],
                    };
                    qkv[at + i] = a * cos[i] - b * sine;
                    qkv[at + half + i] = b * cos[i] + a * sine;
                }
            }
        }
    }

    fn attention(&self, shape: &AttentionShape<'_>, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let d = shape.head_dim;
        for_each_row(shape, |row| {
            let scores: Vec<f64> = (0..=row.position).map(|key| row.score(shape, qkv, key)).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            log_sums[row.log_sum] = (top + total.ln()) as f32;
            for i in 0..d {
                let weighted = |(key, s): (usize, &f64)| {
                    (s - top).exp() / total * f64::from(qkv[row.value(shape, key) + i])
                };
                out[row.out + i] = scores.iter().enumerate().map(weighted).sum::<f64>() as f32;
            }
        });
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
        let d = shape.head_dim;
        let scale = 1.0 / (d as f64).sqrt();
        let mut sums = vec![0f64; grad_qkv.len()];
        for_each_row(shape, |row| {
            let inner: f64 =
                (0..d).map(|i| f64::from(out[row.out + i]) * f64::from(grad_out[row.out + i])).sum();
            for key in 0..=row.position {
                let p = (row.score(shape, qkv, key) - f64::from(log_sums[row.log_sum])).exp();
                let (k, v) = (row.key(shape, key), row.value(shape, key));
                let mut grad_p = 0f64;
                for i in 0..d {
                    let g = f64::from(grad_out[row.out + i]);
                    grad_p += g * f64::from(qkv[v + i]);
                    sums[v + i] += p * g;
                }
                let grad_score = p * (grad_p - inner) * scale;
                for i in 0..d {
                    sums[row.query + i] += grad_score * f64::from(qkv[k + i]);
                    sums[k + i] += grad_score * f64::from(qkv[row.query + i]);
                }
            }
        });
        for (grad, sum) in grad_qkv.iter_mut().zip(sums) {
            *grad = sum as f32;
        }
    }

    fn swiglu(&self, width: usize, gate_up: &[f32], out: &mut [f32]) {
        for (row, pair) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            for i in 0..width {
                row[i] = (silu(f64::from(pair[i])) * f64::from(pair[width + i])) as f32;
            }
        }
    }

    fn swiglu_backward(&self, width: usize, gate_up: &mut [f32], grad_out: &[f32]) {
        for (pair, row) in gate_up.chunks_exact_mut(2 * width).zip(grad_out.chunks_exact(width)) {
            for i in 0..width {
                let (gate, up, g) = (f64::from(pair[i]), f64::from(pair[width + i]), f64::from(row[i]));
                let s = 1.0 / (1.0 + (-gate).exp());
                pair[i] = (g * up * s * (1.0 + gate * (1.0 - s))) as f32;
                pair[width + i] = (g * silu(gate)) as f32;
            }
        }
    }

    fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], scales: &[f32], losses: &mut [f32]) {
        let width = logits.len() / targets.len();
        for (t, row) in logits.chunks_exact_mut(width).enumerate() {
            let target = targets[t] as usize;
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|&x| f64::from(x - top).exp()).sum();
            losses[t] = (f64::from(top - row[target]) + total.ln()) as f32;
            for (i, x) in row.iter_mut().enumerate() {
                let p = f64::from(*x - top).exp() / total;
                let hit = if i == target { 1.0 } else { 0.0 };
                *x = ((p - hit) * f64::from(scales[t])) as f32;
            }
        }
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        for (a, b) in x.iter_mut().zip(y) {
            *a += b;
        }
    }

    fn sum_of_squares(&self, x: &[f32]) -> f64 {
        x.iter().map(|&v| f64::from(v).powi(2)).sum()
    }

    fn adamw(&self, step: &AdamStep, params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
        for i in 0..params.len() {
            let g = grads[i] * step.gradient_scale;
            m[i] = step.beta1 * m[i] + (1.0 - step.beta1) * g;
            v[i] = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
            let denominator = v[i].sqrt() / step.correction2_root + step.eps;
            params[i] *= 1.0 - step.lr * step.weight_decay;
            params[i] -= step.lr / step.correction1 * m[i] / denominator;
        }
    }
}

/// One query row's places in the buffers.
struct Row {
    first: usize,
    position: usize,
    kv_head: usize,
    query: usize,
    out: usize,
    log_sum: usize,
}

impl Row {
    fn key(&self, shape: &AttentionShape<'_>, position: usize) -> usize {
        (self.first + position) * shape.qkv_width() + (shape.heads + self.kv_head) * shape.head_dim
    }

    fn value(&self, shape: &AttentionShape<'_>, position: usize) -> usize {
        self.key(shape, position) + shape.kv_heads * shape.head_dim
    }

    fn score(&self, shape: &AttentionShape<'_>, qkv: &[f32], position: usize) -> f64 {
        let key = self.key(shape, position);
        let dot: f64 =
            (0..shape.head_dim).map(|i| f64::from(qkv[self.query + i]) * f64::from(qkv[key + i])).sum();
        dot / (shape.head_dim as f64).sqrt()
    }
}

fn for_each_row(shape: &AttentionShape<'_>, mut visit: impl FnMut(Row)) {
    for sequence in 0..shape.sequences() {
        let tokens = shape.sequence(sequence);
        for head in 0..shape.heads {
            for (position, token) in tokens.clone().enumerate() {
                visit(Row {
                    first: tokens.start,
                    position,
                    kv_head: head / shape.group(),
                    query: token * shape.qkv_width() + head * shape.head_dim,
                    out: token * shape.out_width() + head * shape.head_dim,
                    log_sum: shape.log_sums_at(sequence, head) + position,
                });
            }
        }
    }
}
