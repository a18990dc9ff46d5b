//! What ends a stream of generated documents.

use thiserror::Error;

use crate::answer_log::AnswerLogError;
use crate::chat::ChatError;

/// Why generation ended before its input did.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// An option out of its range.
    #[error("option {option}: {problem}")]
    BadOption {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The input lacks a column.
    #[error("the prompts have no column {column:?}; they have: {present}. Name the right one in {option}")]
    MissingColumn {
        /// The column looked for.
        column: String,
        /// The columns there are.
        present: String,
        /// The option that names it.
        option: &'static str,
    },
    /// A column that holds no strings.
    #[error("column {column:?} of the prompts holds {found}, not strings")]
    WrongType {
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// The input has a column that generation would add.
    #[error("the prompts already have a column {column:?}, which generation adds: rename or drop it before")]
    ColumnExists {
        /// The column.
        column: String,
    },
    /// A batch that differs from those before it.
    #[error("a batch of prompts has other columns than the first: {found}, not {expected}")]
    SchemaChanged {
        /// The first batch's columns.
        expected: String,
        /// This batch's columns.
        found: String,
    },
    /// No further row can be asked.
    #[error("generation stopped at row {id}, with {answers} rows answered and {rejected} rejected: {error}")]
    Stopped {
        /// The row at which it showed.
        id: String,
        /// What happened.
        #[source]
        error: ChatError,
        /// Rows of this stream that were answered before.
        answers: u64,
        /// Rows of this stream that were rejected before.
        rejected: u64,
    },
    /// Nothing works.
    #[error(
        "none of the first {rows} prompts gave a document, so the run ends here rather than rejecting all the others; the last failure (row {id}): {detail}"
    )]
    NothingAnswered {
        /// Rows that failed.
        rows: u64,
        /// The last of them.
        id: String,
        /// How it failed.
        detail: String,
    },
    /// The answer log failed.
    #[error("generation stopped at row {id}, as its answer cannot be kept: {error}")]
    Log {
        /// The row.
        id: String,
        /// What happened.
        #[source]
        error: AnswerLogError,
    },
    /// A bug.
    #[error(
        "a task of the generation broke off: {detail}. This is a bug of ours; all answers so far are kept"
    )]
    Task {
        /// What the runtime says.
        detail: String,
    },
}
