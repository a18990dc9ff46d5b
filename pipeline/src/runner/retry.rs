//! `pipeline retry`: opens again the tasks that hold failed rows. The good answers of those tasks
//! are in the answer log, so only the failed rows are asked again.

use std::path::Path;

use super::error::{RunError, StageError};
use super::stage_run::{TaskRecord, partial_folder, stage_folder, task_record_name, task_record_path};
use crate::durable::{self, WriteContext};
use crate::integrity::Kind;
use crate::integrity::stage::StageFolder;
use crate::manifest::{self, Manifest};
use crate::workflow::Workflow;

/// A finished task with failed rows.
pub struct FailedTask {
    /// The stage.
    pub stage: String,
    /// The task's number.
    pub index: usize,
    /// What it read.
    pub name: String,
    /// How many rows failed.
    pub rows: u64,
}

/// The finished tasks of a run that hold failed rows.
///
/// # Errors
/// A manifest is unreadable.
pub fn quarantined_tasks(workflow: &Workflow, run_folder: &Path) -> Result<Vec<FailedTask>, RunError> {
    let mut failed = Vec::new();
    for node in &workflow.stages {
        let folder = stage_folder(run_folder, &node.id);
        let Some(manifest) = Manifest::read(&folder)? else {
            continue;
        };
        if manifest.quarantined.is_empty() {
            continue;
        }
        for index in 0.. {
            let path = task_record_path(&folder, index);
            let damaged = |problem: String| {
                let damage = StageFolder::finished(&folder, &manifest).damage(
                    &task_record_name(index),
                    Kind::TaskRecord,
                    problem,
                );
                StageError::run(&node.id, damage.to_string()).help(damage.mend)
            };
            let Some(record) = TaskRecord::read(&path).map_err(damaged)? else {
                break;
            };
            let rows = record.quarantined.values().sum();
            if rows > 0 {
                failed.push(FailedTask { stage: node.id.clone(), index, name: record.name, rows });
            }
        }
    }
    Ok(failed)
}

/// Turns the stages of the failed tasks back into unfinished ones that miss just those tasks.
///
/// # Errors
/// A file cannot be moved or removed.
pub fn reopen(run_folder: &Path, failed: &[FailedTask]) -> Result<(), RunError> {
    let mut stages: Vec<&str> = failed.iter().map(|task| task.stage.as_str()).collect();
    stages.dedup();
    for stage in stages {
        let folder = stage_folder(run_folder, stage);
        let Some(manifest) = Manifest::read(&folder)? else {
            continue;
        };
        // The manifest goes first: without it the folder is unfinished, whatever happens next.
        let path = folder.join(manifest::FILE_NAME);
        std::fs::remove_file(&path).doing("remove", &path)?;
        for task in failed.iter().filter(|task| task.stage == stage) {
            let record = task_record_path(&folder, task.index);
            std::fs::remove_file(&record).doing("remove", &record)?;
        }
        let partial = partial_folder(run_folder, stage, &manifest.fingerprint);
        durable::remove_folder(&partial)?;
        durable::publish(&folder, &partial)?;
    }
    Ok(())
}
