//! The operator over the real client and a real server on this machine.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::UInt32Type;
use futures::{StreamExt, TryStreamExt, stream};

use super::*;
use crate::client::testing::{Act, TestServer};
use crate::client::{Budget, BudgetOptions, ClientOptions, OpenAiClient};

fn batch(rows: std::ops::Range<usize>) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("p{row}"))));
    let prompts: ArrayRef = Arc::new(StringViewArray::from_iter_values(rows.clone().map(|row| format!("write {row}"))));
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

fn run(model: Arc<dyn ChatModel>, log: Option<Arc<AnswerLog>>, options: &GenerateOptions, input: BatchStream) -> Run {
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
        batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
    };
    batches.iter().flat_map(of).collect()
}

fn number_column(batches: &[RecordBatch], name: &str) -> Vec<u32> {
    batches.iter().flat_map(|batch| batch.column_by_name(name).unwrap().as_primitive::<UInt32Type>().values().to_vec()).collect()
}

fn row_of(prompt: &str) -> usize {
    prompt.rsplit(' ').next().unwrap().parse().unwrap()
}

fn ids(rows: impl IntoIterator<Item = usize>) -> Vec<String> {
    rows.into_iter().map(|row| format!("p{row}")).collect()
}

/// Answers quick and late by turns, so that rows end out of order.
async fn uneven_server() -> TestServer {
    TestServer::deciding(|seen, _| Act::Slow { wait: Duration::from_millis(row_of(seen.prompt()) as u64 * 7 % 23), tokens: 200 }).await
}

