//! The operator over the real client and a real server on this machine.

mod bad_server;
mod failures;
mod flow;
mod kills;
mod resume;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::UInt32Type;
use futures::{StreamExt, TryStreamExt, stream};

use super::*;
use crate::Reject;
use crate::client::testing::{Act, TestServer};
use crate::client::{Budget, BudgetOptions, ClientOptions, OpenAiClient};

fn batch(rows: std::ops::Range<usize>) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("p{row}"))));
    let prompts: ArrayRef =
        Arc::new(StringViewArray::from_iter_values(rows.clone().map(|row| format!("write {row}"))));
    let extra: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|row| row as i64)));
    RecordBatch::try_from_iter([("prompt_id", ids), ("prompt", prompts), ("extra", extra)]).unwrap()
}

/// `rows` prompts in batches of `batch_rows`, and the number of batches pulled so far.
fn prompts(rows: usize, batch_rows: usize) -> (BatchStream, Arc<AtomicUsize>) {
    let pulled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pulled);
    let batches = (0..rows).step_by(batch_rows).map(move |start| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(batch(start..(start + batch_rows).min(rows)))
    });
    (stream::iter(batches).boxed(), pulled)
}

fn client_options(server: &TestServer) -> ClientOptions {
    ClientOptions {
        base_urls: vec![server.base_url.clone()],
        model: "test-model".into(),
        start_in_flight: 256,
        backoff_first_seconds: 0.005,
        backoff_max_seconds: 0.02,
        request_timeout_seconds: 20.0,
        ..ClientOptions::default()
    }
}

fn model(server: &TestServer) -> Arc<dyn ChatModel> {
    Arc::new(OpenAiClient::new(&client_options(server), Budget::unlimited()).unwrap())
}

#[derive(Default)]
struct Heard {
    rejects: Mutex<Vec<Reject>>,
    progress: Mutex<Progress>,
}

struct Run {
    heard: Arc<Heard>,
    stream: BatchStream,
}

fn run(
    model: Arc<dyn ChatModel>,
    log: Option<Arc<AnswerLog>>,
    options: &GenerateOptions,
    input: BatchStream,
) -> Run {
    let heard = Arc::new(Heard::default());
    let (rejects, progress) = (Arc::clone(&heard), Arc::clone(&heard));
    let stream = generate_stream(
        model,
        log,
        options,
        input,
        Arc::new(move |reject| rejects.rejects.lock().unwrap().push(reject)),
        Arc::new(move |now| *progress.progress.lock().unwrap() = now),
    );
    Run { heard, stream }
}

fn text_column(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let of = |batch: &RecordBatch| -> Vec<String> {
        batch
            .column_by_name(name)
            .unwrap()
            .as_string::<i32>()
            .iter()
            .map(|text| text.unwrap().to_owned())
            .collect()
    };
    batches.iter().flat_map(of).collect()
}

fn number_column(batches: &[RecordBatch], name: &str) -> Vec<u32> {
    batches
        .iter()
        .flat_map(|batch| batch.column_by_name(name).unwrap().as_primitive::<UInt32Type>().values().to_vec())
        .collect()
}

fn row_of(prompt: &str) -> usize {
    prompt.rsplit(' ').next().unwrap().parse().unwrap()
}

fn ids(rows: impl IntoIterator<Item = usize>) -> Vec<String> {
    rows.into_iter().map(|row| format!("p{row}")).collect()
}

/// Answers quick and late by turns, so that rows end out of order.
async fn uneven_server() -> TestServer {
    TestServer::deciding(|seen, _| Act::Slow {
        wait: Duration::from_millis(row_of(seen.prompt()) as u64 * 7 % 23),
        tokens: 200,
    })
    .await
}

/// Collects until the end, and the error if it ended with one.
async fn collect(mut stream: BatchStream) -> (Vec<RecordBatch>, Option<ArrowError>) {
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        match batch {
            Ok(batch) => batches.push(batch),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (batches, Some(error));
            }
        }
    }
    (batches, None)
}
