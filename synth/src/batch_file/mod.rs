//! OpenAI's batch files: requests as JSONL, answered within a day at half the price, by OpenAI, Azure,
//! Mistral and others, or offline by vLLM's `run_batch`.
//!
//! A line of a request file has `custom_id`, `method`, `url` and `body`; a line of an answer file has
//! `custom_id`, `response` with `status_code` and `body`, and `error`. Answers come in any order.
//!
//! The `custom_id` is the request's name in the answer log and the longest answer asked for
//! ([`custom_id`]), so that answers can be taken without the request files at hand.

mod custom_id;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

use thiserror::Error;

pub use custom_id::{custom_id, key_of};
pub use read::{BATCH_ENDPOINT, BatchLine, Import, Imported, import, read_lines};
pub use write::{BatchFile, BatchLimits, BatchWriter};

/// Why a batch file cannot be written or read.
#[derive(Debug, Error)]
pub enum BatchError {
    /// The system refused.
    #[error("cannot {doing} {path}: {error}", path = .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The system's word.
        #[source]
        error: std::io::Error,
    },
    /// The folder holds something already.
    #[error("{path} is there already: name a new folder, so that no older request file is taken for one of these", path = .path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A request that fits into no file.
    #[error(
        "the request {custom_id} has {bytes} bytes, and a file may have {limit}: shorten the prompts or raise the limit"
    )]
    TooLarge {
        /// The request.
        custom_id: String,
        /// Its line's bytes.
        bytes: u64,
        /// The most a file may have.
        limit: u64,
    },
    /// The answer log failed.
    #[error(transparent)]
    Log(#[from] crate::answer_log::AnswerLogError),
}