#[tokio::test]
async fn rows_come_out_in_order_with_all_their_columns() {
    let server = uneven_server().await;
    let (input, _) = prompts(100, 7);
    let run = run(model(&server), None, &GenerateOptions::default(), input);
    let batches: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
    assert_eq!(text_column(&batches, "prompt_id"), ids(0..100));
    let completions: Vec<String> = (0..100).map(|row| format!("echo: write {row}")).collect();
    assert_eq!(text_column(&batches, "completion"), completions);
    let names: Vec<_> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(
        names,
        ["prompt_id", "prompt", "extra", "completion", "finish_reason", "prompt_tokens", "completion_tokens", "model", "endpoint", "attempts", "latency_ms"]
    );
    assert_eq!(batches[0].schema(), generated_schema(&batch(0..1).schema()).unwrap());
    let extra: Vec<i64> = batches.iter().flat_map(|batch| batch["extra"].as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()).collect();
    assert_eq!(extra, (0..100).collect::<Vec<_>>());
    assert_eq!(*run.heard.progress.lock().unwrap(), Progress { answers: 100, from_log: 0, tokens: 20_000, rejected: 0 });
    let seeds: HashSet<u64> = server.seen().iter().map(|seen| seen.json["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 100, "each row has a seed of its own");
}

#[tokio::test]
async fn unordered_rows_are_the_same_rows() {
    let server = uneven_server().await;
    let (input, _) = prompts(100, 7);
    let options = GenerateOptions { order: Order::Unordered, ..GenerateOptions::default() };
    let batches: Vec<RecordBatch> = run(model(&server), None, &options, input).stream.try_collect().await.unwrap();
    let mut found = text_column(&batches, "prompt_id");
    assert_ne!(found, ids(0..100), "rows that end out of order come out so");
    found.sort();
    let mut expected = ids(0..100);
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_slow_row_holds_up_nobody() {
    // Row 0 takes a second, the 99 others no time; ten at once, in batches of five.
    let server = TestServer::deciding(|seen, _| match row_of(seen.prompt()) {
        0 => Act::Slow { wait: Duration::from_secs(1), tokens: 200 },
        _ => Act::Answer { tokens: 200 },
    })
    .await;
    let (input, _) = prompts(100, 5);
    let options = GenerateOptions { max_in_flight: 10, ..GenerateOptions::default() };
    let begun = Instant::now();
    let mut run = run(model(&server), None, &options, input);
    let first = run.stream.next();
    tokio::pin!(first);
    assert!(tokio::time::timeout(Duration::from_millis(600), &mut first).await.is_err(), "row 0 comes first");
    assert_eq!(server.seen().len(), 100, "all others were asked meanwhile");
    let first = first.await.unwrap().unwrap();
    assert_eq!(text_column(&[first], "prompt_id"), ids(0..100), "all that waited for row 0 follow at once");
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn done_rows_go_out_while_others_run() {
    // Row 5 never ends: the five before it come out all the same.
    let server = TestServer::deciding(|seen, _| if row_of(seen.prompt()) == 5 { Act::Stall } else { Act::Answer { tokens: 200 } }).await;
    let (input, _) = prompts(20, 20);
    let mut run = run(model(&server), None, &GenerateOptions::default(), input);
    let mut found = Vec::new();
    while found.len() < 5 {
        found.extend(text_column(&[run.stream.next().await.unwrap().unwrap()], "prompt_id"));
    }
    assert_eq!(found, ids(0..5));
}

#[tokio::test]
async fn no_more_than_max_in_flight_and_nothing_is_pulled_ahead() {
    let server = TestServer::deciding(|_, _| Act::Slow { wait: Duration::from_millis(3), tokens: 200 }).await;
    let (input, pulled) = prompts(1_000, 10);
    let options = GenerateOptions { max_in_flight: 12, max_batch_rows: 10, ..GenerateOptions::default() };
    let mut run = run(model(&server), None, &options, input);
    assert_eq!(pulled.load(Ordering::SeqCst), 0, "nothing happens before the first poll");
    let first = run.stream.next().await.unwrap().unwrap();
    // Nobody takes more: 12 rows in flight or ready, one batch out, one batch in.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let asked = server.seen().len();
    assert!(asked <= first.num_rows() + 12 + 10, "{asked} asked");
    assert!(pulled.load(Ordering::SeqCst) <= asked.div_ceil(10) + 1, "{pulled:?} batches pulled for {asked} rows");
    let rest: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
    assert_eq!(first.num_rows() + rest.iter().map(RecordBatch::num_rows).sum::<usize>(), 1_000);
    assert!(server.most_in_flight() <= 12, "{}", server.most_in_flight());
    assert!(rest.iter().all(|batch| batch.num_rows() <= 10));
}

#[tokio::test]
async fn waiting_rows_are_bounded() {
    let server = TestServer::deciding(|seen, _| if row_of(seen.prompt()) == 0 { Act::Stall } else { Act::Answer { tokens: 200 } }).await;
    let (input, _) = prompts(1_000, 10);
    let options = GenerateOptions { max_in_flight: 4, max_waiting: 30, ..GenerateOptions::default() };
    let mut run = run(model(&server), None, &options, input);
    assert!(tokio::time::timeout(Duration::from_millis(400), run.stream.next()).await.is_err());
    let asked = server.seen().len();
    assert!((31..=35).contains(&asked), "{asked} asked");
}

#[tokio::test]
async fn dropping_the_stream_ends_its_requests() {
    let server = TestServer::deciding(|_, _| Act::Stall).await;
    let (input, _) = prompts(100, 10);
    let mut run = run(model(&server), None, &GenerateOptions::default(), input);
    assert!(tokio::time::timeout(Duration::from_millis(300), run.stream.next()).await.is_err());
    assert_eq!(server.in_flight(), 100);
    drop(run);
    for _ in 0..100 {
        if server.in_flight() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} requests are still in flight", server.in_flight());
}

#[tokio::test]
async fn a_row_that_fails_is_rejected_and_the_run_goes_on() {
    let server = TestServer::deciding(|seen, _| match row_of(seen.prompt()) {
        3 => Act::Status { status: 400, headers: "", body: r#"{"error":{"message":"too long"}}"# },
        6 => Act::Status { status: 500, headers: "", body: "" },
        8 => Act::Body("garbage"),
        9 => Act::Answer { tokens: 20 },
        _ => Act::Answer { tokens: 200 },
    })
    .await;
    let (input, _) = prompts(12, 5);
    let options = ClientOptions { breaker_failures: 100, ..client_options(&server) };
    let model = Arc::new(OpenAiClient::new(&options, Budget::unlimited()).unwrap());
    let run = run(model, None, &GenerateOptions::default(), input);
    let batches: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
    assert_eq!(text_column(&batches, "prompt_id"), ids([0, 1, 2, 4, 5, 7, 10, 11]));
    let rejects = run.heard.rejects.lock().unwrap().clone();
    let reasons: Vec<_> = rejects.iter().map(|reject| (reject.id.as_str(), reject.reason.as_str())).collect();
    assert_eq!(reasons, [("p3", "llm_http_400"), ("p6", "llm_http_500"), ("p8", "llm_bad_json"), ("p9", "llm_too_short")]);
    assert!(rejects[0].detail.contains("too long") && rejects[3].detail.contains("20 tokens"), "{rejects:?}");
    let of_row_9 = server.seen().iter().filter(|seen| seen.prompt() == "write 9").map(|seen| seen.json["seed"].as_u64()).collect::<HashSet<_>>();
    assert_eq!(of_row_9.len(), 6, "six tries, each with another seed");
    assert_eq!(*run.heard.progress.lock().unwrap(), Progress { answers: 8, from_log: 0, tokens: 1_600, rejected: 4 });
}

#[tokio::test]
async fn null_prompts_are_rejected() {
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![None, Some("write 1"), Some("write 2")]));
    let input = RecordBatch::try_from_iter([("prompt_id", ids), ("prompt", texts)]).unwrap();
    let server = TestServer::scripted([]).await;
    let run = run(model(&server), None, &GenerateOptions::default(), stream::iter([Ok(input)]).boxed());
    let batches: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
    assert_eq!(text_column(&batches, "prompt_id"), ["c"]);
    let reasons: Vec<_> = run.heard.rejects.lock().unwrap().iter().map(|reject| reject.reason.clone()).collect();
    assert_eq!(reasons, ["null_prompt", "null_prompt_id"]);
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

#[tokio::test]
async fn a_refused_key_ends_the_run() {
    let server = TestServer::deciding(|_, _| Act::Status { status: 401, headers: "", body: "" }).await;
    let (input, pulled) = prompts(10_000, 10);
    let run = run(model(&server), None, &GenerateOptions { max_in_flight: 8, ..GenerateOptions::default() }, input);
    let (batches, error) = collect(run.stream).await;
    assert!(batches.is_empty() && run.heard.rejects.lock().unwrap().is_empty());
    let error = error.unwrap().to_string();
    assert!(error.contains("401") && error.contains("api_key_env"), "{error}");
    assert!(pulled.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_dead_server_ends_the_run_instead_of_rejecting_every_row() {
    let server = TestServer::scripted([]).await;
    let options = ClientOptions { breaker_open_seconds: 0.05, down_after_seconds: 0.3, ..client_options(&server) };
    drop(server);
    let model = Arc::new(OpenAiClient::new(&options, Budget::unlimited()).unwrap());
    let (input, _) = prompts(10_000, 10);
    let run = run(model, None, &GenerateOptions { max_in_flight: 8, ..GenerateOptions::default() }, input);
    let (_, error) = collect(run.stream).await;
    let error = error.unwrap().to_string();
    assert!(error.contains("no LLM endpoint has answered") && error.contains("bring a server up"), "{error}");
    assert!(run.heard.rejects.lock().unwrap().len() < 100);
}

#[tokio::test]
async fn a_run_in_which_nothing_works_ends_early() {
    let server = TestServer::deciding(|_, _| Act::Status { status: 422, headers: "", body: r#"{"detail":"no top_k here"}"# }).await;
    let (input, _) = prompts(10_000, 10);
    let options = GenerateOptions { max_in_flight: 8, give_up_after: 20, ..GenerateOptions::default() };
    let run = run(model(&server), None, &options, input);
    let (_, error) = collect(run.stream).await;
    let error = error.unwrap().to_string();
    assert!(error.contains("first 20 prompts") && error.contains("no top_k here"), "{error}");
    assert!(server.seen().len() < 40);
}

#[tokio::test]
async fn a_budget_stop_keeps_every_answer_and_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
    let server = uneven_server().await;
    let budget = Budget::new(BudgetOptions { max_requests: Some(30), ..BudgetOptions::default() }).unwrap();
    let poor = Arc::new(OpenAiClient::new(&client_options(&server), budget).unwrap());
    let first = run(poor, Some(Arc::clone(&log)), &GenerateOptions::default(), prompts(100, 10).0);
    let (batches, error) = collect(first.stream).await;
    let error = error.unwrap().to_string();
    assert!(error.contains("budget of 30 requests") && error.contains("max_requests"), "{error}");
    let out: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert!(out <= 30);
    assert_eq!((server.seen().len(), log.len()), (30, 30), "every answer paid for is in the log");

    let second = run(model(&server), Some(log), &GenerateOptions::default(), prompts(100, 10).0);
    let batches: Vec<RecordBatch> = second.stream.try_collect().await.unwrap();
    assert_eq!(text_column(&batches, "prompt_id"), ids(0..100));
    assert_eq!(server.seen().len(), 100);
    assert_eq!(second.heard.progress.lock().unwrap().from_log, 30);
}

#[tokio::test]
async fn a_second_run_asks_nothing_and_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // Every fourth row needs a second try, every fifth a second attempt.
    let failed = Mutex::new(HashSet::new());
    let server = TestServer::deciding(move |seen, _| {
        let row = row_of(seen.prompt());
        let first = failed.lock().unwrap().insert(row);
        match row {
            _ if first && row % 4 == 1 => Act::Answer { tokens: 10 },
            _ if first && row % 5 == 0 => Act::Status { status: 503, headers: "", body: "" },
            _ => Act::Slow { wait: Duration::from_millis(row as u64 % 9), tokens: 200 },
        }
    })
    .await;
    let mut all = Vec::new();
    for batch_rows in [10, 33] {
        let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
        let options = ClientOptions { breaker_failures: 100, ..client_options(&server) };
        let model = Arc::new(OpenAiClient::new(&options, Budget::unlimited()).unwrap());
        let run = run(model, Some(log), &GenerateOptions::default(), prompts(100, batch_rows).0);
        let batches: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
        all.push((arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap(), *run.heard.progress.lock().unwrap(), server.seen().len()));
    }
    let [(first, progress, asked), (second, progress_again, asked_again)] = &all[..] else { unreachable!() };
    assert_eq!(first, second, "attempts and latency too");
    assert_eq!(asked, asked_again, "the second run asked nothing");
    assert_eq!((progress.from_log, progress_again.from_log), (0, 100));
    let attempts = number_column(std::slice::from_ref(first), "attempts");
    assert_eq!((attempts[0], attempts[1], attempts[2]), (2, 2, 1));
}

#[tokio::test]
async fn a_run_cut_off_in_the_middle_asks_no_answer_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = uneven_server().await;
    let options = GenerateOptions { max_in_flight: 10, ..GenerateOptions::default() };
    let mut logged = 0;
    for round in 1..=3 {
        let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
        assert!(log.len() >= logged);
        logged = log.len();
        let mut cut = run(model(&server), Some(log), &options, prompts(100, 10).0);
        let mut rows = 0;
        while rows < 20 * round {
            rows += cut.stream.next().await.unwrap().unwrap().num_rows();
        }
        drop(cut);
        // The driver's task ends shortly after; only then is the log free for the next round.
        for _ in 0..200 {
            if AnswerLog::open(dir.path()).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
    let last = run(model(&server), Some(log), &options, prompts(100, 10).0);
    let batches: Vec<RecordBatch> = last.stream.try_collect().await.unwrap();
    assert_eq!(text_column(&batches, "prompt_id"), ids(0..100));
    // Only what was in flight at a cut may have been asked twice.
    assert!(server.seen().len() <= 100 + 3 * 10, "{}", server.seen().len());
}

#[tokio::test]
async fn equal_rows_get_the_logs_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
    let server = TestServer::deciding(|_, number| Act::Slow { wait: Duration::from_millis(20), tokens: 200 + number as u32 }).await;
    let input = stream::iter([Ok(batch(4..5)), Ok(batch(4..5)), Ok(batch(4..5))]).boxed();
    let batches: Vec<RecordBatch> = run(model(&server), Some(log), &GenerateOptions::default(), input).stream.try_collect().await.unwrap();
    let tokens = number_column(&batches, "completion_tokens");
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|count| *count == tokens[0]), "{tokens:?}");
}

#[tokio::test]
async fn wrong_input_is_told_after_the_rows_before_it() {
    let server = TestServer::scripted([]).await;
    let cases: [(RecordBatch, &str); 3] = [
        (batch(0..1).project(&[0, 2]).unwrap(), "no column \"prompt\"; they have: prompt_id, extra"),
        (RecordBatch::try_from_iter([("prompt_id", batch(0..1)["extra"].clone()), ("prompt", batch(0..1)["prompt"].clone())]).unwrap(), "holds Int64"),
        (RecordBatch::try_from_iter([("prompt_id", batch(0..1)["prompt_id"].clone()), ("model", batch(0..1)["prompt_id"].clone()), ("prompt", batch(0..1)["prompt"].clone())]).unwrap(), "already have a column \"model\""),
    ];
    for (input, word) in cases {
        let (batches, error) = collect(run(model(&server), None, &GenerateOptions::default(), stream::iter([Ok(input)]).boxed()).stream).await;
        let error = error.unwrap().to_string();
        assert!(batches.is_empty() && error.contains(word), "{error}");
    }
    let broken = stream::iter([Ok(batch(0..5)), Err(ArrowError::ParseError("torn file".into()))]).boxed();
    let (batches, error) = collect(run(model(&server), None, &GenerateOptions::default(), broken).stream).await;
    assert_eq!(text_column(&batches, "prompt_id"), ids(0..5));
    assert!(error.unwrap().to_string().contains("torn file"));
    let no_tries = GenerateOptions { max_tries: 0, ..GenerateOptions::default() };
    let (_, error) = collect(run(model(&server), None, &no_tries, prompts(5, 5).0).stream).await;
    assert!(error.unwrap().to_string().contains("max_tries"));
}
