//! On real pages: the size of the index, and that topics find what they are about.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use common::{build, hits, options};
use futures::{StreamExt, stream};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use search::{PageFilters, RetrieveOptions, Searcher, Snippets, analyze};

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
        ("psychology", "Psychology", "Memory", Some("long-term memory")),
        ("philosophy", "Philosophy", "Ethics", Some("utilitarianism")),
        ("cooking", "Cooking", "Methods", Some("baking bread")),
    ];
    let filters = PageFilters { min_language_score: Some(0.65), ..PageFilters::default() };
    let options = RetrieveOptions { pages_per_topic: 50, filters, ..RetrieveOptions::default() };
    let (found, summary) = hits(&searcher, &options, &topics);
    println!("{:?}", summary.topics);
    assert_eq!(found.len(), 150);
    let texts = texts_of_pages();
    for (id, top_category, subcategory, subtopic) in &topics {
        let subtopic = subtopic.unwrap();
        let mut snippets = Snippets::new(&format!("{top_category} {subcategory} {subtopic}"));
        for hit in found.iter().filter(|hit| hit.topic_id == *id).take(5) {
            let (url, text) = &texts[&hit.doc_id];
            let snippet = snippets.best(text, 160);
            println!(
                "{id} {} {:.2} {} {url}\n    {}",
                hit.rank,
                hit.score,
                hit.matched,
                snippet.marked("**", "**")
            );
            // What the search found, the snippet shows.
            assert!(!snippet.matches.is_empty(), "{hit:?}");
        }
        let best = found.iter().find(|hit| hit.topic_id == *id).unwrap();
        let words = analyze(&texts[&best.doc_id].1);
        assert!(
            analyze(subtopic).iter().all(|term| words.contains(term)),
            "{best:?} is not about {subtopic}"
        );
    }
}

/// URL and text of every page, by id.
fn texts_of_pages() -> HashMap<String, (String, String)> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(PAGES).unwrap()).unwrap().build().unwrap();
    let mut texts = HashMap::new();
    for batch in reader.map(Result::unwrap) {
        let column = |name| cast(batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
        let (ids, urls, page_texts) = (column("id"), column("url"), column("text"));
        for row in 0..batch.num_rows() {
            let value = |array: &ArrayRef| array.as_string::<i32>().value(row).to_owned();
            texts.insert(value(&ids), (value(&urls), value(&page_texts)));
        }
    }
    texts
}
