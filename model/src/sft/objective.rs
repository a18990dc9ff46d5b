//! Cross-entropy of the assistant's tokens over packed conversations.

use super::packing::Packs;
use super::{SftLine, SftOptions};
use crate::examples::Examples;
use crate::network::Batch;
use crate::training::{Objective, Pass, StepData, TrainError, Update};

/// The conversations of a step and the buffers they are read into.
pub(super) struct AssistantTokens<'a> {
    options: &'a SftOptions,
    examples: &'a Examples,
    packs: Packs,
    model_digest: String,
}

/// Conversations one after another, as a [`Batch`] reads them.
#[derive(Default)]
struct Rows {
    bounds: Vec<usize>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// 1 where the target is the assistant's, else 0.
    trained: Vec<f32>,
}

impl<'a> AssistantTokens<'a> {
    pub(super) fn new(
        options: &'a SftOptions,
        examples: &'a Examples,
        packs: Packs,
        model_digest: &str,
    ) -> Self {
        Self { options, examples, packs, model_digest: model_digest.to_owned() }
    }

    fn read(&self, places: std::ops::Range<u64>) -> Rows {
        let mut rows = Rows { bounds: vec![0], ..Rows::default() };
        for place in places {
            let mut example = self.examples.get(self.packs.example(place));
            example.truncate(self.options.length_tokens + 1);
            let Some((_, inputs)) = example.tokens.split_last().filter(|(_, inputs)| !inputs.is_empty())
            else {
                continue;
            };
            let start = rows.tokens.len();
            rows.tokens.extend_from_slice(inputs);
            rows.targets.extend_from_slice(&example.tokens[1..]);
            rows.trained.resize(rows.tokens.len(), 0.0);
            for span in &example.trained {
                // Token i is the target of place i − 1.
                for token in span.start.max(1)..span.end {
                    rows.trained[start + token - 1] = 1.0;
                }
            }
            rows.bounds.push(rows.tokens.len());
        }
        rows
    }
}

impl Objective for AssistantTokens<'_> {
    /// Tokens of the assistant.
    type Figures = u64;
    type Line = SftLine;

    fn settings(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = crate::training::settings_of(self.options);
        settings.insert("weights".to_owned(), self.model_digest.clone().into());
        settings
    }

    fn data_digest(&self) -> &str {
        self.examples.digest()
    }

    fn gradient(&mut self, pass: Pass<'_>, done: u64) -> Result<StepData<u64>, TrainError> {
        let packs: Vec<Rows> = self.packs.of_step(done).map(|places| self.read(places)).collect();
        let tokens: usize = packs.iter().map(|rows| rows.tokens.len()).sum();
        let trained = packs.iter().flat_map(|rows| &rows.trained).filter(|&&t| t > 0.0).count();
        // The mean over the update's tokens, whichever pack they are in.
        let scale = 1.0 / trained.max(1) as f32;
        let mut loss = 0.0;
        for rows in together(packs, self.options.micro_batch_tokens) {
            let scales: Vec<f32> = rows.trained.iter().map(|trained| trained * scale).collect();
            let batch =
                Batch { bounds: &rows.bounds, tokens: &rows.tokens, targets: &rows.targets, scales: &scales };
            loss += pass.network.accumulate_gradients(pass.parameters, &batch, pass.grads, pass.workspace)?;
        }
        Ok(StepData { loss, tokens: tokens as u64, figures: trained as u64 })
    }

    fn line(&self, update: &Update, data: &StepData<u64>) -> SftLine {
        let &Update { step, tokens, lr, grad_norm } = update;
        SftLine { step, tokens, trained_tokens: data.figures, loss: data.loss, lr, grad_norm }
    }
}

/// Joins packs while they have `most` tokens or fewer together.
fn together(packs: Vec<Rows>, most: usize) -> Vec<Rows> {
    let mut joined: Vec<Rows> = Vec::new();
    for pack in packs.into_iter().filter(|pack| !pack.tokens.is_empty()) {
        match joined.last_mut() {
            Some(last) if last.tokens.len() + pack.tokens.len() <= most => {
                let start = last.tokens.len();
                last.bounds.extend(pack.bounds[1..].iter().map(|bound| start + bound));
                last.tokens.extend(pack.tokens);
                last.targets.extend(pack.targets);
                last.trained.extend(pack.trained);
            }
            _ => joined.push(pack),
        }
    }
    joined
}
