//! Dead servers, concurrency, budgets.

use super::*;
use crate::chat::BudgetKind;

#[tokio::test]
async fn servers_that_are_down_end_the_run_and_no_row_is_to_blame() {
    let options = ClientOptions {
        breaker_failures: 4,
        breaker_open_seconds: 0.05,
        down_after_seconds: 0.5,
        max_attempts: 100,
        ..options(&[&dead_url().await, &dead_url().await])
    };
    let client = client_with(&options);
    let begun = Instant::now();
    let requests: Vec<_> = (0..50).map(|number| request(&number.to_string())).collect();
    for result in join_all(requests.iter().map(|request| client.ask(request))).await {
        let error = result.unwrap_err();
        assert!(matches!(error, ChatError::AllEndpointsDown { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("Is the server up") && text.contains(&options.base_urls[1]), "{text}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert!(client.endpoints().iter().all(|endpoint| endpoint.circuit == CircuitStatus::Open));
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_row() {
    let server = TestServer::scripted([]).await;
    let dead = dead_url().await;
    let client = client_with(&options(&[&dead, &server.base_url]));
    let requests: Vec<_> = (0..100).map(|number| request(&number.to_string())).collect();
    for result in join_all(requests.iter().map(|request| client.ask(request))).await {
        assert_eq!(result.unwrap().endpoint, server.base_url);
    }
    let status = client.endpoints();
    assert_eq!((status[0].circuit, status[1].circuit), (CircuitStatus::Open, CircuitStatus::Closed));
    assert_eq!((status[0].answered, status[1].answered), (0, 100));
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let server =
        TestServer::deciding(|_, number| if number < 6 { status(500) } else { Act::Answer { tokens: 1 } })
            .await;
    let options = ClientOptions {
        breaker_failures: 2,
        breaker_open_seconds: 0.02,
        start_in_flight: 2,
        max_attempts: 20,
        ..options(&[&server.base_url])
    };
    let client = client_with(&options);
    let requests: Vec<_> = (0..20).map(|number| request(&number.to_string())).collect();
    for result in join_all(requests.iter().map(|request| client.ask(request))).await {
        result.unwrap();
    }
    assert_eq!(client.endpoints()[0].circuit, CircuitStatus::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_finds_what_the_server_bears() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let serving = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&serving);
    // It bears 8 at once and refuses the rest.
    let server = TestServer::deciding(move |_, _| {
        if counter.fetch_add(1, Ordering::SeqCst) >= 8 {
            counter.fetch_sub(1, Ordering::SeqCst);
            return status(429);
        }
        let counter = Arc::clone(&counter);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counter.fetch_sub(1, Ordering::SeqCst);
        });
        Act::Slow { wait: Duration::from_millis(5), tokens: 1 }
    })
    .await;
    let client = client_with(&ClientOptions { max_attempts: 50, ..options(&[&server.base_url]) });
    let requests: Vec<_> = (0..600).map(|number| request(&number.to_string())).collect();
    for result in join_all(requests.iter().map(|request| client.ask(request))).await {
        result.unwrap();
    }
    let refused = server.seen().len() - 600;
    // Unbridled, 592 of the first 600 would have been refused, and again and again.
    assert!(refused < 200, "{refused} refused");
    assert!(client.endpoints()[0].places <= 17, "{:?}", client.endpoints());
}

#[tokio::test]
async fn a_spent_budget_stops_and_is_never_exceeded() {
    let server = TestServer::deciding(|_, _| Act::Slow { wait: Duration::from_millis(5), tokens: 93 }).await;
    let request = ChatRequest { max_new_tokens: 100, ..request(&"x".repeat(84)) };
    for (budget, kind, answered) in [
        (BudgetOptions { max_requests: Some(10), ..BudgetOptions::default() }, BudgetKind::Requests, 10..=10),
        // 100 tokens an answer, 200 at worst: 1,000 tokens are 9 answers, and one may not be begun at 900.
        (BudgetOptions { max_tokens: Some(1_000), ..BudgetOptions::default() }, BudgetKind::Tokens, 9..=9),
    ] {
        let budget = Budget::new(budget).unwrap();
        let client = OpenAiClient::new(&options(&[&server.base_url]), Arc::clone(&budget)).unwrap();
        let results = join_all((0..40).map(|_| client.ask(&request))).await;
        let answers = results.iter().filter(|result| result.is_ok()).count();
        assert!(answered.contains(&answers), "{kind}: {answers}");
        assert!(budget.spent().prompt_tokens + budget.spent().completion_tokens <= 1_000);
        for error in results.into_iter().filter_map(Result::err) {
            assert!(
                matches!(&error, ChatError::BudgetExhausted { kind: found, .. } if *found == kind),
                "{error}"
            );
            assert!(error.stops_run());
        }
    }
}

#[tokio::test]
async fn time_is_a_budget_too_and_what_is_in_flight_comes_home() {
    let server = TestServer::deciding(|_, _| Act::Slow { wait: Duration::from_millis(400), tokens: 1 }).await;
    let budget =
        Budget::new(BudgetOptions { max_duration_seconds: Some(0.1), ..BudgetOptions::default() }).unwrap();
    let options = ClientOptions { max_in_flight: 2, ..options(&[&server.base_url]) };
    let client = OpenAiClient::new(&options, budget).unwrap();
    let requests: Vec<_> = (0..4).map(|number| request(&number.to_string())).collect();
    let results = join_all(requests.iter().map(|request| client.ask(request))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2, "those that were sent in time");
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, ChatError::BudgetExhausted { kind: BudgetKind::Seconds, .. }), "{error}");
    }
    let late = client.ask(&request("late")).await.unwrap_err();
    assert!(late.to_string().contains("max_duration_seconds"), "{late}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn weights_share_the_requests() {
    let (light, heavy) = (slow_server().await, slow_server().await);
    let heavy_options =
        EndpointOptions { url: heavy.base_url.clone(), weight: 3.0, ..EndpointOptions::default() };
    let options =
        ClientOptions { endpoints: vec![heavy_options], start_in_flight: 64, ..options(&[&light.base_url]) };
    let client = client_with(&options);
    let requests: Vec<_> = (0..40).map(|number| request(&number.to_string())).collect();
    for result in join_all(requests.iter().map(|request| client.ask(request))).await {
        result.unwrap();
    }
    assert_eq!((light.seen().len(), heavy.seen().len()), (10, 30));
}

async fn slow_server() -> TestServer {
    TestServer::deciding(|_, _| Act::Slow { wait: Duration::from_millis(300), tokens: 1 }).await
}

#[tokio::test]
async fn each_endpoint_has_its_own_bound_and_key() {
    let (open, keyed) = (slow_server().await, slow_server().await);
    let keyed_options = EndpointOptions {
        url: keyed.base_url.clone(),
        max_in_flight: Some(2),
        api_key_env: Some("PATH".into()),
        ..EndpointOptions::default()
    };
    let options = ClientOptions { endpoints: vec![keyed_options], ..options(&[&open.base_url]) };
    let client = client_with(&options);
    let requests: Vec<_> = (0..12).map(|number| request(&number.to_string())).collect();
    for result in join_all(requests.iter().map(|request| client.ask(request))).await {
        result.unwrap();
    }
    assert!(keyed.most_in_flight() <= 2, "{}", keyed.most_in_flight());
    let sent_key = |server: &TestServer| server.seen().iter().all(|seen| seen.head.contains("Bearer "));
    assert!(sent_key(&keyed) && !sent_key(&open));
}

#[tokio::test]
async fn silence_is_cut_short() {
    let server = TestServer::deciding(|_, _| Act::Stall).await;
    let options =
        ClientOptions { read_timeout_seconds: 0.2, max_attempts: 1, ..options(&[&server.base_url]) };
    let error = client_with(&options).ask(&request("x")).await.unwrap_err();
    assert!(error.reason() == "llm_timeout" && error.to_string().contains("within 0.2 s"), "{error}");
}

#[tokio::test]
async fn completions_go_to_their_own_address() {
    let server = TestServer::scripted([Act::Body(r#"{"choices":[{"text":"and on"}]}"#)]).await;
    let request = ChatRequest { api: crate::chat::Api::Completions, ..request("once upon a time") };
    let answer = client(&server).ask(&request).await.unwrap();
    assert_eq!(answer.text, "and on");
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /v1/completions HTTP/1.1"), "{}", seen.head);
    assert_eq!(seen.json["prompt"], "once upon a time");
}

#[tokio::test]
async fn a_dropped_request_gives_its_place_back() {
    let server = TestServer::scripted([Act::Stall]).await;
    let client = client_with(&ClientOptions { max_in_flight: 1, ..options(&[&server.base_url]) });
    let stalled =
        tokio::time::timeout(Duration::from_millis(200), async { client.ask(&request("x")).await }).await;
    assert!(stalled.is_err());
    assert_eq!(client.endpoints()[0].in_flight, 0);
    client.ask(&request("y")).await.unwrap();
}
