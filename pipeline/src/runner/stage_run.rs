//! Executes one stage: tasks into shards, shards into a folder that appears whole.
//!
//! ```text
//! <run>/.partial-<stage>-<fingerprint>/   while it runs
//!     data/00000-00000.parquet            each renamed in when complete and synced
//!     tasks/00000.json                    written after a task's files: the task is done
//!     dropped/, quarantine/               side tables, one file a task
//!     manifest.json                       last
//! <run>/<stage>/                          the same folder, renamed
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use datafusion::error::DataFusionError;
use digests::Seal;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use service::trace;
use tokio::sync::mpsc;
use tracing::Instrument;
use tracing::field::Empty;

use super::context::{Environment, StageContext};
use super::error::StageError;
use super::inputs::InputResolver;
use super::ledger::{Ledger, LostRows, add_figures};
use super::progress::StageProgress;
use super::shards::ShardWriter;
use crate::cluster;
use crate::durable::{self, WriteContext, WriteError};
use crate::engine::data_file::DataFile;
use crate::engine::scan::{self, FileSlice};
use crate::engine::streams::execute;
use crate::engine::{self, BATCH_ROWS, Engine, Plan};
use crate::integrity::files::{Care, problem};
use crate::manifest::{self, Fingerprint, Manifest, OutputFile};
use crate::stages::{Shape, Task, blocking};
use crate::workflow::StageNode;

/// What a finished task leaves: enough to skip it later.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskRecord {
    /// [`manifest::FORMAT`]; records of version 1 did not say it.
    #[serde(default = "first_format")]
    pub format: u32,
    /// What it read, for people.
    pub name: String,
    /// Its shards.
    pub files: Vec<OutputFile>,
    /// Its tables of lost rows.
    #[serde(default)]
    pub side_files: Vec<OutputFile>,
    /// Dropped rows by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Failed rows by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// The first failed row's failure, for people.
    #[serde(default)]
    pub first_failure: Option<String>,
    /// What the stage notes of its work.
    #[serde(default)]
    pub figures: BTreeMap<String, Json>,
    /// Wall-clock time, in seconds.
    pub seconds: f64,
}

fn first_format() -> u32 {
    1
}

impl TaskRecord {
    /// Reads a task's record; `None` when the task is not finished.
    ///
    /// # Errors
    /// How the damage of a record shows.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        let seal = digests::check(&bytes);
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        match (seal, record.format) {
            (Seal::Whole, _) | (Seal::Missing, 1) => Ok(Some(record)),
            (Seal::Broken, _) => Err("it does not match its own digest".to_owned()),
            (Seal::Missing, _) => Err("its digest is missing".to_owned()),
        }
    }

    /// What is wrong with the task's files. They are read: the stage's manifest will vouch for them.
    fn damage(&self, folder: &Path) -> Option<String> {
        self.files.iter().chain(&self.side_files).find_map(|file| {
            problem(folder, file, Care::Every).map(|problem| format!("{}: {problem}", file.path))
        })
    }
}

/// The folder in which a stage's work under a fingerprint is collected.
pub fn partial_folder(run_folder: &Path, stage: &str, fingerprint: &Fingerprint) -> PathBuf {
    run_folder.join(format!(".partial-{stage}-{}", fingerprint.short()))
}

/// The folder of a finished stage.
pub fn stage_folder(run_folder: &Path, stage: &str) -> PathBuf {
    run_folder.join(stage)
}

/// The name of a task's record in its stage's folder.
pub fn task_record_name(task: usize) -> String {
    format!("tasks/{task:05}.json")
}

/// The file of a task's record.
pub fn task_record_path(folder: &Path, task: usize) -> PathBuf {
    folder.join(task_record_name(task))
}

/// Runs one stage to its manifest.
pub struct StageRun<'a> {
    /// The run.
    pub env: Arc<Environment>,
    /// The stage.
    pub node: &'a StageNode,
    /// Its inputs.
    pub inputs: InputResolver<'a>,
    /// Where its work is counted.
    pub progress: StageProgress,
}

