//! The sample dump: pages and Python files taken from source distributions, for a first run without a crawl.
//!
//! [`pages`] turns the documentation inside an sdist into rows of FineWeb's schema, one a section; [`python_files`]
//! gives its Python files with the columns of Python-Edu. Archives are streamed and never unpacked to disk.

mod archive;
mod batch;
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

pub use batch::{page_batches, page_schema};
pub use error::SampleError;
pub use package::{DocSet, Package, PackageSpec};
pub use pages::{Page, Pages, pages};
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::PathBuf;
    use std::time::Instant;

    /// The package's archive beside the docutils wheel, or `None` and a line that says so.
    fn sdist(wheel: &std::path::Path, package: Package) -> Option<PathBuf> {
        let path = wheel.with_file_name(package.spec().sdist);
        if !path.exists() {
            println!("skipped: {} is absent; run `pipeline assets pull`", path.display());
            return None;
        }
        Some(path)
    }

    #[test]
    fn the_real_sample_is_large_and_clean() {
        let Some(wheel) = rst::tests::wheel() else {
            return;
        };
        let start = Instant::now();
        let options = SampleOptions::default();
        let (mut ids, mut files, mut marked) = (HashSet::new(), 0, 0);
        for package in Package::ALL {
            let Some(sdist) = sdist(&wheel, package) else {
                return;
            };
            let rejected: OnReject = Arc::new(|reject| assert_ne!(reject.reason, "unparsable", "{reject:?}"));
            for page in pages(&sdist, package, &wheel, &options, rejected).unwrap() {
                let page = page.unwrap();
                assert!(page.text.chars().count() > 600, "{}", page.url);
                assert!(!page.text.contains('\0'), "{}", page.url);
                // Code is indented; a page about reStructuredText may show some.
                let shows = |line: &str| {
                    line.starts_with(".. ") || !line.starts_with("    ") && line.contains(":ref:`")
                };
                marked += usize::from(page.text.lines().any(shows) && package != Package::Sphinx);
                assert!(ids.insert(page.id), "{} stands twice", page.url);
            }
            for file in python_files(&sdist, package, &options, Arc::new(|_| ())) {
                files += usize::from(!file.unwrap().text.is_empty());
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{} pages, {files} Python files, {seconds:.1} s, {marked} pages with markup", ids.len());
        assert!(ids.len() >= 3_000 && files >= 2_000);
        assert!(marked <= 3, "{marked} pages with markup");
    }
}
