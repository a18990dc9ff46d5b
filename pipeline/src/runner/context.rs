//! What a stage sees of the run.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use tokio_util::sync::CancellationToken;

use super::error::{Fault, StageError, chain};
use super::ledger::Ledger;
use super::lock::Fence;
use super::progress::StageProgress;
use crate::assets::{Asset, AssetError, AssetStore};
use crate::durable::{self, WriteError};
use crate::engine::external_sort::Spill;
use crate::engine::{Engine, Session};
use crate::integrity::Damage;
use crate::integrity::guard::Guard;
use crate::stages::{LlmSessions, Needs};

/// What all stages of a run share.
pub struct Environment {
    /// The engine.
    pub session: Session,
    /// Models and data fetched from package registries.
    pub assets: AssetStore,
    /// The run's folder: `<runs>/<workflow>/<profile>`.
    pub run_folder: PathBuf,
    /// Where plans and sorts spill.
    pub spill_folder: PathBuf,
    /// Memory for the whole run, in bytes.
    pub memory_bytes: u64,
    /// CPU threads to use.
    pub threads: usize,
    /// Shards are closed at this size, in bytes.
    pub shard_bytes: u64,
    /// Where tasks are done.
    pub engine: Engine,
    /// The answer logs, servers and budgets of the stages that ask a language model.
    pub llm: LlmSessions,
    /// Stands before each step that others see: the folder may have been taken over.
    pub fence: Fence,
    /// Which finished files have been compared with their digests.
    pub guard: Guard,
    /// Cancelled by the first Ctrl-C: finish the shards in flight, start nothing new.
    pub stop: CancellationToken,
}

/// What one task of one stage sees.
#[derive(Clone)]
pub struct StageContext {
    /// The stage's name.
    pub stage: String,
    /// The run.
    pub env: Arc<Environment>,
    /// The run's engine, with batches for the rows at hand.
    pub session: Session,
    /// Where lost rows go.
    pub ledger: Ledger,
    /// Where work is counted.
    pub progress: StageProgress,
}

impl fmt::Debug for StageContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageContext").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl StageContext {
    /// The engine.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The file of an asset, checked against its digest.
    ///
    /// # Errors
    /// It has not been fetched, or is damaged.
    pub fn asset(&self, asset: Asset) -> Result<PathBuf, StageError> {
        self.env.assets.path(asset).map_err(|error| self.no_asset(&error))
    }

    /// The shared library of ONNX Runtime.
    ///
    /// # Errors
    /// It has not been fetched, or is damaged.
    pub fn onnx_runtime(&self) -> Result<PathBuf, StageError> {
        self.env.assets.onnx_runtime().map_err(|error| self.no_asset(&error))
    }

    fn no_asset(&self, error: &AssetError) -> StageError {
        self.input(chain(error)).help("`pipeline assets pull` fetches what is missing")
    }

    /// The folder of this stage's answer log. It outlives the fingerprints: an answer once paid
    /// for stays.
    pub fn answers_folder(&self) -> PathBuf {
        self.env.run_folder.join(super::ANSWERS_FOLDER).join(&self.stage)
    }

    /// Where this stage sorts what its memory does not hold: what it [needs](Needs::sorting).
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn spill(&self, memory_bytes: Option<u64>) -> Result<Spill, StageError> {
        let memory_bytes = Needs::sorting(memory_bytes).memory_bytes(self.env.memory_bytes);
        let folder = self.env.spill_folder.clone();
        durable::make_folder(&folder).map_err(|error| self.write_error(&error))?;
        Ok(Spill { folder, memory_bytes })
    }

    /// The user has asked to stop.
    pub fn stopping(&self) -> bool {
        self.env.stop.is_cancelled()
    }

    /// Wrong input.
    pub fn input(&self, message: impl Into<String>) -> StageError {
        StageError::input(&self.stage, message)
    }

    /// A failure of the run.
    pub fn failed(&self, error: &(dyn std::error::Error + 'static)) -> StageError {
        StageError::run(&self.stage, chain(error))
    }

    /// A rule inside the program is broken.
    pub fn internal(&self, message: &str) -> StageError {
        let message = format!("{message} (a defect of this program: please report it)");
        StageError { fault: Fault::Internal, ..StageError::run(&self.stage, message) }
    }

    /// A plan failed.
    pub fn plan_error(&self, error: &DataFusionError) -> StageError {
        StageError::plan(&self.stage, "", error)
    }

    /// A file of a finished stage is not what was written.
    pub fn damaged(&self, damage: &Damage) -> StageError {
        StageError::run(&self.stage, damage.to_string()).help(damage.mend.clone())
    }

    /// A file could not be written.
    pub fn write_error(&self, error: &WriteError) -> StageError {
        StageError::run(&self.stage, error.to_string())
    }
}
