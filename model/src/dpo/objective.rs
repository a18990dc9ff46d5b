//! The loss of pairs and its gradient.

use super::{DpoLine, DpoOptions};
use crate::examples::{Example, Examples};
use crate::network::Batch;
use crate::shards::Permutation;
use crate::training::{Objective, Pass, StepData, TrainError, Update, settings_of};
use std::ops::Range;

/// The pairs of a step.
pub(super) struct Preferences<'a> {
    options: &'a DpoOptions,
    pairs: &'a Examples,
    /// Log-probability of each answer under the model as it was (nats).
    reference: Vec<f64>,
    model_digest: String,
}

/// Sums over the pairs of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pairs: f64,
    chosen_reward: f64,
    rejected_reward: f64,
    right: f64,
    chosen: f64,
    rejected: f64,
}

/// Examples one after another, as a [`Batch`] reads them, with the places of their answers' losses.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub bounds: Vec<usize>,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    /// Of each example, where the losses of its trained tokens stand.
    pub answers: Vec<Range<usize>>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { bounds: vec![0], ..Self::default() }
    }

    /// Adds an example; its answer is its last trained span.
    pub(super) fn push(&mut self, example: &Example) {
        let start = self.tokens.len();
        let inputs = example.tokens.len().saturating_sub(1);
        self.tokens.extend_from_slice(&example.tokens[..inputs]);
        self.targets.extend(example.tokens.iter().skip(1));
        self.bounds.push(self.tokens.len());
        let span = example.trained.last().cloned().unwrap_or(1..1);
        // Token i is the target of place i − 1.
        self.answers.push(start + span.start.max(1) - 1..start + span.end.max(1) - 1);
    }

    /// The log-probability of each answer (nats), given all losses.
    pub(super) fn log_probabilities(&self, losses: &[f32]) -> Vec<f64> {
        let sum = |span: &Range<usize>| losses[span.clone()].iter().map(|&loss| f64::from(loss)).sum::<f64>();
        self.answers.iter().map(|span| -sum(span)).collect()
    }
}

impl<'a> Preferences<'a> {
    pub(super) fn new(
        options: &'a DpoOptions,
        pairs: &'a Examples,
        reference: Vec<f64>,
        model_digest: &str,
    ) -> Self {
        Self { options, pairs, reference, model_digest: model_digest.to_owned() }
    }

    /// The pairs of the update after `done` earlier ones. Every epoch has its own seeded order, and its last
    /// update may be smaller.
    fn pairs_of(&self, done: u64) -> Vec<usize> {
        let count = self.pairs.len() as u64 / 2;
        let batch = self.options.batch_pairs as u64;
        let (epoch, step) = (done / count.div_ceil(batch), done % count.div_ceil(batch));
        let order = Permutation::new(count, self.options.seed ^ epoch << 32);
        (step * batch..count.min((step + 1) * batch)).map(|place| order.at(place) as usize).collect()
    }

    /// Adds the gradient of the pairs' mean loss, each pair weighing `share`; the sum of their losses.
    fn accumulate(
        &self,
        pass: &mut Pass<'_>,
        pairs: &[usize],
        share: f64,
        figures: &mut Figures,
    ) -> Result<f64, TrainError> {
        let mut rows = Answers::new();
        for &pair in pairs {
            rows.push(&self.pairs.get(2 * pair));
            rows.push(&self.pairs.get(2 * pair + 1));
        }
        let beta = self.options.beta;
        let mut loss = 0.0;
        let weigh = |losses: &[f32]| {
            let mut scales = vec![0f32; losses.len()];
            let policy = rows.log_probabilities(losses);
            let (answers, _) = rows.answers.as_chunks::<2>();
            for ((&pair, spans), now) in pairs.iter().zip(answers).zip(policy.as_chunks::<2>().0) {
                let before = [self.reference[2 * pair], self.reference[2 * pair + 1]];
                let rewards = [beta * (now[0] - before[0]), beta * (now[1] - before[1])];
                let margin = rewards[0] - rewards[1];
                loss += softplus(-margin);
                // −dloss/dmargin = σ(−margin); a token's loss is minus its log-probability.
                let pull = share * beta * sigmoid(-margin);
                scales[spans[0].clone()].fill(pull as f32);
                scales[spans[1].clone()].fill(-pull as f32);
                figures.pairs += 1.0;
                figures.chosen_reward += rewards[0];
                figures.rejected_reward += rewards[1];
                figures.right += f64::from(u8::from(rewards[0] > rewards[1]));
                figures.chosen += now[0];
                figures.rejected += now[1];
            }
            scales
        };
        let zero = vec![0.0; rows.tokens.len()];
        let batch =
            Batch { bounds: &rows.bounds, tokens: &rows.tokens, targets: &rows.targets, scales: &zero };
        pass.network.accumulate_weighed_gradients(
            pass.parameters,
            &batch,
            weigh,
            pass.grads,
            pass.workspace,
        )?;
        Ok(loss)
    }
}

impl Objective for Preferences<'_> {
    type Figures = Figures;
    type Line = DpoLine;

    fn settings(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = settings_of(self.options);
        settings.insert("weights".to_owned(), self.model_digest.clone().into());
        settings
    }

    fn data_digest(&self) -> &str {
        self.pairs.digest()
    }

    fn gradient(&mut self, mut pass: Pass<'_>, done: u64) -> Result<StepData<Figures>, TrainError> {
        let pairs = self.pairs_of(done);
        let length = |pair: &usize| self.pairs.tokens(2 * pair) + self.pairs.tokens(2 * pair + 1);
        let share = 1.0 / pairs.len() as f64;
        let (mut figures, mut loss) = (Figures::default(), 0.0);
        for part in split(&pairs, self.options.micro_batch_tokens, length) {
            loss += self.accumulate(&mut pass, part, share, &mut figures)?;
        }
        let tokens = pairs.iter().map(length).sum::<usize>() as u64;
        Ok(StepData { loss: loss * share, tokens, figures })
    }

    fn line(&self, update: &Update, data: &StepData<Figures>) -> DpoLine {
        let &Update { step, tokens, lr, grad_norm } = update;
        let sums = data.figures;
        DpoLine {
            step,
            tokens,
            loss: data.loss,
            chosen_reward: sums.chosen_reward / sums.pairs,
            rejected_reward: sums.rejected_reward / sums.pairs,
            margin: (sums.chosen_reward - sums.rejected_reward) / sums.pairs,
            accuracy: sums.right / sums.pairs,
            chosen_log_probability: sums.chosen / sums.pairs,
            rejected_log_probability: sums.rejected / sums.pairs,
            lr,
            grad_norm,
        }
    }
}

/// Cuts `items` into runs of at most `most` tokens, of one item at least.
pub(super) fn split<T>(items: &[T], most: usize, length: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |item: &&T| {
            tokens += length(item);
            tokens <= most
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (now, later) = rest.split_at(count);
        rest = later;
        (!now.is_empty()).then_some(now)
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// log(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
