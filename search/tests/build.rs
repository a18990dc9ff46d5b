//! Building: what is skipped, what is kept after an interruption, what a damaged folder says.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::error::ArrowError;
use common::{build, files, options, page, page_batch, page_stream, random_pages};
use futures::{StreamExt, stream};
use search::{IndexOptions, Searcher, verify_index};

/// Options under which 300 pages make several runs a shard.
fn small_runs() -> IndexOptions {
    IndexOptions { run_pages: 40, ..options(3) }
}

#[test]
fn pages_without_id_or_text_are_skipped_and_the_first_of_equal_ids_is_kept() {
    let text: ArrayRef = Arc::new(StringArray::from(vec![
        Some("first cats"),
        None,
        Some(" \n"),
        Some("no id"),
        Some("empty id"),
        Some("second dogs"),
    ]));
    let id: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("c"), None, Some(""), Some("a")]));
    let batch = RecordBatch::try_from_iter_with_nullable([("text", text, true), ("id", id, true)]);
    let dir = tempfile::tempdir().unwrap();
    let built = build(dir.path(), &options(2), stream::iter([batch]).boxed());
    let summary = built.result.unwrap();
    assert_eq!(summary.pages, 1);
    assert_eq!(summary.text_bytes, "first cats".len() as u64);
    assert_eq!(summary.text_terms, 2);
    let counts: Vec<_> = summary.skipped_pages.iter().map(|(r, n)| (r.as_str(), *n)).collect();
    assert_eq!(counts, [("duplicate_id", 1), ("empty_text", 1), ("missing_id", 2), ("missing_text", 1)]);
    let rejects: Vec<_> =
        built.rejects.iter().map(|reject| (reject.id.as_str(), reject.reason.as_str())).collect();
    let expected = [
        ("", "missing_id"),
        ("", "missing_id"),
        ("a", "duplicate_id"),
        ("b", "missing_text"),
        ("c", "empty_text"),
    ];
    assert_eq!(rejects, expected);
    let searcher = Searcher::open(dir.path()).unwrap();
    assert_eq!(searcher.search_text("cats", 5).unwrap().len(), 1);
    assert!(searcher.search_text("dogs", 5).unwrap().is_empty());
}

#[test]
fn duplicates_across_runs_leave_the_index_of_the_pages_without_them() {
    let pages = random_pages(300, 1);
    let mut twice = pages.clone();
    for number in [3, 50, 120, 299] {
        let copy = common::Page { text: "another text entirely".into(), ..pages[number].clone() };
        twice.push(copy);
    }
    // A whole run of repeats.
    twice.extend(pages.iter().cloned());
    let (clean, repeated) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build(clean.path(), &small_runs(), page_stream(&pages, 11)).result.unwrap();
    let built = build(repeated.path(), &small_runs(), page_stream(&twice, 11));
    let summary = built.result.unwrap();
    assert_eq!(summary.pages, 300);
    assert_eq!(built.rejects.len(), 304);
    let (clean, repeated) = (Searcher::open(clean.path()).unwrap(), Searcher::open(repeated.path()).unwrap());
    assert_eq!(clean.summary().text_terms, repeated.summary().text_terms);
    assert_eq!(clean.summary().text_bytes, repeated.summary().text_bytes);
    for query in ["word0", "word1 word5 word77", "another text"] {
        assert_eq!(clean.search_text(query, 300).unwrap(), repeated.search_text(query, 300).unwrap());
    }
}

#[test]
fn same_pages_leave_the_same_bytes_whatever_the_batches() {
    let pages = random_pages(300, 2);
    for options in [options(2), small_runs(), IndexOptions { max_runs: 1, ..small_runs() }] {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(one.path(), &options, page_stream(&pages, 300)).result.unwrap();
        build(two.path(), &options, page_stream(&pages, 7)).result.unwrap();
        let (one, two) = (files(one.path()), files(two.path()));
        let names =
            |files: &[(String, Vec<u8>)]| -> Vec<String> { files.iter().map(|f| f.0.clone()).collect() };
        assert_eq!(names(&one), names(&two));
        for (one, two) in one.iter().zip(&two) {
            assert_eq!(one, two, "{}", one.0);
        }
        assert!(one.iter().all(|(name, _)| !name.ends_with("run.json") && !name.contains("partial")));
        assert_eq!(
            one.iter().any(|(name, _)| name.contains("run-00002/")),
            options.max_runs > 1 && options.run_pages == 40
        );
    }
}

