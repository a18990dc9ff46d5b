//! The client against a real server on this machine.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::testing::{Act, TestServer};
use super::*;
use crate::chat::Message;

fn options(base_urls: &[&str]) -> ClientOptions {
    ClientOptions {
        base_urls: base_urls.iter().map(|url| (*url).to_owned()).collect(),
        model: "test-model".into(),
        backoff_first_seconds: 0.005,
        backoff_max_seconds: 0.05,
        request_timeout_seconds: 10.0,
        ..ClientOptions::default()
    }
}

fn client_with(options: &ClientOptions) -> OpenAiClient {
    OpenAiClient::new(options, Budget::unlimited()).unwrap()
}

fn client(server: &TestServer) -> OpenAiClient {
    client_with(&options(&[&server.base_url]))
}

fn request(prompt: &str) -> ChatRequest {
    ChatRequest::new("test-model", vec![Message::user(prompt)])
}

fn status(status: u16) -> Act {
    Act::Status { status, headers: "", body: r#"{"error":{"message":"scripted"}}"# }
}

/// Base URL of a port where nothing listens.
async fn dead_url() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

#[tokio::test]
async fn an_answer_comes_whole_and_nothing_secret_is_sent() {
    let server = TestServer::scripted([Act::Answer { tokens: 12 }]).await;
    let answer = client(&server).ask(&request("hello")).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.completion_tokens, answer.prompt_tokens), ("echo: hello", 12, 7));
    assert_eq!((answer.model.as_str(), answer.endpoint.as_str(), answer.attempts), ("test-model", server.base_url.as_str(), 1));
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{}", seen.head);
    assert!(!seen.head.to_lowercase().contains("authorization"), "{}", seen.head);
    assert_eq!(seen.json["max_tokens"], 2500);
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    // A variable every process has stands in for a key: setting one would race with other tests.
    let key = std::env::var("PATH").unwrap();
    let echo: &'static str = Box::leak(format!("key {key} is wrong").into_boxed_str());
    let server = TestServer::scripted([Act::Status { status: 401, headers: "", body: echo }]).await;
    let options = ClientOptions { api_key_env: Some("PATH".into()), ..options(&[&server.base_url]) };
    let error = client_with(&options).ask(&request("x")).await.unwrap_err();
    assert!(server.seen()[0].head.contains(&format!("Bearer {}", key.trim())));
    assert!(error.stops_run() && error.reason() == "llm_http_401", "{error}");
    let text = format!("{error} {error:?} {options:?}");
    assert!(text.contains("variable PATH") && text.contains("[the key]") && !text.contains(&key), "{text}");
}

#[test]
fn a_missing_key_is_told_at_once() {
    let options = ClientOptions { api_key_env: Some("CORPUSMITH_NO_SUCH_KEY".into()), ..options(&["http://h/v1"]) };
    let error = OpenAiClient::new(&options, Budget::unlimited()).err().unwrap().to_string();
    assert!(error.contains("CORPUSMITH_NO_SUCH_KEY") && error.contains("export"), "{error}");
}

