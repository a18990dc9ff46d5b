//! Pre-training: from token shards to weights.

use crate::checkpoint::{self, CheckpointError, TrainingState};
use crate::config::{ConfigError, ModelConfig, ModelOptions, Preset};
use crate::files::{FileError, failed, write_folder, write_whole};
use crate::kernels::{Cpu, Naive};
use crate::language_model::{
    CONFIG_FILE, ModelFileError, Precision, WEIGHTS_FILE, config_json, write_tensors,
};
use crate::network::{Batch, BatchError, Keep, Network, Workspace};
use crate::optimizer::{AdamW, OptimizerOptions};
use crate::schedule::{Schedule, ScheduleShape};
use crate::shards::TokenDataset;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the loss record in a run's folder: one JSON object a logged step.
pub const LOSS_FILE: &str = "loss.jsonl";
/// Name of the finished model's folder in a run's folder.
pub const FINAL_FOLDER: &str = "final";

/// Which kernels compute the run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
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
            Preset::B1_7 => Self {
                batch_sequences: 1_024,
                steps: 500_000,
                lr: 5e-4,
                warmup_steps: 2_000,
                ..base
            },
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
    fn settings(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(settings)) => settings,
            _ => serde_json::Map::new(),
        };
        // The shape is compared resolved; the others change no weight.
        for name in [
            "model",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "log_every_steps",
            "threads",
        ] {
            settings.remove(name);
        }
        settings
    }

    fn check(&self) -> Result<(), PretrainError> {
        let bad = |field, rule| Err(PretrainError::Option { field, rule });
        if self.context_tokens == 0 || self.batch_sequences == 0 || self.steps == 0 {
            return bad(
                "context_tokens, batch_sequences and steps",
                "they must be above 0",
            );
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return bad("lr", "it must be above 0");
        }
        let o = &self.optimizer;
        if [o.beta1, o.beta2]
            .iter()
            .any(|beta| !(0.0..1.0).contains(beta))
        {
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
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|error| PretrainError::Threads {
            threads: options.threads,
            message: error.to_string(),
        })?;
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
            stop = progress(StepReport {
                line,
                steps: options.steps,
                tokens_per_second,
            });
        }
        if stop.is_break() && step < options.steps {
            ending = Ending::Stopped;
        }
        let due =
            step.is_multiple_of(options.checkpoint_every_steps.max(1)) || step == options.steps;
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

/// A run in progress.
struct Run<'a> {
    options: &'a PretrainOptions,
    network: Network,
    dataset: &'a TokenDataset,
    out_dir: &'a Path,
    schedule: Schedule,
    parameters: Vec<f32>,
    optimizer: AdamW,
    grads: Vec<f32>,
    workspace: Workspace,
    sequence: Vec<u32>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    scales: Vec<f32>,
}

impl<'a> Run<'a> {
    fn start(
        options: &'a PretrainOptions,
        network: Network,
        dataset: &'a TokenDataset,
        out_dir: &'a Path,
    ) -> Result<Self, PretrainError> {
        let total = network.layout().total;
        let mut run = Self {
            schedule: Schedule {
                shape: options.schedule,
                peak: options.lr,
                warmup_steps: options.warmup_steps,
                cooldown_steps: options.cooldown_steps,
                steps: options.steps,
            },
            parameters: Vec::new(),
            optimizer: AdamW {
                m: Vec::new(),
                v: Vec::new(),
                updates: 0,
            },
            grads: vec![0.0; total],
            workspace: Workspace::new(network.config(), Keep::Activations),
            sequence: vec![0; options.context_tokens + 1],
            tokens: Vec::new(),
            targets: Vec::new(),
            scales: Vec::new(),
            options,
            network,
            dataset,
            out_dir,
        };
        if let Some(found) = run.newest_checkpoint()? {
            tracing::info!(step = found.state.step, "going on from a checkpoint");
            (run.parameters, run.optimizer) = (found.parameters, found.optimizer);
        } else if let Some(path) = &options.branch_from {
            let found = checkpoint::load(path, run.network.layout())?;
            if found.state.model != *run.network.config() {
                return Err(PretrainError::Mismatch {
                    path: path.clone(),
                    differences: "model".to_owned(),
                });
            }
            (run.parameters, run.optimizer) = (found.parameters, found.optimizer);
        } else {
            run.parameters = run.network.initial_parameters(options.seed);
            run.optimizer = AdamW::new(total);
        }
        Ok(run)
    }

    /// The newest checkpoint whose files are as they were written; damaged ones are removed.
    fn newest_checkpoint(&self) -> Result<Option<checkpoint::Checkpoint>, PretrainError> {
        for step in checkpoint::list(self.out_dir)?.into_iter().rev() {
            let path = checkpoint::folder(self.out_dir, step);
            let state = match checkpoint::read_state(&path) {
                Ok(state) => state,
                Err(error) => {
                    tracing::warn!("{error}; going back to the checkpoint before it");
                    crate::files::remove_folder(&path)?;
                    continue;
                }
            };
            let differences = self.differences(&state);
            if !differences.is_empty() {
                return Err(PretrainError::Mismatch {
                    path,
                    differences: differences.join(", "),
                });
            }
            return Ok(Some(checkpoint::load(&path, self.network.layout())?));
        }
        Ok(None)
    }

