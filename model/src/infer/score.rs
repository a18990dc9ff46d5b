//! Log-probabilities of given texts.

use rayon::prelude::*;

use super::cache::KvCache;
use super::forward::{Span, Wanted, Workspace};
use super::kernels::log_sum_exp;
use super::{Model, ScoreError};

/// Rows of one step; with logits of 49,152 tokens they take 12 MiB.
const STEP_TOKENS: usize = 64;

impl Model {
    /// The natural log-probability of each token given those before it: `tokens.len() − 1` values,
    /// the first for `tokens[1]`. Nothing is put in front.
    pub fn logprobs(&self, tokens: &[u32]) -> Result<Vec<f32>, ScoreError> {
        let Some((_, inputs)) = tokens.split_last().filter(|(_, inputs)| !inputs.is_empty()) else {
            return match tokens {
                [] => Err(ScoreError::EmptyContext),
                _ => Ok(Vec::new()),
            };
        };
        self.check(tokens)?;
        let mut cache = KvCache::default();
        let mut work = Workspace::default();
        let mut out = Vec::with_capacity(inputs.len());
        for (inputs, next) in inputs.chunks(STEP_TOKENS).zip(tokens[1..].chunks(STEP_TOKENS)) {
            let span = Span { cache: &mut cache, tokens: inputs, wanted: Wanted::All };
            self.forward(&mut [span], &mut work);
            out.extend(self.log_softmax_at(&mut work, next));
        }
        Ok(out)
    }

    /// For each continuation, the log-probability of each of its tokens given the context and
    /// those before it. The context is computed once; the sum is the cloze score.
    pub fn score_continuations(
        &self,
        context: &[u32],
        continuations: &[Vec<u32>],
    ) -> Result<Vec<Vec<f32>>, ScoreError> {
        let Some((&last, before)) = context.split_last() else {
            return Err(ScoreError::EmptyContext);
        };
        for continuation in continuations {
            self.check(&[context, continuation].concat())?;
        }
        let mut work = Workspace::default();
        let mut shared = KvCache::default();
        for tokens in before.chunks(STEP_TOKENS) {
            let span = Span { cache: &mut shared, tokens, wanted: Wanted::Nothing };
            self.forward(&mut [span], &mut work);
        }
        // Each continuation reads the context's last token again, then all but its own last.
        let mut runs: Vec<(KvCache, Vec<u32>)> = Vec::new();
        for continuation in continuations.iter().filter(|c| !c.is_empty()) {
            let inputs = &continuation[..continuation.len() - 1];
            runs.push((shared.clone(), [&[last], inputs].concat()));
        }
        let targets: Vec<&[u32]> =
            continuations.iter().map(Vec::as_slice).filter(|c| !c.is_empty()).collect();
        let mut scores = vec![Vec::new(); runs.len()];
        // Steps of whole continuations while they fit, of parts of a longer one.
        let mut first = 0;
        while first < runs.len() {
            let mut end = first + 1;
            let mut total = runs[first].1.len();
            while end < runs.len() && total + runs[end].1.len() <= STEP_TOKENS {
                total += runs[end].1.len();
                end += 1;
            }
            if end == first + 1 {
                let (cache, inputs) = &mut runs[first];
                let parts = inputs.chunks(STEP_TOKENS).zip(targets[first].chunks(STEP_TOKENS));
                for (tokens, next) in parts {
                    let span = Span { cache, tokens, wanted: Wanted::All };
                    self.forward(&mut [span], &mut work);
                    scores[first].extend(self.log_softmax_at(&mut work, next));
                }
            } else {
                let mut spans: Vec<Span<'_>> = runs[first..end]
                    .iter_mut()
                    .map(|(cache, tokens)| Span { cache, tokens, wanted: Wanted::All })
                    .collect();
                self.forward(&mut spans, &mut work);
                let next = targets[first..end].concat();
                let mut all = self.log_softmax_at(&mut work, &next).into_iter();
                for (scores, target) in scores[first..end].iter_mut().zip(&targets[first..end]) {
                    scores.extend(all.by_ref().take(target.len()));
                }
            }
            // The pages of what is done go back at once.
            runs[first..end].iter_mut().for_each(|(cache, _)| *cache = KvCache::default());
            first = end;
        }
        let mut scores = scores.into_iter();
        let of = |c: &Vec<u32>| match c.is_empty() {
            true => Some(Vec::new()),
            false => scores.next(),
        };
        Ok(continuations.iter().filter_map(of).collect())
    }

    /// Log-probability of `next[i]` under the i-th row of logits.
    fn log_softmax_at(&self, work: &mut Workspace, next: &[u32]) -> Vec<f32> {
        let rows: Vec<&mut [f32]> = work.logits_mut(self.config.vocab_size).collect();
        rows.into_par_iter()
            .zip(next)
            .map(|(logits, &token)| logits[token as usize] - log_sum_exp(self.isa, logits))
            .collect()
    }

    /// Ids in the vocabulary, length within the context.
    fn check(&self, tokens: &[u32]) -> Result<(), ScoreError> {
        let vocab_size = self.config.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ScoreError::BadToken { token, vocab_size });
        }
        if tokens.len() > self.max_context_tokens {
            return Err(ScoreError::TooLong {
                tokens: tokens.len(),
                context_tokens: self.max_context_tokens,
            });
        }
        Ok(())
    }
}