impl StageRun<'_> {
    /// A context for a task.
    pub fn context(&self) -> StageContext {
        StageContext {
            stage: self.node.id.clone(),
            env: self.env.clone(),
            session: self.env.session.clone(),
            ledger: Ledger::new(&self.env.spill_folder, self.node.dropped_rows),
            progress: self.progress.clone(),
        }
    }

    /// The context of what reads these slices, or all inputs.
    async fn context_for(&self, slices: Option<&[FileSlice]>) -> Result<StageContext, StageError> {
        let mut all = slices.map(<[FileSlice]>::to_vec).unwrap_or_default();
        if slices.is_none() {
            for role in self.node.kind.inputs {
                all.extend(self.inputs.shards(self.node, role.role).await?);
            }
        }
        let mut ctx = self.context();
        // What cannot be opened is told when it is read.
        let files: Vec<_> = all.iter().filter_map(|slice| DataFile::of(ctx.session(), slice).ok()).collect();
        let rows = blocking(&self.node.id, move || Ok(scan::batch_rows(&files))).await?;
        if rows < BATCH_ROWS {
            ctx.session = engine::with_batch_rows(&self.env.session, rows);
        }
        Ok(ctx)
    }

    /// What the stage's output is a function of.
    ///
    /// # Errors
    /// An external file or asset is missing.
    pub async fn fingerprint(&self) -> Result<Fingerprint, StageError> {
        let externals = self.node.stage.externals(&self.context()).await?;
        let inputs = self.inputs.contents(self.node).await?;
        let StageNode { kind, config, .. } = self.node;
        Ok(Fingerprint::of(kind.name, kind.version, config, &inputs, &externals))
    }

    /// Does what is left of the work and publishes the folder.
    ///
    /// # Errors
    /// Any task fails; finished tasks stay finished.
    pub async fn execute(&self, fingerprint: &Fingerprint) -> Result<Manifest, StageError> {
        let started = Instant::now();
        let ctx = self.context();
        let partial = partial_folder(&self.env.run_folder, &self.node.id, fingerprint);
        let write_error = |error: WriteError| ctx.write_error(&error);
        // A kill between the manifest and the rename leaves a complete folder: publish it.
        if let Some(manifest) = Manifest::read(&partial).map_err(|e| ctx.failed(&e))? {
            self.env.guard.check_unread(&partial, &manifest).map_err(|damage| ctx.damaged(&damage))?;
            self.publish(&partial).map_err(write_error)?;
            return Ok(manifest);
        }
        self.inputs.check_whole(self.node).await?;
        durable::make_folder(&partial).map_err(write_error)?;
        let rows_in = self.inputs.rows_in(self.node)?;
        self.progress.set_total(rows_in.unwrap_or(0));
        let mut manifest = Manifest {
            format: manifest::FORMAT,
            stage: self.node.id.clone(),
            kind: self.node.kind.name.to_owned(),
            fingerprint: fingerprint.clone(),
            content: String::new(),
            config: self.node.config.clone(),
            inputs: self.inputs.contents(self.node).await?,
            files: Vec::new(),
            side_files: Vec::new(),
            rows_in: rows_in.unwrap_or(0),
            rows_out: 0,
            dropped: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            metrics: BTreeMap::new(),
            seconds: 0.0,
            peak_memory_bytes: 0,
        };
        match self.node.stage.shape() {
            Shape::PerShard | Shape::Whole => self.run_tasks(&partial, fingerprint, &mut manifest).await?,
            Shape::Folder => self.run_folder(&partial, &mut manifest).await?,
        }
        self.node.stage.release();
        manifest.metrics.extend(self.node.stage.prices());
        manifest.seconds += started.elapsed().as_secs_f64();
        manifest.content = Manifest::content_of(&manifest.files);
        manifest.peak_memory_bytes = self.progress.peak_memory_bytes();
        durable::sync_tree(&partial).map_err(write_error)?;
        let json = manifest.to_bytes().map_err(|e| ctx.failed(&e))?;
        durable::write_file(&partial.join(manifest::FILE_NAME), &json).map_err(write_error)?;
        self.publish(&partial).map_err(write_error)?;
        self.env.guard.written(&stage_folder(&self.env.run_folder, &self.node.id), &manifest);
        Ok(manifest)
    }

    /// Puts the complete folder in the place of the last one. Between the two renames there is no
    /// folder under the stage's name; a kill there leaves the complete partial folder, which the
    /// next run publishes.
    fn publish(&self, partial: &Path) -> Result<(), WriteError> {
        self.env.fence.check()?;
        let folder = stage_folder(&self.env.run_folder, &self.node.id);
        let stale = self.env.run_folder.join(format!(".stale-{}", self.node.id));
        durable::remove_folder(&stale)?;
        if folder.exists() {
            durable::publish(&folder, &stale)?;
        }
        durable::publish(partial, &folder)?;
        durable::remove_folder(&stale)?;
        self.remove_abandoned()
    }

    /// Unfinished work under other fingerprints would never be taken up unless the workflow were
    /// changed back; it only fills the disk.
    fn remove_abandoned(&self) -> Result<(), WriteError> {
        let prefix = format!(".partial-{}-", self.node.id);
        let entries = std::fs::read_dir(&self.env.run_folder).doing("read", &self.env.run_folder)?;
        for entry in entries.flatten() {
            // A stage's name has no `-`, so the prefix is no other stage's.
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                durable::remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Finds the inputs of what runs in `ctx`: the rows that a fused stage loses are counted there.
    fn inputs_for(&self, ctx: &StageContext) -> InputResolver<'_> {
        InputResolver { ctx: ctx.clone(), ..self.inputs.clone() }
    }

    async fn run_folder(&self, partial: &Path, manifest: &mut Manifest) -> Result<(), StageError> {
        let ctx = self.context_for(None).await?;
        let inputs = self.inputs_for(&ctx).resolve(self.node, None).await?;
        let outcome = self.node.stage.run(&ctx, &inputs, partial).await?;
        manifest.rows_in = outcome.rows_in.unwrap_or(manifest.rows_in);
        manifest.rows_out = outcome.rows_out;
        manifest.metrics = outcome.metrics;
        let dropped = ctx.ledger.take_dropped().map_err(|e| ctx.write_error(&e))?;
        let quarantined = ctx.ledger.take_quarantined().map_err(|e| ctx.write_error(&e))?;
        manifest.dropped.clone_from(&dropped.counts);
        manifest.quarantined.clone_from(&quarantined.counts);
        manifest.side_files =
            write_side_tables(partial, 0, dropped, quarantined).map_err(|e| ctx.write_error(&e))?;
        manifest.files = list_files(partial, partial).map_err(|e| ctx.write_error(&e))?;
        Ok(())
    }

    /// The records of a stage's tasks, done here or by the executors of a cluster.
    async fn do_tasks(
        &self,
        partial: &Path,
        fingerprint: &Fingerprint,
        tasks: Vec<Task>,
    ) -> Result<Vec<TaskRecord>, StageError> {
        if let (Engine::Ballista(scheduler), false) =
            (&self.env.engine, self.inputs.workflow.stays(self.node))
        {
            return cluster::do_tasks(self, scheduler, partial, fingerprint, tasks).await;
        }
        stream::iter(tasks.iter().enumerate())
            .map(|(index, task)| self.run_task(partial, index, task))
            .buffered(self.env.threads.max(1))
            .try_collect()
            .await
    }

    async fn run_tasks(
        &self,
        partial: &Path,
        fingerprint: &Fingerprint,
        manifest: &mut Manifest,
    ) -> Result<(), StageError> {
        let ctx = self.context();
        let tasks = self.tasks(&ctx).await?;
        let records = self.do_tasks(partial, fingerprint, tasks).await?;
        let written = |record: &TaskRecord| record.files.iter().filter_map(|file| file.rows).sum::<u64>();
        let first_failure = records.iter().find_map(|record| record.first_failure.clone());
        let nothing_else = records.iter().all(|record| written(record) == 0 && record.dropped.is_empty());
        if let (true, Some(failure)) = (nothing_else, first_failure) {
            // Not one row's fault: the work is undone, so that the next run tries it again.
            durable::remove_folder(&partial.join("tasks")).map_err(|error| ctx.write_error(&error))?;
            return Err(StageError::run(&self.node.id, format!("every row failed; the first, {failure}"))
                .help("mend the cause and run the same command again"));
        }
        for (index, record) in records.into_iter().enumerate() {
            manifest.side_files.extend(record.side_files.iter().cloned());
            manifest.side_files.push(record_file(partial, index).map_err(|error| ctx.write_error(&error))?);
            manifest.rows_out += record.files.iter().filter_map(|file| file.rows).sum::<u64>();
            manifest.files.extend(record.files);
            add_figures(&mut manifest.metrics, record.figures);
            for (reason, rows) in record.dropped {
                *manifest.dropped.entry(reason).or_insert(0) += rows;
            }
            for (reason, rows) in record.quarantined {
                *manifest.quarantined.entry(reason).or_insert(0) += rows;
            }
        }
        Ok(())
    }

    async fn tasks(&self, ctx: &StageContext) -> Result<Vec<Task>, StageError> {
        if let Some(tasks) = self.node.stage.tasks(ctx).await? {
            return Ok(tasks);
        }
        let whole = || vec![Task { name: "all".to_owned(), slice: None }];
        let Some(role) = self.node.kind.inputs.first() else {
            return Ok(whole());
        };
        if self.node.stage.shape() != Shape::PerShard {
            return Ok(whole());
        }
        let shards = self.inputs.shards(self.node, role.role).await?;
        Ok(shards
            .into_iter()
            .map(|slice| Task { name: format!("/{}", slice.path), slice: Some(vec![slice]) })
            .collect())
    }

    /// Does a task, unless it is done.
    ///
    /// # Errors
    /// It fails, or the run is to stop.
    pub async fn run_task(
        &self,
        partial: &Path,
        index: usize,
        task: &Task,
    ) -> Result<TaskRecord, StageError> {
        if let Some(record) = self.finished_task(partial, index).await? {
            self.progress.add_rows(record.files.iter().filter_map(|file| file.rows).sum());
            return Ok(record);
        }
        let ctx = self.context_for(task.slice.as_deref()).await?;
        if ctx.stopping() {
            return Err(StageError::stopped(&self.node.id));
        }
        let span = tracing::info_span!(
            target: trace::TARGET,
            "task",
            otel.status_code = Empty,
            task = task.name,
            index,
            rows = Empty,
        );
        let result = self.do_task(&ctx, partial, index, task).instrument(span.clone()).await;
        match &result {
            Ok(record) => span.record("rows", record.files.iter().filter_map(|file| file.rows).sum::<u64>()),
            Err(_) => span.record("otel.status_code", "ERROR"),
        };
        result
    }

    async fn do_task(
        &self,
        ctx: &StageContext,
        partial: &Path,
        index: usize,
        task: &Task,
    ) -> Result<TaskRecord, StageError> {
        let record_path = task_record_path(partial, index);
        let started = Instant::now();
        if let Some(slices) = &task.slice {
            self.inputs.check_slices(self.node, slices).await?;
        }
        let inputs = self.inputs_for(ctx).resolve(self.node, task.slice.clone()).await?;
        let plan = self.node.stage.plan(ctx, task, &inputs).await?.into();
        let files = self.write_rows(partial, index, task, plan).await?;
        let dropped = ctx.ledger.take_dropped().map_err(|error| ctx.write_error(&error))?;
        let quarantined = ctx.ledger.take_quarantined().map_err(|error| ctx.write_error(&error))?;
        let mut record = TaskRecord {
            format: manifest::FORMAT,
            name: task.name.clone(),
            files,
            side_files: Vec::new(),
            dropped: dropped.counts.clone(),
            quarantined: quarantined.counts.clone(),
            first_failure: quarantined
                .first
                .as_ref()
                .map(|row| format!("{} ({}): {}", row.id, row.reason, row.detail)),
            figures: ctx.ledger.take_figures(),
            seconds: started.elapsed().as_secs_f64(),
        };
        let write = |record: &mut TaskRecord| {
            self.env.fence.check()?;
            record.side_files = write_side_tables(partial, index, dropped, quarantined)?;
            durable::make_folder(&partial.join("tasks"))?;
            let sealed = digests::seal(&serde_json::json!(record).to_string());
            match self.env.engine {
                // One that was taken for lost may do the task once more.
                Engine::Executor => durable::write_first(&record_path, &sealed),
                _ => durable::write_file(&record_path, &sealed),
            }
        };
        write(&mut record).map_err(|error| ctx.write_error(&error))?;
        Ok(record)
    }

    /// The record of a task that an earlier call finished. A task whose record or files are damaged is done
    /// anew: it is work that this run does anyhow.
    pub(crate) async fn finished_task(
        &self,
        partial: &Path,
        index: usize,
    ) -> Result<Option<TaskRecord>, StageError> {
        let (folder, path) = (partial.to_owned(), task_record_path(partial, index));
        let stage = self.node.id.clone();
        blocking(&self.node.id, move || {
            let damage = match TaskRecord::read(&path) {
                Ok(None) => return Ok(None),
                Ok(Some(record)) => match record.damage(&folder) {
                    None => return Ok(Some(record)),
                    Some(damage) => damage,
                },
                Err(damage) => damage,
            };
            tracing::warn!(stage, record = %path.display(), damage, "a finished task is damaged: it is done anew");
            // Who comes first writes it anew.
            let _ = std::fs::remove_file(&path);
            Ok(None)
        })
        .await
    }

    /// Streams a plan into shards. Encoding and compressing run on a blocking thread behind a short
    /// queue, which is the back-pressure.
    async fn write_rows(
        &self,
        partial: &Path,
        index: usize,
        task: &Task,
        plan: Plan,
    ) -> Result<Vec<OutputFile>, StageError> {
        let stage = &self.node.id;
        let place = if task.slice.is_some() { task.name.as_str() } else { "" };
        let plan_error = |error| StageError::plan(stage, place, &error);
        let mut rows = execute(plan).await.map_err(plan_error)?;
        let mut writer = ShardWriter::new(partial, index, rows.schema(), self.env.shard_bytes);
        let (sender, mut receiver) = mpsc::channel(2);
        let finished = tokio::task::spawn_blocking(move || {
            while let Some(message) = receiver.blocking_recv() {
                match message {
                    Some(batch) => writer.write(batch)?,
                    None => return writer.finish().map(Some),
                }
            }
            // The stream failed: its last shard must not appear.
            Ok(None)
        });
        // Spawned, so that the tasks of a stage really run side by side.
        let progress = self.progress.clone();
        let pulled = async move {
            while let Some(batch) = rows.next().await {
                let batch = batch?;
                progress.add_rows(batch.num_rows() as u64);
                if sender.send(Some(batch)).await.is_err() {
                    return Ok(());
                }
            }
            // Fails only when the writer has stopped, and then `finished` has the error.
            let _ = sender.send(None).await;
            Ok::<(), DataFusionError>(())
        };
        // It stays part of its task's span.
        let pulled = tokio::spawn(pulled.in_current_span());
        let pulled = pulled.await.map_err(|e| StageError::run(stage, format!("a task died: {e}")))?;
        let files = finished.await.map_err(|e| StageError::run(stage, format!("the writer died: {e}")))?;
        let files = files.map_err(|error| StageError::run(stage, error.to_string()))?;
        pulled.map_err(plan_error)?;
        files.ok_or_else(|| StageError::run(stage, "the writer stopped early"))
    }
}

