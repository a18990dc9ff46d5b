//! Takes what is damaged out of a run's way, so that the next run makes it anew. Nothing is deleted: all goes
//! into `.damaged/<number>/`, with a list of what was found.
//!
//! Each step leaves a run that can go on, whenever it is interrupted: a stage's manifest goes first, and
//! without it the stage is unfinished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use synth::answer_log::AnswerLogError;
use thiserror::Error;

use super::{Damage, Step};
use crate::durable::{self, WriteContext, WriteError};
use crate::manifest::{self, Fingerprint};
use crate::runner::stage_run::{partial_folder, task_record_path};

/// Where damaged files go, inside a run's folder.
pub const DAMAGED_FOLDER: &str = ".damaged";

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A folder goes aside.
    SetAside(PathBuf),
    /// Tasks of a stage go aside, and the stage is unfinished.
    Reopen {
        /// The stage's folder.
        folder: PathBuf,
        /// Name and work of a finished stage.
        finished: Option<(String, Fingerprint)>,
        /// The tasks.
        tasks: BTreeSet<usize>,
    },
    /// The damaged segments of a log are written anew.
    MendLog(PathBuf),
}

/// A repair could not be done.
#[derive(Debug, Error)]
pub enum RepairError {
    /// A file could not be moved.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A log of answers could not be mended.
    #[error(transparent)]
    Answers(#[from] AnswerLogError),
}

impl Action {
    /// What is done, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::SetAside(path) => format!("put {} aside", path.display()),
            Self::Reopen { folder, tasks, .. } => {
                let list: Vec<String> = tasks.iter().map(ToString::to_string).collect();
                format!("put task {} of {} aside, and keep the others", list.join(", "), folder.display())
            }
            Self::MendLog(dir) => format!("write {} anew with every whole answer", dir.display()),
        }
    }
}

/// Tasks of a folder that are done anew, and the finished stage that it was.
type Reopened = (Option<(String, Fingerprint)>, BTreeSet<usize>);

/// What is to be done about the damage, each folder once.
pub fn plan(damaged: &[Damage]) -> Vec<Action> {
    let mut aside = BTreeSet::new();
    let mut reopened: BTreeMap<PathBuf, Reopened> = BTreeMap::new();
    let mut logs = BTreeSet::new();
    for damage in damaged {
        match &damage.step {
            Step::SetAside(path) => {
                aside.insert(path.clone());
            }
            Step::RedoTask { folder, finished, task } => {
                let entry = reopened.entry(folder.clone()).or_default();
                entry.0.clone_from(finished);
                entry.1.insert(*task);
            }
            Step::MendLog(dir) => {
                logs.insert(dir.clone());
            }
            Step::None => {}
        }
    }
    reopened.retain(|folder, _| !aside.contains(folder));
    let reopened =
        reopened.into_iter().map(|(folder, (finished, tasks))| Action::Reopen { folder, finished, tasks });
    aside
        .into_iter()
        .map(Action::SetAside)
        .chain(reopened)
        .chain(logs.into_iter().map(Action::MendLog))
        .collect()
}

/// Does what is planned; the run's lock must be held. Returns the folder in which the damaged files are.
///
/// # Errors
/// A file cannot be moved or written. What was done so far stays done, and another call does the rest.
pub fn apply(run: &Path, damaged: &[Damage], actions: &[Action]) -> Result<PathBuf, RepairError> {
    let aside = new_folder(run)?;
    let list = json!({"damaged": damaged});
    durable::write_file(&aside.join("damaged.json"), format!("{list:#}\n").as_bytes())?;
    for action in actions {
        match action {
            Action::SetAside(path) => move_aside(path, run, &aside)?,
            Action::Reopen { folder, finished, tasks } => {
                reopen(run, &aside, folder, finished.as_ref(), tasks)?;
            }
            Action::MendLog(dir) => {
                synth::answer_log::mend(dir, &aside.join(dir.strip_prefix(run).unwrap_or(dir)))?;
            }
        }
    }
    Ok(aside)
}

fn new_folder(run: &Path) -> Result<PathBuf, WriteError> {
    let folder = run.join(DAMAGED_FOLDER);
    durable::make_folder(&folder)?;
    let entries = fs::read_dir(&folder).doing("read", &folder)?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let aside = folder.join(format!("{:05}", numbers.max().map_or(1, |last| last + 1)));
    durable::make_folder(&aside)?;
    Ok(aside)
}

/// Moves a file or folder of the run to the same place under `aside`.
fn move_aside(path: &Path, run: &Path, aside: &Path) -> Result<(), WriteError> {
    let to = aside.join(path.strip_prefix(run).unwrap_or(path));
    let (Some(from_folder), Some(to_folder)) = (path.parent(), to.parent()) else {
        return Ok(());
    };
    durable::make_folder(to_folder)?;
    match fs::rename(path, &to) {
        // Missing files are a kind of damage, too.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.doing("move aside", path)?,
    }
    durable::sync_folder(to_folder)?;
    durable::sync_folder(from_folder)
}

fn reopen(
    run: &Path,
    aside: &Path,
    folder: &Path,
    finished: Option<&(String, Fingerprint)>,
    tasks: &BTreeSet<usize>,
) -> Result<(), WriteError> {
    move_aside(&folder.join(manifest::FILE_NAME), run, aside)?;
    for task in tasks {
        move_aside(&task_record_path(folder, *task), run, aside)?;
        for side in ["dropped", "quarantine"] {
            move_aside(&folder.join(side).join(format!("{task:05}.parquet")), run, aside)?;
        }
        let shard = format!("{task:05}-");
        for entry in fs::read_dir(folder.join("data")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&shard) {
                move_aside(&entry.path(), run, aside)?;
            }
        }
    }
    let Some((stage, fingerprint)) = finished else { return Ok(()) };
    let partial = partial_folder(run, stage, fingerprint);
    // A complete stage whose last rename is missing has the name already.
    if partial == folder {
        return Ok(());
    }
    move_aside(&partial, run, aside)?;
    durable::publish(folder, &partial)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn damage(step: Step) -> Damage {
        let (found, mend) = (String::new(), String::new());
        Damage { path: PathBuf::from("x"), kind: Kind::Shard, stage: None, found, mend, step }
    }

    #[test]
    fn a_folder_that_goes_aside_is_not_reopened_as_well() {
        let task = |folder: &str, task| {
            damage(Step::RedoTask { folder: PathBuf::from(folder), finished: None, task })
        };
        let aside = damage(Step::SetAside(PathBuf::from("a")));
        let actions = plan(&[task("a", 1), aside, task("b", 3), task("b", 2), task("b", 3)]);
        let tasks = BTreeSet::from([2, 3]);
        let reopen = Action::Reopen { folder: PathBuf::from("b"), finished: None, tasks };
        assert_eq!(actions, [Action::SetAside(PathBuf::from("a")), reopen]);
    }

    #[test]
    fn nothing_is_deleted_and_each_repair_has_its_own_folder() {
        let run = tempfile::tempdir().unwrap();
        let stage = run.path().join("pages");
        for number in 1..3 {
            fs::create_dir_all(&stage).unwrap();
            fs::write(stage.join("x"), "content").unwrap();
            let aside = apply(run.path(), &[], &[Action::SetAside(stage.clone())]).unwrap();
            assert_eq!(aside, run.path().join(format!(".damaged/0000{number}")));
            assert_eq!(fs::read_to_string(aside.join("pages/x")).unwrap(), "content");
            assert!(!stage.exists() && aside.join("damaged.json").exists());
        }
    }
}