#[tokio::test]
async fn failures_that_may_pass_are_asked_again() {
    let script = [status(500), status(503), status(408), Act::CutBody, status(409), Act::Chunked { tokens: 3 }];
    let server = TestServer::scripted(script).await;
    let answer = client(&server).ask(&request("again é")).await.unwrap();
    assert_eq!((answer.attempts, answer.text.as_str()), (6, "echo: again é"));
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn six_attempts_are_the_most() {
    let server = TestServer::deciding(|_, _| status(502)).await;
    let error = client(&server).ask(&request("x")).await.unwrap_err();
    assert!(matches!(error, ChatError::GaveUp { attempts: 6, .. }), "{error}");
    assert_eq!((server.seen().len(), error.reason().as_str()), (6, "llm_http_502"));
    assert!(error.to_string().contains("scripted") && error.to_string().contains(&server.base_url), "{error}");
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let slow_down = Act::Status { status: 429, headers: "Retry-After: 1\r\n", body: "" };
    let server = TestServer::scripted([slow_down]).await;
    let begun = Instant::now();
    let answer = client(&server).ask(&request("x")).await.unwrap();
    assert_eq!(answer.attempts, 2);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_wrong_request_is_not_repeated() {
    for (code, stops) in [(400, false), (422, false), (404, true), (302, true)] {
        let act = Act::Status { status: code, headers: "Location: /elsewhere\r\n", body: r#"{"error":{"message":"scripted"}}"# };
        let server = TestServer::scripted([act]).await;
        let error = client(&server).ask(&request("x")).await.unwrap_err();
        assert_eq!((error.stops_run(), error.reason()), (stops, format!("llm_http_{code}")));
        assert_eq!(server.seen().len(), 1, "no redirect is followed, nothing is sent again");
    }
}

#[tokio::test]
async fn garbage_is_shown() {
    let server = TestServer::deciding(|_, _| Act::Body("<html>Bad gateway</html>")).await;
    let options = ClientOptions { max_attempts: 2, ..options(&[&server.base_url]) };
    let error = client_with(&options).ask(&request("x")).await.unwrap_err();
    assert_eq!((error.reason().as_str(), server.seen().len()), ("llm_bad_json", 2));
    assert!(error.to_string().contains("<html>Bad gateway"), "{error}");
}

#[tokio::test]
async fn an_endless_body_is_refused() {
    let server = TestServer::scripted([Act::Huge { bytes: 100_000 }]).await;
    let options = ClientOptions { max_body_bytes: 50_000, ..options(&[&server.base_url]) };
    let error = client_with(&options).ask(&request("x")).await.unwrap_err();
    assert!(matches!(error, ChatError::BodyTooLarge { cap_bytes: 50_000, .. }), "{error}");
}

#[tokio::test]
async fn a_stalled_server_times_out() {
    let server = TestServer::scripted([Act::Stall, Act::Stall]).await;
    let options = ClientOptions { request_timeout_seconds: 0.2, max_attempts: 2, ..options(&[&server.base_url]) };
    let error = client_with(&options).ask(&request("x")).await.unwrap_err();
    assert_eq!(error.reason(), "llm_timeout");
    assert!(error.to_string().contains("within 0.2 s"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_is_cut() {
    let server = TestServer::deciding(|_, _| Act::Hangup).await;
    let options = ClientOptions { max_attempts: 2, ..options(&[&server.base_url]) };
    let error = client_with(&options).ask(&request("x")).await.unwrap_err();
    assert_eq!(error.reason(), "llm_cut_connection", "{error}");
}

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
    let server = TestServer::deciding(|_, number| if number < 6 { status(500) } else { Act::Answer { tokens: 1 } }).await;
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
            assert!(matches!(&error, ChatError::BudgetExhausted { kind: found, .. } if *found == kind), "{error}");
            assert!(error.stops_run());
        }
    }
}

#[tokio::test]
async fn time_is_a_budget_too() {
    let server = TestServer::deciding(|_, _| Act::Stall).await;
    let budget = Budget::new(BudgetOptions { max_seconds: Some(0.3), ..BudgetOptions::default() }).unwrap();
    let client = OpenAiClient::new(&options(&[&server.base_url]), budget).unwrap();
    let begun = Instant::now();
    let error = client.ask(&request("x")).await.unwrap_err();
    assert!(matches!(error, ChatError::BudgetExhausted { kind: BudgetKind::Seconds, .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_dropped_request_gives_its_place_back() {
    let server = TestServer::scripted([Act::Stall]).await;
    let client = client_with(&ClientOptions { max_in_flight: 1, ..options(&[&server.base_url]) });
    let stalled = tokio::time::timeout(Duration::from_millis(200), async { client.ask(&request("x")).await }).await;
    assert!(stalled.is_err());
    assert_eq!(client.endpoints()[0].in_flight, 0);
    client.ask(&request("y")).await.unwrap();
}
