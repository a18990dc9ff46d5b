//! The answer log at a million answers: time to write and to open, memory of the index.
//!
//! ```text
//! cargo bench -p corpusmith-synth --bench answer_log [-- <answers>]
//! ```

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark stops at the first error")]

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use synth::answer_log::{AnswerLog, Compaction, compact, totals};
use synth::chat::{ChatAnswer, FinishReason, RequestId, RequestKey};

/// Appends on their way at once, as many as rows in flight of a large run.
const IN_FLIGHT: usize = 1_000;

fn key(number: u64) -> RequestKey {
    let id = RequestId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    RequestKey { id, legacy_id: id, max_new_tokens: 2_500 }
}

/// An answer of the usual length: 2,900 bytes of text.
fn answer(number: u64) -> ChatAnswer {
    ChatAnswer {
        text: "A paragraph of a textbook, as long as they are. ".repeat(60),
        finish_reason: FinishReason::Stop,
        prompt_tokens: 300,
        completion_tokens: 700 + (number % 100) as u32,
        model: "m".into(),
        endpoint: "http://127.0.0.1:8000/v1".into(),
        attempts: 1,
        latency_ms: 20_000,
    }
}

fn main() {
    let answers: u64 = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .map_or(1_000_000, |argument| argument.parse().unwrap());
    let dir = tempfile::tempdir_in(".").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let begun = Instant::now();
    let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
    runtime.block_on(
        stream::iter(0..answers)
            .map(|number| {
                let log = Arc::clone(&log);
                async move { log.append(&key(number), &answer(number)).await.unwrap() }
            })
            .buffer_unordered(IN_FLIGHT)
            .for_each(async |_| {}),
    );
    drop(log);
    let seconds = begun.elapsed().as_secs_f64();
    println!("append, durable  {:>10.0} a second, {seconds:.1} s", answers as f64 / seconds);
    let before = resident_mib();
    let begun = Instant::now();
    let log = AnswerLog::open(dir.path()).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let index_bytes = (resident_mib() - before) * (1 << 20) as f64 / answers as f64;
    println!(
        "open             {:>10.0} a second, {seconds:.1} s, {index_bytes:.0} bytes of memory an answer",
        answers as f64 / seconds
    );
    let begun = Instant::now();
    let reads = answers.min(100_000);
    for number in 0..reads {
        assert!(log.get(&key(number * 7919 % answers)).unwrap().is_some());
    }
    println!("get, one thread  {:>10.0} a second", reads as f64 / begun.elapsed().as_secs_f64());
    drop(log);
    let begun = Instant::now();
    assert_eq!(totals(dir.path()).unwrap().answers, answers);
    println!("totals           {:>10.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    assert_eq!(compact(dir.path(), Compaction::DryRun).unwrap().records, 0);
    println!("compact, nothing to drop {:.1} s", begun.elapsed().as_secs_f64());
}

fn resident_mib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.unwrap_or_default() * 4.0 / 1024.0
}
