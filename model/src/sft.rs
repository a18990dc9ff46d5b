//! Supervised fine-tuning: a chat model from conversations.

mod conversations;
mod objective;
mod packing;

pub use conversations::{ConversationColumns, ConversationError, ConversationSummary, ConversationWriter};

use crate::config::ModelConfig;
use crate::examples::Examples;
use crate::language_model::LanguageModel;
use crate::optimizer::OptimizerOptions;
use crate::schedule::{Schedule, ScheduleShape};
use crate::training::{
    self, Activations, BackendKind, LoopOptions, SpikeOptions, Start, TrainError, TrainSummary, Watch,
};
use objective::AssistantTokens;
use packing::Packs;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// How a model is fine-tuned; the defaults are SmolLM-Instruct's.
///
/// Source: the SmolLM blog post and huggingface/alignment-handbook `recipes/smollm/sft/config.yaml` (there
/// with another learning rate for later data). What neither says is `transformers`' `TrainingArguments`'
/// default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftOptions {
    /// Longest conversation, and tokens of a pack (tokens); longer ones lose their end.
    pub length_tokens: usize,
    /// Packs in one update: 4 a device, 4 accumulated, on 8 devices.
    pub batch_packs: usize,
    /// Passes over the conversations.
    pub epochs: u64,
    /// Highest learning rate.
    pub lr: f64,
    /// How the learning rate goes down; a trapezoid does so over the last fifth.
    pub schedule: ScheduleShape,
    /// Share of the updates in which the learning rate grows linearly.
    pub warmup_share: f64,
    /// AdamW's constants and the gradient's clip; a table given in part takes the rest from pre-training.
    pub optimizer: OptimizerOptions,
    /// Seed of the order of the conversations.
    pub seed: u64,
    /// Tokens computed at a time (whole packs, at least one); bounds memory. The result depends on it in the
    /// last bits only.
    pub micro_batch_tokens: usize,
    /// Updates between checkpoints (steps).
    pub checkpoint_every_steps: u64,
    /// Checkpoints kept; older ones are removed.
    pub keep_checkpoints: usize,
    /// Updates between lines of `loss.jsonl` and reports (steps).
    pub log_every_steps: u64,
    /// Threads; 0 takes all processors.
    pub threads: usize,
    /// Which kernels to use.
    pub backend: BackendKind,
}

impl Default for SftOptions {
    fn default() -> Self {
        Self {
            length_tokens: 2_048,
            batch_packs: 128,
            epochs: 1,
            lr: 3e-4,
            schedule: ScheduleShape::Cosine,
            warmup_share: 0.1,
            optimizer: OptimizerOptions::transformers(),
            seed: 42,
            micro_batch_tokens: 2_048,
            checkpoint_every_steps: 200,
            keep_checkpoints: 2,
            log_every_steps: 1,
            threads: 0,
            backend: BackendKind::Cpu,
        }
    }
}

impl SftOptions {
    fn check(&self) -> Result<(), TrainError> {
        let bad = |field, rule| Err(TrainError::Option { field, rule });
        if self.length_tokens == 0 || self.batch_packs == 0 || self.epochs == 0 {
            return bad("length_tokens, batch_packs and epochs", "they must be above 0");
        }
        if !(0.0..=1.0).contains(&self.warmup_share) {
            return bad("warmup_share", "it must lie in [0, 1]");
        }
        Ok(())
    }

    fn loop_options(&self, steps: u64) -> LoopOptions<'_> {
        LoopOptions {
            schedule: Schedule::of_share(self.schedule, self.lr, self.warmup_share, steps),
            optimizer: &self.optimizer,
            checkpoint_every_steps: self.checkpoint_every_steps,
            keep_checkpoints: self.keep_checkpoints,
            log_every_steps: self.log_every_steps,
            spikes: SpikeOptions::default(),
            activations: Activations::default(),
            workers: None,
        }
    }

    /// Updates that a run over `examples` makes.
    #[must_use]
    pub fn steps(&self, examples: &Examples) -> u64 {
        Packs::new(self, examples).steps()
    }
}

/// Why fine-tuning failed.
#[derive(Debug, thiserror::Error)]
pub enum SftError {
    /// There is nothing to train on.
    #[error("there is no conversation to train on; check the input's columns and the counts of skipped rows")]
    Nothing,
    /// Conversations and model do not fit.
    #[error("the conversations have {what} {found}, the model {model}; {advice}")]
    Fit {
        /// What does not fit.
        what: &'static str,
        /// The conversations' value.
        found: usize,
        /// The model's.
        model: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Options, files or numbers are at fault.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// One line of `loss.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SftLine {
    /// Updates made, this one included.
    pub step: u64,
    /// Tokens read, this update's included.
    pub tokens: u64,
    /// Tokens of the assistant that this update was made of.
    pub trained_tokens: u64,
    /// Mean cross-entropy of those before the update (nats a token).
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// What a caller hears after a logged step.
pub type SftReport = training::StepReport<SftLine>;

/// Fine-tunes the model in `model_dir` (a checkpoint, `final/`, or a folder of `transformers`) on `examples`
/// (see [`ConversationWriter`]) in the folder `out_dir`, going on from its newest whole checkpoint.
///
/// Conversations are taken in a seeded order and packed into rows of at most
/// [`length_tokens`](SftOptions::length_tokens); none sees another. A run that was killed and started again
/// ends with the same bytes as an undisturbed one. `progress` is called after every logged step; when it
/// breaks, a checkpoint is written and the call returns.
///
/// # Errors
/// [`SftError`]; checkpoints written before it stay.
pub fn sft(
    options: &SftOptions,
    model_dir: &Path,
    examples: &Examples,
    out_dir: &Path,
    progress: &mut dyn FnMut(SftReport) -> ControlFlow<()>,
) -> Result<TrainSummary, SftError> {
    options.check()?;
    if examples.is_empty() {
        return Err(SftError::Nothing);
    }
    let model = LanguageModel::load(model_dir).map_err(TrainError::from)?;
    let config = model.network.config().clone();
    fits(&config, examples, options.length_tokens)?;
    let digest = training::weights_digest(&model.parameters);
    let network = training::network(config, options.backend).map_err(TrainError::from)?;
    let pool = training::thread_pool(options.threads)?;
    let packs = Packs::new(options, examples);
    let options_of_loop = options.loop_options(packs.steps());
    let objective = AssistantTokens::new(options, examples, packs, &digest);
    let start = |_: &crate::network::Network| Ok(Start::fresh(model.parameters));
    let watch = Watch { progress, evaluation: None };
    Ok(training::train(objective, network, &options_of_loop, &pool, out_dir, start, watch)?)
}

/// Checks that a model of shape `config` can read `examples` of `length_tokens` tokens.
pub(crate) fn fits(config: &ModelConfig, examples: &Examples, length_tokens: usize) -> Result<(), SftError> {
    if examples.vocab_size() > config.vocab_size {
        return Err(SftError::Fit {
            what: "a vocabulary of",
            found: examples.vocab_size(),
            model: config.vocab_size,
            advice: "encode them with the tokenizer the model was trained with",
        });
    }
    if length_tokens > config.context_tokens {
        return Err(SftError::Fit {
            what: "up to",
            found: length_tokens,
            model: config.context_tokens,
            advice: "lower length_tokens to the model's context",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
