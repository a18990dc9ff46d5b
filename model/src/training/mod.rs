//! The loop that pre-training, SFT and DPO share: steps, checkpoints, the loss record, the final model.
//!
//! What differs between them is where a step's gradient comes from, which an [`Objective`] knows. A run that
//! was stopped or killed and started again ends with the same bytes as an undisturbed one.

mod evaluation;
mod events;
mod ring;
mod run;
mod spikes;

pub use evaluation::{EVALUATIONS_FILE, Evaluation, Measure};
pub use events::EVENT_FILE;
pub use ring::{WorkerError, WorkerOptions};
pub(crate) use run::Run;
pub use spikes::{SpikeAction, SpikeOptions, SpikeWatch};

use crate::checkpoint::CheckpointError;
use crate::config::{ConfigError, ModelConfig};
use crate::evaluate::EvaluateError;
use crate::files::{FileError, failed, remove_leftovers};
use crate::kernels::{Cpu, Naive};
use crate::language_model::ModelFileError;
use crate::network::{BatchError, Keep, Network, Workspace};
use crate::optimizer::{AdamW, OptimizerOptions};
use crate::schedule::Schedule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the loss record in a run's folder: one JSON object a logged step.
pub const LOSS_FILE: &str = "loss.jsonl";
/// Name of the record of skipped updates in a run's folder, which exists where there are any.
pub const SKIPPED_FILE: &str = "skipped.jsonl";
/// Name of the finished model's folder in a run's folder.
pub const FINAL_FOLDER: &str = "final";

/// Which kernels compute the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// Multi-threaded and vectorised.
    #[default]
    Cpu,
    /// The plain reference; very slow.
    Naive,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An option is unusable.
    #[error("option {field}: {rule}")]
    Option {
        /// The option's name.
        field: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The model's shape is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The loss or the gradient stopped being a number, or the gradient was a spike.
    #[error(
        "the loss is {loss} and the gradient's norm {grad_norm} at step {step}: the run diverged; lower lr or warm up longer, and start again from a checkpoint before it, or set spikes.action = \"skip\""
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
    #[error("{} holds a run with other settings ({differences}); use another folder, or go on from its checkpoint as a new run", path.display())]
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
    /// Weights could not be read or written.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model could not be measured.
    #[error("at step {step}: {source}")]
    Evaluate {
        /// The step after which it was measured.
        step: u64,
        /// What is wrong.
        source: EvaluateError,
    },
    /// The workers of a run could not work together.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {message}; lower the option threads")]
    Threads {
        /// The wanted number.
        threads: usize,
        /// The system's answer.
        message: String,
    },
}

/// What a caller hears after a logged step.
#[derive(Clone, Debug)]
pub struct StepReport<L> {
    /// The line as logged.
    pub line: L,
    /// Updates made, this one included.
    pub step: u64,
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
pub struct TrainSummary {
    /// How it ended.
    pub ending: Ending,
    /// Updates made, earlier sessions included.
    pub step: u64,
    /// Tokens read, earlier sessions included.
    pub tokens: u64,
    /// Trained parameters.
    pub parameters: usize,
    /// The folder of the last checkpoint; with several workers, only worker 0 writes it.
    pub checkpoint: PathBuf,
}

/// How the activations of the forward pass wait for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// As they are.
    #[default]
    Float32,
    /// Rounded to bfloat16: about half the memory. Everything is computed in 32 bits, gradients from the rounded
    /// values.
    Bfloat16,
    /// Only each layer's input is kept, the rest computed again: the same bits as `float32` for a third more
    /// work, and an order of magnitude less memory.
    Recompute,
}

impl Activations {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn keep(self) -> Keep {
        match self {
            Self::Float32 => Keep::Activations,
            Self::Bfloat16 => Keep::Bfloat16,
            Self::Recompute => Keep::Inputs,
        }
    }
}

/// One of several workers' part of each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub rank: u64,
    pub workers: u64,
}

impl Share {
    /// The part of `count` things that is this worker's.
    pub(crate) fn of(self, count: u64) -> std::ops::Range<u64> {
        count * self.rank / self.workers..count * (self.rank + 1) / self.workers
    }
}

/// The scalars of an update, whatever it was made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// Updates made, this one included.
    pub step: u64,
    /// Tokens read, this update's included.
    pub tokens: u64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// What an objective computes with.
pub(crate) struct Pass<'a> {
    pub network: &'a Network,
    pub parameters: &'a [f32],
    pub grads: &'a mut [f32],
    pub workspace: &'a mut Workspace,
    /// What of the step is to be computed here.
    pub share: Share,
}

/// Where the gradients of a run come from.
pub(crate) trait Objective: Send {
    /// What a step's data came to.
    type Figures: Send;
    /// A line of the loss record; it has a field `step`.
    type Line: Serialize + Send;

    /// The options that decide the result, as they stand in a checkpoint.
    fn settings(&self) -> serde_json::Map<String, serde_json::Value>;

    /// A digest of the data.
    fn data_digest(&self) -> &str;

