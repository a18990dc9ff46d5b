//! What rejects a row and what ends a run.

use super::*;

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
    assert_eq!(
        reasons,
        [("p3", "llm_http_400"), ("p6", "llm_http_500"), ("p8", "llm_bad_json"), ("p9", "llm_too_short")]
    );
    assert!(rejects[0].detail.contains("too long") && rejects[3].detail.contains("20 tokens"), "{rejects:?}");
    let of_row_9 = server
        .seen()
        .iter()
        .filter(|seen| seen.prompt() == "write 9")
        .map(|seen| seen.json["seed"].as_u64())
        .collect::<HashSet<_>>();
    assert_eq!(of_row_9.len(), 6, "six tries, each with another seed");
    assert_eq!(
        *run.heard.progress.lock().unwrap(),
        Progress { answers: 8, from_log: 0, tokens: 1_600, rejected: 4 }
    );
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
    let reasons: Vec<_> =
        run.heard.rejects.lock().unwrap().iter().map(|reject| reject.reason.clone()).collect();
    assert_eq!(reasons, ["null_prompt", "null_prompt_id"]);
}

#[tokio::test]
async fn a_refused_key_ends_the_run() {
    let server = TestServer::deciding(|_, _| Act::Status { status: 401, headers: "", body: "" }).await;
    let (input, pulled) = prompts(10_000, 10);
    let run =
        run(model(&server), None, &GenerateOptions { max_in_flight: 8, ..GenerateOptions::default() }, input);
    let (batches, error) = collect(run.stream).await;
    assert!(batches.is_empty() && run.heard.rejects.lock().unwrap().is_empty());
    let error = error.unwrap().to_string();
    assert!(error.contains("401") && error.contains("api_key_env"), "{error}");
    assert!(pulled.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_dead_server_ends_the_run_instead_of_rejecting_every_row() {
    let server = TestServer::scripted([]).await;
    let options =
        ClientOptions { breaker_open_seconds: 0.05, down_after_seconds: 0.3, ..client_options(&server) };
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
    let server = TestServer::deciding(|_, _| Act::Status {
        status: 422,
        headers: "",
        body: r#"{"detail":"no top_k here"}"#,
    })
    .await;
    let (input, _) = prompts(10_000, 10);
    let options = GenerateOptions { max_in_flight: 8, give_up_after: 20, ..GenerateOptions::default() };
    let run = run(model(&server), None, &options, input);
    let (_, error) = collect(run.stream).await;
    let error = error.unwrap().to_string();
    assert!(error.contains("first 20 prompts") && error.contains("no top_k here"), "{error}");
    assert!(server.seen().len() < 40);
}

#[tokio::test]
async fn wrong_input_is_told_after_the_rows_before_it() {
    let server = TestServer::scripted([]).await;
    let cases: [(RecordBatch, &str); 3] = [
        (batch(0..1).project(&[0, 2]).unwrap(), "no column \"prompt\"; they have: prompt_id, extra"),
        (
            RecordBatch::try_from_iter([
                ("prompt_id", batch(0..1)["extra"].clone()),
                ("prompt", batch(0..1)["prompt"].clone()),
            ])
            .unwrap(),
            "holds Int64",
        ),
        (
            RecordBatch::try_from_iter([
                ("prompt_id", batch(0..1)["prompt_id"].clone()),
                ("model", batch(0..1)["prompt_id"].clone()),
                ("prompt", batch(0..1)["prompt"].clone()),
            ])
            .unwrap(),
            "already have a column \"model\"",
        ),
    ];
    for (input, word) in cases {
        let (batches, error) = collect(
            run(model(&server), None, &GenerateOptions::default(), stream::iter([Ok(input)]).boxed()).stream,
        )
        .await;
        let error = error.unwrap().to_string();
        assert!(batches.is_empty() && error.contains(word), "{error}");
    }
    let broken = stream::iter([Ok(batch(0..5)), Err(ArrowError::ParseError("torn file".into()))]).boxed();
    let (batches, error) =
        collect(run(model(&server), None, &GenerateOptions::default(), broken).stream).await;
    assert_eq!(text_column(&batches, "prompt_id"), ids(0..5));
    assert!(error.unwrap().to_string().contains("torn file"));
    let no_tries = GenerateOptions { max_tries: 0, ..GenerateOptions::default() };
    let (_, error) = collect(run(model(&server), None, &no_tries, prompts(5, 5).0).stream).await;
    assert!(error.unwrap().to_string().contains("max_tries"));
}
