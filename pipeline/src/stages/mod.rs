//! The stages: one file each, holding the config struct, the [`Stage`] implementation and its tests.
//!
//! Adding a stage is a new file and one line in [`STAGES`]; the command-line help, the JSON schema,
//! `pipeline stages` and the checks come from that table.

mod annotation_prompts;
mod annotations;
mod asker;
mod backbone;
mod c4_quality;
mod clean;
mod cluster;
mod cluster_topics;
mod code_quality;
mod columns;
mod compare;
mod compare_models;
mod corpus;
mod dataset;
mod decontaminate;
mod dpo;
mod duplicates;
mod embed;
pub mod embedded;
pub mod evaluate;
mod exact_dedup;
mod export;
mod extract;
mod filter;
mod fine_tuning;
mod fineweb_quality;
mod generate;
mod gopher_quality;
mod gopher_repetition;
mod import_model;
mod import_tokens;
mod index;
mod language;
mod license;
pub(crate) mod llm;
mod llm_session;
mod loaded;
mod measures;
pub mod minhash;
mod mix;
mod outlines;
mod pack;
mod pii;
mod pretrain;
mod prompts;
mod read;
mod retrieve;
mod rules;
mod sample_dump;
mod scaling_law;
mod score;
mod sentence_dedup;
mod sft;
mod signature_index;
pub mod spending;
mod sql;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;
mod topics;
mod train_classifier;
mod url_dedup;
mod url_filter;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use columns::keep_where;
pub(crate) use columns::text_column;
pub(crate) use compare_models::COMPARISON_FILE;
pub(crate) use generate::GenerateConfig;
pub use llm_session::LlmSessions;
pub(crate) use mix::Given;
pub(crate) use pretrain::PretrainConfig;
pub(crate) use scaling_law::LAW_FILE;
pub use spending::LimitsConfig;
pub(crate) use tokenizer::TokenizerConfig;
pub(crate) use train_classifier::REPORT_FILE as TRAIN_REPORT_FILE;

use crate::assets::Asset;
use crate::engine::scan::FileSlice;
use crate::engine::{Plan, operator, streams};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// Every stage kind there is.
pub static STAGES: &[StageKind] = &[
    read::KIND,
    sample_dump::KIND,
    extract::KIND,
    url_filter::KIND,
    language::KIND,
    gopher_repetition::KIND,
    gopher_quality::KIND,
    c4_quality::KIND,
    fineweb_quality::KIND,
    license::KIND,
    code_quality::KIND,
    pii::KIND,
    topics::KIND,
    outlines::KIND,
    embed::KIND,
    cluster::KIND,
    cluster_topics::KIND,
    index::KIND,
    retrieve::KIND,
    prompts::KIND,
    generate::KIND,
    clean::KIND,
    compare::KIND,
    annotation_prompts::KIND,
    annotations::KIND,
    train_classifier::KIND,
    score::KIND,
    filter::KIND,
    sql::KIND,
    exact_dedup::KIND,
    url_dedup::KIND,
    sentence_dedup::KIND,
    minhash::KIND,
    signature_index::KIND,
    decontaminate::KIND,
    mix::KIND,
    tokenizer::KIND,
    pack::KIND,
    pretrain::KIND,
    import_model::KIND,
    import_tokens::KIND,
    sft::KIND,
    dpo::KIND,
    evaluate::KIND,
    compare_models::KIND,
    scaling_law::KIND,
    export::KIND,
    dataset::KIND,
];

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
    /// Any number, none as well.
    Any,
}

impl InputCount {
    /// Whether a workflow may leave the role out.
    pub fn may_be_left_out(self) -> bool {
        matches!(self, Self::Optional | Self::Any)
    }
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

/// Of the stages that a config names beside what they serve as, those that are not among its inputs.
fn foreign_stages<'a>(
    field: &'static str,
    named: impl IntoIterator<Item = (&'a String, &'a String)>,
    what: &str,
    inputs: &[String],
    inputs_are: &str,
) -> Vec<ConfigMistake> {
    let foreign = named.into_iter().filter(|(_, stage)| !inputs.contains(stage));
    foreign
        .map(|(name, stage)| ConfigMistake {
            field,
            message: format!("{what} `{name}` takes stage `{stage}`, which is not one of the {inputs_are}"),
            help: format!("the {inputs_are} are: {}", inputs.join(", ")),
        })
        .collect()
}

/// Names among those given that cannot be a folder's.
fn odd_names<'a>(names: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = &'a String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let odd = move |name: &&String| name.is_empty() || name.starts_with('.') || !name.chars().all(plain);
    names.into_iter().filter(odd)
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
pub enum Needs {
    /// Memory beside DataFusion's pool, in bytes.
    Bytes(u64),
    /// A quarter of the run's memory limit: it sorts, and spills what that does not hold.
    Quarter,
}

impl Needs {
    /// Those of a stage that sorts, with the memory that its config gives to that.
    pub fn sorting(memory_bytes: Option<u64>) -> Self {
        memory_bytes.map_or(Self::Quarter, Self::Bytes)
    }