#[test]
fn an_interrupted_build_goes_on_and_ends_with_the_same_bytes() {
    let pages = random_pages(300, 3);
    let (whole, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build(whole.path(), &small_runs(), page_stream(&pages, 10)).result.unwrap();
    for cut in [0, 150, 151, 299] {
        let broken = page_stream(&pages[..cut], 10)
            .chain(stream::iter([Err(ArrowError::ComputeError("cable cut".into()))]))
            .boxed();
        let error = build(resumed.path(), &small_runs(), broken).result.unwrap_err();
        assert!(error.to_string().contains("run again"), "{error}");
        assert!(Searcher::open(resumed.path()).is_err());
        if cut > 150 {
            let runs = files(resumed.path()).iter().filter(|f| f.0.ends_with("run.json")).count();
            assert!(runs >= 3, "finished runs are kept, found {runs}");
        }
    }
    build(resumed.path(), &small_runs(), page_stream(&pages, 10)).result.unwrap();
    assert_eq!(files(whole.path()), files(resumed.path()));
    // A further call with the same pages changes nothing.
    build(resumed.path(), &small_runs(), page_stream(&pages, 13)).result.unwrap();
    assert_eq!(files(whole.path()), files(resumed.path()));
    // A lost shard is made again, the others stay.
    fs::remove_dir_all(resumed.path().join("shard-00001")).unwrap();
    build(resumed.path(), &small_runs(), page_stream(&pages, 13)).result.unwrap();
    assert_eq!(files(whole.path()), files(resumed.path()));
}

/// Renaming the record fails where a disk is full, and the run below it is taken up again.
#[test]
fn a_record_that_an_interrupted_build_left_unfinished_is_no_part_of_the_shard() {
    let pages = random_pages(40, 3);
    let options = IndexOptions { run_pages: 40, ..options(1) };
    let (whole, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build(whole.path(), &options, page_stream(&pages, 10)).result.unwrap();
    let cut = stream::iter([Err(ArrowError::ComputeError("cable cut".into()))]);
    build(resumed.path(), &options, page_stream(&pages, 10).chain(cut).boxed()).result.unwrap_err();
    let run = resumed.path().join(".partial-shard-00000/run-00000");
    assert!(run.join("run.json").exists());
    fs::write(run.join("shard.json.tmp"), "{").unwrap();
    build(resumed.path(), &options, page_stream(&pages, 10)).result.unwrap();
    assert_eq!(files(whole.path()), files(resumed.path()));
}

#[test]
fn other_pages_or_another_layout_are_refused() {
    let pages = random_pages(300, 4);
    let dir = tempfile::tempdir().unwrap();
    let broken = page_stream(&pages[..200], 10)
        .chain(stream::iter([Err(ArrowError::ComputeError("cable cut".into()))]))
        .boxed();
    build(dir.path(), &small_runs(), broken).result.unwrap_err();
    let others = random_pages(300, 5);
    let error = build(dir.path(), &small_runs(), page_stream(&others, 10)).result.unwrap_err();
    assert!(error.to_string().contains("built from other pages"), "{error}");
    let error = build(dir.path(), &small_runs(), page_stream(&pages[..60], 10)).result.unwrap_err();
    assert!(error.to_string().contains("built from other pages"), "{error}");
    build(dir.path(), &small_runs(), page_stream(&pages, 10)).result.unwrap();
    let error = build(dir.path(), &small_runs(), page_stream(&others, 10)).result.unwrap_err();
    assert!(error.to_string().contains("built from other pages"), "{error}");
    for shards in [2, 4] {
        let options = IndexOptions { shards, ..small_runs() };
        let error = build(dir.path(), &options, page_stream(&pages, 10)).result.unwrap_err();
        assert!(error.to_string().contains("shards"), "{error}");
    }
}

#[test]
fn a_foreign_or_damaged_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Searcher::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("no finished search index"), "{error}");
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let pages = [page("a", "cats and dogs"), page("b", "birds")];
    let error = build(dir.path(), &options(1), page_stream(&pages, 1)).result.unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "mine");
    fs::remove_file(dir.path().join("notes.txt")).unwrap();
    build(dir.path(), &options(1), page_stream(&pages, 1)).result.unwrap();
    verify_index(dir.path()).unwrap();

    let shard = dir.path().join("shard-00000");
    let postings = files(&shard).into_iter().find(|f| f.0.ends_with(".idx")).unwrap();
    let path = shard.join(&postings.0);
    let mut bytes = postings.1.clone();
    bytes[10] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = verify_index(dir.path()).unwrap_err().to_string();
    assert!(error.contains(".idx") && error.contains("checksum"), "{error}");

    fs::write(&path, &postings.1).unwrap();
    let ids = shard.join("ids.bin");
    let good = fs::read(&ids).unwrap();
    fs::write(&ids, [&[good[0] ^ 1], &good[1..]].concat()).unwrap();
    let error = verify_index(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ids.bin") && error.contains("checksum"), "{error}");
    fs::write(&ids, &good).unwrap();

    fs::write(&path, &postings.1[..5]).unwrap();
    let error = Searcher::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains(".idx") && error.contains("5 bytes"), "{error}");

    let record = dir.path().join("index.json");
    let text = fs::read_to_string(&record).unwrap();
    // Of another version, and without a digest of its own, which would no longer match.
    let (fields, _) = text.split_once(",\n  \"digest\"").unwrap();
    let other = fields.replace("\"format_version\": 4", "\"format_version\": 9") + "\n}\n";
    fs::write(&record, other).unwrap();
    let error = Searcher::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("format 9"), "{error}");
    fs::write(&record, "{").unwrap();
    let error = Searcher::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("index.json"), "{error}");
}

