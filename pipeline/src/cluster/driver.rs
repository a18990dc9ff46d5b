//! The side of the run: gives the order, submits the plan, and takes the records over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ballista_core::config::{BALLISTA_JOB_NAME, BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK};
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt;
use ballista_core::utils::create_grpc_client_endpoint;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::{StreamExt, TryStreamExt, stream};

use super::codec::Codec;
use super::order::{Order, OrderRef, PROGRAM};
use super::tasks_exec;
use crate::durable;
use crate::manifest::Fingerprint;
use crate::runner::error::StageError;
use crate::runner::stage_run::{StageRun, TaskRecord, task_record_path};
use crate::stages::Task;

/// How often new records are looked for.
const LOOK: Duration = Duration::from_millis(300);
/// How long a scheduler may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries in a row that bring no task to its end: a scheduler that starts anew has forgotten the plan.
const TRIES: u32 = 8;
/// The longest wait between two.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A stage whose tasks are done elsewhere.
pub(super) struct Driver<'a, 'w> {
    pub(super) run: &'a StageRun<'w>,
    pub(super) scheduler: &'a str,
    pub(super) partial: &'a Path,
    pub(super) fingerprint: &'a Fingerprint,
    pub(super) tasks: Vec<Task>,
}

impl Driver<'_, '_> {
    /// Has all tasks done that are not, and returns the records of all.
    pub(super) async fn do_tasks(mut self) -> Result<Vec<TaskRecord>, StageError> {
        let ctx = self.run.context();
        let threads = self.run.env.threads.max(1);
        // What an earlier run has left is compared with its digests; what executors write now has just been.
        let records: Vec<Option<TaskRecord>> = stream::iter(0..self.tasks.len())
            .map(|task| self.run.finished_task(self.partial, task))
            .buffered(threads)
            .try_collect()
            .await?;
        let missing = |(task, record): (usize, &Option<TaskRecord>)| record.is_none().then_some(task as u32);
        let mut missing: BTreeSet<u32> = records.iter().enumerate().filter_map(missing).collect();
        for record in records.iter().flatten() {
            self.run.progress.add_rows(rows_of(record));
        }
        let count = self.tasks.len();
        if !missing.is_empty() {
            self.reach().await?;
            let order =
                self.order()?.give(&self.run.env.run_folder).map_err(|error| ctx.write_error(&error))?;
            let done = self.submit_until_done(&order, &mut missing).await;
            let closed = order.close().map_err(|error| ctx.write_error(&error));
            done.and(closed)?;
            durable::remove_unfinished(self.partial).map_err(|error| ctx.write_error(&error))?;
        }
        (0..count).map(|task| self.record(task)?.ok_or_else(|| ctx.internal("a record is gone"))).collect()
    }

    fn order(&mut self) -> Result<Order, StageError> {
        let ctx = self.run.context();
        let run_folder = &self.run.env.run_folder;
        let absolute = |path: &Path| {
            path.canonicalize().map_err(|error| ctx.input(format!("cannot find {}: {error}", path.display())))
        };
        // <runs>/<workflow>/<name>
        let runs_folder = absolute(run_folder)?.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
        Ok(Order {
            program: PROGRAM.to_owned(),
            working_folder: absolute(Path::new("."))?,
            workflow: self.run.inputs.workflow.text.clone(),
            runs_folder,
            stage: self.run.node.id.clone(),
            fingerprint: self.fingerprint.clone(),
            tasks: std::mem::take(&mut self.tasks),
            shard_bytes: self.run.env.shard_bytes,
            holder: self.run.env.fence.holder().cloned(),
        })
    }

    /// Fails early, and in plain words, where no scheduler listens.
    async fn reach(&self) -> Result<(), StageError> {
        let failed = |why: String| {
            let message = format!("the scheduler at {} cannot be reached: {why}", self.scheduler);
            self.run
                .context()
                .input(message)
                .help("start it with `pipeline cluster scheduler`, or name another with --engine")
        };
        let endpoint = create_grpc_client_endpoint(format!("http://{}", self.scheduler), None)
            .map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, endpoint.connect()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(service::words::chain(&error))),
            Err(_) => Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    async fn submit_until_done(
        &self,
        order: &OrderRef,
        missing: &mut BTreeSet<u32>,
    ) -> Result<(), StageError> {
        let ctx = self.run.context();
        let mut tries = 0;
        while !missing.is_empty() {
            let before = missing.len();
            let ended = self.submit(order, missing).await;
            self.take_over(missing)?;
            if ctx.stopping() {
                return Err(StageError::stopped(&ctx.stage));
            }
            if let Some(failure) = order.failure() {
                return Err(StageError { stage: ctx.stage, ..failure });
            }
            let Err(error) = ended else { continue };
            tries = if missing.len() < before { 0 } else { tries + 1 };
            if tries == TRIES {
                return Err(ctx.plan_error(&error));
            }
            tracing::warn!(stage = ctx.stage, error = %error, "the cluster has lost the work: it is submitted again");
            tokio::time::sleep(LONGEST_WAIT.min(Duration::from_secs(1 << tries))).await;
        }
        Ok(())
    }

    /// Submits the missing tasks and waits for their end, counting what is done meanwhile.
    async fn submit(&self, order: &OrderRef, missing: &mut BTreeSet<u32>) -> Result<(), DataFusionError> {
        let tasks: Vec<u32> = missing.iter().copied().collect();
        let plan = tasks_exec::plan(order.clone(), &tasks)?;
        let mut config = SessionConfig::new_with_ballista();
        let options = config.options_mut();
        options.set(BALLISTA_JOB_NAME, &self.run.node.id)?;
        // A task is lost alone, and executors that come later get some.
        options.set(BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, "1")?;
        let settings = config.ballista_config();
        let session = format!("corpusmith-{}", std::process::id());
        let (url, codec) = (format!("http://{}", self.scheduler), Codec::new(None));
        let job = execute_physical_plan::<PhysicalPlanNode>(url, &settings, plan, &codec, session, config);
        tokio::pin!(job);
        loop {
            tokio::select! {
                // Its rows say what the records say.
                ended = &mut job => return ended.map(drop),
                () = tokio::time::sleep(LOOK) => {}
            }
            // An unreadable record is met again when the job is over.
            let _ = self.take_over(missing);
            if self.run.env.stop.is_cancelled() {
                order.withdraw();
            }
        }
    }

    /// Counts the tasks that have been done.
    fn take_over(&self, missing: &mut BTreeSet<u32>) -> Result<(), StageError> {
        for task in missing.clone() {
            if let Some(record) = self.record(task as usize)? {
                self.run.progress.add_rows(rows_of(&record));
                missing.remove(&task);
            }
        }
        Ok(())
    }

    fn record(&self, task: usize) -> Result<Option<TaskRecord>, StageError> {
        let path: PathBuf = task_record_path(self.partial, task);
        TaskRecord::read(&path).map_err(|damage| {
            let message = format!("{} is damaged: {damage}", path.display());
            self.run.context().input(message).help("run the same command again: the task is then done anew")
        })
    }
}

fn rows_of(record: &TaskRecord) -> u64 {
    record.files.iter().filter_map(|file| file.rows).sum()
}
