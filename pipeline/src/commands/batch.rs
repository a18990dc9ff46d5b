//! `pipeline batch`: a stage's open requests as OpenAI batch files, and their answers into its answer log.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use serde_json::json;
use synth::answer_log::AnswerLog;
use synth::batch_file::{BatchLimits, BatchWriter, Import, Imported, import};
use synth::chat::ChatRequest;
use synth::generate::{GenerateOptions, Standing, standing};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::plan::run_options;
use super::{Failure, runtime, stage_of_kind};
use crate::cli::{BatchCommand, BatchTarget};
use crate::engine::streams::execute;
use crate::manifest::Manifest;
use crate::runner::error::{RunError, StageError};
use crate::runner::lock::Fence;
use crate::runner::progress::{StageProgress, group, size};
use crate::runner::stage_run::stage_folder;
use crate::runner::{self, RunOptions};
use crate::stages::{GenerateConfig, text_column};
use crate::workflow::{self, OutputMode, StageNode, Workflow};

/// Runs a `batch` command.
///
/// # Errors
/// The workflow has problems, its prompts are not made yet, or a file cannot be read or written.
pub fn batch(command: &BatchCommand) -> Result<(), Failure> {
    match command {
        BatchCommand::Export { target, output, max_requests, max_bytes, dry_run } => {
            let limits = BatchLimits { max_requests: *max_requests, max_bytes: *max_bytes };
            export(target, output, limits, *dry_run)
        }
        BatchCommand::Import { target, answers, dry_run, json } => {
            let write = if *dry_run { Import::DryRun } else { Import::Write };
            take(target, answers, write, *json)
        }
    }
}

/// A `generate` stage whose prompts are made.
struct Opened {
    workflow: Workflow,
    options: RunOptions,
    stage: String,
}

/// How many rows stand where.
#[derive(Debug, Default, serde::Serialize)]
struct Rows {
    answered: u64,
    open: u64,
    lost: u64,
}

impl Opened {
    fn new(target: &BatchTarget) -> Result<Self, Failure> {
        let workflow = workflow::load(&target.workflow.workflow, &target.workflow.overrides())?;
        let options = run_options(&target.resources);
        let (node, _): (_, &GenerateConfig) = stage_of_kind(&workflow, "generate", target.stage.as_deref())?;
        let stage = node.id.clone();
        let opened = Self { workflow, options, stage };
        opened.check_inputs(&target.workflow.workflow)?;
        Ok(opened)
    }

    fn node(&self) -> Result<&StageNode, Failure> {
        let node = self.workflow.stages.iter().find(|node| node.id == self.stage);
        node.ok_or_else(|| Failure::message(format!("there is no stage `{}`", self.stage), ""))
    }

    fn folder(&self) -> PathBuf {
        runner::run_folder(&self.options.runs_folder, &self.workflow)
    }

    /// The prompts must be there: they are read, not made.
    fn check_inputs(&self, file: &Path) -> Result<(), Failure> {
        for id in self.node()?.upstream() {
            let upstream = self.workflow.stages.iter().find(|node| node.id == id);
            let written = upstream.is_some_and(|node| node.output == OutputMode::Materialize);
            let missing = written
                && Manifest::read(&stage_folder(&self.folder(), id)).map_err(RunError::from)?.is_none();
            if missing {
                let help = format!("run `pipeline run {} --until {id}` first", file.display());
                return Err(Failure::message(format!("the stage `{id}` has not run yet"), &help));
            }
        }
        Ok(())
    }

    /// The stage's answer log, and the folder that stands in for it where a dry run finds none: it goes
    /// when it is dropped.
    fn log(&self, dry_run: bool) -> Result<(Arc<AnswerLog>, Option<TempDir>), Failure> {
        let folder = self.folder().join(runner::ANSWERS_FOLDER).join(&self.stage);
        let stand_in = match dry_run && !folder.exists() {
            true => Some(tempfile::tempdir().map_err(Failure::run)?),
            false => None,
        };
        let folder = stand_in.as_ref().map_or(folder, |folder| folder.path().to_owned());
        let log = AnswerLog::open(folder).map_err(Failure::run)?;
        Ok((Arc::new(log), stand_in))
    }

    fn config(&self) -> Result<&GenerateConfig, Failure> {
        Ok(stage_of_kind(&self.workflow, "generate", Some(&self.stage))?.1)
    }

