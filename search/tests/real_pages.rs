//! On real pages: the size of the index, and that topics find what they are about.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use common::{build, hits, options};
use futures::{StreamExt, stream};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use search::{PageFilters, RetrieveOptions, Searcher};

const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/web.parquet");

/// Most bytes of index per byte of text.
const INDEX_SHARE: f64 = 0.35;

#[test]
fn real_pages_make_a_small_index_with_sensible_answers() {
    if !Path::new(PAGES).exists() {
        println!("{PAGES} is absent: nothing to check here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let batches =
        ParquetRecordBatchReaderBuilder::try_new(File::open(PAGES).unwrap()).unwrap().build().unwrap();
    let summary = build(dir.path(), &options(4), stream::iter(batches).boxed()).result.unwrap();
    let share = summary.index_bytes as f64 / summary.text_bytes as f64;
    println!("{summary:?}: {share:.3} bytes of index per byte of text");
    assert!(share <= INDEX_SHARE, "{share}");

    let searcher = Arc::new(Searcher::open(dir.path()).unwrap());
    let topics = [
        ("psychology", "Psychology", "Developmental", Some("Stages of Child Development")),
        ("philosophy", "Philosophy", "Ethics & Moral Philosophy", Some("Kant")),
        ("cooking", "Cooking", "Courses & Dishes", Some("Chocolate cake")),
    ];
    let filters = PageFilters { min_language_score: Some(0.65), ..PageFilters::default() };
    let options = RetrieveOptions { pages_per_topic: 50, filters, ..RetrieveOptions::default() };
    let (found, summary) = hits(&searcher, &options, &topics);
    println!("{summary:?}");
    assert_eq!(found.len(), 150);
    for topic in &topics {
        let first = found.iter().find(|hit| hit.topic_id == topic.0).unwrap();
        println!("{first:?}");
    }
}
