//! The forward pass over any mixture of prompts and single tokens.

use rayon::prelude::*;

use super::Model;
use super::activations::{Activations, Shared};
use super::cache::{KvCache, PAGE_TOKENS};
use super::kernels::{LANES, QUERIES, add_assign, f16_chain, rms_norm, rope, softmax_unscaled, swiglu};
use super::packed::multiply;

/// For which tokens of a span logits are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Nothing,
    Last,
    All,
}

/// The next tokens of one sequence.
pub(crate) struct Span<'a> {
    pub cache: &'a mut KvCache,
    pub tokens: &'a [u32],
    pub wanted: Wanted,
}

/// Buffers that are kept from step to step, and the result.
#[derive(Default)]
pub(crate) struct Workspace {
    room: Activations,
    hidden: Vec<f32>,
    normed: Vec<f32>,
    projected: Vec<f32>,
    attended: Vec<f32>,
    logits: Vec<f32>,
    logits_stride: usize,
}

impl Workspace {
    /// Logits of the wanted tokens in order, one slice of the vocabulary's size each.
    pub(crate) fn logits_mut(&mut self, vocab_size: usize) -> impl Iterator<Item = &mut [f32]> {
        let stride = self.logits_stride.max(1);
        self.logits.chunks_exact_mut(stride).map(move |row| &mut row[..vocab_size])
    }
}

/// Rows of one span that attend together; at most [`QUERIES`] queries of a key-value head.
struct Group {
    span: usize,
    first_row: usize,
    position: usize,
    rows: usize,
}

/// Calls `f(row, in, out)` for each row, on several threads when there are many.
fn for_rows(
    x: &[f32],
    x_width: usize,
    out: &mut [f32],
    out_width: usize,
    f: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    out.par_chunks_mut(out_width)
        .zip(x.par_chunks(x_width))
        .enumerate()
        .with_min_len(8)
        .for_each(|(row, (out, x))| f(row, x, out));
}

