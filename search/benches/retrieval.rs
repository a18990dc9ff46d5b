//! Indexing and search against a named peer, in the same run: a plain Tantivy index with its own
//! `IndexWriter`, `QueryParser` and `TopDocs`.
//!
//! The corpus is generated: words drawn by Zipf's law, so posting lists have realistic lengths.
//! `CORPUSMITH_BENCH_PAGES` (default 50000) sets its size. The peer reports document addresses
//! only; ours reports page ids, exact order of ties included. Rates and ratios are by wall clock;
//! the CPU seconds beside them tell how far to trust them on a busy machine.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

mod common;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use common::{Random, Taken, timed};
use criterion::Criterion;
use futures::{StreamExt, stream};
use search::{IndexOptions, LocalBackend, RetrieveOptions, Searcher, build_index, retrieve};
use tantivy::collector::TopDocs;
use tantivy::query::QueryParser;
use tantivy::schema::{IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value};
use tantivy::{Index, ReloadPolicy, TantivyDocument, doc};

const VOCABULARY: usize = 60_000;
const BATCH_PAGES: usize = 1_000;
const QUERIES: usize = 200;

fn main() {
    let pages =
        std::env::var("CORPUSMITH_BENCH_PAGES").ok().and_then(|pages| pages.parse().ok()).unwrap_or(50_000);
    let corpus = Corpus::generate(pages);
    let text_mb = corpus.texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    println!("corpus: {pages} pages, {text_mb:.1} MB of text");
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let our_folder = tempfile::tempdir().unwrap();
    let (our_time, summary) = timed(|| runtime.block_on(index_ours(&corpus, our_folder.path())));
    let peer_folder = tempfile::tempdir().unwrap();
    let (peer_time, peer) = timed(|| index_peer(&corpus, peer_folder.path()));
    println!(
        "indexing: ours {:.1} MB/s ({:.1} CPU s), tantivy {:.1} MB/s ({:.1} CPU s), {}",
        text_mb / our_time.wall_seconds,
        our_time.cpu_seconds,
        text_mb / peer_time.wall_seconds,
        peer_time.cpu_seconds,
        ratio(&our_time, &peer_time)
    );
    println!("index bytes per byte of text: {:.3}", summary.index_bytes as f64 / summary.text_bytes as f64);

    let ours = Arc::new(Searcher::open(our_folder.path()).unwrap());
    let queries = corpus.queries(QUERIES);
    for k in [10, 1_000] {
        let our_time = pass(&queries, |query| ours.search_text(query, k).unwrap().len());
        let peer_time = pass(&queries, |query| peer.search(query, k));
        println!(
            "any-term queries, k = {k}, one thread: ours {:.0}/s, tantivy {:.0}/s, {}",
            rate(&our_time),
            rate(&peer_time),
            ratio(&our_time, &peer_time)
        );
        let (our_time, hits) = timed(|| runtime.block_on(retrieve_ours(&ours, &queries, k as u32)));
        let peer_time = pass(&queries, |query| peer.two_step(query, k));
        println!(
            "two-step topics, k = {k}: ours {:.0}/s on all processors ({hits} hits), \
             tantivy with stored ids {:.0}/s on one, {}",
            rate(&our_time),
            rate(&peer_time),
            ratio(&our_time, &peer_time)
        );
    }

    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    for k in [10, 1_000] {
        let mut group = criterion.benchmark_group(format!("any term, k = {k}"));
        let mut turn = queries.iter().cycle();
        group.bench_function("ours", |bencher| {
            bencher.iter(|| ours.search_text(turn.next().unwrap(), black_box(k)).unwrap());
        });
        let mut turn = queries.iter().cycle();
        group.bench_function("tantivy", |bencher| {
            bencher.iter(|| peer.search(turn.next().unwrap(), black_box(k)));
        });
        group.finish();
    }
    criterion.final_summary();
}

/// Queries a second of a pass.
fn rate(taken: &Taken) -> f64 {
    QUERIES as f64 / taken.wall_seconds
}

/// How many times faster than the peer.
fn ratio(taken: &Taken, peer: &Taken) -> String {
    format!(
        "ratio {:.2} by wall clock, {:.2} by CPU time",
        peer.wall_seconds / taken.wall_seconds,
        peer.cpu_seconds / taken.cpu_seconds
    )
}

/// One pass over the queries, after a pass to warm up.
fn pass(queries: &[String], mut search: impl FnMut(&str) -> usize) -> Taken {
    let mut all = || queries.iter().map(|query| black_box(search(query))).sum::<usize>();
    black_box(all());
    timed(all).0
}

struct Corpus {
    words: Vec<String>,
    texts: Vec<String>,
}

