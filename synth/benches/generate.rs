//! How fast rows are asked, and answers kept, next to the plain ways of doing so.
//!
//! - The operator with the real client, against `futures::stream::buffered` over plain `reqwest`, both
//!   against the same server on this machine, without and with slow rows among the quick.
//! - The answer log, against one JSON file an answer, each file synced like a record of the log.
//!
//! After criterion's figures it prints the ratios of the medians of alternating runs.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    reason = "a benchmark stops at the first error; the server is shared with the tests"
)]

#[path = "../src/client/testing.rs"]
mod testing;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use criterion::{Criterion, Throughput};
use futures::{StreamExt, TryStreamExt, stream};
use synth::answer_log::AnswerLog;
use synth::chat::{ChatAnswer, ChatRequest, FinishReason, Message, RequestId, RequestKey};
use synth::client::{Budget, ClientOptions, OpenAiClient};
use synth::generate::{GenerateOptions, generate_stream};
use testing::{Act, TestServer};
use tokio::runtime::Runtime;

const ROWS: usize = 1_000;
const IN_FLIGHT: usize = 64;
const ANSWERS: u64 = 2_048;
/// Rows in flight by default, so many answers may come at once.
const WRITERS: usize = 256;

/// How the server answers.
#[derive(Clone, Copy)]
enum Pace {
    /// At once: what is measured is our own work.
    AtOnce,
    /// Mostly in 4 ms, each fiftieth in 200 ms, like long answers among short ones.
    Uneven,
}

fn serve(runtime: &Runtime, pace: Pace) -> TestServer {
    runtime.block_on(TestServer::deciding(move |_, number| match pace {
        Pace::AtOnce => Act::Answer { tokens: 200 },
        Pace::Uneven => {
            Act::Slow { wait: Duration::from_millis(if number % 50 == 0 { 200 } else { 4 }), tokens: 200 }
        }
    }))
}

fn operator(runtime: &Runtime, server: &TestServer) {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("p{row}"))));
    let prompts: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("write {row}"))));
    let batch = RecordBatch::try_from_iter([("prompt_id", ids), ("prompt", prompts)]).unwrap();
    let options = ClientOptions {
        base_urls: vec![server.base_url.clone()],
        model: "m".into(),
        start_in_flight: IN_FLIGHT,
        max_in_flight: IN_FLIGHT,
        ..ClientOptions::default()
    };
    let client = Arc::new(OpenAiClient::new(&options, Budget::unlimited()).unwrap());
    let rows = runtime.block_on(async {
        let input = stream::iter([Ok(batch)]).boxed();
        generate_stream(client, None, &GenerateOptions::default(), input, Arc::new(|_| {}), Arc::new(|_| {}))
            .map_ok(|batch| batch.num_rows())
            .try_fold(0, async |sum, rows| Ok(sum + rows))
            .await
            .unwrap()
    });
    assert_eq!(rows, ROWS);
}

fn buffered(runtime: &Runtime, server: &TestServer) {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let url = format!("{}/chat/completions", server.base_url);
    let rows = runtime.block_on(async {
        stream::iter(0..ROWS)
            .map(|row| {
                let request = ChatRequest::new("m", vec![Message::user(format!("write {row}"))]);
                let sent = http.post(&url).json(&request).send();
                async move { sent.await.unwrap().json::<serde_json::Value>().await.unwrap() }
            })
            .buffered(IN_FLIGHT)
            .count()
            .await
    });
    assert_eq!(rows, ROWS);
}

fn answer() -> ChatAnswer {
    ChatAnswer {
        text: "A paragraph of a textbook, as long as they are. ".repeat(60),
        finish_reason: FinishReason::Stop,
        prompt_tokens: 300,
        completion_tokens: 700,
        model: "m".into(),
        endpoint: "http://127.0.0.1:8000/v1".into(),
        attempts: 1,
        latency_ms: 20_000,
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn fresh_key() -> RequestKey {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let id = RequestId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    RequestKey { id, legacy_id: id, max_new_tokens: 2_500 }
}

fn log_appends(runtime: &Runtime, log: &Arc<AnswerLog>) {
    runtime.block_on(
        stream::iter(0..ANSWERS)
            .map(|_| async { log.append(&fresh_key(), &answer()).await.unwrap() })
            .buffer_unordered(WRITERS)
            .for_each(async |_| {}),
    );
}

fn json_files(runtime: &Runtime, dir: &Path) {
    let write = |dir: std::path::PathBuf| {
        let key = fresh_key().id;
        let (temporary, path) = (dir.join(format!("{key}.tmp")), dir.join(format!("{key}.json")));
        fs::write(&temporary, serde_json::to_vec(&answer()).unwrap()).unwrap();
        File::open(&temporary).unwrap().sync_all().unwrap();
        fs::rename(&temporary, path).unwrap();
        File::open(&dir).unwrap().sync_all().unwrap();
    };
    runtime.block_on(
        stream::iter(0..ANSWERS)
            .map(|_| {
                let dir = dir.to_owned();
                tokio::task::spawn_blocking(move || write(dir))
            })
            .buffer_unordered(WRITERS)
            .for_each(async |done| done.unwrap()),
    );
}

/// Median seconds of ours and theirs over alternating runs.
fn medians(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> (f64, f64) {
    let time = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    };
    let (mut our, mut their): (Vec<f64>, Vec<f64>) =
        (0..9).map(|_| (time(&mut ours), time(&mut theirs))).unzip();
    our.sort_by(f64::total_cmp);
    their.sort_by(f64::total_cmp);
    (our[4], their[4])
}

fn report(what: &str, count: f64, (ours, theirs): (f64, f64)) {
    println!(
        "{what}: ours {:.0}/s, theirs {:.0}/s, ratio {:.2}",
        count / ours,
        count / theirs,
        theirs / ours
    );
}

fn main() {
    let runtime = Runtime::new().unwrap();
    // The peer needs a provider as well, even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let at_once = serve(&runtime, Pace::AtOnce);
    let uneven = serve(&runtime, Pace::Uneven);
    let log_dir = tempfile::tempdir_in(".").unwrap();
    let files_dir = tempfile::tempdir_in(".").unwrap();
    let log = Arc::new(AnswerLog::open(log_dir.path()).unwrap());

    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("requests");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("operator", |bencher| bencher.iter(|| operator(&runtime, &at_once)));
    group.bench_function("buffered_reqwest", |bencher| bencher.iter(|| buffered(&runtime, &at_once)));
    group.finish();
    let mut group = criterion.benchmark_group("uneven_requests");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("operator", |bencher| bencher.iter(|| operator(&runtime, &uneven)));
    group.bench_function("buffered_reqwest", |bencher| bencher.iter(|| buffered(&runtime, &uneven)));
    group.finish();
    let mut group = criterion.benchmark_group("durable_answers");
    group.throughput(Throughput::Elements(ANSWERS));
    group.bench_function("answer_log", |bencher| bencher.iter(|| log_appends(&runtime, &log)));
    group.bench_function("json_files", |bencher| bencher.iter(|| json_files(&runtime, files_dir.path())));
    group.finish();
    criterion.final_summary();

    let rows = ROWS as f64;
    report(
        "requests, answered at once",
        rows,
        medians(|| operator(&runtime, &at_once), || buffered(&runtime, &at_once)),
    );
    report(
        "requests, each 50th slow",
        rows,
        medians(|| operator(&runtime, &uneven), || buffered(&runtime, &uneven)),
    );
    let appends = medians(|| log_appends(&runtime, &log), || json_files(&runtime, files_dir.path()));
    report("durable answers", ANSWERS as f64, appends);
}
