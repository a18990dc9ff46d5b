//! Runs a workflow: stages in the order of the graph, independent ones at once, each under its
//! fingerprint.

pub mod context;
pub mod curve;
pub mod error;
pub mod inputs;
pub mod ledger;
pub mod lock;
pub mod progress;
pub mod retry;
pub mod shards;
pub mod stage_run;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use service::trace;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing::field::Empty;

use crate::assets::AssetStore;
use crate::durable;
use crate::engine::{self, Engine};
use crate::integrity::guard::Guard;
use crate::manifest::Manifest;
use crate::stages::{LlmSessions, blocking};
use crate::workflow::{OutputMode, StageNode, Workflow};
use context::{Environment, StageContext};
use error::{Fault, RunError, StageError};
use inputs::InputResolver;
use ledger::Ledger;
use lock::Fence;
use progress::{Reporter, StageProgress};
use stage_run::{StageRun, stage_folder};

/// Where plans spill, inside a run's folder.
pub const SPILL_FOLDER: &str = ".spill";

/// Where the answers of language models are kept, inside a run's folder.
pub const ANSWERS_FOLDER: &str = ".answers";

/// How a run is to be made.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The folder of all runs.
    pub runs_folder: PathBuf,
    /// Memory for the whole run, in bytes.
    pub memory_bytes: u64,
    /// CPU threads.
    pub threads: usize,
    /// Shards are closed at this size, in bytes.
    pub shard_bytes: u64,
    /// Run only this stage and what it reads.
    pub until: Option<String>,
    /// Where tasks are done; as the workflow says when it is `None`.
    pub engine: Option<Engine>,
}

/// What became of a stage.
#[derive(Clone, Debug)]
pub enum StageStatus {
    /// Its output was already there.
    UpToDate(Box<Manifest>),
    /// It ran.
    Ran(Box<Manifest>),
    /// It is fused into its consumers.
    Fused,
}

impl StageStatus {
    /// The manifest, of a stage that has one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::UpToDate(manifest) | Self::Ran(manifest) => Some(manifest),
            Self::Fused => None,
        }
    }
}

/// What a run did, in stage order.
pub struct Summary {
    /// The run's folder.
    pub folder: PathBuf,
    /// Each stage and what became of it.
    pub stages: Vec<(String, StageStatus)>,
}

/// The folder of a workflow's run.
pub fn run_folder(runs_folder: &Path, workflow: &Workflow) -> PathBuf {
    runs_folder.join(&workflow.name).join(&workflow.run_name)
}

/// The environment of a run whose plans spill in a folder of their own. A command that only looks at
/// a run gives a temporary one, because a run that starts beside it takes the run's folder over.
///
/// # Errors
/// The engine or its spill folder cannot be set up.
pub fn environment(
    workflow: &Workflow,
    options: &RunOptions,
    spill_folder: PathBuf,
    fence: Fence,
    stop: CancellationToken,
) -> Result<Arc<Environment>, RunError> {
    durable::make_folder(&spill_folder)?;
    Ok(Arc::new(Environment {
        // Half for plans that sort and join; the stages' own needs are admitted against the rest.
        session: engine::session(options.memory_bytes / 2, &spill_folder)?,
        assets: AssetStore::from_environment().map_err(|error| RunError::Assets(Box::new(error)))?,
        run_folder: run_folder(&options.runs_folder, workflow),
        spill_folder,
        memory_bytes: options.memory_bytes,
        threads: options.threads,
        shard_bytes: options.shard_bytes,
        engine: options.engine.clone().or_else(|| workflow.engine.clone()).unwrap_or_default(),
        llm: LlmSessions::new(workflow.limits.clone()),
        fence,
        guard: Guard::default(),
        stop,
    }))
}

/// A resolver of a stage's inputs, for planning and running alike.
pub fn resolver<'a>(
    workflow: &'a Workflow,
    env: &Arc<Environment>,
    node: &StageNode,
    progress: &StageProgress,
) -> InputResolver<'a> {
    let ctx = StageContext {
        stage: node.id.clone(),
        env: env.clone(),
        session: env.session.clone(),
        ledger: Ledger::default(),
        progress: progress.clone(),
    };
    InputResolver { workflow, env: env.clone(), ctx }
}

/// The stages that `until` needs, itself included; all of them when it is `None`.
///
/// # Errors
/// There is no such stage.
pub fn selection<'a>(workflow: &'a Workflow, until: Option<&str>) -> Result<Vec<&'a StageNode>, StageError> {
    let Some(until) = until else {
        return Ok(workflow.stages.iter().collect());
    };
    let find = |id: &str| workflow.stages.iter().find(|node| node.id == id);
    let Some(last) = find(until) else {
        let names = workflow.stages.iter().map(|node| node.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(
            StageError::input(until, "there is no such stage").help(format!("the stages are: {names}"))
        );
    };
    let mut wanted = BTreeSet::new();
    let mut queue = vec![last];
    while let Some(node) = queue.pop() {
        if wanted.insert(node.id.as_str()) {
            queue.extend(node.upstream().iter().filter_map(|id| find(id)));
        }
    }
    Ok(workflow.stages.iter().filter(|node| wanted.contains(node.id.as_str())).collect())
}

