//! `pipeline search`: full-text search in an index of pages.

use std::path::Path;

use search::Searcher;

use super::Failure;

/// Prints the best pages of a query.
///
/// # Errors
/// The folder is no index.
pub fn search(query: &str, index: &Path, k: usize) -> Result<(), Failure> {
    let inner = index.join("index");
    let folder = if inner.exists() { inner } else { index.to_owned() };
    let searcher = Searcher::open(&folder).map_err(|error| Failure::message(error, ""))?;
    let hits = searcher.search_text(query, k).map_err(|error| Failure::message(error, ""))?;
    if hits.is_empty() {
        println!("no page has any of these words");
    }
    for (rank, hit) in hits.iter().enumerate() {
        println!("{:>3}  {:>7.3}  {}", rank + 1, hit.score, hit.doc_id);
    }
    Ok(())
}
