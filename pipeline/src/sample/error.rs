//! What can go wrong while the sample dump is made.

use std::path::{Path, PathBuf};

/// Why the sample dump cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The archive cannot be opened or read.
    #[error(
        "cannot read {}: {source}; if it is an asset, delete it and run `pipeline assets pull`",
        path.display()
    )]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What was wrong with it, or with reading it.
        source: std::io::Error,
    },
    /// A member's path leads out of the archive.
    #[error(
        "{}: member `{member}` has a path that leads out of the archive; this is not a source distribution to trust",
        path.display()
    )]
    UnsafePath {
        /// The archive.
        path: PathBuf,
        /// The member's path.
        member: String,
    },
    /// The archive or a member unpacks to more than a source distribution does.
    #[error(
        "{}: {what} unpacks to more than {limit_bytes} bytes; this is not a source distribution to trust",
        path.display()
    )]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// `the archive`, `its documentation`, or the member.
        what: String,
        /// The limit that was passed, in bytes.
        limit_bytes: u64,
    },
    /// Python, which runs docutils, could not be started.
    #[error(
        "cannot start python3, which reads reStructuredText: {source}; \
         install Python ≥ 3.9 (Debian, Ubuntu: `apt install python3`; macOS: `brew install python`)"
    )]
    PythonMissing {
        /// What the system said.
        source: std::io::Error,
    },
    /// The child process that reads reStructuredText ended or answered out of turn.
    #[error(
        "reading {document} with docutils ({}) failed: {reason}; \
         run `pipeline assets verify`, and see that python3 is at least 3.9",
        wheel.display()
    )]
    Converter {
        /// The document it was given.
        document: String,
        /// The docutils wheel.
        wheel: PathBuf,
        /// What it said last.
        reason: String,
    },
    /// A batch could not be put together.
    #[error("cannot build a batch of the sample dump: {0}")]
    Batch(#[from] arrow::error::ArrowError),
    /// A worker thread ended early.
    #[error("a worker of the sample dump ended early; run it again")]
    WorkerLost,
}

impl SampleError {
    /// Wraps an I/O error on an archive.
    pub(super) fn archive(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Archive { path: path.clone(), source }
    }
}
