//! Next-token prediction over token shards.

use super::{AttentionScope, LossLine, PretrainOptions};
use crate::network::Batch;
use crate::shards::TokenDataset;
use crate::tokenizer::END_OF_TEXT;
use crate::training::{Objective, Pass, StepData, TrainError, Update};

/// The sequences of a step and the buffers they are read into.
pub(super) struct NextToken<'a> {
    options: &'a PretrainOptions,
    dataset: &'a TokenDataset,
    sequence: Vec<u32>,
    bounds: Vec<usize>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    scales: Vec<f32>,
}

impl<'a> NextToken<'a> {
    pub(super) fn new(options: &'a PretrainOptions, dataset: &'a TokenDataset) -> Self {
        Self {
            options,
            dataset,
            sequence: vec![0; options.context_tokens + 1],
            bounds: Vec::new(),
            tokens: Vec::new(),
            targets: Vec::new(),
            scales: Vec::new(),
        }
    }

    fn batch_tokens(&self) -> u64 {
        (self.options.batch_sequences * self.options.context_tokens) as u64
    }

    /// Reads sequences by number. Where attention stays within documents, each `<|endoftext|>` begins one: it
    /// is what a document is predicted from, as in [`crate::evaluate::perplexity`].
    fn read(&mut self, numbers: std::ops::Range<u64>) {
        self.tokens.clear();
        self.targets.clear();
        self.bounds.clear();
        for number in numbers {
            self.dataset.sequence(number, &mut self.sequence);
            let (start, inputs) = (self.tokens.len(), &self.sequence[..self.options.context_tokens]);
            self.bounds.push(start);
            if self.options.attention == AttentionScope::Document {
                let later = inputs.iter().enumerate().skip(1);
                self.bounds.extend(
                    later.filter(|(_, token)| **token == END_OF_TEXT).map(|(place, _)| start + place),
                );
            }
            self.tokens.extend_from_slice(inputs);
            self.targets.extend_from_slice(&self.sequence[1..]);
        }
        self.bounds.push(self.tokens.len());
    }
}

impl Objective for NextToken<'_> {
    type Figures = ();
    type Line = LossLine;

    fn settings(&self) -> serde_json::Map<String, serde_json::Value> {
        self.options.settings()
    }

    fn data_digest(&self) -> &str {
        self.dataset.digest()
    }

    fn gradient(&mut self, pass: Pass<'_>, done: u64) -> Result<StepData<()>, TrainError> {
        let sequences = self.options.batch_sequences as u64;
        let first = done * sequences;
        let share = pass.share.of(sequences);
        let together = (self.options.micro_batch_tokens / self.options.context_tokens).max(1);
        let scale = (1.0 / self.batch_tokens() as f64) as f32;
        let mut loss = 0.0;
        for start in share.clone().step_by(together) {
            self.read(first + start..first + share.end.min(start + together as u64));
            self.scales.resize(self.tokens.len(), scale);
            let batch = Batch {
                bounds: &self.bounds,
                tokens: &self.tokens,
                targets: &self.targets,
                scales: &self.scales,
            };
            loss += pass.network.accumulate_gradients(pass.parameters, &batch, pass.grads, pass.workspace)?;
        }
        Ok(StepData { loss, tokens: self.batch_tokens(), figures: () })
    }

    fn line(&self, update: &Update, data: &StepData<()>) -> LossLine {
        let &Update { step, tokens, lr, grad_norm } = update;
        LossLine { step, tokens, loss: data.loss, lr, grad_norm }
    }
}
