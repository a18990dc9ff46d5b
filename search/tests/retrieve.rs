//! The two-step query and its stream: order, fill-up, edge cases, errors.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StringViewArray};
use arrow::error::ArrowError;
use common::{build, hits, hits_of_batch, index_of, options, page, page_stream, runtime, topic_batch};
use futures::{StreamExt, TryStreamExt, stream};
use search::{LocalBackend, PageFilters, RetrieveOptions, SearchBackend, Searcher, retrieve};

fn local(searcher: &Arc<Searcher>, options: &RetrieveOptions) -> Arc<dyn SearchBackend> {
    Arc::new(LocalBackend::new(searcher.clone(), options).unwrap())
}

fn wanted(pages_per_topic: u32) -> RetrieveOptions {
    RetrieveOptions { pages_per_topic, ..RetrieveOptions::default() }
}

#[test]
fn all_terms_first_then_any_term_and_no_page_twice() {
    let pages = [
        page("a", "biology of cells"),
        page("b", "cells cells cells cells"),
        page("c", "cooking recipes"),
        page("d", "cell biology, science"),
    ];
    let (_dir, searcher) = index_of(&pages, 2);
    let topics = [("t1", "Science", "Biology", Some("Cells"))];
    let (found, summary) = hits(&searcher, &wanted(3), &topics);
    let order: Vec<_> =
        found.iter().map(|hit| (hit.rank, hit.doc_id.as_str(), hit.matched.as_str())).collect();
    assert_eq!(order[0], (1, "d", "all"));
    assert_eq!(order.len(), 3);
    assert!(order[1..].iter().all(|hit| hit.2 == "any" && hit.1 != "c"));
    assert_eq!((summary.pages_all, summary.pages_any), (1, 2));
    assert_eq!(summary.short_topics, 0);

    let (found, summary) = hits(&searcher, &wanted(4), &topics);
    assert_eq!(found.len(), 3, "k is larger than what matches");
    assert_eq!(summary.short_topics, 1);
}

#[test]
fn topics_keep_their_order_whatever_the_threads() {
    let pages = common::random_pages(500, 11);
    let (_dir, searcher) = index_of(&pages, 3);
    let names: Vec<(String, String)> =
        (0..100).map(|n| (format!("t{n}"), format!("word{} word{}", n % 17, n % 5))).collect();
    let topics: Vec<common::TopicRow> =
        names.iter().map(|(id, text)| (id.as_str(), text.as_str(), "", None)).collect();
    let threads = |threads| RetrieveOptions { threads: Some(threads), ..wanted(20) };
    let (one, summary) = hits(&searcher, &threads(1), &topics);
    let (many, _) = hits(&searcher, &threads(7), &topics);
    assert_eq!(one, many);
    let order: Vec<&str> = summary.topics.iter().map(|t| t.topic_id.as_str()).collect();
    let expected: Vec<&str> = topics.iter().map(|t| t.0).collect();
    assert_eq!(order, expected);
}

#[test]
fn topics_without_terms_or_subtopic() {
    let pages = [page("a", "Äpfel und Birnen"), page("b", "日本語 テキスト"), page("c", "the of")];
    let (_dir, searcher) = index_of(&pages, 2);
    let topics = [
        ("stop", "The", "of (and) /", Some("~ ^ !")),
        ("null", "äpfel", "", None),
        ("japanese", "テキスト", "", Some("日本語")),
        ("empty", "", "", None),
    ];
    let (found, summary) = hits(&searcher, &wanted(5), &topics);
    let found: Vec<_> = found.iter().map(|hit| (hit.topic_id.as_str(), hit.doc_id.as_str())).collect();
    assert_eq!(found, [("null", "a"), ("japanese", "b")]);
    assert_eq!(summary.topics_without_terms, 2);
    assert_eq!(summary.short_topics, 4);
    assert!(searcher.search_text("the !", 3).unwrap().is_empty());
    assert!(searcher.search_text("äpfel", 0).unwrap().is_empty());
}

#[test]
fn an_empty_index_answers_with_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let summary = build(dir.path(), &options(3), stream::empty().boxed()).result.unwrap();
    assert_eq!((summary.pages, summary.shards), (0, 3));
    let searcher = Arc::new(Searcher::open(dir.path()).unwrap());
    let (found, summary) = hits(&searcher, &wanted(5), &[("t", "cats", "", None)]);
    assert!(found.is_empty());
    assert_eq!(summary.short_topics, 1);

    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &options(1), page_stream(&[page("x", "the")], 1)).result.unwrap();
    let searcher = Searcher::open(dir.path()).unwrap();
    assert!(searcher.search_text("cats", 5).unwrap().is_empty());
}

