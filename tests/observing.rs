//! What the program says of itself: its log as JSON, and its traces.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/service.rs"]
mod place;
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use place::{PATIENCE, Place, text, wait_until};
use prost::Message;
use serde_json::{Value, json};
use support::{generate_workflow, pipeline, read_request, run, serve};

/// A server's whole answer.
fn answer(status: &str, body: &Value) -> &'static str {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).leak()
}

/// The head of a request, and a span that came with it.
type Received = (String, Span);

/// A collector that takes traces; its address, and the heads and spans so far.
fn collector() -> (String, Arc<Mutex<Vec<Received>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans: Arc<Mutex<Vec<Received>>> = Arc::default();
    let collected = spans.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let collected = collected.clone();
            std::thread::spawn(move || {
                while let Some((head, body)) = read_request(&mut stream) {
                    let head = head.to_lowercase();
                    let decoded = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
                    for resource in decoded.resource_spans {
                        let name = format!("{head}{:?}", resource.resource);
                        let scopes = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                        collected.lock().unwrap().extend(scopes.map(|span| (name.clone(), span)));
                    }
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            });
        }
    });
    (url, spans)
}

/// A span's attributes as text.
fn attributes(span: &Span) -> BTreeMap<String, String> {
    let shown = |value: &Option<AnyValue>| match value {
        Some(AnyValue::StringValue(text)) => text.clone(),
        Some(AnyValue::IntValue(number)) => number.to_string(),
        Some(AnyValue::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        (pair.key.clone(), shown(&pair.value.as_ref().and_then(|value| value.value.clone())))
    };
    span.attributes.iter().map(pair).collect()
}

/// A workflow that asks a server with a key.
fn asking(folder: &Path, url: &str) -> String {
    let text = generate_workflow(folder, url);
    text.replace("model = \"m\"", "model = \"m\", api_key_env = \"TEST_LLM_API_KEY\"")
}

const KEY: &str = "sk-planted-key-71f3a9";

#[test]
fn a_request_its_run_and_all_within_are_one_trace() {
    let (place, (url, spans)) = (Place::new(), collector());
    let rows = tempfile::tempdir().unwrap();
    let said = answer(
        "200 OK",
        &json!({
            "id": "1", "object": "chat.completion", "model": "m",
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "A planted answer."},
            }],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5},
        }),
    );
    place.workflow("asks.toml", &asking(rows.path(), &serve(Some(said))));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=planted-header"),
        ("OTEL_SERVICE_NAME", "curation"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("TEST_LLM_API_KEY", KEY),
    ];
    let served = place.serve_with(&[], &variables);
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let header = format!("traceparent: 00-{trace}-{parent}-01\r\n");
    let answer = served.ask("POST", "/api/v1/runs", &header, "{\"file\": \"asks.toml\"}");
    assert_eq!(answer.status, 201, "{}", answer.body);
    let id = answer.json()["runs"][0].as_str().unwrap().to_owned();
    served.wait_for(&id, &["succeeded"]);
    let of_the_service = || spans.lock().unwrap().iter().any(|(_, span)| span.name == "run w");
    wait_until("the spans have come", of_the_service);
    let spans = spans.lock().unwrap();
    let mut children: BTreeMap<&[u8], Vec<&Span>> = BTreeMap::new();
    for (head, span) in spans.iter() {
        assert!(head.starts_with("post /v1/traces") && head.contains("x-collector-key: planted-header"));
        assert!(head.contains("curation"), "{head}");
        assert_eq!(hex(&span.trace_id), trace, "{}", span.name);
        children.entry(&span.parent_span_id).or_default().push(span);
        // Neither what was asked or answered, nor the key.
        let told = format!("{span:?}");
        for secret in ["Write about", "planted answer", KEY, "planted-header"] {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    }
    let under = |span: &Span| -> Vec<&Span> {
        let mut found = children.get(span.span_id.as_slice()).cloned().unwrap_or_default();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    };
    let names = |spans: &[&Span]| spans.iter().map(|span| span.name.clone()).collect::<Vec<_>>();
    let roots: Vec<&Span> =
        spans.iter().map(|(_, span)| span).filter(|span| hex(&span.parent_span_id) == parent).collect();
    assert_eq!(names(&roots), ["POST /api/v1/runs"]);
    assert_eq!(attributes(roots[0])["http.response.status_code"], "201");
    let runs = under(roots[0]);
    assert_eq!(names(&runs), ["run w"]);
    assert_eq!(
        (attributes(runs[0])["run"].as_str(), attributes(runs[0])["outcome"].as_str()),
        (id.as_str(), "succeeded")
    );
    let works = under(runs[0]);
    assert_eq!(names(&works), ["pipeline run w"]);
    let stages = under(works[0]);
    assert_eq!(names(&stages), ["stage generate", "stage prompts"]);
    assert_eq!(attributes(stages[0])["rows_out"], "3");
    let tasks = under(stages[0]);
    assert_eq!(names(&tasks), ["task"]);
    assert_eq!(names(&under(stages[1])), ["task"]);
    let requests = under(tasks[0]);
    assert_eq!(names(&requests), ["chat m"; 3]);
    let told = attributes(requests[0]);
    for (name, value) in [
        ("gen_ai.request.model", "m"),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "5"),
        ("http.response.status_code", "200"),
        ("attempt", "1"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{told:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A run of a small workflow on its own.
fn small_run(place: &Place) -> Command {
    place.small_workflow("small", "");
    let mut command = pipeline();
    command.arg("run").arg(place.workflows().join("small.toml")).args(["--threads", "1", "--runs"]);
    command.arg(place.data());
    command
}

#[test]
fn a_collector_that_is_gone_or_stalls_harms_no_run() {
    let stalled = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [stalled.local_addr().unwrap(), gone] {
        let place = Place::new();
        let began = Instant::now();
        let said = run(small_run(&place)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
            // Without a limit of its own, the end of the run would wait for an hour.
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"));
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
    let said = run(small_run(&Place::new())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
    assert!(said.code == Some(0) && said.err.contains("only http/protobuf"), "{}", said.err);
}

/// Every line as an object with what all have.
fn events(log: &str) -> Vec<Value> {
    let parsed = log.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(event[field].is_string(), "{field} of {line}");
        }
        event
    });
    parsed.collect()
}

#[test]
fn each_line_of_the_log_is_an_object_that_knows_its_stage() {
    let said = small_run(&Place::new())
        .args(["--log-format", "json"])
        .env("CORPUSMITH_LOG", "info")
        .env("CORPUSMITH_RUN_ID", "r1")
        .env("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .output()
        .unwrap();
    assert!(said.status.success());
    let events = events(&String::from_utf8_lossy(&said.stderr));
    let done =
        events.iter().find(|event| event["message"] == "the stage is done" && event["stage"] == "kept");
    let done = done.unwrap_or_else(|| panic!("{events:#?}"));
    assert_eq!(
        (&done["run"], &done["workflow"], &done["rows_out"]),
        (&json!("r1"), &json!("small"), &json!(6))
    );
    assert_eq!(done["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn no_secret_reaches_the_log_of_a_run_or_the_service() {
    // A server that repeats the key, and names an address with a password.
    let words = format!("bad key {KEY}; see http://ann:planted-password@db.example/");
    let refusal = answer("401 Unauthorized", &json!({"error": {"message": words}}));
    let folder = tempfile::tempdir().unwrap();
    for format in ["json", "text"] {
        let place = Place::new();
        place.workflow("asks.toml", &asking(folder.path(), &serve(Some(refusal))));
        let log = folder.path().join(format!("{format}.log"));
        let mut service = pipeline()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--log-format",
                format,
                "--data",
                &text(&place.data()),
            ])
            .args(["--workflows", &text(&place.workflows())])
            .env("TEST_LLM_API_KEY", KEY)
            .env("OTHER_TOKEN", "planted-token-55d0c1")
            .env("CORPUSMITH_LOG", "trace")
            .stdout(std::process::Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(service.stdout.take().unwrap()), &mut line)
            .unwrap();
        let address = line.split("://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let url = format!("http://{address}");
        let said = run(pipeline().args(["--server", &url, "run", "asks.toml"]));
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains("refused the key") && !said.err.contains(KEY), "{}", said.err);
        let run_id = said.out.lines().next().unwrap().to_owned();
        service.kill().unwrap();
        service.wait().unwrap();
        let of_the_run = place.data().join(format!("service/logs/{run_id}.log"));
        for path in [&log, &of_the_run] {
            let log = std::fs::read_to_string(path).unwrap();
            assert!(!log.is_empty());
            for secret in [KEY, "planted-token", "planted-password"] {
                assert!(!log.contains(secret), "{secret} in {}: {log}", path.display());
            }
            if format == "json" {
                let events = events(&log);
                let ours = events.iter().filter(|event| event["run"] == run_id.as_str()).count();
                assert!(ours > 0, "{log}");
            }
        }
        let report = std::fs::read_to_string(&of_the_run).unwrap();
        assert!(report.contains("refused the key") && report.contains("http://ann:[redacted]@"), "{report}");
    }
}
