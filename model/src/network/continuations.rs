//! Losses of texts that may follow a context, the context computed once for all of them.

use super::{BatchError, Network, Workspace};
use crate::kernels::{AttentionShape, Rotation};
use std::ops::Range;

/// A context with the texts that may follow it.
#[derive(Clone, Copy, Debug)]
pub struct Continuations<'a> {
    /// Tokens of the context; one at least.
    pub context: &'a [u32],
    /// Tokens of each continuation.
    pub continuations: &'a [Vec<u32>],
}

/// How sequences with common beginnings lie in a batch.
///
/// A *row* is a token as the layers compute it: the rows of a context but its last token once, then for each
/// continuation the context's last token and the continuation but its last. Only attention sees whole *sequences*, for
/// which rows are copied.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Tokens of the rows.
    tokens: Vec<u32>,
    /// The row of each place in the sequences.
    row_of_place: Vec<usize>,
    /// A place of each row.
    place_of_row: Vec<usize>,
    /// First place of each sequence, then their number.
    bounds: Vec<usize>,
    /// The rows from which each continuation that has tokens is predicted, in order.
    predicting: Vec<Range<usize>>,
    /// What they predict.
    targets: Vec<u32>,
}

impl Sharing {
    fn new(requests: &[Continuations<'_>]) -> Self {
        let mut sharing = Self { bounds: vec![0], ..Self::default() };
        for request in requests {
            let Some((&last, before)) = request.context.split_last() else { continue };
            let mut continuations = request.continuations.iter().filter(|next| !next.is_empty()).peekable();
            if continuations.peek().is_none() {
                continue;
            }
            let context = sharing.push(before);
            for next in continuations {
                let own = sharing.push(&[last]).start..sharing.push(&next[..next.len() - 1]).end;
                for row in context.clone().chain(own.clone()) {
                    sharing.place_of_row[row] = sharing.row_of_place.len();
                    sharing.row_of_place.push(row);
                }
                sharing.bounds.push(sharing.row_of_place.len());
                sharing.predicting.push(own);
                sharing.targets.extend_from_slice(next);
            }
        }
        sharing
    }

    fn push(&mut self, tokens: &[u32]) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.place_of_row.resize(self.tokens.len(), 0);
        start..self.tokens.len()
    }
}

/// Copies rows of `width`: the i-th of `to` is the one of `from` at `index[i]`.
fn copy_rows(from: &[f32], index: &[usize], width: usize, to: &mut [f32]) {
    for (row, &at) in to.chunks_exact_mut(width).zip(index) {
        row.copy_from_slice(&from[at * width..][..width]);
    }
}

/// Attention of sequences that share rows, and its buffers.
#[derive(Debug)]
pub(super) struct SharedAttention<'a> {
    sharing: &'a Sharing,
    qkv: Vec<f32>,
    out: Vec<f32>,
    log_sums: Vec<f32>,
}

impl<'a> SharedAttention<'a> {
    fn new(network: &Network, sharing: &'a Sharing) -> Self {
        let (config, places) = (&network.config, sharing.row_of_place.len());
        Self {
            sharing,
            qkv: vec![0.0; places * config.qkv_width()],
            out: vec![0.0; places * config.hidden_size],
            log_sums: vec![0.0; places * config.heads],
        }
    }

    /// `out = attention(qkv)` by rows; `qkv` is as the projection left it.
    pub(super) fn attend(&mut self, network: &Network, qkv: &[f32], out: &mut [f32]) {
        let config = &network.config;
        let shape = AttentionShape {
            bounds: &self.sharing.bounds,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim(),
        };
        copy_rows(qkv, &self.sharing.row_of_place, config.qkv_width(), &mut self.qkv);
        network.backend.rope(&shape, &network.rope, Rotation::Forward, &mut self.qkv);
        network.backend.attention(&shape, &self.qkv, &mut self.out, &mut self.log_sums);
        copy_rows(&self.out, &self.sharing.place_of_row, config.hidden_size, out);
    }
}

impl Network {
    /// For each request and continuation the loss (nats) of each of the continuation's tokens. The context is computed
    /// once; the losses are those of [`Network::losses`] over context and continuation, up to rounding.
    ///
    /// # Errors
    /// [`BatchError`] if a context is empty, a token is not in the vocabulary, or context and continuation but its
    /// last token are longer than the model's context.
    pub fn continuation_losses(
        &self,
        params: &[f32],
        requests: &[Continuations<'_>],
        workspace: &mut Workspace,
    ) -> Result<Vec<Vec<Vec<f32>>>, BatchError> {
        if requests.iter().any(|request| request.context.is_empty()) {
            return Err(BatchError::Shape { tokens: 0, targets: 0, scales: 0 });
        }
        let sharing = Sharing::new(requests);
        if !sharing.targets.is_empty() {
            self.check_tokens(&sharing.bounds, [&sharing.tokens, &sharing.targets])?;
            let mut attention = SharedAttention::new(self, &sharing);
            self.forward_with(params, &sharing.tokens, Some(&mut attention), &[], workspace);
            // The output layer is the largest: only for the rows that predict something.
            let hidden = self.config.hidden_size;
            let mut wanted = 0;
            for row in sharing.predicting.iter().cloned().flatten() {
                workspace.normed.copy_within(row * hidden..(row + 1) * hidden, wanted * hidden);
                wanted += 1;
            }
            self.head(params, &sharing.targets, &vec![0.0; wanted], None, workspace);
        }
        let mut losses = workspace.losses.iter().copied();
        let mut of = |next: &Vec<u32>| losses.by_ref().take(next.len()).collect::<Vec<f32>>();
        Ok(requests.iter().map(|request| request.continuations.iter().map(&mut of).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_lies_in_a_batch_once() {
        let (context, many): ([u32; 4], _) = ([1, 2, 3, 4], [vec![5, 6], vec![], vec![7]]);
        let requests = [
            Continuations { context: &context, continuations: &many },
            Continuations { context: &[9], continuations: &[vec![]] },
            Continuations { context: &[9], continuations: &[vec![8, 8]] },
        ];
        let sharing = Sharing::new(&requests);
        assert_eq!(sharing.tokens, [1, 2, 3, 4, 5, 4, 9, 8]);
        assert_eq!(sharing.targets, [5, 6, 7, 8, 8]);
        assert_eq!(sharing.bounds, [0, 5, 9, 11]);
        let tokens: Vec<u32> = sharing.row_of_place.iter().map(|&row| sharing.tokens[row]).collect();
        assert_eq!(tokens, [1, 2, 3, 4, 5, 1, 2, 3, 4, 9, 8]);
        let back = sharing.place_of_row.iter().map(|&place| sharing.row_of_place[place]);
        assert!(back.eq(0..8));
        assert_eq!(sharing.predicting, [3..5, 5..6, 6..8]);
    }
}
