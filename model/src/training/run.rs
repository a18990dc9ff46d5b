//! The state of a run and its single steps.

use super::{
    Ending, FINAL_FOLDER, LOSS_FILE, LoopOptions, Objective, Pass, Start, TrainError, TrainSummary, Update,
};
use crate::checkpoint::{self, TrainingState};
use crate::files::{failed, write_folder, write_whole};
use crate::language_model::{CONFIG_FILE, Precision, WEIGHTS_FILE, config_json, write_tensors};
use crate::network::{Keep, Network, Workspace};
use crate::optimizer::AdamW;
use serde::Deserialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A run in progress.
pub(crate) struct Run<'a, O> {
    objective: O,
    options: &'a LoopOptions<'a>,
    network: Network,
    out_dir: &'a Path,
    parameters: Vec<f32>,
    optimizer: AdamW,
    /// Tokens read.
    pub(super) tokens: u64,
    grads: Vec<f32>,
    workspace: Workspace,
}

/// What every line of a loss record has.
#[derive(Deserialize)]
struct AnyLine {
    step: u64,
}

impl<'a, O: Objective> Run<'a, O> {
    pub(super) fn start(
        objective: O,
        options: &'a LoopOptions<'a>,
        network: Network,
        out_dir: &'a Path,
        start: impl FnOnce(&Network) -> Result<Start, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut run = Self {
            parameters: Vec::new(),
            optimizer: AdamW { m: Vec::new(), v: Vec::new(), updates: 0 },
            tokens: 0,
            grads: vec![0.0; network.layout().total],
            workspace: Workspace::new(network.config(), Keep::Activations),
            objective,
            options,
            network,
            out_dir,
        };
        if let Some(found) = run.newest_checkpoint()? {
            tracing::info!(step = found.state.step, "going on from a checkpoint");
            run.tokens = found.state.tokens;
            (run.parameters, run.optimizer) = (found.parameters, found.optimizer);
        } else {
            let start = start(&run.network)?;
            (run.parameters, run.optimizer, run.tokens) = (start.parameters, start.optimizer, start.tokens);
        }
        Ok(run)
    }

    /// The newest checkpoint whose files are as they were written; damaged ones are removed.
    fn newest_checkpoint(&self) -> Result<Option<checkpoint::Checkpoint>, TrainError> {
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
                return Err(TrainError::Mismatch { path, differences: differences.join(", ") });
            }
            return Ok(Some(checkpoint::load(&path, self.network.layout())?));
        }
        Ok(None)
    }

    fn differences(&self, state: &TrainingState) -> Vec<String> {
        let wanted = self.objective.settings();
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
        if state.dataset_digest != self.objective.data_digest() {
            names.push("dataset".to_owned());
        }
        names
    }

    /// Updates made.
    pub(super) fn step(&self) -> u64 {
        self.optimizer.updates
    }

    /// Makes one update.
    pub(super) fn update(&mut self) -> Result<O::Line, TrainError> {
        let done = self.step();
        self.grads.fill(0.0);
        let pass = Pass {
            network: &self.network,
            parameters: &self.parameters,
            grads: &mut self.grads,
            workspace: &mut self.workspace,
        };
        let data = self.objective.gradient(pass, done)?;
        let backend = self.network.backend();
        let grad_norm = backend.sum_of_squares(&self.grads).sqrt();
        let step = done + 1;
        if !(data.loss.is_finite() && grad_norm.is_finite()) {
            return Err(TrainError::Diverged { step, loss: data.loss, grad_norm });
        }
        let lr = self.options.schedule.rate(done);
        self.optimizer.update(
            backend,
            self.options.optimizer,
            lr,
            &mut self.parameters,
            &self.grads,
            grad_norm,
        );
        self.tokens += data.tokens;
        Ok(self.objective.line(&Update { step, tokens: self.tokens, lr, grad_norm }, &data))
    }

    fn loss_path(&self) -> PathBuf {
        self.out_dir.join(LOSS_FILE)
    }

    pub(super) fn log(&self, line: &O::Line) -> Result<(), TrainError> {
        let path = self.loss_path();
        let json = serde_json::to_string(line).map_err(|error| failed("write", &path)(error.into()))?;
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        file.write_all(format!("{json}\n").as_bytes()).map_err(failed("write", &path))?;
        Ok(())
    }

    /// Drops the lines after the step the run goes on from, and a half-written last one.
    pub(super) fn truncate_losses(&self) -> Result<(), TrainError> {
        let path = self.loss_path();
        if !path.exists() {
            return Ok(());
        }
        let text = std::fs::read(&path).map_err(failed("read", &path))?;
        let kept: Vec<u8> = text
            .split_inclusive(|&byte| byte == b'\n')
            .take_while(|line| {
                line.ends_with(b"\n")
                    && serde_json::from_slice::<AnyLine>(line).is_ok_and(|line| line.step <= self.step())
            })
            .flatten()
            .copied()
            .collect();
        if kept != text {
            write_whole(&path, &kept)?;
        }
        Ok(())
    }

    pub(super) fn save(&self) -> Result<(), TrainError> {
        let losses = self.loss_path();
        if losses.exists() {
            // A checkpoint must never be ahead of the record it belongs to.
            crate::files::sync_file(&losses)?;
        }
        let state = TrainingState {
            version: 0,
            step: self.step(),
            tokens: self.tokens,
            model: self.network.config().clone(),
            settings: self.objective.settings(),
            dataset_digest: self.objective.data_digest().to_owned(),
            weights_digest: String::new(),
            optimizer_digest: String::new(),
        };
        checkpoint::save(
            &checkpoint::folder(self.out_dir, self.step()),
            self.network.layout(),
            state,
            &self.parameters,
            &self.optimizer,
        )?;
        let options = self.options;
        checkpoint::prune(
            self.out_dir,
            options.checkpoint_every_steps,
            options.schedule.steps,
            options.keep_checkpoints,
        )?;
        Ok(())
    }

    pub(super) fn publish_final(&self) -> Result<(), TrainError> {
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

    pub(super) fn summary(&self, ending: Ending) -> TrainSummary {
        TrainSummary {
            ending,
            step: self.step(),
            tokens: self.tokens,
            parameters: self.parameters.len(),
            checkpoint: checkpoint::folder(self.out_dir, self.step()),
        }
    }
}