impl Model {
    /// Runs all spans through the model, appends their keys and values to their caches and leaves
    /// the wanted logits in `work`. Tokens must be in the vocabulary and positions in the context.
    pub(crate) fn forward(&self, spans: &mut [Span<'_>], work: &mut Workspace) {
        let (config, isa) = (&self.config, self.isa);
        let width = config.hidden;
        let mut positions = Vec::new();
        let mut groups = Vec::new();
        let mut wanted = Vec::new();
        let reps = config.heads / config.kv_heads;
        let group_rows = (QUERIES / reps).max(1);
        for (index, span) in spans.iter_mut().enumerate() {
            let (first_row, start) = (positions.len(), span.cache.tokens());
            let count = span.tokens.len();
            span.cache.grow(config, count);
            positions.extend(start..start + count);
            for offset in (0..count).step_by(group_rows) {
                groups.push(Group {
                    span: index,
                    first_row: first_row + offset,
                    position: start + offset,
                    rows: group_rows.min(count - offset),
                });
            }
            match span.wanted {
                Wanted::Nothing => {}
                Wanted::Last => wanted.push(first_row + count - 1),
                Wanted::All => wanted.extend(first_row..first_row + count),
            }
        }
        let rows = positions.len();
        let Workspace { room, hidden, normed, projected, attended, logits, logits_stride } = work;
        hidden.resize(rows * width, 0.0);
        normed.resize(rows * width, 0.0);
        let tokens = spans.iter().flat_map(|span| span.tokens);
        for (row, &token) in hidden.chunks_exact_mut(width).zip(tokens) {
            self.embedding.row(token as usize, row);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let norm = |weight: &[f32], hidden: &[f32], normed: &mut [f32]| {
                for_rows(hidden, width, normed, width, |_, x, out| {
                    rms_norm(isa, x, weight, config.norm_epsilon, out);
                });
            };
            norm(&layer.attention_norm, hidden, normed);
            let stride = multiply(isa, normed, room, &[&layer.query, &layer.key, &layer.value], projected);
            self.rotate(&positions, projected, stride);
            let key_at = layer.query.padded_outputs();
            let value_at = key_at + layer.key.padded_outputs();
            self.store(index, spans, projected, stride, (key_at, value_at));
            self.attend(index, spans, &groups, projected, stride, attended);
            let stride = multiply(isa, attended, room, &[&layer.output], projected);
            for_rows(projected, stride, hidden, width, |_, x, out| add_assign(isa, out, x));

            norm(&layer.feed_norm, hidden, normed);
            let stride = multiply(isa, normed, room, &[&layer.gate, &layer.up], projected);
            let wide = config.intermediate;
            attended.resize(rows * wide, 0.0);
            for_rows(projected, stride, attended, wide, |_, x, out| {
                swiglu(isa, &x[..wide], &x[layer.gate.padded_outputs()..][..wide], out);
            });
            let stride = multiply(isa, attended, room, &[&layer.down], projected);
            for_rows(projected, stride, hidden, width, |_, x, out| add_assign(isa, out, x));
        }
        normed.resize(wanted.len() * width, 0.0);
        for (out, &row) in normed.chunks_exact_mut(width).zip(&wanted) {
            let x = &hidden[row * width..][..width];
            rms_norm(isa, x, &self.output_norm, config.norm_epsilon, out);
        }
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        *logits_stride = multiply(isa, normed, room, &[head], logits);
    }

    /// Rotates queries and keys, and divides the queries by √head_dim.
    fn rotate(&self, positions: &[usize], projected: &mut [f32], stride: usize) {
        let config = &self.config;
        let scale = 1.0 / (config.head_dim as f32).sqrt();
        let queries = config.heads * config.head_dim;
        let key_at = self.layers[0].query.padded_outputs();
        let half = config.rope_dim / 2;
        projected.par_chunks_mut(stride).zip(positions).with_min_len(8).for_each(|(row, position)| {
            let angles = &self.rope[position * half..][..half];
            for head in row[..queries].chunks_exact_mut(config.head_dim) {
                rope(self.isa, head, angles);
                head.iter_mut().for_each(|x| *x *= scale);
            }
            let keys = &mut row[key_at..][..config.kv_heads * config.head_dim];
            for head in keys.chunks_exact_mut(config.head_dim) {
                rope(self.isa, head, angles);
            }
        });
    }

    /// Writes the keys and values of one layer into the caches.
    fn store(
        &self,
        layer: usize,
        spans: &mut [Span<'_>],
        projected: &[f32],
        stride: usize,
        (key_at, value_at): (usize, usize),
    ) {
        let pairs = self.config.kv_heads * self.config.head_dim;
        let mut rest = projected;
        let mut parts = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            let (rows, after) = rest.split_at(span.tokens.len() * stride);
            rest = after;
            parts.push((span, rows));
        }
        parts.into_par_iter().for_each(|(span, rows)| {
            let start = span.cache.tokens() - span.tokens.len();
            for (offset, row) in rows.chunks_exact(stride).enumerate() {
                let (keys, values) = (&row[key_at..][..pairs], &row[value_at..][..pairs]);
                span.cache.write(&self.config, layer, start + offset, keys, values);
            }
        });
    }

    /// Causal attention of all groups; `attended` becomes `[rows][heads * head_dim]`.
    fn attend(
        &self,
        layer: usize,
        spans: &[Span<'_>],
        groups: &[Group],
        projected: &[f32],
        stride: usize,
        attended: &mut Vec<f32>,
    ) {
        let config = &self.config;
        let width = config.heads * config.head_dim;
        attended.resize(projected.len() / stride * width, 0.0);
        let shared = Shared::new(attended);
        let reps = config.heads / config.kv_heads;
        let tasks = groups.len() * config.kv_heads;
        (0..tasks).into_par_iter().for_each_init(Room::default, |room, task| {
            let group = &groups[task / config.kv_heads];
            let kv_head = task % config.kv_heads;
            let cache = &*spans[group.span].cache;
            // More than `QUERIES` heads on one key-value head: some at a time (then `rows` is 1).
            for first in (0..reps).step_by(QUERIES) {
                let count = QUERIES.min(reps - first);
                let head = kv_head * reps + first;
                room.queries.clear();
                for row in group.first_row..group.first_row + group.rows {
                    let heads = &projected[row * stride + head * config.head_dim..];
                    room.queries.extend(&heads[..count * config.head_dim]);
                }
                self.attend_group(layer, kv_head, cache, group.position, count, room);
                for (query, out) in room.outputs.chunks_exact(config.head_dim).enumerate() {
                    let row = group.first_row + query / count;
                    let at = row * width + (head + query % count) * config.head_dim;
                    // SAFETY: each query has its own place in `attended`.
                    unsafe {
                        let place = shared.at(at);
                        std::ptr::copy_nonoverlapping(out.as_ptr(), place, out.len());
                    }
                }
            }
        });
    }

    /// Attention of `room.queries`, `[rows][heads][head_dim]`, row `r` looking at the tokens up to
    /// `position + r`; the result in `room.outputs`, of the same shape.
    fn attend_group(
        &self,
        layer: usize,
        kv_head: usize,
        cache: &KvCache,
        position: usize,
        heads: usize,
        room: &mut Room,
    ) {
        let (isa, dim) = (self.isa, self.config.head_dim);
        let count = room.queries.len() / dim;
        let seen = |query: usize| position + query / heads + 1;
        let pages = seen(count - 1).div_ceil(PAGE_TOKENS);
        let length = pages * PAGE_TOKENS;
        room.scores.resize(count * length, 0.0);
        for (page, (keys, _)) in cache.pages(&self.config, layer, kv_head).take(pages).enumerate() {
            let mut sums = [[0.0; LANES]; QUERIES];
            f16_chain(isa, dim, &room.queries, dim, keys, LANES, &mut sums[..count]);
            for (scores, sums) in room.scores.chunks_exact_mut(length).zip(&sums) {
                scores[page * PAGE_TOKENS..][..PAGE_TOKENS].copy_from_slice(sums);
            }
        }
        let mut totals = [0.0; QUERIES];
        for (query, total) in totals[..count].iter_mut().enumerate() {
            let scores = &mut room.scores[query * length..][..seen(query)];
            *total = softmax_unscaled(isa, scores);
        }
        // Sixteen dimensions of all queries are one row of sums: `[dim / 16][count][16]`.
        room.sums.clear();
        room.sums.resize(dim / LANES * count, [0.0; LANES]);
        let common = seen(0);
        for (page, (_, values)) in cache.pages(&self.config, layer, kv_head).take(pages).enumerate() {
            let start = page * PAGE_TOKENS;
            let together = common.saturating_sub(start).min(PAGE_TOKENS);
            for (block, sums) in room.sums.chunks_exact_mut(count).enumerate() {
                let values = &values[block * LANES..];
                let scores = &room.scores[start..];
                f16_chain(isa, together, scores, length, values, dim, sums);
                // The few tokens that only the later rows of the group may see.
                for (query, sums) in sums.iter_mut().enumerate() {
                    let end = seen(query).saturating_sub(start).min(PAGE_TOKENS);
                    if end > together {
                        let scores = &room.scores[query * length + start + together..];
                        let values = &values[together * dim..];
                        let sums = std::slice::from_mut(sums);
                        f16_chain(isa, end - together, scores, length, values, dim, sums);
                    }
                }
            }
        }
        room.outputs.resize(count * dim, 0.0);
        for (query, out) in room.outputs.chunks_exact_mut(dim).enumerate() {
            for (block, out) in out.chunks_exact_mut(LANES).enumerate() {
                let sums = &room.sums[block * count + query];
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum / totals[query];
                }
            }
        }
    }
}

/// Buffers of one thread's attention.
#[derive(Default)]
struct Room {
    queries: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<[f32; LANES]>,
    outputs: Vec<f32>,
}
