//! Order, bounds, back-pressure, cancelling.

use tokio::sync::Notify;

use super::*;

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
        [
            "prompt_id",
            "prompt",
            "extra",
            "completion",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "model",
            "endpoint",
            "attempts",
            "latency_ms"
        ]
    );
    assert_eq!(batches[0].schema(), generated_schema(&batch(0..1).schema()).unwrap());
    let extra: Vec<i64> = batches
        .iter()
        .flat_map(|batch| batch["extra"].as_primitive::<arrow::datatypes::Int64Type>().values().to_vec())
        .collect();
    assert_eq!(extra, (0..100).collect::<Vec<_>>());
    assert_eq!(
        *run.heard.progress.lock().unwrap(),
        Progress { answers: 100, from_log: 0, tokens: 20_000, rejected: 0 }
    );
    let seeds: HashSet<u64> = server.seen().iter().map(|seen| seen.json["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 100, "each row has a seed of its own");
}

#[tokio::test]
async fn unordered_rows_are_the_same_rows() {
    let server = uneven_server().await;
    let (input, _) = prompts(100, 7);
    let options = GenerateOptions { order: Order::Unordered, ..GenerateOptions::default() };
    let batches: Vec<RecordBatch> =
        run(model(&server), None, &options, input).stream.try_collect().await.unwrap();
    let mut found = text_column(&batches, "prompt_id");
    assert_ne!(found, ids(0..100), "rows that end out of order come out so");
    found.sort();
    let mut expected = ids(0..100);
    expected.sort();
    assert_eq!(found, expected);
}

/// Polls the stream, which must give nothing, until the server has seen so many requests.
async fn poll_until_seen(stream: &mut BatchStream, server: &TestServer, requests: usize) {
    let begun = Instant::now();
    while server.seen().len() < requests {
        let step = tokio::time::timeout(Duration::from_millis(10), stream.next()).await;
        assert!(step.is_err(), "nothing can come out yet");
        assert!(begun.elapsed() < Duration::from_secs(30), "{} requests", server.seen().len());
    }
}

#[tokio::test]
async fn a_slow_row_holds_up_nobody() {
    // Row 0 waits until all others were asked; ten at once, in batches of five.
    let open = Arc::new(Notify::new());
    let gate = Arc::clone(&open);
    let server = TestServer::deciding(move |seen, _| match row_of(seen.prompt()) {
        0 => Act::Gate { open: Arc::clone(&gate), tokens: 200 },
        _ => Act::Answer { tokens: 200 },
    })
    .await;
    let (input, _) = prompts(100, 5);
    let options = GenerateOptions { max_in_flight: 10, ..GenerateOptions::default() };
    let mut run = run(model(&server), None, &options, input);
    poll_until_seen(&mut run.stream, &server, 100).await;
    open.notify_one();
    let batches: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
    assert_eq!(text_column(&batches, "prompt_id"), ids(0..100));
    assert!(batches[0].num_rows() > 50, "all that waited for row 0 follow at once");
}

#[tokio::test]
async fn done_rows_go_out_while_others_run() {
    // Row 5 never ends: the five before it come out all the same.
    let server = TestServer::deciding(|seen, _| {
        if row_of(seen.prompt()) == 5 { Act::Stall } else { Act::Answer { tokens: 200 } }
    })
    .await;
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
    assert!(
        pulled.load(Ordering::SeqCst) <= asked.div_ceil(10) + 1,
        "{pulled:?} batches pulled for {asked} rows"
    );
    let rest: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
    assert_eq!(first.num_rows() + rest.iter().map(RecordBatch::num_rows).sum::<usize>(), 1_000);
    assert!(server.most_in_flight() <= 12, "{}", server.most_in_flight());
    assert!(rest.iter().all(|batch| batch.num_rows() <= 10));
}

#[tokio::test]
async fn waiting_rows_are_bounded() {
    let server = TestServer::deciding(|seen, _| {
        if row_of(seen.prompt()) == 0 { Act::Stall } else { Act::Answer { tokens: 200 } }
    })
    .await;
    let (input, _) = prompts(1_000, 10);
    let options = GenerateOptions { max_in_flight: 4, max_waiting: 30, ..GenerateOptions::default() };
    let mut run = run(model(&server), None, &options, input);
    poll_until_seen(&mut run.stream, &server, 31).await;
    assert!(tokio::time::timeout(Duration::from_millis(200), run.stream.next()).await.is_err());
    let asked = server.seen().len();
    assert!((31..=35).contains(&asked), "{asked} asked");
}

#[tokio::test]
async fn dropping_the_stream_ends_its_requests() {
    let server = TestServer::deciding(|_, _| Act::Stall).await;
    let (input, _) = prompts(100, 10);
    let mut run = run(model(&server), None, &GenerateOptions::default(), input);
    poll_until_seen(&mut run.stream, &server, 100).await;
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
