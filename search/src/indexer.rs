//! Building the index: pages in, a folder of shards out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use futures::StreamExt;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::columns::PageBatch;
use crate::error::IndexError;
use crate::layout::{
    self, ANALYZER, FORMAT_VERSION, INDEX_FILE, IndexRecord, IndexSummary, RUN_FILE, SHARD_FILE, ShardPlace,
    ShardRecord,
};
use crate::shard::{Feed, RunLimits, ShardWorker};
use crate::{OnReject, Reject};

/// Batches that may wait for a shard's thread. Batches are shared by the shards, so this bounds
/// what is held beyond the writers' memory.
const WAITING_BATCHES: usize = 2;

/// Least writer memory of a shard: an empty Tantivy writer alone takes several megabytes.
const MIN_SHARD_MEMORY_BYTES: u64 = 16 << 20;

/// How an index is built.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IndexOptions {
    /// Shards, each indexed by a thread of its own; a page goes to the shard its id hashes to.
    /// The published tool used 64 tables for 520 million pages [cosmo: huggingface/cosmopedia
    /// `fulltext_search/index_docs.py`]; 4 suit one machine and a sample. The answers do not
    /// depend on it.
    pub shards: u32,
    /// Bytes of memory all shard writers together may fill before they write to disk.
    pub memory_bytes: u64,
    /// Pages of one shard after which what is indexed is written, even if memory is left: an
    /// interrupted build repeats at most this many pages a shard.
    pub run_pages: u32,
    /// Runs that a shard keeps side by side; of more, one is made. Merging takes time and memory, many runs
    /// make the index larger and slower to search: four lose little of either (`docs/PERFORMANCE.md`). The
    /// answers do not depend on it.
    pub max_runs: u32,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { shards: 4, memory_bytes: 1 << 30, run_pages: 1_000_000, max_runs: 4 }
    }
}

impl IndexOptions {
    fn limits(&self) -> Result<RunLimits, IndexError> {
        let invalid = |field, value: u64, why: String| IndexError::InvalidOption {
            field,
            value: value.to_string(),
            why,
        };
        if !(1..=99_999).contains(&self.shards) {
            let why = "must lie between 1 and 99,999".to_owned();
            return Err(invalid("shards", self.shards.into(), why));
        }
        for (field, value) in [("run_pages", self.run_pages), ("max_runs", self.max_runs)] {
            if value == 0 {
                return Err(invalid(field, 0, "must be at least 1".to_owned()));
            }
        }
        let per_shard = self.memory_bytes / u64::from(self.shards);
        if per_shard < MIN_SHARD_MEMORY_BYTES {
            let least = MIN_SHARD_MEMORY_BYTES * u64::from(self.shards);
            let why = format!("{} shards need at least {least} bytes", self.shards);
            return Err(invalid("memory_bytes", self.memory_bytes, why));
        }
        Ok(RunLimits {
            memory_bytes: usize::try_from(per_shard).unwrap_or(usize::MAX),
            pages: self.run_pages as usize,
            runs: self.max_runs as usize,
        })
    }
}

/// Builds the index of `pages` in the folder `dir`.
///
/// `pages` needs the columns `text` and `id`; `url`, `language`, `language_score`, `token_count` and
/// `int_score` are kept for filters where they are there. Pages without id or text are skipped; of several pages with
/// one id the first in the stream is kept. Skipped pages go to `on_reject` and are counted by
/// reason in the summary.
///
/// A shard appears whole or not at all, `index.json` last. An interrupted build is taken up by
/// calling again with the same stream: finished shards and runs are not indexed a second time,
/// only compared with the stream. The same stream and options leave the same bytes.
///
/// Memory: `memory_bytes` for the writers plus a few batches. Must run inside a Tokio runtime.
///
/// # Errors
/// See [`IndexError`]; what was finished before an error stays and is used by the next call.
pub async fn build_index(
    dir: &Path,
    options: &IndexOptions,
    pages: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    on_reject: OnReject,
) -> Result<IndexSummary, IndexError> {
    let limits = options.limits()?;
    let root = dir.to_owned();
    let shards = options.shards;
    let workers = {
        let on_reject = on_reject.clone();
        let root = root.clone();
        blocking(move || open_workers(&root, shards, limits, &on_reject)).await?
    };
    let mut summary = IndexSummary { shards, ..IndexSummary::default() };
    let mut pool = Pool::start(workers);
    let fed = feed(&mut pool, pages, shards, &on_reject, &mut summary).await;
    // A dead thread closes its channel, which ends the feed without an error: `join` says why.
    let records = pool.join().await;
    fed?;
    for record in &records? {
        summary.pages += record.pages;
        summary.text_bytes += record.text_bytes;
        summary.text_terms += record.text_terms;
        if record.duplicate_pages > 0 {
            let count = summary.skipped_pages.entry("duplicate_id".to_owned());
            *count.or_default() += record.duplicate_pages;
        }
    }
    blocking(move || publish(&root, shards, summary)).await
}

/// The shard threads and the channels that feed them.
struct Pool {
    feeds: Vec<mpsc::Sender<Feed>>,
    threads: Vec<JoinHandle<Result<Option<ShardRecord>, IndexError>>>,
}

impl Pool {
    fn start(workers: Vec<ShardWorker>) -> Self {
        let mut pool = Self { feeds: Vec::new(), threads: Vec::new() };
        for worker in workers {
            let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
            pool.feeds.push(sender);
            pool.threads.push(spawn_blocking(move || worker.work(receiver)));
        }
        pool
    }