    /// Memory in bytes, under this limit of the run.
    pub fn memory_bytes(self, limit: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Quarter => limit / 4,
        }
    }
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

/// A stage: what its config says, done. (`Any`, so that a command for one kind finds that kind's config.)
#[async_trait]
pub trait Stage: Any + Send + Sync {
    /// The config with all defaults filled in.
    fn config(&self) -> Json;

    /// How the work is cut.
    fn shape(&self) -> Shape;

    /// Whether its tasks keep to the process that makes the run, because of what they share: a log of answers,
    /// a budget.
    fn stays(&self) -> bool {
        false
    }

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
        Needs::Bytes(64 << 20)
    }

    /// Lets go of what its tasks shared: it has ended.
    fn release(&self) {}

    /// What a million tokens cost that it asks a model for: figures for its manifest, since they are no part
    /// of its config, whose result does not depend on them.
    fn prices(&self) -> BTreeMap<String, Json> {
        BTreeMap::new()
    }

    /// What it will probably make and ask, where its config says more than its last run.
    fn expect(&self, _before: &Before<'_>) -> Expectation {
        Expectation::default()
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
    pub plan: Plan,
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
    pub fn table(&self, ctx: &StageContext, role: &str) -> Result<Plan, StageError> {
        match self.tables.get(role).and_then(|tables| tables.first()) {
            Some(table) => Ok(table.plan.clone()),
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

    /// The folders of a role that several stages may play, in the order of [`Self::tables`] where all of
    /// them leave tables.
    pub fn folders(&self, role: &str) -> &[PathBuf] {
        self.folders.get(role).map_or(&[], Vec::as_slice)
    }

    /// The folder of a role that may be left out.
    pub fn optional_folder(&self, role: &str) -> Option<&Path> {
        self.folders.get(role).and_then(|folders| folders.first()).map(PathBuf::as_path)
    }
}

/// The `schema` of a [`StageKind`].
///
/// A config that is nothing but the options of a domain crate has a reference at its root; it is
/// resolved here, so that every reader of the schema finds the fields in one place.
fn schema_of<C: JsonSchema>() -> Schema {
    let mut schema = schemars::schema_for!(C);
    let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    let target = name.and_then(|name| schema.get("$defs")?.get(name)?.as_object()).cloned();
    if let Some(target) = target {
        schema.remove("$ref");
        for (key, value) in target {
            schema.insert(key, value);
        }
    }
    schema
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

/// The config of a stage that trains, without its threads and the workers it shares a model with: more of them
/// make the same model.
fn without_threads(mut config: Json) -> Json {
    if let Some(training) = config.get_mut("training").and_then(Json::as_object_mut) {
        training.remove("threads");
        training.remove("workers");
    }
    config
}

/// The rows that an iterator makes, as a plan. The iterator may block: it runs on its own thread.
fn from_batches<I>(
    ctx: &StageContext,
    schema: SchemaRef,
    make: impl Fn() -> I + Send + Sync + 'static,
) -> Result<DataFrame, StageError>
where
    I: Iterator<Item = Result<RecordBatch, ArrowError>>,
{
    source_plan(ctx, schema, move |sender| {
        for batch in make() {
            if sender.blocking_send(batch).is_err() {
                break;
            }
        }
    })
}

fn source_plan(
    ctx: &StageContext,
    schema: SchemaRef,
    produce: impl Fn(tokio::sync::mpsc::Sender<Result<RecordBatch, ArrowError>>) + Send + Sync + 'static,
) -> Result<DataFrame, StageError> {
    let empty = ctx.session().read_empty().map_err(|error| ctx.plan_error(&error))?;
    let produce = Arc::new(produce);
    let out_schema = schema.clone();
    let function = move |_empty| {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(2);
        let produce = produce.clone();
        tokio::task::spawn_blocking(move || produce(sender));
        let batches = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        Ok(streams::from_domain(out_schema.clone(), batches))
    };
    operator::apply(ctx.session(), empty, "source", schema, Arc::new(function))
        .map_err(|error| ctx.plan_error(&error))
}

/// Runs CPU-bound or blocking work away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    stage: &str,
    work: impl FnOnce() -> Result<T, StageError> + Send + 'static,
) -> Result<T, StageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StageError::run(stage, format!("the work died: {error}"))),
    }
}

/// An asset as a part of a fingerprint: its digest is pinned in the asset table.
fn asset_external(ctx: &StageContext, asset: Asset) -> Result<External, StageError> {
    let path = ctx.asset(asset)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let digest = asset.spec().files.iter().find(|file| file.file_name == name).map(|file| file.blake3);
    let digest = digest.ok_or_else(|| ctx.internal("an asset's file is not in its table"))?;
    Ok(External { name: asset.name().to_owned(), digest: digest.to_owned() })
}

/// A user's file as a part of a fingerprint.
fn file_external(ctx: &StageContext, path: &Path) -> Result<External, StageError> {
    match digests::of_file(path) {
        Ok(digest) => Ok(External { name: "file".to_owned(), digest }),
        Err(error) => Err(ctx.input(format!("cannot read {}: {error}", path.display()))),
    }
}
