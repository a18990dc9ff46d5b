//! Measuring a model: perplexity of held-out text and cloze questions by log-likelihood.

mod cloze;
mod perplexity;

pub use cloze::{ClozeItem, ClozeReport, SAMPLE_ITEMS, cloze, parse_cloze, read_cloze};
pub use perplexity::{Perplexity, perplexity};

use crate::files::FileError;
use crate::language_model::LanguageModel;
use crate::network::{Batch, BatchError, Keep, Network, Workspace};
use crate::tokenizer::{END_OF_TEXT, Encoder, TokenizerError};
use std::path::PathBuf;

/// Tokens scored at a time.
const BATCH_TOKENS: usize = 4_096;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A sequence could not be scored.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The tokenizer has more entries than the model.
    #[error(
        "the tokenizer has {tokenizer} entries, the model {model}; evaluate the model with the tokenizer it was trained with"
    )]
    Vocabulary {
        /// Entries of the tokenizer.
        tokenizer: usize,
        /// Entries of the model.
        model: usize,
    },
    /// A line of a cloze file is not an item.
    #[error("{}:{line}: {problem}; an item is {{\"context\": \"…\", \"choices\": [\"…\", \"…\"], \"answer\": 0}}", path.display())]
    Item {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Nothing to measure.
    #[error("there is nothing to evaluate: {0} is empty")]
    Nothing(&'static str),
    /// A back end outside this module failed.
    #[error("scoring failed: {0}")]
    Scorer(Box<dyn std::error::Error + Send + Sync>),
}

/// A model that can tell how likely each token of a sequence is.
pub trait Scorer {
    /// The longest sequence it can score (tokens).
    fn context_tokens(&self) -> usize;

    /// Encodes a text.
    ///
    /// # Errors
    /// [`EvaluateError`] if the tokenizer fails.
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError>;

    /// For each sequence the loss (−log probability, nats) of its tokens after the first.
    ///
    /// # Errors
    /// [`EvaluateError`] if a sequence is too long or has foreign tokens.
    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError>;
}

/// [`Scorer`] over a [`LanguageModel`] of this crate.
pub struct ModelScorer<'a> {
    network: &'a Network,
    parameters: &'a [f32],
    encoder: &'a Encoder,
    workspace: Workspace,
}

impl std::fmt::Debug for ModelScorer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelScorer").field("network", self.network).finish_non_exhaustive()
    }
}

impl<'a> ModelScorer<'a> {
    /// Scores with `model`, encoding with `encoder`.
    ///
    /// # Errors
    /// [`EvaluateError::Vocabulary`] if the two do not fit.
    pub fn new(model: &'a LanguageModel, encoder: &'a Encoder) -> Result<Self, EvaluateError> {
        let vocab_size = model.network.config().vocab_size;
        if encoder.vocab_size() > vocab_size {
            return Err(EvaluateError::Vocabulary { tokenizer: encoder.vocab_size(), model: vocab_size });
        }
        Ok(Self {
            network: &model.network,
            parameters: &model.parameters,
            encoder,
            workspace: Workspace::new(model.network.config(), Keep::Nothing),
        })
    }
}

impl Scorer for ModelScorer<'_> {
    fn context_tokens(&self) -> usize {
        // The last token of a sequence is only predicted, never read.
        self.network.config().context_tokens + 1
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EvaluateError> {
        Ok(self.encoder.encode(text)?)
    }

    fn losses(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let mut results = vec![Vec::new(); sequences.len()];
        // Longest first, so that a batch pads little; the batches depend on the lengths alone.
        let mut order: Vec<usize> = (0..sequences.len()).filter(|&i| sequences[i].len() > 1).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(sequences[i].len()), i));
        let mut rest = order.as_slice();
        while let Some(&longest) = rest.first() {
            let context = sequences[longest].len() - 1;
            let (now, later) = rest.split_at((BATCH_TOKENS / context).clamp(1, rest.len()));
            rest = later;
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for &i in now {
                let padding = std::iter::repeat_n(&END_OF_TEXT, context + 1 - sequences[i].len());
                tokens.extend(sequences[i][..sequences[i].len() - 1].iter().chain(padding.clone()));
                targets.extend(sequences[i][1..].iter().chain(padding));
            }
            // Padding comes after the text and attention looks back only, so it changes nothing.
            let scales = vec![0.0; tokens.len()];
            let batch =
                Batch { sequences: now.len(), context, tokens: &tokens, targets: &targets, scales: &scales };
            self.network.losses(self.parameters, &batch, &mut self.workspace)?;
            for (&i, losses) in now.iter().zip(self.workspace.losses().chunks(context)) {
                results[i] = losses[..sequences[i].len() - 1].to_vec();
            }
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests;