    /// Walks all rows and hands on the open requests, each once.
    async fn walk(
        &self,
        log: &Arc<AnswerLog>,
        mut on_open: impl FnMut(&ChatRequest) -> Result<(), Failure>,
    ) -> Result<Rows, Failure> {
        let node = self.node()?;
        let options = self.config()?.options();
        let spill = tempfile::tempdir().map_err(Failure::run)?;
        let spill_folder = spill.path().to_owned();
        let stop = CancellationToken::new();
        let env = runner::environment(&self.workflow, &self.options, spill_folder, Fence::default(), stop)?;
        let inputs = runner::resolver(&self.workflow, &env, node, &StageProgress::default());
        let failed = |error: StageError| Failure::from(RunError::from(error));
        let mut rows = Rows::default();
        // 8 bytes a request: equal rows share one, and a batch may not name it twice.
        let mut seen = HashSet::new();
        for slice in inputs.shards(node, "prompts").await.map_err(failed)? {
            let tables = inputs.resolve(node, Some(vec![slice])).await.map_err(failed)?;
            let prompts = tables.table(&inputs.ctx, "prompts").map_err(failed)?;
            let frame = prompts.frame().select_columns(&["prompt_id", "prompt"]).map_err(Failure::run)?;
            let mut batches = execute(frame).await.map_err(Failure::run)?;
            while let Some(batch) = batches.next().await {
                let batch = batch.map_err(Failure::run)?;
                let standings = standings(log, &options, batch).await?;
                for standing in standings {
                    match standing {
                        Standing::Answered => rows.answered += 1,
                        Standing::Exhausted => rows.lost += 1,
                        Standing::Open(request) => {
                            rows.open += 1;
                            let mut first = [0; 8];
                            first.copy_from_slice(&request.key().id.0[..8]);
                            if seen.insert(u64::from_le_bytes(first)) {
                                on_open(&request)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// How each row of a batch stands; reads the log, so away from the async threads. Rows without an id or a
/// prompt are left out: a run rejects them.
async fn standings(
    log: &Arc<AnswerLog>,
    options: &GenerateOptions,
    batch: arrow::record_batch::RecordBatch,
) -> Result<Vec<Standing>, Failure> {
    let (log, options) = (log.clone(), options.clone());
    let work = move || {
        let ids = text_column(&batch, "prompt_id").map_err(Failure::run)?;
        let prompts = text_column(&batch, "prompt").map_err(Failure::run)?;
        let pairs = ids.iter().zip(prompts.iter()).filter_map(|(id, prompt)| Some((id?, prompt?)));
        pairs.map(|(id, prompt)| standing(&options, &log, id, prompt).map_err(Failure::run)).collect()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(standings) => standings,
        Err(error) => Err(Failure::run(error)),
    }
}

fn export(target: &BatchTarget, output: &Path, limits: BatchLimits, dry_run: bool) -> Result<(), Failure> {
    let opened = Opened::new(target)?;
    let kind = opened.config()?.llm.server_kind;
    let (log, _stand_in) = opened.log(dry_run)?;
    let mut writer = match dry_run {
        true => None,
        false => Some(BatchWriter::new(output, limits, kind).map_err(Failure::run)?),
    };
    let mut requests = 0;
    let rows = runtime(opened.options.threads)?.block_on(opened.walk(&log, |request| {
        requests += 1;
        match &mut writer {
            Some(writer) => writer.push(request).map_err(Failure::run),
            None => Ok(()),
        }
    }))?;
    println!("{}: {}", opened.stage, told(&rows));
    let Some(writer) = writer else {
        println!("would write {} requests to {}", group(requests), output.display());
        return Ok(());
    };
    let files = writer.finish().map_err(Failure::run)?;
    for file in &files {
        let path = output.join(&file.name);
        println!("{}: {} requests, {}", path.display(), group(file.requests), size(file.bytes));
    }
    if files.is_empty() {
        println!("nothing is open: `pipeline run` finds every answer in the log");
    }
    Ok(())
}

fn take(target: &BatchTarget, answers: &[PathBuf], write: Import, json: bool) -> Result<(), Failure> {
    let opened = Opened::new(target)?;
    let (log, _stand_in) = opened.log(write == Import::DryRun)?;
    let runtime = runtime(opened.options.threads)?;
    let mut imported = Imported::default();
    for path in answers {
        runtime.block_on(import(&log, path, write, &mut imported)).map_err(Failure::run)?;
    }
    let rows = runtime.block_on(opened.walk(&log, |_| Ok(())))?;
    if json {
        println!("{}", json!({"imported": imported, "rows": rows}));
        return Ok(());
    }
    let verb = if write == Import::Write { "taken" } else { "to take" };
    println!(
        "{} lines: {} answers {verb}, {} known already",
        group(imported.lines),
        group(imported.new_answers),
        group(imported.known_answers)
    );
    for (reason, count) in &imported.failed {
        println!("  failed: {reason} {}; the first, {}", group(*count), imported.first_failures[reason]);
    }
    if let Some(first) = &imported.first_foreign {
        println!("  no answers of ours: {} lines; the first, {first}", group(imported.foreign_lines));
    }
    println!("{}: {}", opened.stage, told(&rows));
    if rows.open > 0 {
        println!(
            "`pipeline batch export` writes the open ones anew; `pipeline run` asks them of the servers, or"
        );
        println!("rejects them with --set 'stage.{}.when_missing=\"reject\"'", opened.stage);
    }
    Ok(())
}

fn told(rows: &Rows) -> String {
    let Rows { answered, open, lost } = rows;
    let total = group(answered + open + lost);
    format!(
        "{} of {total} rows answered, {} open, {} lost (too short in every try)",
        group(*answered),
        group(*open),
        group(*lost)
    )
}