    /// Closes the channels and waits for the threads; the first error wins. Threads that were not
    /// sent `Feed::End` end without a record.
    async fn join(self) -> Result<Vec<ShardRecord>, IndexError> {
        drop(self.feeds);
        let mut records = Vec::new();
        let mut first_error = None;
        for (shard, thread) in self.threads.into_iter().enumerate() {
            let ended = thread.await.unwrap_or_else(|error| {
                Err(IndexError::Worker { shard: shard as u32, detail: error.to_string() })
            });
            match ended {
                Ok(record) => records.extend(record),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(records), Err)
    }
}

async fn feed(
    pool: &mut Pool,
    mut pages: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    shards: u32,
    on_reject: &OnReject,
    summary: &mut IndexSummary,
) -> Result<(), IndexError> {
    let mut number = 0;
    while let Some(batch) = pages.next().await {
        let batch = batch.map_err(IndexError::Pages)?;
        let routed = blocking(move || route(&batch, number, shards)).await?;
        number += 1;
        for reject in routed.rejects {
            *summary.skipped_pages.entry(reject.reason.clone()).or_default() += 1;
            on_reject(reject);
        }
        for (feed, rows) in pool.feeds.iter().zip(routed.rows) {
            if rows.is_empty() {
                continue;
            }
            if feed.send(Feed::Pages(routed.pages.clone(), rows)).await.is_err() {
                return Ok(());
            }
        }
    }
    for feed in &pool.feeds {
        // A closed channel means a failed thread, whose error `join` reports.
        let _ = feed.send(Feed::End).await;
    }
    Ok(())
}

/// A batch with its rows split by shard.
struct Routed {
    pages: Arc<PageBatch>,
    rows: Vec<Vec<u32>>,
    rejects: Vec<Reject>,
}

fn route(batch: &RecordBatch, number: u64, shards: u32) -> Result<Routed, IndexError> {
    let pages = PageBatch::new(batch).map_err(|problem| IndexError::Column {
        batch: number,
        column: problem.column,
        problem: problem.problem,
    })?;
    let mut rows = vec![Vec::new(); shards as usize];
    let mut rejects = Vec::new();
    for row in 0..pages.rows() {
        match reason_to_skip(&pages, row) {
            None => rows[shard_of(pages.id.value(row), shards) as usize].push(row as u32),
            Some(reason) => rejects.push(Reject {
                id: match pages.id.is_valid(row) {
                    true => pages.id.value(row).to_owned(),
                    false => String::new(),
                },
                reason: reason.to_owned(),
                detail: format!("batch {number}, row {row}"),
            }),
        }
    }
    Ok(Routed { pages: Arc::new(pages), rows, rejects })
}

pub(crate) fn reason_to_skip(pages: &PageBatch, row: usize) -> Option<&'static str> {
    if pages.id.is_null(row) || pages.id.value(row).is_empty() {
        Some("missing_id")
    } else if pages.text.is_null(row) {
        Some("missing_text")
    } else if pages.text.value(row).trim().is_empty() {
        Some("empty_text")
    } else {
        None
    }
}

/// The shard of a page: the first eight bytes of the blake3 hash of its id, modulo the shards.
fn shard_of(id: &str, shards: u32) -> u32 {
    let hash = blake3::hash(id.as_bytes());
    let first = hash.as_bytes().first_chunk::<8>();
    let number = u64::from_le_bytes(first.copied().unwrap_or_default());
    (number % u64::from(shards)) as u32
}

fn open_workers(
    root: &Path,
    shards: u32,
    limits: RunLimits,
    on_reject: &OnReject,
) -> Result<Vec<ShardWorker>, IndexError> {
    layout::prepare_root(root)?;
    let more = ShardPlace::new(root, shards, shards);
    for beyond in [more.finished(), more.partial()] {
        if beyond.exists() {
            return Err(IndexError::OtherLayout {
                path: beyond,
                found: format!("more than {shards} shards"),
                wanted: format!("{shards} shards"),
            });
        }
    }
    let workers = (0..shards)
        .map(|shard| {
            let place = ShardPlace::new(root, shard, shards);
            ShardWorker::open(place, limits, on_reject.clone())
        })
        .collect::<Result<Vec<_>, _>>()?;
    if workers.iter().any(|worker| !worker.is_finished()) {
        layout::remove(&root.join(INDEX_FILE))?;
    }
    Ok(workers)
}

/// Removes what only the build needed and writes `index.json`.
fn publish(root: &Path, shards: u32, mut summary: IndexSummary) -> Result<IndexSummary, IndexError> {
    for shard in 0..shards {
        let place = ShardPlace::new(root, shard, shards);
        layout::remove(&place.partial())?;
        let folder = place.finished();
        let path: PathBuf = folder.join(SHARD_FILE);
        if let Some(record) = layout::read_record::<ShardRecord>(&path)? {
            for (segment, _) in record.segments(&folder) {
                layout::remove(&segment.join(RUN_FILE))?;
            }
            summary.index_bytes += record.files.values().sum::<u64>();
        }
    }
    let record = IndexRecord { format_version: FORMAT_VERSION, analyzer: ANALYZER.to_owned(), summary };
    layout::write_record(&root.join(INDEX_FILE), &record)?;
    Ok(record.summary)
}

/// Runs `work` off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(IndexError::Worker { shard: 0, detail: error.to_string() }))
}
