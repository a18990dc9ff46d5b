//! Blockwise causal attention on strided head columns.
//!
//! A task is one sequence and one head (backward: one key head with its group of query heads). It walks
//! over blocks of query rows and keeps `BLOCK × context` scores, so memory is linear in the context and
//! nothing but the logarithms of the softmax sums is kept for the backward pass.

use super::{AttentionShape, rows as row_kernels};
use crate::isa::Isa;
use gemm::Parallelism;
use rayon::prelude::*;

/// Query rows whose scores are held at a time.
const BLOCK: usize = 64;

/// A matrix inside a buffer: rows `stride` apart, columns adjacent.
#[derive(Clone, Copy)]
struct View {
    start: *const f32,
    row: isize,
    column: isize,
}

impl View {
    fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }
}

/// The writable counterpart of [`View`].
#[derive(Clone, Copy)]
struct ViewMut {
    start: *mut f32,
    row: isize,
}

/// A buffer whose disjoint parts are written by different tasks.
struct SharedOut(*mut f32);

// SAFETY: tasks write only to the columns of their own head and the rows of their own sequence.
unsafe impl Sync for SharedOut {}

impl SharedOut {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// `out[m, n] = alpha · left[m, k] · right[k, n] (+ out)`.
///
/// # Safety
/// The views must cover `m × k`, `k × n` and `m × n` valid floats, and `out` must overlap neither operand.
unsafe fn product(
    (m, n, k): (usize, usize, usize),
    out: ViewMut,
    add: super::Write,
    left: View,
    right: View,
    alpha: f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.start,
            1,
            out.row,
            add == super::Write::Add,
            left.start,
            left.column,
            left.row,
            right.start,
            right.column,
            right.row,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Offsets of one (sequence, head) pair.
struct Place {
    query: usize,
    key: usize,
    value: usize,
    out: usize,
    log_sums: usize,
    /// Tokens of the sequence.
    context: usize,
}

impl Place {
    fn new(shape: &AttentionShape<'_>, sequence: usize, head: usize) -> Self {
        let tokens = shape.sequence(sequence);
        let row = tokens.start * shape.qkv_width();
        let kv_head = head / shape.group();
        Self {
            query: row + head * shape.head_dim,
            key: row + (shape.heads + kv_head) * shape.head_dim,
            value: row + (shape.heads + shape.kv_heads + kv_head) * shape.head_dim,
            out: tokens.start * shape.out_width() + head * shape.head_dim,
            log_sums: shape.log_sums_at(sequence, head),
            context: tokens.len(),
        }
    }
}

fn view(buffer: &[f32], offset: usize, width: usize) -> View {
    View { start: buffer[offset..].as_ptr(), row: width as isize, column: 1 }
}

pub fn forward(shape: &AttentionShape<'_>, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
    assert_eq!(qkv.len(), shape.tokens() * shape.qkv_width());
    assert_eq!(out.len(), shape.tokens() * shape.out_width());
    assert_eq!(log_sums.len(), shape.tokens() * shape.heads);
    let d = shape.head_dim;
    let (in_width, out_width) = (shape.qkv_width(), shape.out_width());
    let scale = 1.0 / (d as f32).sqrt();
    let isa = Isa::detect();
    let (out, log_sums) = (SharedOut(out.as_mut_ptr()), SharedOut(log_sums.as_mut_ptr()));
    (0..shape.sequences() * shape.heads).into_par_iter().for_each(|task| {
        let place = Place::new(shape, task / shape.heads, task % shape.heads);
        let context = place.context;
        // SAFETY: each sequence and head has its own stretch of the logarithms.
        let log_sums = unsafe { std::slice::from_raw_parts_mut(log_sums.at(place.log_sums), context) };
        let mut scores = vec![0f32; BLOCK.min(context) * context];
        for first in (0..context).step_by(BLOCK) {
            let rows = BLOCK.min(context - first);
            let keys = first + rows;
            let block = ViewMut { start: scores.as_mut_ptr(), row: keys as isize };
            let q = view(qkv, place.query + first * in_width, in_width);
            let k = view(qkv, place.key, in_width);
            // SAFETY: the queries and keys of one sequence lie inside `qkv`, the scores hold rows × keys.
            unsafe { product((rows, keys, d), block, super::Write::Replace, q, k.transposed(), scale) };
            let mut inverse_sums = [0f32; BLOCK];
            row_kernels::causal_softmax(
                isa,
                first,
                &mut scores[..rows * keys],
                &mut log_sums[first..first + rows],
                &mut inverse_sums[..rows],
            );
            let target = ViewMut { start: out.at(place.out + first * out_width), row: out_width as isize };
            let p = View { start: scores.as_ptr(), row: keys as isize, column: 1 };
            let v = view(qkv, place.value, in_width);
            // SAFETY: the target rows belong to this sequence and this head's columns alone.
            unsafe {
                product((rows, d, keys), target, super::Write::Replace, p, v, 1.0);
                for (r, inverse) in inverse_sums[..rows].iter().enumerate() {
                    let row = std::slice::from_raw_parts_mut(out.at(place.out + (first + r) * out_width), d);
                    for value in row {
                        *value *= inverse;
                    }
                }
            }
        }
    });
}

pub fn backward(
    shape: &AttentionShape<'_>,
    qkv: &[f32],
    out: &[f32],
    log_sums: &[f32],
    grad_out: &[f32],
    grad_qkv: &mut [f32],
) {
    assert_eq!(qkv.len(), shape.tokens() * shape.qkv_width());
    assert_eq!(grad_qkv.len(), qkv.len());
    assert_eq!(out.len(), shape.tokens() * shape.out_width());
    assert_eq!(grad_out.len(), out.len());
    let grad_qkv = SharedOut(grad_qkv.as_mut_ptr());
    (0..shape.sequences() * shape.kv_heads).into_par_iter().for_each(|task| {
        let (sequence, kv_head) = (task / shape.kv_heads, task % shape.kv_heads);
        let context = shape.sequence(sequence).len();
        let size = BLOCK.min(context) * context;
        let mut scratch = (vec![0f32; size], vec![0f32; size]);
        for member in 0..shape.group() {
            let place = Place::new(shape, sequence, kv_head * shape.group() + member);
            // The group's first block overwrites the key and value gradients, the others add to them.
            head_backward(shape, &place, member, (qkv, out, log_sums, grad_out), &grad_qkv, &mut scratch);
        }
    });
}

/// The gradient of one query head; adds to its key head's columns unless `member` is 0.
fn head_backward(
    shape: &AttentionShape<'_>,
    place: &Place,
    member: usize,
    (qkv, out, log_sums, grad_out): (&[f32], &[f32], &[f32], &[f32]),
    grad_qkv: &SharedOut,
    (probabilities, grad_scores): &mut (Vec<f32>, Vec<f32>),
) {
    let (context, d) = (place.context, shape.head_dim);
    let (in_width, out_width) = (shape.qkv_width(), shape.out_width());
    let scale = 1.0 / (d as f32).sqrt();
    let isa = Isa::detect();
    let k = view(qkv, place.key, in_width);
    let v = view(qkv, place.value, in_width);
    let target = |offset| ViewMut { start: grad_qkv.at(offset), row: in_width as isize };
    if member == 0 {
        for row in 0..context {
            for start in [place.key, place.value] {
                // SAFETY: the rows of this task's sequence and key head.
                unsafe { std::slice::from_raw_parts_mut(grad_qkv.at(start + row * in_width), d) }.fill(0.0);
            }
        }
    }
    for first in (0..context).step_by(BLOCK) {
        let rows = BLOCK.min(context - first);
        let keys = first + rows;
        let q = view(qkv, place.query + first * in_width, in_width);
        let g = view(grad_out, place.out + first * out_width, out_width);
        let square = |buffer: &mut Vec<f32>| ViewMut { start: buffer.as_mut_ptr(), row: keys as isize };
        // SAFETY: operands lie in this sequence's rows, both scratch buffers hold rows × keys.
        unsafe {
            product((rows, keys, d), square(probabilities), super::Write::Replace, q, k.transposed(), scale);
            product((rows, keys, d), square(grad_scores), super::Write::Replace, g, v.transposed(), 1.0);
        }
        let mut inner = [0f32; BLOCK];
        for (r, inner) in inner[..rows].iter_mut().enumerate() {
            let at = place.out + (first + r) * out_width;
            *inner = row_kernels::dot_product(isa, &out[at..][..d], &grad_out[at..][..d]);
        }
        row_kernels::causal_softmax_backward(
            isa,
            first,
            scale,
            &mut probabilities[..rows * keys],
            &mut grad_scores[..rows * keys],
            &log_sums[place.log_sums + first..][..rows],
            &inner[..rows],
        );
        let matrix = |buffer: &[f32]| View { start: buffer.as_ptr(), row: keys as isize, column: 1 };
        let (p, s) = (matrix(probabilities), matrix(grad_scores));
        // SAFETY: query columns belong to this head, key and value columns to this task's key head.
        unsafe {
            product(
                (rows, d, keys),
                target(place.query + first * in_width),
                super::Write::Replace,
                s,
                k,
                1.0,
            );
            product((keys, d, rows), target(place.key), super::Write::Add, s.transposed(), q, 1.0);
            product((keys, d, rows), target(place.value), super::Write::Add, p.transposed(), g, 1.0);
        }
    }
}
