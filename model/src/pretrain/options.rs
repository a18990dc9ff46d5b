//! The options of a run.

use super::PretrainError;
use crate::config::{ModelOptions, Preset};
use crate::optimizer::OptimizerOptions;
use crate::schedule::ScheduleShape;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which kernels compute the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// Multi-threaded and vectorised.
    #[default]
    Cpu,
    /// The plain reference; very slow.
    Naive,
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
        let mut settings = match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(settings)) => settings,
            _ => serde_json::Map::new(),
        };
        // The shape is compared resolved; the others change no weight.
        for name in ["model", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps", "threads"] {
            settings.remove(name);
        }
        settings
    }

    pub(super) fn check(&self) -> Result<(), PretrainError> {
        let bad = |field, rule| Err(PretrainError::Option { field, rule });
        if self.context_tokens == 0 || self.batch_sequences == 0 || self.steps == 0 {
            return bad("context_tokens, batch_sequences and steps", "they must be above 0");
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return bad("lr", "it must be above 0");
        }
        let o = &self.optimizer;
        if [o.beta1, o.beta2].iter().any(|beta| !(0.0..1.0).contains(beta)) {
            return bad("optimizer.beta1 and beta2", "they must lie in [0, 1)");
        }
        if !(o.eps > 0.0 && o.clip > 0.0 && o.weight_decay >= 0.0) {
            return bad(
                "optimizer.eps, clip and weight_decay",
                "the first two must be above 0, the third not negative",
            );
        }
        if self.warmup_steps > self.steps {
            return bad("warmup_steps", "it must not exceed steps");
        }
        Ok(())
    }
}
