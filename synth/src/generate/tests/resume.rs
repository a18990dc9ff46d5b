//! The answer log behind the operator.

use super::*;

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
            _ if first && row.rem_euclid(4) == 1 => Act::Answer { tokens: 10 },
            _ if first && row.is_multiple_of(5) => Act::Status { status: 503, headers: "", body: "" },
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
        all.push((
            arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap(),
            *run.heard.progress.lock().unwrap(),
            server.seen().len(),
        ));
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
    let server = TestServer::deciding(|_, number| Act::Slow {
        wait: Duration::from_millis(20),
        tokens: 200 + number as u32,
    })
    .await;
    let input = stream::iter([Ok(batch(4..5)), Ok(batch(4..5)), Ok(batch(4..5))]).boxed();
    let batches: Vec<RecordBatch> = run(model(&server), Some(log), &GenerateOptions::default(), input)
        .stream
        .try_collect()
        .await
        .unwrap();
    let tokens = number_column(&batches, "completion_tokens");
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|count| *count == tokens[0]), "{tokens:?}");
}