#[test]
fn options_and_columns_that_cannot_work_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (wrong, says) in [
        (IndexOptions { shards: 0, ..options(1) }, "shards"),
        (IndexOptions { memory_bytes: 1_000, ..options(1) }, "memory_bytes"),
        (IndexOptions { run_pages: 0, ..options(1) }, "run_pages"),
        (IndexOptions { max_runs: 0, ..options(1) }, "max_runs"),
    ] {
        let error = build(dir.path(), &wrong, stream::empty().boxed()).result.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let batch = page_batch(&[page("a", "cats")]).project(&[0]);
    let error = build(dir.path(), &options(1), stream::iter([batch]).boxed()).result.unwrap_err();
    assert!(error.to_string().contains("`id` is missing"), "{error}");
}

#[test]
fn a_small_memory_makes_more_runs_and_the_same_answers() {
    let pages: Vec<common::Page> = (0..12_000)
        .map(|n| {
            let own: Vec<String> = (0..60).map(|word| format!("own{n}x{word}")).collect();
            let cats = "cats ".repeat(1 + n % 30);
            page(&format!("p{n}"), &format!("{cats} {}", own.join(" ")))
        })
        .collect();
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for (dir, (memory_bytes, max_runs)) in dirs.iter().zip([(1 << 30, 8), (16 << 20, 100), (16 << 20, 1)]) {
        let options = IndexOptions { memory_bytes, max_runs, ..options(1) };
        build(dir.path(), &options, page_stream(&pages, 500)).result.unwrap();
        verify_index(dir.path()).unwrap();
    }
    // A shard of one run keeps the run's segment, number 1; merged runs become segment 0.
    let segments = [(1, ""), (2, "run-00001/"), (0, "")];
    for (dir, (number, run)) in dirs.iter().zip(segments) {
        let name = format!("shard-00000/{run}{number:032x}.idx");
        assert!(files(dir.path()).iter().any(|file| file.0 == name), "{name}");
    }
    let answer = |dir: &tempfile::TempDir| {
        Searcher::open(dir.path()).unwrap().search_text("cats own77x5", 100).unwrap()
    };
    assert_eq!(answer(&dirs[0]).len(), 100);
    assert_eq!(answer(&dirs[0]), answer(&dirs[1]));
    assert_eq!(answer(&dirs[0]), answer(&dirs[2]));
}
