//! Indexing and search against named peers, on the same documents and queries: `make bench-search`.
//!
//! This program writes the corpus and the queries, runs our part and leaves its figures beside them;
//! `peers.py` then runs bm25s and tantivy-py on the same files and prints everything with ratios.
//!
//! Rates are by wall clock and by CPU time; the second tell more on a busy machine.
//!
//! - `CORPUSMITH_BENCH_PAGES`: pages, 200000 by default
//! - `CORPUSMITH_BENCH_FOLDER`: where the files go, `target/bench-search` by default
//! - `CORPUSMITH_BENCH_SHARDS`: shards of our index, 4 by default
//! - `CORPUSMITH_BENCH_MEMORY`: bytes of all shard writers, 2^30 by default
//! - `CORPUSMITH_BENCH_MAX_RUNS`: runs that a shard keeps, the library's default if not given
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

#[path = "../common/mod.rs"]
mod common;
mod corpus;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use common::Taken;
use futures::{StreamExt, stream};
use search::{IndexOptions, LocalBackend, RetrieveOptions, Searcher, build_index, retrieve};
use serde_json::json;

const BATCH_PAGES: usize = 1_000;
const KS: [usize; 2] = [10, 1_000];

fn main() {
    let pages: usize = setting("CORPUSMITH_BENCH_PAGES", "200000").parse().unwrap();
    let shards: u32 = setting("CORPUSMITH_BENCH_SHARDS", "4").parse().unwrap();
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-search");
    let folder = PathBuf::from(setting("CORPUSMITH_BENCH_FOLDER", default));
    let (corpus_file, text_bytes) = corpus::write(&folder, pages);
    let queries: Vec<String> =
        BufReader::new(File::open(folder.join("queries.txt")).unwrap()).lines().map(Result::unwrap).collect();
    let megabytes = text_bytes as f64 / 1e6;
    println!("{pages} pages, {megabytes:.0} MB of text, {} queries", queries.len());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut figures = Figures { rows: Vec::new() };

    let index = folder.join("ours");
    let _ = std::fs::remove_dir_all(&index);
    let mut options = IndexOptions { shards, ..IndexOptions::default() };
    let number = |name, default: u64| setting(name, &default.to_string()).parse::<u64>().unwrap();
    options.memory_bytes = number("CORPUSMITH_BENCH_MEMORY", options.memory_bytes);
    options.max_runs = number("CORPUSMITH_BENCH_MAX_RUNS", options.max_runs.into()) as u32;
    let (taken, summary) = timed(|| {
        let pages = stream::iter(batches(&corpus_file).map(Ok)).boxed();
        runtime.block_on(build_index(&index, &options, pages, Arc::new(|_| {}))).unwrap()
    });
    figures.add("index", megabytes, taken, "MB/s", summary.index_bytes as f64 / text_bytes as f64);

    let searcher = Arc::new(Searcher::open(&index).unwrap());
    for k in KS {
        let all =
            || queries.iter().map(|query| searcher.rank_text(query, k).unwrap().doc_ids.len()).sum::<usize>();
        all();
        let (taken, hits) = timed(all);
        let name = format!("any term, k = {k}, one thread");
        figures.add(&name, queries.len() as f64, taken, "queries/s", hits as f64);
    }
    // Five times the queries as topics, so that batches fill.
    let topics: Vec<String> = queries.iter().cycle().take(5 * queries.len()).cloned().collect();
    for k in KS {
        for topics_per_batch in [1, 16, 256] {
            let options =
                RetrieveOptions { pages_per_topic: k as u32, topics_per_batch, ..RetrieveOptions::default() };
            let (taken, hits) = timed(|| runtime.block_on(two_step(&searcher, &topics, &options)));
            let name = format!("two-step topics, k = {k}, all processors, {topics_per_batch} a batch");
            figures.add(&name, topics.len() as f64, taken, "topics/s", hits as f64);
        }
    }
    let report = json!({"pages": pages, "text_bytes": text_bytes, "rows": figures.rows});
    std::fs::write(folder.join("ours.json"), serde_json::to_vec_pretty(&report).unwrap()).unwrap();
}

struct Figures {
    rows: Vec<serde_json::Value>,
}

impl Figures {
    /// `detail`: bytes of index a byte of text, or hits.
    fn add(&mut self, name: &str, amount: f64, taken: Taken, unit: &str, detail: f64) {
        let (rate, cpu_rate) = (amount / taken.wall_seconds, amount / taken.cpu_seconds);
        let peak = peak_memory_mb();
        println!(
            "{name}: {rate:.1} {unit}, {cpu_rate:.1} by CPU time, peak {peak:.0} MB, detail {detail:.3}"
        );
        self.rows.push(json!({
            "name": name, "rate": rate, "cpu_rate": cpu_rate, "unit": unit, "detail": detail, "peak_mb": peak,
        }));
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// As [`common::timed`], with the peak of memory counted anew (Linux).
fn timed<T>(work: impl FnOnce() -> T) -> (Taken, T) {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    common::timed(work)
}

/// Largest resident memory since `timed` began, mapped index files that are in memory among it.
fn peak_memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1e3
}

fn batches(path: &Path) -> impl Iterator<Item = RecordBatch> + Send + use<> {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(path).unwrap()).lines();
    std::iter::from_fn(move || {
        let rows: Vec<String> = lines.by_ref().take(BATCH_PAGES).map(Result::unwrap).collect();
        let split = || rows.iter().map(|row| row.split_once('\t').unwrap());
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(split().map(|(id, _)| id)));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(split().map(|(_, text)| text)));
        (!rows.is_empty()).then(|| RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap())
    })
}

async fn two_step(searcher: &Arc<Searcher>, topics: &[String], options: &RetrieveOptions) -> usize {
    let column = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let empty = || column(vec![String::new(); topics.len()]);
    let batch = RecordBatch::try_from_iter([
        ("topic_id", column(topics.to_vec())),
        ("top_category", empty()),
        ("subcategory", empty()),
        ("subtopic", column(topics.to_vec())),
    ])
    .unwrap();
    let backend = Arc::new(LocalBackend::new(searcher.clone(), options).unwrap());
    let retrieval = retrieve(backend, options, stream::iter([Ok(batch)]).boxed()).unwrap();
    retrieval.hits.map(|batch| batch.unwrap().num_rows()).fold(0, |sum, rows| async move { sum + rows }).await
}
