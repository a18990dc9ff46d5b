//! The options of a run.

use crate::config::{ModelOptions, Preset};
use crate::optimizer::OptimizerOptions;
use crate::schedule::{Schedule, ScheduleShape};
use crate::training::{
    Activations, BackendKind, LoopOptions, SpikeOptions, TrainError, WorkerOptions, settings_of,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a token may look back on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionScope {
    /// The whole training sequence, across the ends of documents (SmolLM's choice).
    #[default]
    Sequence,
    /// The token's own document; positions restart with each.
    Document,
}

/// A training run; the defaults are SmolLM-135M's.
///
/// Source: huggingface/smollm `text/pretraining/smollm1/config_smollm1_135M.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainOptions {
    /// The model: a preset, with single fields replaced.
    pub model: ModelOptions,
    /// Length of a training sequence (tokens).
    pub context_tokens: usize,
    /// What a token may look back on.
    pub attention: AttentionScope,
    /// Sequences in one update.
    pub batch_sequences: usize,
    /// Tokens computed at a time (rounded down to whole sequences, at least one); bounds memory. The result
    /// depends on it in the last bits only.
    pub micro_batch_tokens: usize,
    /// Updates in the whole run (steps).
    pub steps: u64,
    /// Highest learning rate.
    pub lr: f64,
    /// How the learning rate goes down.
    pub schedule: ScheduleShape,
    /// Updates of linear warm-up (steps).
    pub warmup_steps: u64,
    /// Updates of the final descent to zero (steps; trapezoidal schedule only).
    pub cooldown_steps: u64,
    /// AdamW's constants and the gradient's clip.
    pub optimizer: OptimizerOptions,
    /// Seed of the first weights.
    pub seed: u64,
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
    /// A checkpoint folder of another run to start from instead of fresh weights, for example a stable one
    /// to cool down from. Its model shape must be equal, the other options may differ.
    pub branch_from: Option<PathBuf>,
    /// How activations wait for the backward pass; decides most of the memory.
    #[serde(skip_serializing_if = "Activations::is_default")]
    pub activations: Activations,
    /// What is done with an update whose loss is no number or whose gradient is a spike.
    #[serde(skip_serializing_if = "SpikeOptions::is_default")]
    pub spikes: SpikeOptions,
    /// Several processes, on one or more machines, that train this model together: each computes its share of
    /// every step's sequences. The result depends on their number in the last bits only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerOptions>,
}

impl Default for PretrainOptions {
    fn default() -> Self {
        Self::published(Preset::M135)
    }
}

impl PretrainOptions {
    /// The published run of a preset; for `sample`, a run of about a minute on two cores.
    ///
    /// Source: huggingface/smollm `text/pretraining/smollm1/`.
    #[must_use]
    pub fn published(preset: Preset) -> Self {
        let base = Self {
            model: preset.into(),
            context_tokens: 2_048,
            attention: AttentionScope::Sequence,
            batch_sequences: 512,
            micro_batch_tokens: 2_048,
            steps: 600_000,
            lr: 3e-3,
            schedule: ScheduleShape::Trapezoidal,
            warmup_steps: 5_000,
            cooldown_steps: 100_000,
            optimizer: OptimizerOptions::default(),
            seed: 42,
            checkpoint_every_steps: 2_000,
            keep_checkpoints: 2,
            log_every_steps: 1,
            threads: 0,
            backend: BackendKind::Cpu,
            branch_from: None,
            activations: Activations::default(),
            spikes: SpikeOptions::default(),
            workers: None,
        };
        match preset {
            Preset::M135 | Preset::M360 => base,
            Preset::B1_7 => {
                Self { batch_sequences: 1_024, steps: 500_000, lr: 5e-4, warmup_steps: 2_000, ..base }
            }
            Preset::Sample => Self {
                context_tokens: 256,
                batch_sequences: 8,
                micro_batch_tokens: 1_024,
                steps: 300,
                warmup_steps: 20,
                cooldown_steps: 60,
                checkpoint_every_steps: 100,
                ..base
            },
        }
    }

    /// The options that decide the result, as they stand in a checkpoint.
    pub(super) fn settings(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = settings_of(self);
        // The shape is compared resolved.
        settings.remove("model");
        // Who computes a run may change from one start to the next.
        settings.remove("workers");
        if self.activations == Activations::Recompute {
            settings.remove("activations");
        }
        settings
    }

    /// Checks what can be said before the data is seen; not the model's shape.
    ///
    /// # Errors
    /// The option that cannot be.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.context_tokens == 0 || self.batch_sequences == 0 || self.steps == 0 {
            let field = "context_tokens, batch_sequences and steps";
            return Err(TrainError::Option { field, rule: "they must be above 0" });
        }
        let workers = self.workers.as_ref().map_or(1, |workers| workers.addresses.len());
        if workers > self.batch_sequences {
            return Err(TrainError::Option {
                field: "workers",
                rule: "there must not be more than batch_sequences, of which each computes its share",
            });
        }
        self.loop_options().check()
    }

    pub(super) fn loop_options(&self) -> LoopOptions<'_> {
        LoopOptions {
            schedule: Schedule {
                shape: self.schedule,
                peak: self.lr,
                warmup_steps: self.warmup_steps,
                cooldown_steps: self.cooldown_steps,
                steps: self.steps,
            },
            optimizer: &self.optimizer,
            checkpoint_every_steps: self.checkpoint_every_steps,
            keep_checkpoints: self.keep_checkpoints,
            log_every_steps: self.log_every_steps,
            spikes: self.spikes,
            activations: self.activations,
            workers: self.workers.as_ref(),
        }
    }
}
