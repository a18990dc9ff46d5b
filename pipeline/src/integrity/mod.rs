//! Whether a run's files are what was written.
//!
//! Every finished stage keeps a digest of each of its files in its manifest, a begun one in its tasks'
//! records; manifests and records carry a digest of themselves (the crate `digests`), answer logs a checksum
//! for each record.
//!
//! - [`guard`]: what a run checks before it builds on a file.
//! - [`verify`]: all of it, for `pipeline verify`.
//! - [`repair`]: takes what is damaged out of the way, for `pipeline repair`.

pub mod files;
pub mod guard;
pub mod repair;
pub mod stage;
pub mod verify;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::manifest::Fingerprint;

/// What a damaged file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `manifest.json` of a stage.
    Manifest,
    /// A Parquet shard of a stage's table.
    Shard,
    /// A file of a stage that leaves a folder: an index, a model, a tokenizer.
    StageFile,
    /// A table of lost rows.
    SideTable,
    /// The record that finishes a task.
    TaskRecord,
    /// A checkpoint of a training that is not at its end.
    Checkpoint,
    /// A segment of an answer log.
    AnswerLog,
    /// What a run has spent on language models.
    Spending,
    /// The service's ledger.
    Ledger,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Shard => "shard",
            Self::StageFile => "file",
            Self::SideTable => "table of lost rows",
            Self::TaskRecord => "task record",
            Self::Checkpoint => "checkpoint",
            Self::AnswerLog => "answer log",
            Self::Spending => "record of spending",
            Self::Ledger => "ledger",
        })
    }
}

/// A damaged file.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The stage that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How the damage shows.
    pub found: String,
    /// What to do.
    pub mend: String,
    /// The same for `pipeline repair`.
    #[serde(skip)]
    pub step: Step,
}

/// What `pipeline repair` does about a damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The stage's folder, finished or begun, goes aside: all of it is made anew.
    SetAside(PathBuf),
    /// A task goes aside and is done anew; the others stay.
    RedoTask {
        /// The stage's folder, finished or begun.
        folder: PathBuf,
        /// The name of a finished stage and what its work is known by; a begun one stays where it is.
        finished: Option<(String, Fingerprint)>,
        /// The task.
        task: usize,
    },
    /// The segment is written anew with its whole records; the old one goes aside.
    MendLog(PathBuf),
    /// Nothing that this program could do.
    None,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.path.display(), self.kind)?;
        if let Some(stage) = &self.stage {
            write!(f, " of stage `{stage}`")?;
        }
        write!(f, ") is damaged: {}", self.found)
    }
}