#[test]
fn filters_act_before_ranking() {
    let mut pages: Vec<common::Page> = (0..20)
        .map(|n| common::Page {
            language_score: Some(f64::from(n) / 20.0),
            token_count: Some(i64::from(n) * 10),
            url: Some(format!("https://h{}.org/", n % 2)),
            ..page(&format!("p{n:02}"), "cats")
        })
        .collect();
    pages.push(page("without", "cats"));
    let (_dir, searcher) = index_of(&pages, 2);
    let topics = [("t", "cats", "", None)];
    let filters =
        PageFilters { min_language_score: Some(0.5), max_tokens: Some(120), ..PageFilters::default() };
    let options = RetrieveOptions { filters, ..wanted(10) };
    let ids = |options| -> Vec<String> {
        let (found, _) = hits(&searcher, options, &topics);
        found.into_iter().map(|hit| hit.doc_id).collect()
    };
    assert_eq!(ids(&options), ["p10", "p11", "p12"]);
    let options = RetrieveOptions { max_pages_per_host: Some(1), ..wanted(10) };
    assert_eq!(ids(&options), ["p00", "p01", "without"]);
    let found = searcher.search_filtered("cats", 3, &PageFilters::default(), Some(1)).unwrap();
    assert_eq!(found.iter().map(|hit| hit.doc_id.as_str()).collect::<Vec<_>>(), ["p00", "p01", "without"]);
}

#[test]
fn languages_match_in_any_case_and_pages_without_one_fail() {
    let language = |id: &str, language: Option<&str>| common::Page {
        language: language.map(str::to_owned),
        ..page(id, "cats")
    };
    let pages = [language("a", Some("en")), language("b", Some("de")), language("c", None)];
    let (_dir, searcher) = index_of(&pages, 2);
    let ids = |languages: &[&str]| -> Vec<String> {
        let languages = languages.iter().map(|l| l.to_string()).collect();
        let filters = PageFilters { languages, ..PageFilters::default() };
        let found = searcher.search_filtered("cats", 5, &filters, None).unwrap();
        found.into_iter().map(|hit| hit.doc_id).collect()
    };
    assert_eq!(ids(&["EN"]), ["a"]);
    assert_eq!(ids(&["en", "de"]), ["a", "b"]);
    assert_eq!(ids(&["fr"]), [""; 0]);
    assert_eq!(ids(&[]), ["a", "b", "c"]);
}

#[test]
fn a_filter_of_a_column_that_no_page_has_is_an_error() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["cats"]));
    let batch = RecordBatch::try_from_iter([("id", text.clone()), ("text", text)]);
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &options(1), stream::iter([batch]).boxed()).result.unwrap();
    let searcher = Arc::new(Searcher::open(dir.path()).unwrap());
    let filters = PageFilters { min_edu_score: Some(3), ..PageFilters::default() };
    let error = searcher.search_filtered("cats", 1, &filters, None).unwrap_err().to_string();
    assert!(error.contains("`int_score`"), "{error}");
    assert!(LocalBackend::new(searcher, &RetrieveOptions { filters, ..wanted(1) }).is_err());
}

#[test]
fn the_stream_is_lazy_and_reports_bad_topics() {
    let (_dir, searcher) = index_of(&[page("a", "cats")], 1);
    let view: ArrayRef = Arc::new(StringViewArray::from(vec!["t1"]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["cats"]));
    let good = RecordBatch::try_from_iter([
        ("topic_id", view),
        ("top_category", text.clone()),
        ("subcategory", text.clone()),
        ("subtopic", text.clone()),
    ])
    .unwrap();
    let ids: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
    let no_id = RecordBatch::try_from_iter_with_nullable([
        ("topic_id", ids, true),
        ("top_category", text.clone(), true),
        ("subcategory", text.clone(), true),
        ("subtopic", text.clone(), true),
    ])
    .unwrap();
    let no_column = RecordBatch::try_from_iter([("topic_id", text)]).unwrap();
    for (bad, says) in [
        (Ok(no_id), "row 1 has no topic_id"),
        (Ok(no_column), "`top_category` is missing"),
        (Err(ArrowError::ComputeError("upstream".into())), "upstream"),
    ] {
        let topics = stream::iter([Ok(good.clone()), bad]).boxed();
        let retrieval = retrieve(local(&searcher, &wanted(1)), &wanted(1), topics).unwrap();
        let results: Vec<_> = runtime().block_on(retrieval.hits.collect());
        let error = results.iter().find_map(|r| r.as_ref().err()).unwrap();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn works_ahead_across_batches_but_not_without_end() {
    let (_dir, searcher) = index_of(&common::random_pages(50, 2), 1);
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = asked.clone();
    let topics = stream::iter(0..100_000)
        .map(move |n| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(topic_batch(&[(&format!("t{n}"), "word0 word1", "", None)]))
        })
        .boxed();
    let options = RetrieveOptions { threads: Some(2), topics_per_batch: 3, ..wanted(40) };
    let mut retrieval = retrieve(local(&searcher, &options), &options, topics).unwrap();
    let first = runtime().block_on(retrieval.hits.try_next()).unwrap().unwrap();
    let first = hits_of_batch(&first);
    assert_eq!(first[0].topic_id, "t0");
    let answered = first.iter().filter(|hit| hit.rank == 1).count() as u32;
    let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
    assert!(asked <= answered + 3 * 3 + 1, "{asked} asked for {answered}");
}