impl Corpus {
    fn generate(pages: usize) -> Self {
        let mut random = Random(1);
        let words: Vec<String> = (0..VOCABULARY).map(|_| random.word()).collect();
        let mut cumulative = Vec::with_capacity(VOCABULARY);
        let mut sum = 0.0;
        for rank in 1..=VOCABULARY {
            sum += 1.0 / rank as f64;
            cumulative.push(sum);
        }
        let texts = (0..pages)
            .map(|_| {
                // 50 to 2,000 words, short pages being the most frequent.
                let length = 50.0 * 40.0_f64.powf(random.unit());
                let mut text = String::new();
                for _ in 0..length as usize {
                    let rank = cumulative.partition_point(|&c| c < random.unit() * sum);
                    text.push_str(&words[rank.min(VOCABULARY - 1)]);
                    text.push(' ');
                }
                text
            })
            .collect();
        Self { words, texts }
    }

    /// Queries of three to six words that are neither in every page nor nearly nowhere.
    fn queries(&self, count: usize) -> Vec<String> {
        let mut random = Random(2);
        (0..count)
            .map(|_| {
                let length = 3 + (random.unit() * 4.0) as usize;
                let words: Vec<&str> = (0..length)
                    .map(|_| self.words[20 + (random.unit() * 3_000.0) as usize].as_str())
                    .collect();
                words.join(" ")
            })
            .collect()
    }

    fn batches(&self) -> Vec<RecordBatch> {
        let mut first = 0;
        self.texts
            .chunks(BATCH_PAGES)
            .map(|texts| {
                let ids = (first..first + texts.len()).map(id_of);
                first += texts.len();
                let ids: ArrayRef = Arc::new(StringArray::from_iter_values(ids));
                let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
                RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap()
            })
            .collect()
    }
}

/// An id of the form FineWeb uses.
fn id_of(page: usize) -> String {
    let half = Random(page as u64).next();
    format!("<urn:uuid:{half:016x}-{page:016x}>")
}

async fn index_ours(corpus: &Corpus, folder: &Path) -> search::IndexSummary {
    let batches = stream::iter(corpus.batches().into_iter().map(Ok)).boxed();
    build_index(folder, &IndexOptions::default(), batches, Arc::new(|_| {})).await.unwrap()
}

async fn retrieve_ours(searcher: &Arc<Searcher>, queries: &[String], k: u32) -> usize {
    let column = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let empty = || column(vec![String::new(); queries.len()]);
    let topics = RecordBatch::try_from_iter([
        ("topic_id", column(queries.to_vec())),
        ("top_category", empty()),
        ("subcategory", empty()),
        ("subtopic", column(queries.to_vec())),
    ])
    .unwrap();
    let options = RetrieveOptions { pages_per_topic: k, ..RetrieveOptions::default() };
    let topics = stream::iter([Ok(topics)]).boxed();
    let backend = Arc::new(LocalBackend::new(searcher.clone(), &options).unwrap());
    let retrieval = retrieve(backend, &options, topics).unwrap();
    retrieval.hits.map(|batch| batch.unwrap().num_rows()).fold(0, |sum, rows| async move { sum + rows }).await
}

/// The peer.
struct Peer {
    searcher: tantivy::Searcher,
    any: QueryParser,
    all: QueryParser,
    id: tantivy::schema::Field,
}

fn index_peer(corpus: &Corpus, folder: &Path) -> Peer {
    let mut schema = Schema::builder();
    let id = schema.add_text_field("id", STRING | STORED);
    let indexing =
        TextFieldIndexing::default().set_tokenizer("en_stem").set_index_option(IndexRecordOption::WithFreqs);
    let text = schema.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
    let index = Index::create_in_dir(folder, schema.build()).unwrap();
    // The same memory and as many threads as our default of four shards has.
    let mut writer = index.writer_with_num_threads(4, 1 << 30).unwrap();
    for (page, page_text) in corpus.texts.iter().enumerate() {
        writer.add_document(doc!(id => id_of(page), text => page_text.as_str())).unwrap();
    }
    writer.commit().unwrap();
    writer.wait_merging_threads().unwrap();
    let any = QueryParser::for_index(&index, vec![text]);
    let mut all = QueryParser::for_index(&index, vec![text]);
    all.set_conjunction_by_default();
    let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().unwrap();
    Peer { searcher: reader.searcher(), any, all, id }
}

impl Peer {
    fn search(&self, query: &str, k: usize) -> usize {
        let query = self.any.parse_query(query).unwrap();
        let best = TopDocs::with_limit(k).order_by_score();
        self.searcher.search(&query, &best).unwrap().len()
    }

    /// The published script's way: both queries in full, ids from the store, repeats removed.
    fn two_step(&self, query: &str, k: usize) -> usize {
        let mut ids = std::collections::HashSet::new();
        for parser in [&self.all, &self.any] {
            let query = parser.parse_query(query).unwrap();
            let best = TopDocs::with_limit(k).order_by_score();
            for (_, address) in self.searcher.search(&query, &best).unwrap() {
                let page: TantivyDocument = self.searcher.doc(address).unwrap();
                let id = page.get_first(self.id).and_then(|id| id.as_str()).unwrap();
                ids.insert(id.to_owned());
            }
            if ids.len() >= k {
                break;
            }
        }
        ids.len().min(k)
    }
}