    /// Adds the gradient of the update after `done` earlier ones; the loss, the tokens read and more. With several
    /// workers (pre-training alone has them) loss and gradient are those of this one's share, and add up.
    fn gradient(&mut self, pass: Pass<'_>, done: u64) -> Result<StepData<Self::Figures>, TrainError>;

    /// The line of an update.
    fn line(&self, update: &Update, data: &StepData<Self::Figures>) -> Self::Line;
}

/// What a run without a checkpoint of its own starts from.
pub(crate) struct Start {
    pub parameters: Vec<f32>,
    pub optimizer: AdamW,
    /// Steps made before.
    pub step: u64,
    /// Tokens read before.
    pub tokens: u64,
}

impl Start {
    /// Weights that no update of this optimizer has touched.
    pub(crate) fn fresh(parameters: Vec<f32>) -> Self {
        Self { optimizer: AdamW::new(parameters.len()), parameters, step: 0, tokens: 0 }
    }
}

/// What a step's data came to.
pub(crate) struct StepData<F> {
    /// The objective before the update.
    pub loss: f64,
    /// Tokens read.
    pub tokens: u64,
    /// What else the objective measures.
    pub figures: F,
}

/// The options that every run has.
pub(crate) struct LoopOptions<'a> {
    pub schedule: Schedule,
    pub optimizer: &'a OptimizerOptions,
    pub checkpoint_every_steps: u64,
    pub keep_checkpoints: usize,
    pub log_every_steps: u64,
    pub spikes: SpikeOptions,
    pub activations: Activations,
    pub workers: Option<&'a WorkerOptions>,
}

impl LoopOptions<'_> {
    /// Checks what all runs share.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let bad = |field, rule| Err(TrainError::Option { field, rule });
        if !(self.schedule.peak.is_finite() && self.schedule.peak > 0.0) {
            return bad("lr", "it must be above 0");
        }
        let o = self.optimizer;
        if [o.beta1, o.beta2].iter().any(|beta| !(0.0..1.0).contains(beta)) {
            return bad("optimizer.beta1 and beta2", "they must lie in [0, 1)");
        }
        if !(o.eps > 0.0 && o.clip > 0.0 && o.weight_decay >= 0.0) {
            return bad(
                "optimizer.eps, clip and weight_decay",
                "the first two must be above 0, the third not negative",
            );
        }
        if self.schedule.warmup_steps > self.schedule.steps {
            return bad("warmup_steps", "it must not exceed steps");
        }
        if self.spikes.factor.is_some_and(|factor| !(factor.is_finite() && factor > 1.0)) {
            return bad("spikes.factor", "it must be above 1");
        }
        if let Some(rule) = self.workers.and_then(WorkerOptions::mistake) {
            return bad("workers", rule);
        }
        Ok(())
    }
}

/// A network of shape `config` on the kernels `backend`.
pub(crate) fn network(config: ModelConfig, backend: BackendKind) -> Result<Network, ConfigError> {
    match backend {
        BackendKind::Cpu => Network::new(config, Cpu),
        BackendKind::Naive => Network::new(config, Naive),
    }
}

/// A pool of `threads` threads that flush denormal numbers to zero; 0 takes all processors.
pub(crate) fn thread_pool(threads: usize) -> Result<rayon::ThreadPool, TrainError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(|_| crate::isa::flush_denormals())
        .build()
        .map_err(|error| TrainError::Threads { threads, message: error.to_string() })
}

/// Makes the folder of a run, without what a killed one left half-written.
pub(crate) fn open_folder(out_dir: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(out_dir).map_err(failed("create folder", out_dir))?;
    remove_leftovers(out_dir)
}

/// Who hears of a run.
pub(crate) struct Watch<'p, 'e, L> {
    /// Called after every logged step; when it breaks, a checkpoint is written and the run ends.
    pub progress: &'p mut (dyn FnMut(StepReport<L>) -> ControlFlow<()> + 'p),
    /// Measures the model as training goes.
    pub evaluation: Option<Evaluation<'e>>,
}

/// Runs `objective` in the folder `out_dir`, going on from its newest whole checkpoint; without one, from what
/// `start` gives.
pub(crate) fn train<O: Objective>(
    objective: O,
    network: Network,
    options: &LoopOptions<'_>,
    pool: &rayon::ThreadPool,
    out_dir: &Path,
    start: impl FnOnce(&Network) -> Result<Start, TrainError>,
    watch: Watch<'_, '_, O::Line>,
) -> Result<TrainSummary, TrainError> {
    let Watch { progress, mut evaluation } = watch;
    options.check()?;
    open_folder(out_dir)?;
    let steps = options.schedule.steps;
    let mut run = Run::start(objective, options, network, out_dir, start)?;
    run.rewind_records()?;
    let mut ending = Ending::Finished;
    while run.step < steps {
        let (started, tokens) = (Instant::now(), run.tokens);
        let line = pool.install(|| run.update())?;
        let step = run.step;
        let mut stop = ControlFlow::Continue(());
        let logged = step.is_multiple_of(options.log_every_steps.max(1)) || step == steps;
        if let Some(line) = line.filter(|_| logged) {
            run.log(&line)?;
            let tokens_per_second = (run.tokens - tokens) as f64 / started.elapsed().as_secs_f64();
            stop = progress(StepReport { line, step, steps, tokens_per_second });
        }
        if run.any_stops(stop)? && step < steps {
            ending = Ending::Stopped;
        }
        // Before the checkpoint, which must not be ahead of the record.
        if let Some(evaluation) = evaluation.as_mut().filter(|evaluation| evaluation.is_due(step, steps)) {
            pool.install(|| run.evaluate(evaluation))?;
        }
        let due = step.is_multiple_of(options.checkpoint_every_steps.max(1)) || step == steps;
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
    Ok(run.summary(ending))
}

/// What a run started from, for its settings.
pub(crate) fn weights_digest(parameters: &[f32]) -> String {
    blake3::hash(bytemuck::cast_slice(parameters)).to_hex().to_string()
}

/// The options that decide the result of a run; those left out change no weight.
pub(crate) fn settings_of(options: &impl Serialize) -> serde_json::Map<String, serde_json::Value> {
    let mut settings = match serde_json::to_value(options) {
        Ok(serde_json::Value::Object(settings)) => settings,
        _ => serde_json::Map::new(),
    };
    for name in ["checkpoint_every_steps", "keep_checkpoints", "log_every_steps", "threads"] {
        settings.remove(name);
    }
    settings
}
