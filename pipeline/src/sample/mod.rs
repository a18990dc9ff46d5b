//! The sample dump: pages and Python files taken from source distributions, for a first run without a crawl.
//!
//! [`pages`] turns the documentation inside an sdist into rows of FineWeb's schema, one a section; [`python_files`]
//! gives its Python files with the columns of Python-Edu. Archives are streamed and never unpacked to disk.

mod archive;
mod error;
mod markdown;
mod package;
mod pages;
mod python;
mod rst;
mod section;
mod titles;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use error::SampleError;
pub use package::{DocSet, Package, PackageSpec};
pub use pages::{Page, Pages, page_batches, page_schema, pages};
pub use python::{PythonFile, PythonFiles, python_file_batches, python_file_schema, python_files};

/// A section or file that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Its URL (pages) or its path inside the archive.
    pub id: String,
    /// `too_short`, `language`, `not_utf8`, `too_large`, `empty` or `unparsable`.
    pub reason: String,
    /// The figure or message behind it.
    pub detail: String,
}

/// Called for everything left out, in an order that is a function of the archive.
pub type OnReject = Arc<dyn Fn(Reject) + Send + Sync>;

/// How the sample dump is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleOptions {
    /// Shortest page, in characters. A shorter section is added to the one above it.
    pub min_page_chars: usize,
    /// Lowest confidence (0–1) that a page is English; FineWeb's 0.65.
    pub min_language_score: f64,
    /// Longest Python file, in bytes.
    pub max_python_file_bytes: u64,
    /// Rows in a batch.
    pub batch_rows: usize,
    /// Processes that read reStructuredText at the same time.
    pub processes: usize,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            min_page_chars: 600,
            min_language_score: 0.65,
            max_python_file_bytes: 100_000,
            batch_rows: 1_000,
            processes: 2,
        }
    }
}
