//! What can go wrong with an answer log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// Why an answer log cannot be opened, read or written.
#[derive(Clone, Debug, Error)]
pub enum AnswerLogError {
    /// The system refused.
    #[error("cannot {doing} {path}: {error}. Nothing that was in the log is lost; make room or set the permissions, and run again", path = .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The system's word. Shared, as one failed sync fails many appends.
        error: Arc<std::io::Error>,
    },
    /// Another process has the log open.
    #[error("the answer log {dir} is in use by {holder}: wait for that run to end, or give this one another folder", dir = .dir.display())]
    Locked {
        /// The log's folder.
        dir: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// A file that is no segment of ours.
    #[error("{path} is no answer log this version can read: {found}. If a later version wrote it, use that one; if it is damaged, `pipeline repair <run's folder>` keeps the answers that can be read", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// An answer too large for a record.
    #[error("an answer does not fit into the answer log {dir}: {detail}", dir = .dir.display())]
    Unwritable {
        /// The log's folder.
        dir: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// An earlier write failed in a way that leaves the file's state unknown.
    #[error("the answer log {dir} takes no more answers since an earlier write failed: {cause}. Run again: opening it repairs it", dir = .dir.display())]
    Broken {
        /// The log's folder.
        dir: PathBuf,
        /// The earlier failure.
        cause: String,
    },
    /// The writer is gone.
    #[error("the answer log {dir} was closed before the answer was on disk", dir = .dir.display())]
    WriterStopped {
        /// The log's folder.
        dir: PathBuf,
    },
}

impl AnswerLogError {
    pub(super) fn io(doing: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), error: Arc::new(error) }
    }
}