/// Runs every stage that is not up to date.
///
/// # Errors
/// The first stage that failed; stages that were running beside it are finished first.
pub async fn run(
    workflow: &Workflow,
    options: &RunOptions,
    env: &Arc<Environment>,
    reporter: &Reporter,
) -> Result<Summary, RunError> {
    let nodes = selection(workflow, options.until.as_deref())?;
    let mut waiting: Vec<&StageNode> = nodes.clone();
    let mut done: BTreeMap<String, StageStatus> = BTreeMap::new();
    let mut failure: Option<StageError> = None;
    let mut running = FuturesUnordered::new();
    let mut memory_in_use = 0;
    let need = |node: &StageNode| node.stage.needs().memory_bytes(options.memory_bytes);
    loop {
        let mut i = 0;
        while i < waiting.len() && failure.is_none() && !env.stop.is_cancelled() {
            let node = waiting[i];
            let ready = node.upstream().iter().all(|id| done.contains_key(*id));
            let memory_bytes = need(node);
            // The other half is the plans'. A stage that needs more still runs, alone.
            let fits = running.is_empty() || memory_in_use + memory_bytes <= options.memory_bytes / 2;
            if ready && fits {
                waiting.remove(i);
                memory_in_use += memory_bytes;
                running.push(async move { (node, run_stage(workflow, env, node, reporter).await) });
            } else {
                i += 1;
            }
        }
        let Some((node, result)) = running.next().await else {
            break;
        };
        memory_in_use -= need(node);
        let noted = env.llm.note_spending(&node.id);
        let noted = noted.map_err(|error| StageError::run(&node.id, error.to_string()));
        match result.and_then(|status| noted.map(|()| status)) {
            Ok(status) => {
                done.insert(node.id.clone(), status);
            }
            Err(error) => {
                reporter.stage_ended(&node.id, None);
                // A failure says more than the stops that follow it.
                if failure.as_ref().is_none_or(|old| old.fault == Fault::Stopped) {
                    failure = Some(error);
                }
            }
        }
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    if let Some(node) = waiting.first() {
        return Err(StageError::stopped(&node.id).into());
    }
    let stages = nodes.iter().filter_map(|node| Some((node.id.clone(), done.remove(&node.id)?)));
    Ok(Summary { folder: env.run_folder.clone(), stages: stages.collect() })
}

/// Runs a stage that is not up to date: a span of the run's trace.
async fn run_stage(
    workflow: &Workflow,
    env: &Arc<Environment>,
    node: &StageNode,
    reporter: &Reporter,
) -> Result<StageStatus, StageError> {
    if node.output == OutputMode::Fuse {
        return Ok(StageStatus::Fused);
    }
    let span = tracing::info_span!(
        target: trace::TARGET,
        "stage",
        otel.name = format!("stage {}", node.id),
        otel.status_code = Empty,
        stage = node.id,
        kind = node.kind.name,
        up_to_date = Empty,
        rows_in = Empty,
        rows_out = Empty,
    );
    let result = try_stage(workflow, env, node, reporter).instrument(span.clone()).await;
    match &result {
        Ok(status) => {
            span.record("up_to_date", matches!(status, StageStatus::UpToDate(_)));
            if let Some(manifest) = status.manifest() {
                span.record("rows_in", manifest.rows_in).record("rows_out", manifest.rows_out);
            }
        }
        // What it says may quote what was asked of a model: that stays in the log.
        Err(_) => {
            span.record("otel.status_code", "ERROR");
        }
    }
    result
}

async fn try_stage(
    workflow: &Workflow,
    env: &Arc<Environment>,
    node: &StageNode,
    reporter: &Reporter,
) -> Result<StageStatus, StageError> {
    let progress = StageProgress::default();
    let inputs = resolver(workflow, env, node, &progress);
    let run = StageRun { env: env.clone(), node, inputs, progress: progress.clone() };
    let fingerprint = run.fingerprint().await?;
    let folder = stage_folder(&env.run_folder, &node.id);
    let manifest = Manifest::read(&folder).map_err(|error| run.context().failed(&error))?;
    if let Some(manifest) = manifest.filter(|manifest| manifest.fingerprint == fingerprint) {
        let (guard, ctx) = (env.guard.clone(), run.context());
        let manifest = blocking(&node.id, move || {
            guard.check_unread(&folder, &manifest).map_err(|damage| ctx.damaged(&damage))?;
            Ok(manifest)
        })
        .await?;
        reporter.stage_up_to_date(&manifest);
        return Ok(StageStatus::UpToDate(Box::new(manifest)));
    }
    reporter.stage_started(&node.id, &progress);
    tracing::info!(kind = node.kind.name, "the stage begins");
    let manifest = run.execute(&fingerprint).await?;
    tracing::info!(rows_out = manifest.rows_out, seconds = manifest.seconds, "the stage is done");
    reporter.stage_ended(&node.id, Some(&manifest));
    Ok(StageStatus::Ran(Box::new(manifest)))
}
