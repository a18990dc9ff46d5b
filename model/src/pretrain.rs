//! Pre-training: from token shards to weights.

mod objective;
mod options;

pub use crate::training::{
    Activations, BackendKind, EVALUATIONS_FILE, EVENT_FILE, Ending, Evaluation, FINAL_FOLDER, LOSS_FILE,
    Measure, SKIPPED_FILE, SpikeAction, SpikeOptions, TrainError, WorkerOptions,
};
pub use options::{AttentionScope, PretrainOptions};

use crate::checkpoint;
use crate::config::{ConfigError, ModelConfig};
use crate::shards::TokenDataset;
use crate::training::{self, Start, TrainSummary, Watch};
use objective::NextToken;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// What a caller hears after a logged step.
pub type StepReport = training::StepReport<LossLine>;
/// What a run leaves.
pub type PretrainSummary = TrainSummary;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// The data do not fit the options.
    #[error("the dataset has {what} {found} where the run needs {wanted}; {advice}")]
    Dataset {
        /// What does not fit.
        what: &'static str,
        /// The dataset's value.
        found: usize,
        /// The run's value.
        wanted: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Options, files or numbers are at fault.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl From<ConfigError> for PretrainError {
    fn from(error: ConfigError) -> Self {
        Self::Train(error.into())
    }
}

/// One line of `loss.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossLine {
    /// Updates made, this one included.
    pub step: u64,
    /// Tokens read, this update's included.
    pub tokens: u64,
    /// Mean cross-entropy of the batch before the update (nats a token).
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// Trains a model on `dataset` in the folder `out_dir`, going on from its newest whole checkpoint.
///
/// A run that was killed and started again ends with the same bytes as an undisturbed one. `progress` is called
/// after every logged step; when it breaks, a checkpoint is written and the call returns.
///
/// # Errors
/// [`PretrainError`]; checkpoints written before it stay.
pub fn pretrain(
    options: &PretrainOptions,
    dataset: &TokenDataset,
    out_dir: &Path,
    progress: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
) -> Result<PretrainSummary, PretrainError> {
    pretrain_measured(options, dataset, out_dir, progress, None)
}

/// As [`pretrain`], measuring the model as training goes: the figures are in `evaluations.jsonl`.
///
/// # Errors
/// As [`pretrain`], or the model cannot be measured.
pub fn pretrain_measured(
    options: &PretrainOptions,
    dataset: &TokenDataset,
    out_dir: &Path,
    progress: &mut dyn FnMut(StepReport) -> ControlFlow<()>,
    evaluation: Option<Evaluation<'_>>,
) -> Result<PretrainSummary, PretrainError> {
    options.check()?;
    let config = options.model.resolve()?;
    check_dataset(options, &config, dataset)?;
    let network = training::network(config, options.backend)?;
    let pool = training::thread_pool(options.threads)?;
    let objective = NextToken::new(options, dataset);
    let start = |network: &crate::network::Network| {
        let Some(path) = &options.branch_from else {
            return Ok(Start::fresh(network.initial_parameters(options.seed)));
        };
        let found = checkpoint::load(path, network.layout())?;
        if found.state.model != *network.config() {
            return Err(TrainError::Mismatch { path: path.clone(), differences: "model".to_owned() });
        }
        let (step, tokens) = (found.state.step, found.state.tokens);
        Ok(Start { parameters: found.parameters, optimizer: found.optimizer, step, tokens })
    };
    let options = options.loop_options();
    let watch = Watch { progress, evaluation };
    Ok(training::train(objective, network, &options, &pool, out_dir, start, watch)?)
}

fn check_dataset(
    options: &PretrainOptions,
    config: &ModelConfig,
    dataset: &TokenDataset,
) -> Result<(), PretrainError> {
    if dataset.context_tokens() != options.context_tokens {
        return Err(PretrainError::Dataset {
            what: "sequences of",
            found: dataset.context_tokens(),
            wanted: options.context_tokens,
            advice: "open it with the run's context_tokens",
        });
    }
    if options.context_tokens > config.context_tokens {
        return Err(PretrainError::Dataset {
            what: "sequences of",
            found: options.context_tokens,
            wanted: config.context_tokens,
            advice: "raise model.context_tokens or lower context_tokens",
        });
    }
    if dataset.vocab_size() > config.vocab_size {
        return Err(PretrainError::Dataset {
            what: "a vocabulary of",
            found: dataset.vocab_size(),
            wanted: config.vocab_size,
            advice: "set model.vocab_size to the tokenizer's size",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
