//! Pre-training: from token shards to weights.

mod options;
mod run;

pub use options::{BackendKind, PretrainOptions};

use crate::checkpoint::{self, CheckpointError};
use crate::config::{ConfigError, ModelConfig};
use crate::files::{FileError, failed, remove_leftovers};
use crate::kernels::{Cpu, Naive};
use crate::language_model::ModelFileError;
use crate::network::{BatchError, Network};
use crate::shards::TokenDataset;
use run::Run;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the loss record in a run's folder: one JSON object a logged step.
pub const LOSS_FILE: &str = "loss.jsonl";
/// Name of the finished model's folder in a run's folder.
pub const FINAL_FOLDER: &str = "final";

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// An option is unusable.
    #[error("pretrain.{field}: {rule}")]
    Option {
        /// The option's name.
        field: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The model's shape is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// The loss or the gradient stopped being a number.
    #[error(
        "the loss is {loss} and the gradient's norm {grad_norm} at step {step}: the run diverged; lower lr or raise warmup_steps, and start again from a checkpoint before it"
    )]
    Diverged {
        /// The step that was being made.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradient norm.
        grad_norm: f64,
    },
    /// The folder holds a run with other options or data.
    #[error("{} holds a run with other settings ({differences}); use another folder, or branch_from to go on from its checkpoint", path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The settings that differ.
        differences: String,
    },
    /// A batch could not be computed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The final weights could not be written.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {message}; lower pretrain.threads")]
    Threads {
        /// The wanted number.
        threads: usize,
        /// The system's answer.
        message: String,
    },
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

/// What a caller hears after a logged step.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The line as logged.
    pub line: LossLine,
    /// Updates in the whole run.
    pub steps: u64,
    /// Tokens a second over the last step.
    pub tokens_per_second: f64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made; `final/` holds the model.
    Finished,
    /// The caller stopped it; a checkpoint holds the state.
    Stopped,
}

/// What a run leaves.
#[derive(Clone, Debug)]
pub struct PretrainSummary {
    /// How it ended.
    pub ending: Ending,
    /// Updates made, earlier sessions included.
    pub step: u64,
    /// Trained parameters.
    pub parameters: usize,
    /// The folder of the last checkpoint.
    pub checkpoint: PathBuf,
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
    options.check()?;
    let config = options.model.resolve()?;
    check_dataset(options, &config, dataset)?;
    std::fs::create_dir_all(out_dir).map_err(failed("create folder", out_dir))?;
    remove_leftovers(out_dir)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|error| PretrainError::Threads { threads: options.threads, message: error.to_string() })?;
    let network = match options.backend {
        BackendKind::Cpu => Network::new(config.clone(), Cpu)?,
        BackendKind::Naive => Network::new(config.clone(), Naive)?,
    };
    let mut run = Run::start(options, network, dataset, out_dir)?;
    run.truncate_losses()?;
    let mut ending = Ending::Finished;
    while run.optimizer.updates < options.steps {
        let started = Instant::now();
        let line = pool.install(|| run.step())?;
        let step = line.step;
        let mut stop = ControlFlow::Continue(());
        if step.is_multiple_of(options.log_every_steps.max(1)) || step == options.steps {
            run.log(&line)?;
            let tokens_per_second = run.batch_tokens() as f64 / started.elapsed().as_secs_f64();
            stop = progress(StepReport { line, steps: options.steps, tokens_per_second });
        }
        if stop.is_break() && step < options.steps {
            ending = Ending::Stopped;
        }
        let due = step.is_multiple_of(options.checkpoint_every_steps.max(1)) || step == options.steps;
        if due || ending == Ending::Stopped {
            run.save()?;
        }
        if ending == Ending::Stopped {
            break;
        }
    }
    if ending == Ending::Finished {
        run.publish_final()?;
    }
    Ok(PretrainSummary {
        ending,
        step: run.optimizer.updates,
        parameters: run.parameters.len(),
        checkpoint: checkpoint::folder(out_dir, run.optimizer.updates),
    })
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