    fn differences(&self, state: &TrainingState) -> Vec<String> {
        let wanted = self.options.settings();
        let mut names: Vec<String> = wanted
            .iter()
            .filter(|(name, value)| state.settings.get(*name) != Some(value))
            .map(|(name, value)| {
                let old = state
                    .settings
                    .get(name)
                    .map_or("unset".to_owned(), ToString::to_string);
                format!("{name} was {old}, is {value}")
            })
            .collect();
        if state.model != *self.network.config() {
            names.push("model".to_owned());
        }
        if state.dataset_digest != self.dataset.digest() {
            names.push("dataset".to_owned());
        }
        names
    }

    fn batch_tokens(&self) -> u64 {
        (self.options.batch_sequences * self.options.context_tokens) as u64
    }

    /// Makes one update.
    fn step(&mut self) -> Result<LossLine, PretrainError> {
        let options = self.options;
        let done = self.optimizer.updates;
        let first = done * options.batch_sequences as u64;
        let together = (options.micro_batch_tokens / options.context_tokens).max(1);
        let scale = (1.0 / self.batch_tokens() as f64) as f32;
        self.grads.fill(0.0);
        let mut loss = 0.0;
        for start in (0..options.batch_sequences).step_by(together) {
            let sequences = together.min(options.batch_sequences - start);
            self.tokens.clear();
            self.targets.clear();
            for number in start..start + sequences {
                self.dataset
                    .sequence(first + number as u64, &mut self.sequence);
                self.tokens
                    .extend_from_slice(&self.sequence[..options.context_tokens]);
                self.targets.extend_from_slice(&self.sequence[1..]);
            }
            self.scales.resize(self.tokens.len(), scale);
            let batch = Batch {
                sequences,
                context: options.context_tokens,
                tokens: &self.tokens,
                targets: &self.targets,
                scales: &self.scales,
            };
            loss += self.network.accumulate_gradients(
                &self.parameters,
                &batch,
                &mut self.grads,
                &mut self.workspace,
            )?;
        }
        let backend = self.network.backend();
        let grad_norm = backend.sum_of_squares(&self.grads).sqrt();
        let step = done + 1;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(PretrainError::Diverged {
                step,
                loss,
                grad_norm,
            });
        }
        let lr = self.schedule.rate(done);
        self.optimizer.update(
            backend,
            &options.optimizer,
            lr,
            &mut self.parameters,
            &self.grads,
            grad_norm,
        );
        Ok(LossLine {
            step,
            tokens: step * self.batch_tokens(),
            loss,
            lr,
            grad_norm,
        })
    }

    fn loss_path(&self) -> PathBuf {
        self.out_dir.join(LOSS_FILE)
    }

    fn log(&self, line: &LossLine) -> Result<(), PretrainError> {
        let path = self.loss_path();
        let json =
            serde_json::to_string(line).map_err(|error| failed("write", &path)(error.into()))?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        file.write_all(format!("{json}\n").as_bytes())
            .map_err(failed("write", &path))?;
        Ok(())
    }

    /// Drops the lines after the step the run goes on from, and a half-written last one.
    fn truncate_losses(&self) -> Result<(), PretrainError> {
        let path = self.loss_path();
        if !path.exists() {
            return Ok(());
        }
        let text = std::fs::read(&path).map_err(failed("read", &path))?;
        let kept: Vec<u8> = text
            .split_inclusive(|&byte| byte == b'\n')
            .take_while(|line| {
                line.ends_with(b"\n")
                    && serde_json::from_slice::<LossLine>(line)
                        .is_ok_and(|line| line.step <= self.optimizer.updates)
            })
            .flatten()
            .copied()
            .collect();
        if kept != text {
            write_whole(&path, &kept)?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), PretrainError> {
        let options = self.options;
        let losses = self.loss_path();
        if losses.exists() {
            // A checkpoint must never be ahead of the record it belongs to.
            crate::files::sync_file(&losses)?;
        }
        let step = self.optimizer.updates;
        let state = TrainingState {
            version: 0,
            step,
            tokens: step * self.batch_tokens(),
            model: self.network.config().clone(),
            settings: options.settings(),
            dataset_digest: self.dataset.digest().to_owned(),
            weights_digest: String::new(),
            optimizer_digest: String::new(),
        };
        checkpoint::save(
            &checkpoint::folder(self.out_dir, step),
            self.network.layout(),
            state,
            &self.parameters,
            &self.optimizer,
        )?;
        checkpoint::prune(
            self.out_dir,
            options.checkpoint_every_steps,
            options.steps,
            options.keep_checkpoints,
        )?;
        Ok(())
    }

    fn publish_final(&self) -> Result<(), PretrainError> {
        write_folder(&self.out_dir.join(FINAL_FOLDER), |folder| {
            write_tensors(
                &folder.join(WEIGHTS_FILE),
                self.network.layout(),
                &[("", &self.parameters)],
                Precision::Float32,
            )?;
            write_whole(
                &folder.join(CONFIG_FILE),
                config_json(self.network.config(), Precision::Float32).as_bytes(),
            )?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
