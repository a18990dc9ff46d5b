//! Turns slots, new files and the success of other runs into runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::broken::Broken;
use super::{Due, Overlap, ScheduleConfig, due};
use crate::ledger::LedgerError;
use crate::notify::Notifier;
use crate::run::{RunSpec, Trigger, Wish};
use crate::submit::{SubmitError, Submitter};
use crate::supervisor::blocking;
use crate::workflows::WorkflowFile;

/// Watches schedules and triggers.
pub struct Scheduler {
    submitter: Arc<Submitter>,
    notifier: Arc<Notifier>,
    /// Files that trigger runs lie in this folder.
    data_folder: PathBuf,
    broken: Broken,
}

impl Scheduler {
    /// A scheduler that has not begun.
    pub fn new(submitter: Arc<Submitter>, notifier: Arc<Notifier>, data_folder: PathBuf) -> Self {
        Self { submitter, notifier, data_folder, broken: Broken::default() }
    }

    /// Looks at everything every so often, until it is told to stop.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.tick().await;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Looks at everything once. What fails is looked at again the next time.
    pub async fn tick(&self) {
        for file in self.submitter.workflows.list().await {
            if let Some(problems) = self.broken.news(&file) {
                self.notifier.workflow_broken(&file.file, problems).await;
            }
            let Some(shape) = &file.shape else { continue };
            if let Some(schedule) = &shape.schedule {
                report(&file, self.schedule(&file, &shape.name, schedule).await);
            }
            if let Some(prefix) = &shape.trigger.files {
                report(&file, self.new_files(&file, &shape.name, prefix).await);
            }
            if let Some(after) = &shape.trigger.after {
                report(&file, self.after(&file, &shape.name, after).await);
            }
        }
    }

    async fn schedule(
        &self,
        file: &WorkflowFile,
        name: &str,
        config: &ScheduleConfig,
    ) -> Result<(), SubmitError> {
        let cron = config.parsed().map_err(SubmitError::Workflow)?;
        let (now, key) = (self.submitter.clock.now(), name.to_owned());
        let record = self.ledger(move |ledger| ledger.schedule(&key, now)).await?;
        let Due { fire, passed_by } = due(&cron, config.catch_up, record.seen_until, now);
        if !record.paused {
            for slot in fire {
                if !self.admits(name, config.overlap, slot).await? {
                    continue;
                }
                let spec = RunSpec {
                    file: file.file.clone(),
                    profile: config.profile.clone(),
                    retries: config.retries,
                    timeout_seconds: config.timeout_seconds,
                    ..RunSpec::default()
                };
                let trigger = Trigger::Schedule { schedule: name.to_owned(), slot };
                self.submitter.submit(spec, trigger, None).await?;
            }
        }
        // Only now: slots whose runs could not be entered come again, and those entered are known.
        let key = name.to_owned();
        self.ledger(move |ledger| ledger.schedule_seen(&key, now)).await?;
        if passed_by > 0 && !record.paused {
            self.notifier.schedule_missed(name, passed_by).await;
        }
        Ok(())
    }

    /// Whether a new run of the schedule may come while earlier ones have not ended. The slot's own run may be
    /// there already, by another service.
    async fn admits(&self, name: &str, overlap: Overlap, slot: Timestamp) -> Result<bool, LedgerError> {
        let key = name.to_owned();
        let open = self.ledger(move |ledger| ledger.open_runs(&key, slot)).await?;
        match overlap {
            Overlap::Queue => Ok(true),
            Overlap::Skip => Ok(open.is_empty()),
            Overlap::Cancel => {
                let now = self.submitter.clock.now();
                for run in open {
                    // It may have ended in between.
                    let _ = self.ledger(move |ledger| ledger.wish(&run, Wish::Cancel, now)).await;
                }
                Ok(true)
            }
        }
    }

    async fn new_files(&self, file: &WorkflowFile, name: &str, prefix: &str) -> Result<(), SubmitError> {
        let folder = self.data_folder.clone();
        let prefix = prefix.to_owned();
        let found =
            tokio::task::spawn_blocking(move || files_under(&folder, &prefix)).await.unwrap_or_default();
        for path in found {
            let (workflow, seen) = (name.to_owned(), path.clone());
            let set = vec![format!(
                "vars.trigger_file={}",
                toml::Value::String(self.data_folder.join(&path).display().to_string())
            )];
            let spec = RunSpec { file: file.file.clone(), set, ..RunSpec::default() };
            let trigger = Trigger::File { path: path.clone() };
            // The key keeps a crash between the two steps from making a second run.
            let key = format!("file:{name}:{path}");
            if self.ledger(move |ledger| ledger.is_seen(&workflow, &seen)).await? {
                continue;
            }
            self.submitter.submit(spec, trigger, Some(key)).await?;
            let workflow = name.to_owned();
            self.ledger(move |ledger| ledger.saw(&workflow, &path)).await?;
        }
        Ok(())
    }

    async fn after(&self, file: &WorkflowFile, name: &str, after: &str) -> Result<(), SubmitError> {
        let (now, trigger) = (self.submitter.clock.now(), format!("after:{name}"));
        let key = trigger.clone();
        // Successes from before the trigger was there do not count.
        let since = self.ledger(move |ledger| ledger.schedule(&key, now)).await?.seen_until;
        let (seer, workflow) = (trigger.clone(), after.to_owned());
        let new = self.ledger(move |ledger| ledger.unseen_successes(&seer, &workflow, since)).await?;
        for run in new {
            let spec = RunSpec { file: file.file.clone(), ..RunSpec::default() };
            // The key keeps a crash between the two steps from making a second run.
            let key = format!("{trigger}:{run}");
            self.submitter.submit(spec, Trigger::Run { run: run.clone() }, Some(key)).await?;
            let seer = trigger.clone();
            self.ledger(move |ledger| ledger.saw(&seer, &run.0)).await?;
        }
        Ok(())
    }

    async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::ledger::Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        blocking(&self.submitter.ledger, work).await
    }
}

fn report(file: &WorkflowFile, result: Result<(), SubmitError>) {
    if let Err(error) = result {
        tracing::error!(file = file.file, %error, "a run that is due cannot be entered");
    }
}

/// Files whose path inside the folder begins with the prefix, in order. Hidden ones are being written.
fn files_under(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let start = match prefix.rsplit_once('/') {
        Some((parent, _)) => folder.join(parent),
        None => folder.to_owned(),
    };
    let mut open = vec![start];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let relative = path.strip_prefix(folder).map(|path| path.to_string_lossy().into_owned());
            let (Ok(relative), Ok(kind)) = (relative, entry.file_type()) else { continue };
            if name.to_string_lossy().starts_with('.') || relative.split('/').any(|part| part == "..") {
                continue;
            }
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && relative.starts_with(prefix) {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}
