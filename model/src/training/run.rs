//! The state of a run and its single steps.

use super::ring::Ring;
use super::spikes::{SpikeWatch, Verdict};
use super::{
    EVALUATIONS_FILE, EVENT_FILE, Ending, Evaluation, FINAL_FOLDER, LOSS_FILE, LoopOptions, Objective, Pass,
    SKIPPED_FILE, Share, Start, TrainError, TrainSummary, Update, events,
};
use crate::checkpoint::{self, TrainingState};
use crate::files::{failed, write_folder, write_whole};
use crate::language_model::{CONFIG_FILE, Precision, WEIGHTS_FILE, config_json, write_tensors};
use crate::network::{Network, Workspace};
use crate::optimizer::AdamW;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A run in progress.
pub(crate) struct Run<'a, O> {
    objective: O,
    options: &'a LoopOptions<'a>,
    network: Network,
    out_dir: &'a Path,
    parameters: Vec<f32>,
    optimizer: AdamW,
    /// Steps made: updates and skipped ones.
    pub(super) step: u64,
    /// Tokens read.
    pub(super) tokens: u64,
    spikes: SpikeWatch,
    grads: Vec<f32>,
    workspace: Workspace,
    /// The other workers.
    ring: Option<Ring>,
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
            step: 0,
            tokens: 0,
            spikes: SpikeWatch::default(),
            grads: vec![0.0; network.layout().total],
            workspace: Workspace::new(network.config(), options.activations.keep()),
            ring: None,
            objective,
            options,
            network,
            out_dir,
        };
        if let Some(workers) = options.workers {
            run.ring = Some(Ring::join(workers, run.digest(workers))?);
        }
        let found = if run.leads() { run.newest_checkpoint()? } else { None };
        if let Some(found) = found {
            tracing::info!(step = found.state.step, "going on from a checkpoint");
            (run.step, run.tokens, run.spikes) = (found.state.step, found.state.tokens, found.state.spikes);
            (run.parameters, run.optimizer) = (found.parameters, found.optimizer);
        } else if run.leads() {
            let start = start(&run.network)?;
            (run.step, run.tokens) = (start.step, start.tokens);
            (run.parameters, run.optimizer) = (start.parameters, start.optimizer);
        } else {
            let total = run.network.layout().total;
            (run.parameters, run.optimizer) = (vec![0.0; total], AdamW::new(total));
        }
        run.share_state()?;
        Ok(run)
    }

    /// Whether this worker keeps the records.
    fn leads(&self) -> bool {
        self.share().rank == 0
    }

    fn share(&self) -> Share {
        let (rank, workers) = self.ring.as_ref().map_or((0, 1), |ring| (ring.rank(), ring.workers()));
        Share { rank: rank as u64, workers: workers as u64 }
    }

    /// What all workers must agree on.
    fn digest(&self, workers: &super::WorkerOptions) -> [u8; 32] {
        let all = serde_json::json!([
            self.objective.settings(),
            self.objective.data_digest(),
            self.network.config(),
            workers.addresses,
        ]);
        *blake3::hash(all.to_string().as_bytes()).as_bytes()
    }

    /// Gives all workers the state that worker 0 starts from.
    fn share_state(&mut self) -> Result<(), TrainError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let mut number = |own: u64| Ok::<_, TrainError>(ring.gather(own as f64)?[0] as u64);
        self.step = number(self.step)?;
        self.tokens = number(self.tokens)?;
        self.optimizer.updates = number(self.optimizer.updates)?;
        self.spikes = self.spikes.map(|own| Ok::<_, TrainError>(ring.gather(own)?[0]))?;
        ring.broadcast(&mut self.parameters)?;
        ring.broadcast(&mut self.optimizer.m)?;
        ring.broadcast(&mut self.optimizer.v)?;
        Ok(())
    }

    /// Whether any worker wants to stop.
    pub(super) fn any_stops(&mut self, here: ControlFlow<()>) -> Result<bool, TrainError> {
        let here = here.is_break();
        let Some(ring) = &mut self.ring else { return Ok(here) };
        Ok(ring.gather(f64::from(u8::from(here)))?.iter().any(|&stops| stops > 0.0))
    }

    /// The newest checkpoint whose files are as they were written; damaged ones are removed. From one that is
    /// part of the output, training goes back, so that it is made again.
    fn newest_checkpoint(&self) -> Result<Option<checkpoint::Checkpoint>, TrainError> {
        let (options, mut newest, mut going_back) = (self.options, None, false);
        for step in checkpoint::list(self.out_dir)? {
            let path = checkpoint::folder(self.out_dir, step);
            if going_back {
                crate::files::remove_folder(&path)?;
                continue;
            }
            match checkpoint::read_state(&path) {
                Ok(state) => newest = Some((path, state)),
                Err(error) => {
                    tracing::warn!("{error}; going back to the checkpoint before it");
                    crate::files::remove_folder(&path)?;
                    going_back = checkpoint::is_kept_at_end(
                        step,
                        options.checkpoint_every_steps,
                        options.schedule.steps,
                        options.keep_checkpoints,
                    );
                }
            }
        }
        let Some((path, state)) = newest else { return Ok(None) };
        let differences = self.differences(&state);
        if !differences.is_empty() {
            return Err(TrainError::Mismatch { path, differences: differences.join(", ") });
        }
        checkpoint::check_records(self.out_dir, &state)?;
        Ok(Some(checkpoint::load(&path, self.network.layout())?))
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

    /// Makes one step; its line, unless it was skipped.
    pub(super) fn update(&mut self) -> Result<Option<O::Line>, TrainError> {
        let done = self.step;
        let share = self.share();
        self.grads.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0));
        let pass = Pass {
            network: &self.network,
            parameters: &self.parameters,
            grads: &mut self.grads,
            workspace: &mut self.workspace,
            share,
        };
        let mut data = self.objective.gradient(pass, done)?;
        if let Some(ring) = &mut self.ring {
            data.loss = ring.gather(data.loss)?.iter().sum();
            ring.add(&mut self.grads)?;
        }
        let backend = self.network.backend();
        let grad_norm = backend.sum_of_squares(&self.grads).sqrt();
        self.step += 1;
        self.tokens += data.tokens;
        match self.spikes.judge(&self.options.spikes, data.loss, grad_norm) {
            Verdict::Sound => {}
            Verdict::Stop => {
                return Err(TrainError::Diverged { step: self.step, loss: data.loss, grad_norm });
            }
            Verdict::Skip => {
                self.log_skipped(data.loss, grad_norm)?;
                return Ok(None);
            }
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
        let update = Update { step: self.step, tokens: self.tokens, lr, grad_norm };
        Ok(Some(self.objective.line(&update, &data)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.out_dir.join(name)
    }

    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        let path = self.path(name);
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        file.write_all(bytes).map_err(failed("write", &path))?;
        Ok(())
    }

    pub(super) fn log(&self, line: &O::Line) -> Result<(), TrainError> {
        if !self.leads() {
            return Ok(());
        }
        let json = serde_json::to_value(line)
            .map_err(|error| failed("write", &self.path(LOSS_FILE))(error.into()))?;
        // Written from the line itself, whose fields have an order.
        let text = serde_json::to_string(line)
            .map_err(|error| failed("write", &self.path(LOSS_FILE))(error.into()))?;
        self.append(LOSS_FILE, format!("{text}\n").as_bytes())?;
        self.append(EVENT_FILE, &events::line(&json))
    }

    /// Measures the model. With several workers each does, so that none waits for another.
    pub(super) fn evaluate(&mut self, evaluation: &mut Evaluation<'_>) -> Result<(), TrainError> {
        let (step, tokens) = (self.step, self.tokens);
        let figures = (evaluation.measure)(&self.network, &self.parameters)
            .map_err(|source| TrainError::Evaluate { step, source })?;
        if !self.leads() {
            return Ok(());
        }
        let mut line = serde_json::json!({ "step": step, "tokens": tokens });
        for (name, figure) in figures {
            line[name] = figure.into();
        }
        self.append(EVALUATIONS_FILE, format!("{line}\n").as_bytes())?;
        self.append(EVENT_FILE, &events::line(&line))
    }

    fn log_skipped(&self, loss: f64, grad_norm: f64) -> Result<(), TrainError> {
        let step = self.step;
        tracing::warn!(step, loss, grad_norm, "an update was skipped");
        if !self.leads() {
            return Ok(());
        }
        // A number that is none is null in JSON.
        let line = serde_json::json!({ "step": step, "loss": loss, "grad_norm": grad_norm });
        self.append(SKIPPED_FILE, format!("{line}\n").as_bytes())
    }

    /// Drops the lines after the step the run goes on from, and a half-written last one; TensorBoard's file is
    /// written anew from what is left.
    pub(super) fn rewind_records(&self) -> Result<(), TrainError> {
        if !self.leads() {
            return Ok(());
        }
        self.rewind(SKIPPED_FILE)?;
        let records = [self.rewind(LOSS_FILE)?, self.rewind(EVALUATIONS_FILE)?].concat();
        let lines = records.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut lines: Vec<Value> = lines.collect();
        // As they came: a step's loss, then what was measured after it.
        lines.sort_by_key(|line| line["step"].as_u64());
        let mut events = events::file_start();
        events.extend(lines.iter().flat_map(events::line));
        Ok(write_whole(&self.path(EVENT_FILE), &events)?)
    }

    fn rewind(&self, name: &str) -> Result<Vec<u8>, TrainError> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read(&path).map_err(failed("read", &path))?;
        let kept: Vec<u8> = text
            .split_inclusive(|&byte| byte == b'\n')
            .take_while(|line| {
                line.ends_with(b"\n")
                    && serde_json::from_slice::<AnyLine>(line).is_ok_and(|line| line.step <= self.step)
            })
            .flatten()
            .copied()
            .collect();
        if kept != text {
            write_whole(&path, &kept)?;
        }
        Ok(kept)
    }

    pub(super) fn save(&self) -> Result<(), TrainError> {
        if !self.leads() {
            return Ok(());
        }
        for record in [LOSS_FILE, SKIPPED_FILE, EVALUATIONS_FILE].map(|name| self.path(name)) {
            if record.exists() {
                // A checkpoint must never be ahead of the record it belongs to.
                crate::files::sync_file(&record)?;
            }
        }
        let state = TrainingState {
            version: 0,
            step: self.step,
            skipped: self.step - self.optimizer.updates,
            tokens: self.tokens,
            spikes: self.spikes,
            model: self.network.config().clone(),
            settings: self.objective.settings(),
            dataset_digest: self.objective.data_digest().to_owned(),
            weights_digest: String::new(),
            optimizer_digest: String::new(),
            config_digest: String::new(),
            records: checkpoint::records(self.out_dir, &[LOSS_FILE, SKIPPED_FILE, EVALUATIONS_FILE])?,
            state_digest: String::new(),
        };
        checkpoint::save(
            &checkpoint::folder(self.out_dir, self.step),
            self.network.layout(),
            state,
            &self.parameters,
            &self.optimizer,
        )?;
        self.prune()
    }

    /// Removes checkpoints that are not kept.
    fn prune(&self) -> Result<(), TrainError> {
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
        // One that was killed after its last checkpoint has left those before.
        self.prune()?;
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
            step: self.step,
            tokens: self.tokens,
            parameters: self.parameters.len(),
            checkpoint: checkpoint::folder(self.out_dir, self.step),
        }
    }
}
