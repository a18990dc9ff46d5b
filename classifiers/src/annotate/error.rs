//! What can go wrong with annotations.

use arrow::{datatypes::DataType, error::ArrowError};
use thiserror::Error;

/// Why annotations could not be asked for, read or compared.
#[derive(Debug, Error)]
pub enum AnnotateError {
    /// A template does not compile or does not render.
    #[error(
        "annotation prompt: {reason}. Variables of a template: page, fence, language; `page` must stand in it"
    )]
    Template {
        /// What is wrong, with the line where known.
        reason: String,
    },
    /// An option is out of range.
    #[error("annotation prompt: {option} = {found}, expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        found: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// A column is missing.
    #[error("annotations: no column `{column}` among {found}; {mend}")]
    NoColumn {
        /// The column wanted.
        column: String,
        /// The columns there are.
        found: String,
        /// What to do.
        mend: &'static str,
    },
    /// A column is of another type.
    #[error("annotations: column `{column}` is {found}, expected {expected}")]
    ColumnType {
        /// The column.
        column: String,
        /// Its type.
        found: DataType,
        /// What it may be.
        expected: &'static str,
    },
    /// A batch does not fit the table's schema.
    #[error("annotations: a batch does not fit the schema of its table: {0}")]
    Batch(#[from] ArrowError),
    /// A file could not be read or written.
    #[error("annotations: {name}: {source}")]
    Io {
        /// The file, or what stands for it.
        name: String,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A line of a file is none of an annotation.
    #[error("annotations: {name}:{line}: {reason}; expected {expected}")]
    Line {
        /// The file, or what stands for it.
        name: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
        /// What a line looks like.
        expected: &'static str,
    },
    /// A judge scored a page twice, differently.
    #[error("annotations: {judge} scored page {id} twice, {first} and {second}; keep one of the two rows")]
    Twice {
        /// `the first judge` or `the second judge`.
        judge: &'static str,
        /// The page.
        id: String,
        /// One score.
        first: u8,
        /// The other.
        second: u8,
    },
    /// A score beyond the scale.
    #[error("annotations: {judge} scored page {id} {score}, expected 0 to 5; correct the row")]
    Score {
        /// `the first judge` or `the second judge`.
        judge: &'static str,
        /// The page.
        id: String,
        /// The score.
        score: u8,
    },
}
