//! The state of a run and its single steps.

use super::{FINAL_FOLDER, LOSS_FILE, LossLine, PretrainError, PretrainOptions};
use crate::checkpoint::{self, TrainingState};
use crate::files::{failed, write_folder, write_whole};
use crate::language_model::{CONFIG_FILE, Precision, WEIGHTS_FILE, config_json, write_tensors};
use crate::network::{Batch, Keep, Network, Workspace};
use crate::optimizer::AdamW;
use crate::schedule::Schedule;
use crate::shards::TokenDataset;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A run in progress.
pub(super) struct Run<'a> {
    options: &'a PretrainOptions,
    network: Network,
    dataset: &'a TokenDataset,
    out_dir: &'a Path,
    schedule: Schedule,
    pub(super) parameters: Vec<f32>,
    pub(super) optimizer: AdamW,
    grads: Vec<f32>,
    workspace: Workspace,
    sequence: Vec<u32>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    scales: Vec<f32>,
}

impl<'a> Run<'a> {
    pub(super) fn start(
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
            optimizer: AdamW { m: Vec::new(), v: Vec::new(), updates: 0 },
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
                return Err(PretrainError::Mismatch { path: path.clone(), differences: "model".to_owned() });
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
                return Err(PretrainError::Mismatch { path, differences: differences.join(", ") });
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
                let old = state.settings.get(name).map_or("unset".to_owned(), ToString::to_string);
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

    pub(super) fn batch_tokens(&self) -> u64 {
        (self.options.batch_sequences * self.options.context_tokens) as u64
    }

    /// Makes one update.
    pub(super) fn step(&mut self) -> Result<LossLine, PretrainError> {
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
                self.dataset.sequence(first + number as u64, &mut self.sequence);
                self.tokens.extend_from_slice(&self.sequence[..options.context_tokens]);
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
            return Err(PretrainError::Diverged { step, loss, grad_norm });
        }
        let lr = self.schedule.rate(done);
        self.optimizer.update(backend, &options.optimizer, lr, &mut self.parameters, &self.grads, grad_norm);
        Ok(LossLine { step, tokens: step * self.batch_tokens(), loss, lr, grad_norm })
    }

    fn loss_path(&self) -> PathBuf {
        self.out_dir.join(LOSS_FILE)
    }

    pub(super) fn log(&self, line: &LossLine) -> Result<(), PretrainError> {
        let path = self.loss_path();
        let json = serde_json::to_string(line).map_err(|error| failed("write", &path)(error.into()))?;
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        file.write_all(format!("{json}\n").as_bytes()).map_err(failed("write", &path))?;
        Ok(())
    }

    /// Drops the lines after the step the run goes on from, and a half-written last one.
    pub(super) fn truncate_losses(&self) -> Result<(), PretrainError> {
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

    pub(super) fn save(&self) -> Result<(), PretrainError> {
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

    pub(super) fn publish_final(&self) -> Result<(), PretrainError> {
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
