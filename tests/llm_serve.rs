//! `pipeline llm serve` as its clients see it: our own client, a `generate` stage, and plain HTTP.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Said, pipeline, run};
use synth::chat::{ChatModel, ChatRequest, Message};
use synth::client::{Budget, BudgetOptions, ClientOptions, OpenAiClient};

const MODEL: &str = "SmolLM2-135M-Instruct";
/// The key of servers that ask for one.
const KEY: &str = "sk-neither-told-nor-written-41c7";
/// Far longer than any wait here; only a server that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server of this test's own, on a free port.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let mut command = pipeline();
        command.args(["llm", "serve", "embedded", "--port", "0", "--threads", "2"]).args(arguments);
        command.env("CORPUSMITH_TEST_KEY", KEY).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("http://").unwrap();
        let (address, _) = rest.split_once("/v1").unwrap();
        Self { child, address: address.to_owned() }
    }

    /// Sends a request and leaves the connection open.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    /// Status, head and body of an answer.
    fn exchange(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut answer = String::new();
        self.send(method, path, headers, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.exchange("POST", path, "", &body.to_string());
        (status, serde_json::from_str(&body).unwrap())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.exchange("GET", path, "", "");
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Waits until so many requests are in flight.
    fn wait_for_in_flight(&self, count: u64) {
        let start = Instant::now();
        while self.get("/health").1["in_flight"] != count {
            assert!(start.elapsed() < PATIENCE, "never {count} in flight");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The data of a stream's events.
fn events(body: &str) -> Vec<String> {
    body.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "Name three rivers of Europe."}],
        "max_tokens": 24,
        "seed": 7,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A completion that does not end by itself.
fn endless() -> Value {
    json!({"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6, 7, 8,", "max_tokens": 4_000, "temperature": 0})
}

#[test]
fn our_own_client_and_a_generate_stage_are_answered() {
    let served = Served::start(&["--api-key-env", "CORPUSMITH_TEST_KEY"]);
    let url = format!("http://{}/v1", served.address);
    let options = ClientOptions {
        base_urls: vec![url.clone()],
        model: MODEL.to_owned(),
        // PATH is set everywhere, and is not the key.
        api_key_env: Some("PATH".to_owned()),
        max_attempts: 1,
        ..ClientOptions::default()
    };
    let budget = || Budget::new(BudgetOptions::default()).unwrap();
    let request = |question: &str| ChatRequest {
        max_new_tokens: 16,
        ..ChatRequest::new(MODEL, vec![Message::user(question)])
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let stranger = OpenAiClient::new(&options, budget()).unwrap();
    let refused = runtime.block_on(stranger.ask(&request("hello"))).unwrap_err();
    assert!(refused.to_string().contains("API key"), "{refused}");

    let served = Served::start(&[]);
    let url = format!("http://{}/v1", served.address);
    let options = ClientOptions { base_urls: vec![url.clone()], api_key_env: None, ..options };
    let client = OpenAiClient::new(&options, budget()).unwrap();
    let questions = ["What is a river?", "What is a lake?", "What is a river?"].map(request);
    let answers = runtime.block_on(futures::future::join_all(questions.iter().map(|q| client.ask(q))));
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers[0].text, answers[2].text);
    assert_ne!(answers[0].text, answers[1].text);
    assert!(answers.iter().all(|answer| answer.completion_tokens <= 16 && answer.prompt_tokens > 30));

    // A stage that asks this server gives what the one with the embedded model inside gives.
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    std::fs::write(&prompts, "{\"prompt_id\":\"a\",\"prompt\":\"What is a hill?\"}\n{\"prompt_id\":\"b\",\"prompt\":\"What is snow?\"}\n").unwrap();
    let workflow = folder.path().join("w.toml");
    let text = format!(
        "name = \"w\"\n[stage.prompts]\nkind = \"read\"\npaths = [{:?}]\n[stage.answers]\nkind = \"generate\"\ninput = \"prompts\"\nmax_new_tokens = 16\nmin_tokens = 1\ntemperature = 0.0\nllm = {{ base_urls = [\"{url}\"] }}\n",
        prompts.display().to_string()
    );
    let completions = |text: &str, runs: &str| {
        std::fs::write(&workflow, text).unwrap();
        let runs = folder.path().join(runs);
        let said = run(pipeline().arg("run").arg(&workflow).arg("--runs").arg(&runs));
        assert_eq!(said.code, Some(0), "{}", said.err);
        let query = "SELECT prompt_id, completion FROM data ORDER BY prompt_id";
        let stage = runs.join("w/sample/answers");
        let said = run(pipeline().arg("inspect").arg(stage).args(["--sql", query, "--json"]));
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out
    };
    let asked = completions(&text, "asked");
    let inside = completions(&text.replace(&format!("base_urls = [\"{url}\"]"), ""), "inside");
    assert_eq!(asked.lines().count(), 2, "{asked}");
    assert_eq!(asked, inside);
}

#[test]
fn an_api_key_is_neither_logged_nor_written() {
    let served = Served::start(&["--api-key-env", "CORPUSMITH_TEST_KEY"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("prompts.jsonl"),
        "{\"prompt_id\":\"a\",\"prompt\":\"What is rain?\"}\n",
    )
    .unwrap();
    let text = format!(
        "name = \"w\"\n[stage.prompts]\nkind = \"read\"\npaths = [\"{}/prompts.jsonl\"]\n[stage.answers]\nkind = \"generate\"\ninput = \"prompts\"\nmax_new_tokens = 8\nmin_tokens = 1\nllm = {{ base_urls = [\"http://{}/v1\"], api_key_env = \"CORPUSMITH_TEST_KEY\", max_attempts = 1 }}\n",
        folder.path().display(),
        served.address
    );
    let workflow = folder.path().join("w.toml");
    std::fs::write(&workflow, text).unwrap();
    let untold = |said: &Said, key: &str| {
        assert!(!said.out.contains(key) && !said.err.contains(key), "{}\n{}", said.out, said.err);
        for (path, bytes) in files(folder.path()) {
            assert!(!bytes.windows(key.len()).any(|part| part == key.as_bytes()), "{}", path.display());
        }
    };
    // Every line that any library would log.
    let with_key = |key: &str| {
        let mut command = pipeline();
        command.arg("run").arg(&workflow).arg("--runs").arg(folder.path().join("runs"));
        run(command.env("CORPUSMITH_TEST_KEY", key).env("CORPUSMITH_LOG", "trace"))
    };
    let refused = with_key("sk-wrong-8d20");
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("API key"), "{}", refused.err);
    untold(&refused, "sk-wrong-8d20");
    let answered = with_key(KEY);
    assert_eq!(answered.code, Some(0), "{}", answered.err);
    assert!(answered.err.contains("TRACE"), "the log tells all");
    untold(&answered, KEY);
}

/// Every file under a folder, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn streams_say_the_same_as_whole_answers() {
    let served = Served::start(&[]);
    for (path, whole_text, piece_text, body) in [
        ("/v1/chat/completions", "/choices/0/message/content", "/choices/0/delta/content", chat(json!({}))),
        (
            "/v1/completions",
            "/choices/0/text",
            "/choices/0/text",
            json!({"model": MODEL, "prompt": "The sea is", "max_tokens": 12, "seed": 3, "stop": ["\n\n"]}),
        ),
    ] {
        let (status, whole) = served.post(path, &body);
        assert_eq!(status, 200, "{whole}");
        let text = whole.pointer(whole_text).unwrap().as_str().unwrap();
        assert!(!text.is_empty());
        let usage = &whole["usage"];
        assert!(usage["completion_tokens"].as_u64().unwrap() <= 24);
        let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], sum);

        let mut streamed = body;
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({"include_usage": true});
        let (status, head, events_body) = served.exchange("POST", path, "", &streamed.to_string());
        assert_eq!(status, 200);
        assert!(head.contains("text/event-stream"), "{head}");
        let mut events = events(&events_body);
        assert_eq!(events.pop().unwrap(), "[DONE]");
        let bodies: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let pieces = bodies.iter().filter_map(|body| body.pointer(piece_text)?.as_str());
        assert_eq!(pieces.collect::<String>(), text);
        let (last, before) = bodies.split_last().unwrap();
        assert_eq!((&last["usage"], &last["choices"]), (usage, &json!([])));
        let reasons: Vec<&Value> =
            before.iter().map(|b| &b["choices"][0]["finish_reason"]).filter(|r| !r.is_null()).collect();
        assert_eq!(reasons, [&whole["choices"][0]["finish_reason"]]);
        assert!(bodies.iter().all(|body| body["id"] == bodies[0]["id"]));
    }
    let (_, models) = served.get("/v1/models");
    assert_eq!(models["data"][0]["id"], MODEL);
    assert_eq!(served.get(&format!("/v1/models/{MODEL}")).0, 200);
}

