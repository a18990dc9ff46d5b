//! What executors are told of a stage's work: a file in the run's folder.
//!
//! ```text
//! <run>/.cluster/<stage>-<fingerprint>/
//!     order.json              the order; taken away when the run is stopped
//!     6f1e…-00003.failure.json   why a task of the order of this digest failed
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, WriteError};
use crate::manifest::Fingerprint;
use crate::runner::error::StageError;
use crate::runner::lock::Holder;
use crate::stages::Task;
use crate::workflow::WorkflowText;

/// The folder of all orders in a run's.
const FOLDER: &str = ".cluster";
const ORDER_FILE: &str = "order.json";

/// This program's version. Executors of another would do other work under the same names.
pub(super) const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// The work of a stage.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The version of the program that gives it.
    pub(super) program: String,
    /// Where relative paths of the workflow begin.
    pub(super) working_folder: PathBuf,
    /// The workflow.
    pub(super) workflow: WorkflowText,
    /// The folder of all runs.
    pub(super) runs_folder: PathBuf,
    /// The stage.
    pub(super) stage: String,
    /// What its output is a function of.
    pub(super) fingerprint: Fingerprint,
    /// The tasks, by number.
    pub(super) tasks: Vec<Task>,
    /// Shards are closed at this size, in bytes.
    pub(super) shard_bytes: u64,
    /// Whose folder the run's is.
    pub(super) holder: Option<Holder>,
}

/// The part of an order that every version can read.
#[derive(Deserialize)]
struct Signature {
    program: String,
}

/// Where an order lies, and which it is: all that a plan carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrderRef {
    folder: PathBuf,
    digest: String,
}

impl Order {
    /// Writes it; failures of an earlier one go.
    pub(super) fn give(&self, run_folder: &Path) -> Result<OrderRef, WriteError> {
        let name = format!("{}-{}", self.stage, self.fingerprint.short());
        let folder = run_folder.join(FOLDER).join(name);
        durable::remove_folder(&folder)?;
        durable::make_folder(&folder)?;
        let bytes = serde_json::json!(self).to_string().into_bytes();
        durable::write_file(&folder.join(ORDER_FILE), &bytes)?;
        Ok(OrderRef { folder, digest: blake3::hash(&bytes).to_hex().to_string() })
    }
}

impl OrderRef {
    /// Names the order among others.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads the order; `executor` is who asks.
    pub(super) fn read(&self, executor: &str) -> Result<Order, StageError> {
        let path = self.folder.join(ORDER_FILE);
        let wrong = |message: String| StageError::input("cluster", message);
        let bytes = std::fs::read(&path).map_err(|error| {
            wrong(format!("executor {executor} cannot read {}: {error}", path.display())).help(
                "the run's folder must be seen by all machines under the same path: give it with --runs",
            )
        })?;
        if blake3::hash(&bytes).to_hex().as_str() != self.digest {
            return Err(wrong(format!("executor {executor} finds another order in {}", path.display()))
                .help("another run has begun in this folder"));
        }
        let json = |error: serde_json::Error| wrong(format!("{}: {error}", path.display()));
        let Signature { program } = serde_json::from_slice(&bytes).map_err(json)?;
        if program != PROGRAM {
            return Err(wrong(format!(
                "the run is made by pipeline {program}, executor {executor} is pipeline {PROGRAM}"
            ))
            .help("start the same version on all machines"));
        }
        serde_json::from_slice(&bytes).map_err(json)
    }

    /// Whether the order still stands.
    pub(super) fn stands(&self) -> bool {
        self.folder.join(ORDER_FILE).exists()
    }

    /// Takes it back: tasks that have not begun are not done any more.
    pub(super) fn withdraw(&self) {
        // If it is gone already, so much the better.
        let _ = std::fs::remove_file(self.folder.join(ORDER_FILE));
    }

    /// Removes all that is left of it.
    pub(super) fn close(&self) -> Result<(), WriteError> {
        durable::remove_folder(&self.folder)
    }

    /// Leaves word of a failure, whose own words Ballista would wrap in its own.
    pub(super) fn report(&self, task: u32, error: &StageError) {
        // The failure itself comes by way of the scheduler, too.
        // An executor may still be at an order that another has taken the place of.
        let path = self.folder.join(format!("{}-{task:05}.failure.json", self.digest));
        let _ = durable::write_file(&path, serde_json::json!(error).to_string().as_bytes());
    }

    /// The failure of the first task that failed.
    pub(super) fn failure(&self) -> Option<StageError> {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(&self.folder).ok()?.flatten().map(|entry| entry.path()).collect();
        names.sort();
        let is_failure = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&self.digest) && name.ends_with(".failure.json")
        };
        names
            .iter()
            .filter(is_failure)
            .find_map(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(program: &str) -> Order {
        Order {
            program: program.to_owned(),
            working_folder: PathBuf::from("/"),
            workflow: WorkflowText::default(),
            runs_folder: PathBuf::from("/runs"),
            stage: "read".to_owned(),
            fingerprint: Fingerprint::of("read", 1, &serde_json::json!({}), &Default::default(), &[]),
            tasks: vec![Task { name: "all".to_owned(), slice: None }],
            shard_bytes: 1,
            holder: None,
        }
    }

    #[test]
    fn an_order_is_read_by_the_same_program_only() {
        let folder = tempfile::tempdir().unwrap();
        let given = order(PROGRAM).give(folder.path()).unwrap();
        assert_eq!(given.read("a").unwrap().tasks.len(), 1);
        let other = order("0.0.0").give(folder.path()).unwrap();
        let error = other.read("a").unwrap_err().to_string();
        assert!(error.contains("pipeline 0.0.0, executor a is pipeline"), "{error}");
        let error = given.read("a").unwrap_err().to_string();
        assert!(error.contains("another order"), "{error}");
    }

    #[test]
    fn a_failure_is_told_in_its_own_words_until_the_next_order() {
        let folder = tempfile::tempdir().unwrap();
        let given = order(PROGRAM).give(folder.path()).unwrap();
        assert!(given.failure().is_none() && given.stands());
        given.report(7, &StageError::run("read", "seven").help("mend it"));
        given.report(3, &StageError::input("read", "three"));
        let failure = given.failure().unwrap();
        assert_eq!((failure.to_string(), failure.help), ("stage `read`: three".to_owned(), None));
        let next = Order { shard_bytes: 2, ..order(PROGRAM) }.give(folder.path()).unwrap();
        // Word of the order before that comes late.
        given.report(1, &StageError::run("read", "late"));
        assert!(next.failure().is_none());
        given.withdraw();
        assert!(!given.stands());
    }
}
