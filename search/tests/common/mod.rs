//! Helpers of the tests: pages and topics built in code, an index in a temporary folder.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float32Type, UInt32Type};
use arrow::error::ArrowError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use search::{
    IndexError, IndexOptions, IndexSummary, LocalBackend, Reject, RetrieveOptions, RetrieveSummary, Searcher,
    build_index, retrieve,
};

pub type Batches = BoxStream<'static, Result<RecordBatch, ArrowError>>;

#[derive(Clone, Debug, Default)]
pub struct Page {
    pub id: String,
    pub text: String,
    pub url: Option<String>,
    pub language_score: Option<f64>,
    pub token_count: Option<i64>,
    pub language: Option<String>,
    pub int_score: Option<i64>,
}

pub fn page(id: &str, text: &str) -> Page {
    Page { id: id.to_owned(), text: text.to_owned(), ..Page::default() }
}

pub fn page_batch(pages: &[Page]) -> RecordBatch {
    let strings = |f: &dyn Fn(&Page) -> Option<String>| -> ArrayRef {
        Arc::new(pages.iter().map(f).collect::<StringArray>())
    };
    let language_score: Float64Array = pages.iter().map(|p| p.language_score).collect();
    let token_count: Int64Array = pages.iter().map(|p| p.token_count).collect();
    let int_score: Int64Array = pages.iter().map(|p| p.int_score).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("text", strings(&|p| Some(p.text.clone())), true),
        ("id", strings(&|p| Some(p.id.clone())), true),
        ("url", strings(&|p| p.url.clone()), true),
        ("language_score", Arc::new(language_score) as ArrayRef, true),
        ("token_count", Arc::new(token_count) as ArrayRef, true),
        ("language", strings(&|p| p.language.clone()), true),
        ("int_score", Arc::new(int_score) as ArrayRef, true),
    ])
    .unwrap()
}

pub fn page_stream(pages: &[Page], batch_rows: usize) -> Batches {
    let batches: Vec<_> = pages.chunks(batch_rows).map(page_batch).map(Ok).collect();
    stream::iter(batches).boxed()
}

pub fn options(shards: u32) -> IndexOptions {
    IndexOptions { shards, memory_bytes: u64::from(shards) * (16 << 20), ..IndexOptions::default() }
}

pub struct Built {
    pub result: Result<IndexSummary, IndexError>,
    pub rejects: Vec<Reject>,
}

pub fn build(dir: &Path, options: &IndexOptions, pages: Batches) -> Built {
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let sink = rejects.clone();
    let on_reject = Arc::new(move |reject| sink.lock().unwrap().push(reject));
    let result = runtime().block_on(build_index(dir, options, pages, on_reject));
    let mut rejects = rejects.lock().unwrap().clone();
    rejects.sort_by(|a, b| (&a.id, &a.reason).cmp(&(&b.id, &b.reason)));
    Built { result, rejects }
}

pub fn index_of(pages: &[Page], shards: u32) -> (tempfile::TempDir, Arc<Searcher>) {
    index_with(&options(shards), pages)
}

pub fn index_with(options: &IndexOptions, pages: &[Page]) -> (tempfile::TempDir, Arc<Searcher>) {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), options, page_stream(pages, 7)).result.unwrap();
    let searcher = Arc::new(Searcher::open(dir.path()).unwrap());
    (dir, searcher)
}

/// The pages of each group as an index of its own, in shards of several runs, opened as one.
pub fn indexes_of(groups: &[&[Page]], shards: &[u32]) -> (Vec<tempfile::TempDir>, Arc<Searcher>) {
    let dirs: Vec<_> = groups
        .iter()
        .zip(shards)
        .map(|(pages, &shards)| {
            let dir = tempfile::tempdir().unwrap();
            let options = IndexOptions { run_pages: 1 + pages.len() as u32 / 9, ..options(shards) };
            build(dir.path(), &options, page_stream(pages, 7)).result.unwrap();
            dir
        })
        .collect();
    let paths: Vec<_> = dirs.iter().map(|dir| dir.path()).collect();
    let searcher = Arc::new(Searcher::open_all(&paths).unwrap());
    (dirs, searcher)
}

/// Topics as (id, top category, subcategory, subtopic).
pub type TopicRow<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

pub fn topic_batch(topics: &[TopicRow]) -> RecordBatch {
    let column = |f: &dyn Fn(&TopicRow) -> Option<String>| -> ArrayRef {
        Arc::new(topics.iter().map(f).collect::<StringArray>())
    };
    RecordBatch::try_from_iter_with_nullable([
        ("topic_id", column(&|t| Some(t.0.to_owned())), true),
        ("top_category", column(&|t| Some(t.1.to_owned())), true),
        ("subcategory", column(&|t| Some(t.2.to_owned())), true),
        ("subtopic", column(&|t| t.3.map(str::to_owned)), true),
    ])
    .unwrap()
}

#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub topic_id: String,
    pub rank: u32,
    pub score: f32,
    pub doc_id: String,
    pub matched: String,
}

pub fn hits(
    searcher: &Arc<Searcher>,
    options: &RetrieveOptions,
    topics: &[TopicRow],
) -> (Vec<Hit>, RetrieveSummary) {
    let batches: Vec<_> = topics.chunks(3).map(topic_batch).map(Ok).collect();
    let backend = Arc::new(LocalBackend::new(searcher.clone(), options).unwrap());
    let retrieval = retrieve(backend, options, stream::iter(batches).boxed()).unwrap();
    let batches: Vec<RecordBatch> = runtime().block_on(retrieval.hits.try_collect()).unwrap();
    let hits = batches.iter().flat_map(hits_of_batch).collect();
    (hits, retrieval.summary.get())
}

pub fn hits_of_batch(batch: &RecordBatch) -> Vec<Hit> {
    assert_eq!(batch.schema(), search::hits_schema());
    let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row).to_owned();
    (0..batch.num_rows())
        .map(|row| Hit {
            topic_id: text(0, row),
            rank: batch.column(1).as_primitive::<UInt32Type>().value(row),
            score: batch.column(2).as_primitive::<Float32Type>().value(row),
            doc_id: text(3, row),
            matched: text(4, row),
        })
        .collect()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// Every file below a folder with its bytes.
pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// SplitMix64, so that every run sees the same pages.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    /// A word of the vocabulary, small numbers being much more frequent.
    pub fn word(&mut self, vocabulary: u64) -> String {
        let limit = 1 + self.below(vocabulary);
        let limit = 1 + self.below(limit);
        format!("word{}", self.below(limit))
    }
}

/// Pages of skewed words and lengths; every tenth is a copy of the page before it, so that scores
/// tie.
pub fn random_pages(count: usize, seed: u64) -> Vec<Page> {
    let mut random = Random(seed);
    let mut pages: Vec<Page> = Vec::new();
    for number in 0..count {
        let text = match pages.last() {
            Some(last) if number % 10 == 0 => last.text.clone(),
            _ => {
                let longest = 3 + random.below(300);
                let length = 1 + random.below(longest);
                let words: Vec<String> = (0..length).map(|_| random.word(400)).collect();
                words.join(" ")
            }
        };
        pages.push(Page {
            id: format!("<urn:uuid:{:08x}>", random.below(u32::MAX.into())),
            text,
            url: Some(format!("https://host{}.org/{number}", random.below(20))),
            language_score: Some(random.below(1_000) as f64 / 1_000.0),
            token_count: Some(random.below(3_000) as i64),
            language: [None, Some("en"), Some("en"), Some("de")][random.below(4) as usize].map(str::to_owned),
            int_score: Some(random.below(6) as i64),
        });
    }
    pages
}
