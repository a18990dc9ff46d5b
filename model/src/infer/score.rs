//! Log-probabilities of given texts.

use rayon::prelude::*;

use super::cache::KvCache;
use super::forward::{Span, Wanted, Workspace};
use super::kernels::log_sum_exp;
use super::{Model, ScoreError};

/// Rows of one step; with logits of 49,152 tokens they take 25 MiB.
const STEP_TOKENS: usize = 128;
/// Tokens whose keys and values are held at a time; in SmolLM2-135M they take 90 MiB.
const HELD_TOKENS: usize = 4_096;

/// A context with the texts that may follow it.
#[derive(Clone, Copy, Debug)]
pub struct ScoreRequest<'a> {
    /// Tokens of the context; one at least.
    pub context: &'a [u32],
    /// Tokens of each continuation.
    pub continuations: &'a [Vec<u32>],
}

/// A sequence that is being read.
struct Run<'a> {
    cache: KvCache,
    tokens: Vec<u32>,
    /// The tokens to be scored, one for each that is read; none for a context.
    next: &'a [u32],
    read: usize,
    scores: Vec<f32>,
}

impl<'a> Run<'a> {
    fn new(cache: KvCache, tokens: Vec<u32>, next: &'a [u32]) -> Self {
        Self { cache, tokens, next, read: 0, scores: Vec::new() }
    }
}

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
        let mut scores = self.score_requests(&[ScoreRequest { context, continuations }])?;
        Ok(scores.pop().unwrap_or_default())
    }

    /// [`Model::score_continuations`] for many contexts, several of them in a step: short ones are
    /// faster so, and none changes another's bits.
    pub fn score_requests(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Vec<Vec<f32>>>, ScoreError> {
        for request in requests {
            if request.context.is_empty() {
                return Err(ScoreError::EmptyContext);
            }
            for continuation in request.continuations {
                self.check(&[request.context, continuation].concat())?;
            }
        }
        let mut work = Workspace::default();
        let mut all = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |request: &&ScoreRequest<'_>| {
                tokens += request.context.len() + request.continuations.iter().map(Vec::len).sum::<usize>();
                tokens <= HELD_TOKENS
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            self.score_together(now, &mut work, &mut all);
        }
        Ok(all)
    }

    fn score_together(
        &self,
        requests: &[ScoreRequest<'_>],
        work: &mut Workspace,
        all: &mut Vec<Vec<Vec<f32>>>,
    ) {
        // Each continuation reads the context's last token again, then all but its own last.
        let before = |request: &ScoreRequest<'_>| {
            Run::new(KvCache::default(), request.context[..request.context.len() - 1].to_vec(), &[])
        };
        let mut contexts: Vec<Run<'_>> = requests.iter().map(before).collect();
        self.read(&mut contexts, work);
        let mut runs = Vec::new();
        for (request, context) in requests.iter().zip(contexts) {
            for next in request.continuations.iter().filter(|next| !next.is_empty()) {
                let inputs =
                    [&request.context[request.context.len() - 1..], &next[..next.len() - 1]].concat();
                runs.push(Run::new(context.cache.clone(), inputs, next));
            }
        }
        self.read(&mut runs, work);
        let mut scores = runs.into_iter().map(|run| run.scores);
        for request in requests {
            let of = |next: &Vec<u32>| match next.is_empty() {
                true => Some(Vec::new()),
                false => scores.next(),
            };
            all.push(request.continuations.iter().filter_map(of).collect());
        }
    }

    /// Reads all runs to their ends, in steps that take from as many of them as there is room for.
    fn read(&self, runs: &mut [Run<'_>], work: &mut Workspace) {
        let mut first = 0;
        while first < runs.len() {
            let mut room = STEP_TOKENS;
            let mut taken = Vec::new();
            for run in &runs[first..] {
                let count = room.min(run.tokens.len() - run.read);
                room -= count;
                taken.push(count);
                if room == 0 {
                    break;
                }
            }
            let active = &mut runs[first..first + taken.len()];
            let mut next = Vec::new();
            let mut spans = Vec::new();
            for (run, &count) in active.iter_mut().zip(&taken).filter(|(_, count)| **count > 0) {
                let wanted = if run.next.is_empty() { Wanted::Nothing } else { Wanted::All };
                next.extend_from_slice(run.next.get(run.read..run.read + count).unwrap_or_default());
                let tokens = &run.tokens[run.read..run.read + count];
                spans.push(Span { cache: &mut run.cache, tokens, wanted });
            }
            if !spans.is_empty() {
                self.forward(&mut spans, work);
            }
            let mut scores = match next.is_empty() {
                true => Vec::new(),
                false => self.log_softmax_at(work, &next),
            }
            .into_iter();
            for (run, &count) in active.iter_mut().zip(&taken) {
                if !run.next.is_empty() {
                    run.scores.extend(scores.by_ref().take(count));
                    if run.read + count == run.tokens.len() {
                        // The pages of what is done go back at once.
                        run.cache = KvCache::default();
                    }
                }
                run.read += count;
            }
            first += active.iter().take_while(|run| run.read == run.tokens.len()).count();
        }
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