fn write_side_tables(
    partial: &Path,
    task: usize,
    dropped: LostRows,
    quarantined: LostRows,
) -> Result<Vec<OutputFile>, WriteError> {
    let mut files = Vec::new();
    for (folder, rows) in [("dropped", dropped), ("quarantine", quarantined)] {
        let written = rows.write(&partial.join(folder).join(format!("{task:05}.parquet")))?;
        files.extend(written.map(|file| OutputFile { path: format!("{folder}/{}", file.path), ..file }));
    }
    Ok(files)
}

/// A task's record as one of the stage's files.
fn record_file(partial: &Path, task: usize) -> Result<OutputFile, WriteError> {
    let path = task_record_path(partial, task);
    let bytes = path.metadata().doing("read", &path)?.len();
    let blake3 = digests::of_file(&path).doing("read", &path)?;
    Ok(OutputFile { path: task_record_name(task), bytes, rows: None, blake3 })
}

/// The files of a folder stage, hashed; what begins with `.` or belongs to the runner is left out.
fn list_files(root: &Path, folder: &Path) -> Result<Vec<OutputFile>, WriteError> {
    let wrap = |source, path: &Path| WriteError::new("read", path, source);
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| wrap(e, folder))?;
    for entry in entries {
        let path = entry.map_err(|e| wrap(e, folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of_the_runner = folder == root && matches!(name.as_str(), "dropped" | "quarantine" | "tasks");
        if name.starts_with('.') || of_the_runner {
            continue;
        }
        if path.is_dir() {
            files.extend(list_files(root, &path)?);
            continue;
        }
        let blake3 = digests::of_file(&path).map_err(|e| wrap(e, &path))?;
        let inside = path.strip_prefix(root).unwrap_or(&path);
        files.push(OutputFile {
            path: inside.to_string_lossy().replace('\\', "/"),
            bytes: path.metadata().map_err(|e| wrap(e, &path))?.len(),
            rows: None,
            blake3,
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
