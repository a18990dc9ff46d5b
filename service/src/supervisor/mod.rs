//! Gives queued runs to processes, and watches over them.

mod attend;
mod child;
mod progress;
mod watch;

pub(crate) use child::LOG_FORMAT_VARIABLE;
pub use child::RUN_VARIABLE;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerError};
use crate::notify::Notifier;
use crate::run::{Amounts, RunId};
use crate::workflows::Workflows;

/// How the supervisor works.
#[derive(Clone, Debug)]
pub struct SupervisorOptions {
    /// The program `pipeline`.
    pub program: PathBuf,
    /// The folder of all runs.
    pub runs_folder: PathBuf,
    /// The folder of the runs' logs.
    pub logs_folder: PathBuf,
    /// Those logs are lines of JSON.
    pub json_log: bool,
    /// This service's name: stable over restarts, and of no other service that shares the ledger.
    pub name: String,
    /// What there is of each pool.
    pub capacity: Amounts,
    /// How long a run may take to stop before it is killed.
    pub grace: Duration,
    /// A process without a sign of life for so long is lost.
    pub lease: Duration,
    /// How often the queue is looked at, and signs of life are given.
    pub beat: Duration,
}

/// Gives queued runs to processes.
pub struct Supervisor {
    pub(crate) options: SupervisorOptions,
    pub(crate) ledger: Ledger,
    pub(crate) workflows: Arc<Workflows>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notifier: Arc<Notifier>,
    /// Runs that this service works on.
    attended: Mutex<BTreeSet<RunId>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Supervisor {
    /// A supervisor that has not begun.
    pub fn new(
        options: SupervisorOptions,
        ledger: Ledger,
        workflows: Arc<Workflows>,
        clock: Arc<dyn Clock>,
        notifier: Arc<Notifier>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (attended, tasks) = (Mutex::default(), TaskTracker::new());
        Arc::new(Self { options, ledger, workflows, clock, notifier, attended, tasks, stop })
    }

    /// Works until it is told to stop; then stops the processes, and lets their runs wait for the next
    /// service.
    pub async fn run(self: Arc<Self>) {
        let watching = tokio::spawn(self.clone().watch());
        while !self.stop.is_cancelled() {
            match self.claim().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the queue cannot be read"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.beat) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        watching.abort();
    }

    /// Starts the next run; whether there was one.
    async fn claim(self: &Arc<Self>) -> Result<bool, LedgerError> {
        let (name, capacity, now) =
            (self.options.name.clone(), self.options.capacity.clone(), self.clock.now());
        let claimed = blocking(&self.ledger, move |ledger| ledger.claim(&name, &capacity, now)).await?;
        let Some(run) = claimed else {
            return Ok(false);
        };
        self.attended().insert(run.id.clone());
        let this = self.clone();
        self.tasks.spawn(async move {
            let id = run.id.clone();
            this.attend(run).await;
            this.attended().remove(&id);
        });
        Ok(true)
    }

    fn attended(&self) -> std::sync::MutexGuard<'_, BTreeSet<RunId>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the ledger on a thread that may wait for it.
pub(crate) async fn blocking<T: Send + 'static>(
    ledger: &Ledger,
    work: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    let ledger = ledger.clone();
    match tokio::task::spawn_blocking(move || work(&ledger)).await {
        Ok(result) => result,
        Err(error) => Err(LedgerError::Database(error.to_string())),
    }
}
