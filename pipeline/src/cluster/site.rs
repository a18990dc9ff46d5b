//! What an executor is: a place with memory and threads, where orders are opened and tasks done.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::order::{Order, OrderRef};
use crate::durable;
use crate::engine::Engine;
use crate::manifest::Fingerprint;
use crate::runner::context::Environment;
use crate::runner::error::{StageError, chain};
use crate::runner::lock::Fence;
use crate::runner::progress::StageProgress;
use crate::runner::stage_run::{StageRun, partial_folder};
use crate::runner::{self, RunOptions};
use crate::workflow::{StageNode, Workflow};

/// Orders that stay open: their models are loaded.
const OPEN: usize = 4;

/// An executor.
pub(super) struct Site {
    /// Its name, for messages and unfinished files.
    pub(super) name: String,
    /// Memory for its tasks, in bytes.
    pub(super) memory_bytes: u64,
    /// CPU threads.
    pub(super) threads: usize,
    /// Where it spills.
    pub(super) spill_folder: PathBuf,
    /// Cancelled when it is to end.
    pub(super) stop: CancellationToken,
    /// The orders that it works on, the latest last.
    pub(super) open: Mutex<VecDeque<(String, Arc<OnceCell<Opened>>)>>,
}

/// An order, ready for its tasks.
pub(super) struct Opened {
    order: Order,
    workflow: Workflow,
    env: Arc<Environment>,
}

impl Site {
    /// Does a task of an order; says how many rows it has written.
    ///
    /// # Errors
    /// The failure, which is also left beside the order.
    pub(super) fn do_task<'a>(
        &'a self,
        order: &'a OrderRef,
        task: u32,
    ) -> BoxFuture<'a, Result<u64, StageError>> {
        async move {
            let done = self.try_task(order, task).await;
            done.map_err(|error| {
                let message = format!("{} (on executor {})", error.message, self.name);
                let error = StageError { message, ..error };
                order.report(task, &error);
                error
            })
        }
        .boxed()
    }

    async fn try_task(&self, order: &OrderRef, task: u32) -> Result<u64, StageError> {
        let cell = self.cell(order.digest());
        let opened = cell.get_or_try_init(|| self.open(order)).await?;
        let run = opened.run()?;
        if !order.stands() {
            return Err(StageError::stopped(&opened.order.stage));
        }
        opened.env.fence.check().map_err(|error| run.context().write_error(&error))?;
        let partial = partial_folder(&opened.env.run_folder, &opened.order.stage, &opened.order.fingerprint);
        let work = opened.order.tasks.get(task as usize);
        let work = work.ok_or_else(|| run.context().internal("an order has no such task"))?;
        let record = run.run_task(&partial, task as usize, work).await?;
        Ok(record.files.iter().filter_map(|file| file.rows).sum())
    }

    /// The place of an order among those that are open. The oldest is closed for a new one.
    fn cell(&self, digest: &str) -> Arc<OnceCell<Opened>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cell)) = open.iter().find(|(of, _)| of == digest) {
            return cell.clone();
        }
        if open.len() == OPEN {
            open.pop_front();
        }
        let cell = Arc::new(OnceCell::new());
        open.push_back((digest.to_owned(), cell.clone()));
        cell
    }

    /// Reads an order and builds its stage. That the fingerprint comes out the same here says that program,
    /// config, models and inputs are the same.
    async fn open(&self, given: &OrderRef) -> Result<Opened, StageError> {
        let order = given.read(&self.name)?;
        let wrong = |message: String| StageError::input(&order.stage, message);
        let here = std::env::current_dir().unwrap_or_default();
        if here != order.working_folder {
            let folders = (order.working_folder.display(), here.display());
            return Err(wrong(format!(
                "the run is made in {}, executor {} works in {}",
                folders.0, self.name, folders.1
            ))
            .help(format!("start it in {}: relative paths of workflows begin there", folders.0)));
        }
        let workflow = order.workflow.clone().workflow().map_err(|problems| {
            let words: Vec<String> = problems.problems.iter().map(ToString::to_string).collect();
            wrong(format!("the workflow has problems on executor {}: {}", self.name, words.join("; ")))
                .help("the executor's environment has not what the workflow takes from it")
        })?;
        let options = RunOptions {
            runs_folder: order.runs_folder.clone(),
            memory_bytes: self.memory_bytes,
            threads: self.threads,
            shard_bytes: order.shard_bytes,
            until: None,
            engine: Some(Engine::Executor),
        };
        let fence = match &order.holder {
            Some(holder) => Fence::of(&runner::run_folder(&order.runs_folder, &workflow), holder.clone()),
            None => Fence::default(),
        };
        let spill = self.spill_folder.join(given.digest());
        let env = runner::environment(&workflow, &options, spill, fence, self.stop.clone());
        let env = env.map_err(|error| wrong(chain(&error)))?;
        let opened = Opened { order, workflow, env };
        let own = opened.run()?.fingerprint().await?;
        self.compare(&opened, &own)?;
        Ok(opened)
    }

    fn compare(&self, opened: &Opened, own: &Fingerprint) -> Result<(), StageError> {
        let wanted = &opened.order.fingerprint;
        if own == wanted {
            return Ok(());
        }
        let (own, wanted) = (own.short(), wanted.short());
        let message = format!("executor {} would make something else: {own} instead of {wanted}", self.name);
        Err(StageError::input(&opened.order.stage, message).help(
            "its models, input files or environment are not those of the run: compare `pipeline assets verify` on both",
        ))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Left spill costs disk, no result.
        let _ = durable::remove_folder(&self.env.spill_folder);
    }
}

impl Opened {
    fn run(&self) -> Result<StageRun<'_>, StageError> {
        let find = |node: &&StageNode| node.id == self.order.stage;
        let node = self.workflow.stages.iter().find(find).ok_or_else(|| {
            StageError::input(&self.order.stage, "the order's workflow has no stage of this name")
        })?;
        let progress = StageProgress::default();
        let inputs = runner::resolver(&self.workflow, &self.env, node, &progress);
        Ok(StageRun { env: self.env.clone(), node, inputs, progress })
    }
}
