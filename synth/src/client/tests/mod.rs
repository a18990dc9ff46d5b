//! The client against a real server on this machine.

mod limits;

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
    assert_eq!(
        (answer.text.as_str(), answer.completion_tokens, answer.prompt_tokens),
        ("echo: hello", 12, 7)
    );
    assert_eq!(
        (answer.model.as_str(), answer.endpoint.as_str(), answer.attempts),
        ("test-model", server.base_url.as_str(), 1)
    );
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
    let options =
        ClientOptions { api_key_env: Some("CORPUSMITH_NO_SUCH_KEY".into()), ..options(&["http://h/v1"]) };
    let error = OpenAiClient::new(&options, Budget::unlimited()).err().unwrap().to_string();
    assert!(error.contains("CORPUSMITH_NO_SUCH_KEY") && error.contains("export"), "{error}");
}

#[tokio::test]
async fn failures_that_may_pass_are_asked_again() {
    let script =
        [status(500), status(503), status(408), Act::CutBody, status(409), Act::Chunked { tokens: 3 }];
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
    assert!(
        error.to_string().contains("scripted") && error.to_string().contains(&server.base_url),
        "{error}"
    );
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
        let act = Act::Status {
            status: code,
            headers: "Location: /elsewhere\r\n",
            body: r#"{"error":{"message":"scripted"}}"#,
        };
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
    let options =
        ClientOptions { request_timeout_seconds: 0.2, max_attempts: 2, ..options(&[&server.base_url]) };
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