#[test]
fn what_is_wrong_is_said_in_openais_error_object() {
    let served = Served::start(&[]);
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(9_000)}]});
    for (more, status, param, code) in [
        (json!({"model": "gpt-4"}), 404, json!("model"), json!("model_not_found")),
        (json!({"temperature": -1}), 400, json!("temperature"), json!(null)),
        (json!({"min_p": 7, "stream": true}), 400, json!("min_p"), json!(null)),
        (json!({"max_tokens": 0, "stream": true}), 400, json!("max_tokens"), json!(null)),
        (json!({"n": 3}), 400, json!("n"), json!("unsupported_parameter")),
        (json!({"messages": null}), 400, json!("messages"), json!(null)),
        (long, 400, json!(null), json!("context_length_exceeded")),
    ] {
        let (got, body) = served.post("/v1/chat/completions", &chat(more));
        let error = &body["error"];
        assert_eq!((got, &error["param"], &error["code"]), (status, &param, &code), "{body}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(error["type"], "invalid_request_error");
    }
    // One byte more than a body may have.
    let (status, _, body) = served.exchange("POST", "/v1/completions", "", &" ".repeat((2 << 20) + 1));
    assert_eq!(status, 413, "{body}");
    assert_eq!(served.get("/v1/nothing").0, 404);
    let (status, body) = served.get("/v1/completions");
    assert_eq!(status, 405, "{body}");
    assert_eq!(served.exchange("POST", "/v1/completions", "", "{").0, 400);

    let locked = Served::start(&["--api-key-env", "CORPUSMITH_TEST_KEY"]);
    let ask = |headers: &str| locked.exchange("GET", "/v1/models", headers, "");
    let (status, _, body) = ask("");
    assert_eq!(status, 401);
    assert!(body.contains("invalid_api_key") && !body.contains(KEY), "{body}");
    assert_eq!(ask("Authorization: Bearer wrong\r\n").0, 401);
    assert_eq!(ask(&format!("Authorization: Bearer {KEY}\r\n")).0, 200);
    assert_eq!(locked.get("/health").0, 200);
    let said = run(pipeline().args(["llm", "serve", "embedded", "--api-key-env", "CORPUSMITH_NO_SUCH_KEY"]));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("CORPUSMITH_NO_SUCH_KEY"), "{}", said.err);
    let said = run(pipeline().args(["llm", "serve", "no/such/model.gguf"]));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("no/such/model.gguf"), "{}", said.err);
}

