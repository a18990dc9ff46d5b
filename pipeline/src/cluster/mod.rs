//! Tasks done by other machines: Apache DataFusion Ballista carries their numbers to its executors, and each
//! executor does them as the embedded engine does, so that the bytes are the same.
//!
//! ```text
//! pipeline run --engine ballista://…      writes an order into the run's folder, submits a plan whose rows are
//!                                         numbers of tasks, and takes the tasks' records over
//! pipeline cluster scheduler              Ballista's scheduler, which hands the plan's partitions out
//! pipeline cluster executor               Ballista's executor: reads the order, builds the stage again, does
//!                                         the task, writes its record
//! ```
//!
//! A task's rows never pass through the scheduler or the driver. A task that is done again, because an executor
//! was lost or taken for lost, finds its record and is over at once. The run's folder is one that all machines
//! see under the same path.

#[cfg(feature = "cluster")]
mod codec;
#[cfg(feature = "cluster")]
mod driver;
#[cfg(feature = "cluster")]
mod order;
#[cfg(feature = "cluster")]
pub mod servers;
#[cfg(feature = "cluster")]
mod site;
#[cfg(feature = "cluster")]
mod tasks_exec;

use std::path::Path;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::manifest::Fingerprint;
use crate::runner::error::StageError;
use crate::runner::stage_run::{StageRun, TaskRecord};
use crate::stages::Task;

/// Has a stage's tasks done by the executors of the cluster whose scheduler is at `scheduler`, `HOST:PORT`.
///
/// # Errors
/// A task fails on its executor, or the scheduler cannot be reached.
#[cfg(feature = "cluster")]
pub fn do_tasks<'a>(
    run: &'a StageRun<'_>,
    scheduler: &'a str,
    partial: &'a Path,
    fingerprint: &'a Fingerprint,
    tasks: Vec<Task>,
) -> BoxFuture<'a, Result<Vec<TaskRecord>, StageError>> {
    driver::Driver { run, scheduler, partial, fingerprint, tasks }.do_tasks().boxed()
}

/// This program has no clusters.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cluster"))]
pub fn do_tasks<'a>(
    run: &'a StageRun<'_>,
    _scheduler: &'a str,
    _partial: &'a Path,
    _fingerprint: &'a Fingerprint,
    _tasks: Vec<Task>,
) -> BoxFuture<'a, Result<Vec<TaskRecord>, StageError>> {
    let error = StageError::input(&run.node.id, "this program was built without clusters");
    let error =
        error.help("build it with `cargo build --release --features cluster`, or use --engine embedded");
    std::future::ready(Err(error)).boxed()
}
