//! The stages: one file each, holding the config struct, the [`Stage`] implementation and its tests.
//!
//! Adding a stage is a new file and one line in [`STAGES`]; the command-line help, the JSON schema,
//! `pipeline stages` and the checks come from that table.

mod columns;
mod decontaminate;
mod filter;
pub mod minhash;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use columns::keep_where;

use crate::engine::scan::FileSlice;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// Every stage kind there is.
pub static STAGES: &[StageKind] = &[decontaminate::KIND, filter::KIND, minhash::KIND];

/// The kind of that name.
pub fn find(name: &str) -> Option<&'static StageKind> {
    STAGES.iter().find(|kind| kind.name == name)
}

/// What the registry knows of a stage kind.
pub struct StageKind {
    /// Its name in TOML.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Raised whenever the same config and inputs give other bytes: a part of the fingerprint.
    pub version: u32,
    /// The stages that it reads, by role; the first role is the one whose rows are counted as in.
    pub inputs: &'static [InputRole],
    /// What it leaves.
    pub output: OutputKind,
    /// The JSON schema of its config.
    pub schema: fn() -> Schema,
    /// Makes the stage from its config.
    pub build: fn(Json) -> Result<Arc<dyn Stage>, serde_json::Error>,
}

/// A role that an upstream stage plays for this one.
pub struct InputRole {
    /// Its name in `inputs = { … }`.
    pub role: &'static str,
    /// What must stand in it: columns, or the kind of folder.
    pub about: &'static str,
    /// How many stages may play it.
    pub count: InputCount,
}

/// How many stages a role takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputCount {
    /// Exactly one.
    One,
    /// None or one.
    Optional,
    /// One or more.
    Many,
}

/// What a stage leaves in its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// Parquet shards under `data/`.
    Table,
    /// Files of its own form (an index, a tokenizer, a checkpoint).
    Folder,
}

/// A mistake in a config that its schema cannot express.
pub struct ConfigMistake {
    /// The field it is about.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// How a stage's work is cut into tasks, the unit of resume: a finished task is never run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Rows depend on nothing but themselves: one task for each shard of the first input.
    PerShard,
    /// One plan over everything.
    Whole,
    /// Not a plan: [`Stage::run`] writes into the folder and resumes by itself.
    Folder,
}

/// One piece of a stage's work.
#[derive(Clone, Debug)]
pub struct Task {
    /// What it is, for logs: a file name, a package.
    pub name: String,
    /// The part of the first input that it reads; `None` reads all of it.
    pub slice: Option<Vec<FileSlice>>,
}

/// Something outside the workflow that an output depends on: an asset, a file, a model.
#[derive(Clone, Debug, Serialize)]
pub struct External {
    /// What it is.
    pub name: String,
    /// The digest of its content.
    pub digest: String,
}

/// What a stage needs while it runs, for admission under the run's memory limit.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Memory beside DataFusion's pool, in bytes.
    pub memory_bytes: u64,
}

/// What a folder stage reports; goes into the manifest.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rows in, when the stage knows better than the first input's manifest.
    pub rows_in: Option<u64>,
    /// Rows, pages, steps: what the stage counts as its product.
    pub rows_out: u64,
    /// Named figures.
    pub metrics: BTreeMap<String, Json>,
}

/// A stage: what its config says, done.
#[async_trait]
pub trait Stage: Send + Sync {
    /// The config with all defaults filled in.
    fn config(&self) -> Json;

    /// How the work is cut.
    fn shape(&self) -> Shape;

    /// Mistakes that the schema cannot express.
    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        Vec::new()
    }

    /// What the output depends on beside the config and the inputs.
    async fn externals(&self, _ctx: &StageContext) -> Result<Vec<External>, StageError> {
        Ok(Vec::new())
    }

    /// What it needs while it runs.
    fn needs(&self) -> Needs {
        Needs { memory_bytes: 64 << 20 }
    }

    /// The tasks, for a stage without inputs that is cut in its own way.
    async fn tasks(&self, _ctx: &StageContext) -> Result<Option<Vec<Task>>, StageError> {
        Ok(None)
    }

    /// The rows of one task, as a lazy plan.
    async fn plan(
        &self,
        ctx: &StageContext,
        _task: &Task,
        _inputs: &Inputs,
    ) -> Result<DataFrame, StageError> {
        Err(ctx.internal("this stage has no plan"))
    }

    /// Writes a folder. The folder may hold what an earlier, killed call left: the stage must
    /// continue from it and end with the same bytes.
    async fn run(&self, ctx: &StageContext, _inputs: &Inputs, _out: &Path) -> Result<Outcome, StageError> {
        Err(ctx.internal("this stage writes no folder"))
    }
}

/// The inputs of one task.
pub struct Inputs {
    tables: BTreeMap<String, Vec<InputTable>>,
    folders: BTreeMap<String, Vec<PathBuf>>,
}

/// An upstream stage's rows.
#[derive(Clone)]
pub struct InputTable {
    /// The upstream stage's name.
    pub stage: String,
    /// Its rows.
    pub frame: DataFrame,
    /// How many rows it has, when it is written out.
    pub rows: Option<u64>,
}

impl Inputs {
    /// Collects the inputs by role.
    pub fn new(tables: BTreeMap<String, Vec<InputTable>>, folders: BTreeMap<String, Vec<PathBuf>>) -> Self {
        Self { tables, folders }
    }

    /// The rows of a role that one stage plays.
    ///
    /// # Errors
    /// The role's stage leaves a folder where a table is needed.
    pub fn table(&self, ctx: &StageContext, role: &str) -> Result<DataFrame, StageError> {
        match self.tables.get(role).and_then(|tables| tables.first()) {
            Some(table) => Ok(table.frame.clone()),
            None => Err(ctx.input(format!("input `{role}` must be a stage that leaves a table"))),
        }
    }

    /// The rows of a role that several stages may play.
    pub fn tables(&self, role: &str) -> &[InputTable] {
        self.tables.get(role).map_or(&[], Vec::as_slice)
    }

    /// The folder of a role (of a table stage: the folder with `data/`).
    ///
    /// # Errors
    /// No stage plays the role.
    pub fn folder(&self, ctx: &StageContext, role: &str) -> Result<&Path, StageError> {
        match self.folders.get(role).and_then(|folders| folders.first()) {
            Some(folder) => Ok(folder),
            None => Err(ctx.input(format!("input `{role}` is missing"))),
        }
    }

    /// The folder of a role that may be left out.
    pub fn optional_folder(&self, role: &str) -> Option<&Path> {
        self.folders.get(role).and_then(|folders| folders.first()).map(PathBuf::as_path)
    }
}

/// The `schema` of a [`StageKind`].
fn schema_of<C: JsonSchema>() -> Schema {
    schemars::schema_for!(C)
}

/// The `build` of a [`StageKind`].
fn build_from<C: Stage + DeserializeOwned + 'static>(
    config: Json,
) -> Result<Arc<dyn Stage>, serde_json::Error> {
    Ok(Arc::new(serde_json::from_value::<C>(config)?))
}

/// A config as JSON; config structs hold nothing that JSON cannot.
fn config_json<C: Serialize>(config: &C) -> Json {
    serde_json::to_value(config).unwrap_or(Json::Null)
}