#[test]
fn clients_that_go_make_room_and_ctrl_c_ends_the_server() {
    let mut served = Served::start(&["--max-in-flight", "1"]);
    let streamed = {
        let mut body = endless();
        body["stream"] = json!(true);
        body.to_string()
    };
    for body in [streamed, endless().to_string()] {
        let connection = served.send("POST", "/v1/completions", "", &body);
        served.wait_for_in_flight(1);
        let (status, head, refused) = served.exchange("POST", "/v1/completions", "", &endless().to_string());
        assert_eq!(status, 503, "{refused}");
        assert!(head.contains("retry-after: 1"), "{head}");
        assert!(refused.contains("server_overloaded"), "{refused}");
        drop(connection);
        served.wait_for_in_flight(0);
    }
    let (status, whole) = served.post("/v1/chat/completions", &chat(json!({"max_tokens": 4})));
    assert_eq!(status, 200, "{whole}");
    let drawn = served.get("/health").1["tokens"]["tokens_drawn"].as_u64().unwrap();
    assert!(drawn < 8_000, "the answers that nobody waited for were written to their end: {drawn}");

    #[cfg(unix)]
    {
        let id = served.child.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status().unwrap().success());
        let start = Instant::now();
        let status = loop {
            if let Some(status) = served.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "Ctrl-C does not end the server");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0));
    }
}
