//! Direct preference optimisation: a chat model from pairs of a better and a worse answer.
//!
//! Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7; the sigmoid loss and the logged
//! figures are those of huggingface/trl `trl/trainer/dpo_trainer.py`.

mod objective;
mod preferences;
mod reference;

pub use preferences::{PreferenceColumns, PreferenceError, PreferenceSummary, PreferenceWriter};

use crate::examples::Examples;
use crate::language_model::LanguageModel;
use crate::optimizer::OptimizerOptions;
use crate::schedule::{Schedule, ScheduleShape};
use crate::sft::{SftError, fits};
use crate::training::{
    self, Activations, BackendKind, Ending, LoopOptions, SpikeOptions, Start, TrainError, TrainSummary, Watch,
};
use objective::Preferences;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// How a model is aligned; the defaults are SmolLM-Instruct's.
///
/// Source: the SmolLM blog post, which names Zephyr-Gemma's recipe: huggingface/alignment-handbook
/// `recipes/zephyr-7b-gemma/dpo/config_full.yaml` (there two epochs). What neither says is `transformers`'
/// `TrainingArguments`' default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DpoOptions {
    /// How strongly the model is held to where it started: larger values keep it closer.
    pub beta: f64,
    /// Longest prompt and answer together (tokens); longer answers lose their end.
    pub length_tokens: usize,
    /// Longest prompt (tokens); longer ones lose their beginning.
    pub prompt_tokens: usize,
    /// Pairs in one update: 2 a device, 8 accumulated, on 8 devices.
    pub batch_pairs: usize,
    /// Passes over the pairs.
    pub epochs: u64,
    /// Highest learning rate.
    pub lr: f64,
    /// How the learning rate goes down; a trapezoid does so over the last fifth.
    pub schedule: ScheduleShape,
    /// Share of the updates in which the learning rate grows linearly.
    pub warmup_share: f64,
    /// AdamW's constants and the gradient's clip; a table given in part takes the rest from pre-training.
    pub optimizer: OptimizerOptions,
    /// Seed of the order of the pairs.
    pub seed: u64,
    /// Tokens computed at a time (whole pairs, at least one); bounds memory. The result depends on it in the
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

impl Default for DpoOptions {
    fn default() -> Self {
        Self {
            beta: 0.05,
            length_tokens: 1_024,
            prompt_tokens: 512,
            batch_pairs: 128,
            epochs: 1,
            lr: 5e-7,
            schedule: ScheduleShape::Cosine,
            warmup_share: 0.1,
            optimizer: OptimizerOptions::transformers(),
            seed: 42,
            micro_batch_tokens: 2_048,
            checkpoint_every_steps: 50,
            keep_checkpoints: 2,
            log_every_steps: 1,
            threads: 0,
            backend: BackendKind::Cpu,
        }
    }
}

impl DpoOptions {
    fn check(&self) -> Result<(), TrainError> {
        let bad = |field, rule| Err(TrainError::Option { field, rule });
        if self.batch_pairs == 0 || self.epochs == 0 {
            return bad("batch_pairs and epochs", "they must be above 0");
        }
        if self.prompt_tokens == 0 || self.prompt_tokens >= self.length_tokens {
            return bad("prompt_tokens", "it must lie above 0 and below length_tokens");
        }
        if !(self.beta.is_finite() && self.beta > 0.0) {
            return bad("beta", "it must be above 0");
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

    /// Updates that a run over `pairs` makes.
    #[must_use]
    pub fn steps(&self, pairs: &Examples) -> u64 {
        self.epochs * (pairs.len() as u64 / 2).div_ceil(self.batch_pairs.max(1) as u64)
    }
}

/// Why alignment failed; the same things go wrong as in fine-tuning.
pub type DpoError = SftError;

/// One line of `loss.jsonl`. A reward is β times how much likelier an answer is now than it was at the start
/// (nats); all are means over the update's pairs, before the update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DpoLine {
    /// Updates made, this one included.
    pub step: u64,
    /// Tokens read, this update's included.
    pub tokens: u64,
    /// −log σ(margin).
    pub loss: f64,
    /// Reward of the better answers.
    pub chosen_reward: f64,
    /// Reward of the worse answers.
    pub rejected_reward: f64,
    /// The first less the second.
    pub margin: f64,
    /// Share of pairs whose better answer has the higher reward.
    pub accuracy: f64,
    /// Log-probability of the better answers (nats).
    pub chosen_log_probability: f64,
    /// Log-probability of the worse answers (nats).
    pub rejected_log_probability: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// What a caller hears.
#[derive(Clone, Debug)]
pub enum DpoReport {
    /// Answers whose reference log-probability is known; made once, before the first step.
    Reference {
        /// Answers done.
        done: u64,
        /// Answers in all.
        answers: u64,
    },
    /// A logged step.
    Step(training::StepReport<DpoLine>),
}

/// Aligns the model in `model_dir` on `pairs` (see [`PreferenceWriter`]) in the folder `out_dir`, going on from
/// its newest whole checkpoint.
///
/// The log-probabilities of the model as it was are computed once and kept in `out_dir/reference/`. A run that
/// was killed and started again ends with the same bytes as an undisturbed one. `progress` is called as answers
/// are referred to and after every logged step; when it breaks, what is done is kept and the call returns.
///
/// # Errors
/// [`DpoError`]; checkpoints written before it stay.
pub fn dpo(
    options: &DpoOptions,
    model_dir: &Path,
    pairs: &Examples,
    out_dir: &Path,
    progress: &mut dyn FnMut(DpoReport) -> ControlFlow<()>,
) -> Result<TrainSummary, DpoError> {
    options.check()?;
    if pairs.len() < 2 {
        return Err(DpoError::Nothing);
    }
    let model = LanguageModel::load(model_dir).map_err(TrainError::from)?;
    let config = model.network.config().clone();
    fits(&config, pairs, options.length_tokens)?;
    let digest = training::weights_digest(&model.parameters);
    let network = training::network(config, options.backend).map_err(TrainError::from)?;
    let pool = training::thread_pool(options.threads)?;
    training::open_folder(out_dir).map_err(TrainError::from)?;
    let reference = reference::log_probabilities(
        options,
        &network,
        &model.parameters,
        pairs,
        &digest,
        &out_dir.join(reference::FOLDER),
        &pool,
        &mut |done, answers| progress(DpoReport::Reference { done, answers }),
    )?;
    let Some(reference) = reference else {
        let checkpoint = crate::checkpoint::folder(out_dir, 0);
        let parameters = model.parameters.len();
        return Ok(TrainSummary { ending: Ending::Stopped, step: 0, tokens: 0, parameters, checkpoint });
    };
    let options_of_loop = options.loop_options(options.steps(pairs));
    let objective = Preferences::new(options, pairs, reference, &digest);
    let start = |_: &crate::network::Network| Ok(Start::fresh(model.parameters));
    let watch = Watch { progress: &mut |report| progress(DpoReport::Step(report)), evaluation: None };
    Ok(training::train(objective, network, &options_of_loop, &pool, out_dir, start, watch)?)
}

#[cfg(test)]
mod tests;
