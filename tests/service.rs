//! `pipeline serve` as its users see it: runs that go to their end, stop, survive, and wait for their turn.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/service.rs"]
mod place;
mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use place::{HOOK_KEY, PATIENCE, Place, processes_with, text, wait_until};
use serde_json::json;
use support::{generate_workflow, pipeline, query, reference_run, run, serve};

/// A workflow whose only request is never answered, so that its run lasts until it is stopped.
fn endless_workflow(place: &Place) {
    let workflow = generate_workflow(&place.data(), &serve(None));
    let patient = workflow.replace("request_timeout_seconds = 2.0", "request_timeout_seconds = 600.0");
    place.workflow("endless.toml", &patient.replace("name = \"w\"", "name = \"endless\""));
}

#[test]
fn a_run_that_hangs_fails_where_the_workflow_says_so() {
    let place = Place::new();
    endless_workflow(&place);
    let file = place.workflows().join("endless.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[run]\nstalled_after_seconds = 2\n")).unwrap();
    let served = place.serve(&[]);
    let run = served.submit("endless.toml");
    let shown = served.wait_for(&run, &["failed", "succeeded"]);
    assert_eq!(shown["state"], "failed", "{shown}");
    assert!(shown["error"].as_str().unwrap().contains("counted nothing for 2 seconds"), "{shown}");
}

#[test]
fn a_run_goes_to_its_end_and_can_be_looked_into() {
    let place = Place::new();
    place.small_workflow("small", "");
    let served = place.serve(&[]);
    let said = run(pipeline().args(["--server", &served.url(), "run", "elsewhere/small.toml"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let id = said.out.trim().to_owned();
    let shown = served.get(&format!("/api/v1/runs/{id}")).json();
    assert_eq!((&shown["state"], &shown["folder"]), (&json!("succeeded"), &json!("small/sample")));
    assert_eq!(shown["progress"]["kept"]["rows_out"], 6);
    assert_eq!(
        query(&place.data().join("runs/small/sample/kept"), "SELECT count(*) AS n FROM data")[0]["n"],
        6
    );
    // The second run has nothing to do, and says so.
    let again = served.submit("small.toml");
    let shown = served.wait_for(&again, &["succeeded"]);
    assert_eq!(shown["progress"]["kept"]["state"], "up_to_date");

    let listed = run(pipeline().args(["--server", &served.url(), "ls", "--json"]));
    assert_eq!(listed.out.lines().count(), 2, "{}", listed.out);
    let page = served.get(&format!("/runs/{id}")).body;
    assert!(
        page.contains("small/sample") && page.contains("<svg") && page.contains("What happened"),
        "{page}"
    );
    let rows = served.get("/data?path=runs/small/sample/kept");
    assert_eq!(rows.status, 200);
    assert!(rows.body.contains("Rows 0 to 6 of 6"), "{}", rows.body);
    // What stands in the data is text, never markup.
    assert!(rows.body.contains("Text &lt;b&gt;4&lt;/b&gt; &amp; more") && !rows.body.contains("<b>4</b>"));
    let whole = served.get("/data?path=runs/small/sample/kept&from=5&whole=1").body;
    assert!(whole.contains("d9") && !whole.contains("d8"), "{whole}");
    let columns = served.get("/data?path=runs/small/sample/kept&view=columns").body;
    assert!(columns.contains("Int64") && columns.contains("Distributions"), "{columns}");
    let sql = served.get("/data?path=runs/small/sample/kept&view=sql&q=SELECT+max(n)+AS+most+FROM+data").body;
    assert!(sql.contains("most") && sql.contains("<div>9</div>"), "{sql}");
    let trace = served.get("/data?path=runs/small/sample/kept&view=trace&id=d7").body;
    assert!(trace.contains("in the output"), "{trace}");
    assert!(served.get(&format!("/runs/{id}/report")).body.contains("<h1>small"));
    let metrics = served.get("/metrics").body;
    assert!(metrics.contains("corpusmith_runs{state=\"succeeded\"} 2"), "{metrics}");
    for path in
        ["/runs", "/workflows", "/schedules", "/search", "/training", "/tokens", "/api", "/health", "/ready"]
    {
        assert_eq!(served.get(path).status, 200, "{path}");
    }
    assert_eq!(served.ask("DELETE", &format!("/api/v1/runs/{id}"), "", "").status, 204);
    assert_eq!(served.get(&format!("/api/v1/runs/{id}")).status, 404);
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn a_query_of_the_page_changes_nothing_and_reads_nothing_else() {
    let place = Place::new();
    place.small_workflow("small", "");
    let served = place.serve(&[]);
    let id = served.submit("small.toml");
    served.wait_for(&id, &["succeeded"]);
    let target = place.data().join("stolen.parquet");
    for query in [
        format!("COPY data TO '{}'", text(&target)),
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "SELECT * FROM '/etc/passwd'".to_owned(),
        "DROP TABLE data".to_owned(),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "INSERT INTO data SELECT * FROM data".to_owned(),
    ] {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let page = served.get(&format!("/data?path=runs/small/sample/kept&view=sql&q={encoded}")).body;
        assert!(page.contains("class=\"error\""), "{query}: {page}");
        assert!(!page.contains("root:"), "{query}");
    }
    assert!(!target.exists());
    // An answer without end costs neither memory nor time: it is cut off.
    let endless = "SELECT repeat('x', 100000) AS a FROM data a, data b, data c, data d, data e, data f";
    let encoded: String = endless.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let started = Instant::now();
    let page = served.get(&format!("/data?path=runs/small/sample/kept&view=sql&q={encoded}")).body;
    assert!(page.contains("there is too much to be shown"), "{page}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

/// Writes a Parquet file of some kilobytes whose rows are gigabytes: one long text, named by each of them.
fn bomb(path: &std::path::Path) {
    use std::sync::Arc;
    let text = "x".repeat(16 << 20);
    let column = arrow::array::StringArray::from_iter_values([&text; 8]);
    let batch = arrow::array::RecordBatch::try_from_iter([("text", Arc::new(column) as _)]).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::ZSTD(Default::default()))
        .set_dictionary_page_size_limit(1 << 30)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    for _ in 0..32 {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_bomb_costs_its_look_and_nothing_else() {
    let place = Place::new();
    let folder = place.data().join("runs/bomb");
    std::fs::create_dir_all(&folder).unwrap();
    bomb(&folder.join("bomb.parquet"));
    assert!(folder.join("bomb.parquet").metadata().unwrap().len() < 1 << 20);
    let served = place.serve(&[]);
    let ask = |query: &str| served.get(&format!("/data?path=runs/bomb/bomb.parquet&view=sql&q={query}")).body;
    let told = "it needed more than 2 GiB of memory";
    let file = ask("SELECT+max(length(text))+FROM+data");
    assert!(file.contains(told), "{file}");
    let query = ask("SELECT+length(repeat('x',1900000000)||repeat('y',100000000))");
    assert!(query.contains(told), "{query}");
    // The limits are the look's own: another goes on as before.
    let harmless = ask("SELECT+count(*)*2+AS+twice+FROM+data");
    assert!(harmless.contains("<div>512</div>"), "{harmless}");
    assert!(served.get("/health").body.contains("ok"));
}

#[test]
fn a_run_is_made_here_whatever_service_the_caller_speaks_with() {
    let place = Place::new();
    place.small_workflow("small", "");
    let served = place.serve_with(&[], &[("CORPUSMITH_SERVER", "http://127.0.0.1:9")]);
    let id = served.submit("small.toml");
    served.wait_for(&id, &["succeeded"]);
}

#[test]
fn wrong_input_is_told_as_check_tells_it() {
    let place = Place::new();
    place.workflow(
        "wrong.toml",
        "name = \"wrong\"\n[stage.a]\nkind = \"raed\"\n[schedule]\ncron = \"61 * * * *\"\n",
    );
    let served = place.serve(&[]);
    let answer = served.post("/api/v1/runs", &json!({"file": "wrong.toml"}));
    assert_eq!(answer.status, 422);
    assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("raed") && detail.contains("read") && detail.contains("61 * * * *"), "{detail}");
    for (body, status) in [
        (json!({"file": "none.toml"}), 422),
        (json!({"file": "../data/x.toml"}), 422),
        (json!({"file": "wrong.toml", "sets": []}), 400),
        (json!({}), 400),
        (json!([1, 2]), 400),
    ] {
        let answer = served.post("/api/v1/runs", &body);
        assert_eq!((answer.status, answer.json()["status"].clone()), (status, json!(status)), "{body}");
    }
    assert_eq!(served.ask("POST", "/api/v1/runs", "", &"x".repeat(2 << 20)).status, 413);
    assert_eq!(served.get("/api/v1/runs/none").status, 404);
    assert_eq!(served.get("/api/v1/runs?state=busy").status, 400);
    assert_eq!(served.post("/api/openapi.json", &json!({})).status, 405);
    assert_eq!(served.get("/nowhere").status, 404);
}

#[test]
fn a_request_that_is_repeated_makes_one_run() {
    let place = Place::new();
    place.small_workflow("small", "");
    let served = place.serve(&[]);
    let body = json!({"file": "small.toml"}).to_string();
    let post = |body: &str| served.ask("POST", "/api/v1/runs", "Idempotency-Key: k1\r\n", body);
    let (first, second) = (post(&body), post(&body));
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json(), second.json());
    let other = json!({"file": "small.toml", "until": "pages"}).to_string();
    assert_eq!(post(&other).status, 409);
    let many =
        served.post("/api/v1/runs", &json!({"file": "small.toml", "for": {"dump": ["a", "b"]}})).json();
    let folders: Vec<_> = many["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| served.wait_for(id.as_str().unwrap(), &["succeeded"])["folder"].clone())
        .collect();
    assert_eq!(folders, [json!("small/sample@dump=a"), json!("small/sample@dump=b")]);
}

#[test]
fn stop_means_stop_and_pause_goes_on() {
    let place = Place::new();
    endless_workflow(&place);
    let served = place.serve(&[]);
    let id = served.submit("endless.toml");
    served.wait_for(&id, &["running"]);
    let runs = text(&place.data().join("runs"));
    wait_until("its process is there", || processes_with(&runs) > 0);
    assert_eq!(served.post(&format!("/api/v1/runs/{id}/pause"), &json!({})).status, 204);
    served.wait_for(&id, &["paused"]);
    assert_eq!(processes_with(&runs), 0);
    assert_eq!(served.post(&format!("/api/v1/runs/{id}/resume"), &json!({})).status, 204);
    served.wait_for(&id, &["running"]);
    let asked = Instant::now();
    let said = run(pipeline().args(["--server", &served.url(), "cancel", &id]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    served.wait_for(&id, &["cancelled"]);
    // Within the grace of five seconds, and a little.
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(processes_with(&runs), 0);
    assert_eq!(served.post(&format!("/api/v1/runs/{id}/pause"), &json!({})).status, 409);
}

#[test]
fn runs_wait_for_pools_and_are_told_why() {
    let place = Place::new();
    endless_workflow(&place);
    place.small_workflow("small", "[run]\nmemory = \"100MiB\"\nthreads = 1\npools = { disk = 1 }\n");
    std::fs::write(place.data().join("service.toml"), "[pools]\ndisk = 1\n").unwrap();
    let served = place.serve(&["--memory-limit", "512MiB", "--threads", "2"]);
    // It says nothing of what it takes, and so takes everything.
    let first = served.submit("endless.toml");
    served.wait_for(&first, &["running"]);
    let second = served.submit("small.toml");
    let started = Instant::now();
    loop {
        let shown = served.get(&format!("/api/v1/runs/{second}")).json();
        if let Some(reason) = shown["waiting_for"].as_str() {
            assert!(reason.contains("needs 100.0 MiB of memory, 0 B of 512.0 MiB free"), "{reason}");
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
    served.post(&format!("/api/v1/runs/{first}/cancel"), &json!({}));
    served.wait_for(&second, &["succeeded"]);
    place.small_workflow("greedy", "[run]\npools = { gpu = 1 }\n");
    let answer = served.post("/api/v1/runs", &json!({"file": "greedy.toml"}));
    assert!(answer.status == 422 && answer.body.contains("pool `gpu`"), "{}", answer.body);
}

#[test]
fn a_service_that_is_killed_goes_on_where_it_was() {
    let place = Place::new();
    endless_workflow(&place);
    place.small_workflow("small", "");
    let served = place.serve(&[]);
    let id = served.submit("endless.toml");
    served.wait_for(&id, &["running"]);
    let waiting = served.submit("small.toml");
    let runs = text(&place.data().join("runs"));
    served.kill();
    // Its run ends with it, by itself.
    let started = Instant::now();
    while processes_with(&runs) > 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "the run outlives its service");
        std::thread::sleep(Duration::from_millis(50));
    }
    let served = place.serve(&[]);
    let shown = served.wait_for(&id, &["running"]);
    assert_eq!((&shown["attempt"], shown["epoch"].as_u64().unwrap() > 1), (&json!(2), true));
    let events = served.get(&format!("/api/v1/runs/{id}/events")).body;
    assert!(events.contains("its process was lost"), "{events}");
    served.post(&format!("/api/v1/runs/{id}/cancel"), &json!({}));
    served.wait_for(&waiting, &["succeeded"]);
    // One that is asked to end waits for its runs, and they for the next service.
    let id = served.submit("endless.toml");
    served.wait_for(&id, &["running"]);
    assert_eq!(served.stop(), Some(0));
    assert_eq!(processes_with(&runs), 0);
    let served = place.serve(&[]);
    let shown = served.wait_for(&id, &["running"]);
    assert_eq!(shown["attempt"], 1);
}

/// How often the service is killed; `CORPUSMITH_KILLS` says otherwise.
const KILLS: u32 = 12;

#[test]
fn killed_again_and_again_the_run_ends_with_the_same_bytes() {
    let reference = reference_run();
    let place = Place::new();
    std::fs::copy(support::workflow(), place.workflows().join("cosmopedia_v2.toml")).unwrap();
    let kills = std::env::var("CORPUSMITH_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut served = place.serve(&["--threads", "2"]);
    let body = json!({"file": "cosmopedia_v2.toml", "profile": "tiny"});
    let mut id = served.post("/api/v1/runs", &body).json()["runs"][0].as_str().unwrap().to_owned();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut finished = 0;
    for _ in 0..kills {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::thread::sleep(Duration::from_millis(state % 4_000));
        served.kill();
        served = place.serve(&["--threads", "2"]);
        if served.get(&format!("/api/v1/runs/{id}")).json()["state"] == "succeeded" {
            // It came to its end between two kills: the next ones hit a new run.
            assert_eq!(support::outputs(&reference), support::outputs(&place.data().join("runs")));
            std::fs::remove_dir_all(place.data().join("runs")).unwrap();
            id = served.post("/api/v1/runs", &body).json()["runs"][0].as_str().unwrap().to_owned();
            finished += 1;
        }
    }
    served.wait_for(&id, &["succeeded"]);
    assert_eq!(support::outputs(&reference), support::outputs(&place.data().join("runs")));
    let runs = served.get("/api/v1/runs").json()["runs"].as_array().unwrap().len();
    assert_eq!(runs, finished + 1, "no run is lost, none comes twice");
}

#[test]
fn one_service_to_a_folder_and_one_process_to_a_run() {
    let place = Place::new();
    endless_workflow(&place);
    let served = place.serve(&[]);
    let said = run(pipeline().args(["serve", "--listen", "127.0.0.1:0", "--data", &text(&place.data())]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("another service works with"), "{}", said.err);
    let id = served.submit("endless.toml");
    served.wait_for(&id, &["running"]);
    let lock = place.data().join("runs/endless/sample/.lock");
    wait_until("it holds the lock", || {
        std::fs::read_to_string(&lock).is_ok_and(|holder| holder.contains("pid"))
    });
    let file = text(&place.workflows().join("endless.toml"));
    let said = run(pipeline().args(["run", &file, "--runs", &text(&place.data().join("runs"))]));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("process") && said.err.contains("works in"), "{}", said.err);
}

#[test]
fn a_hanging_process_of_before_is_ended_and_a_failed_run_says_why() {
    let place = Place::new();
    endless_workflow(&place);
    let served = place.serve(&[]);
    let id = served.submit("endless.toml");
    served.wait_for(&id, &["running"]);
    let lock = place.data().join("runs/endless/sample/.lock");
    let holder = || -> Option<u64> {
        let text = std::fs::read_to_string(&lock).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["pid"].as_u64()
    };
    wait_until("it holds the lock", || holder().is_some());
    let first = holder().unwrap();
    // It hangs, so that it does not see its service vanish.
    assert!(
        std::process::Command::new("kill").args(["-STOP", &first.to_string()]).status().unwrap().success()
    );
    served.kill();
    let served = place.serve(&[]);
    served.wait_for(&id, &["running"]);
    wait_until("the hanging process gives the folder up", || holder() != Some(first));
    served.post(&format!("/api/v1/runs/{id}/cancel"), &json!({}));
    served.wait_for(&id, &["cancelled"]);
    place.small_workflow("broken", "");
    std::fs::write(place.workflows().join("../broken.jsonl"), "{not json\n").unwrap();
    let id = served.submit("broken.toml");
    let shown = served.wait_for(&id, &["failed"]);
    let error = shown["error"].as_str().unwrap();
    assert!(error.contains("broken.jsonl") && error.contains("pages"), "{error}");
    let logs = run(pipeline().args(["--server", &served.url(), "logs", &id]));
    assert!(logs.out.contains("broken.jsonl"), "{}", logs.out);
}

#[test]
fn files_other_runs_and_signed_requests_start_workflows() {
    let place = Place::new();
    place.small_workflow("first", "[trigger]\nfiles = \"dumps/\"\n");
    place.small_workflow("second", "[trigger]\nafter = \"first\"\n");
    place.small_workflow("third", "[trigger]\nwebhook_key_env = \"CORPUSMITH_TEST_HOOK_KEY\"\n");
    let served = place.serve(&[]);
    // Two rounds of the scheduler, so that `after` counts from here.
    std::thread::sleep(Duration::from_secs(6));
    std::fs::create_dir(place.data().join("dumps")).unwrap();
    std::fs::write(place.data().join("dumps/.half"), "x").unwrap();
    std::fs::write(place.data().join("dumps/a.parquet"), "x").unwrap();
    let started = Instant::now();
    let runs = |workflow: &str| {
        served.get(&format!("/api/v1/runs?workflow={workflow}")).json()["runs"].as_array().unwrap().clone()
    };
    while runs("second").is_empty() {
        assert!(started.elapsed() < PATIENCE, "{:?}", runs("first"));
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(6));
    let first = runs("first");
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first[0]["trigger"], json!({"kind": "file", "path": "dumps/a.parquet"}));
    let second = runs("second");
    assert_eq!((second.len(), &second[0]["trigger"]["run"]), (1, &first[0]["id"]));
    // A request that is signed starts its workflow, the same one again does not, and a wrong one never.
    let hook = |workflow: &str, body: &str, signature: &str| {
        let header = format!("X-Corpusmith-Signature: sha256={signature}\r\n");
        served.ask("POST", &format!("/api/v1/hooks/{workflow}"), &header, body).status
    };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, HOOK_KEY.1.as_bytes());
    let sign = |body: &str| -> String {
        ring::hmac::sign(&key, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(hook("third", "{\"a\":1}", &sign("{\"a\":1}")), 201);
    assert_eq!(hook("third", "{\"a\":1}", &sign("{\"a\":1}")), 200);
    for (workflow, signature) in [
        ("third", sign("{}")),
        ("third", String::new()),
        ("first", sign("{\"a\":1}")),
        ("none", sign("{\"a\":1}")),
    ] {
        assert_eq!(hook(workflow, "{\"a\":1}", &signature), 401, "{workflow}");
    }
    assert_eq!(runs("third").len(), 1);
}

/// A receiver that keeps what it is sent: head in lower case, and body.
fn receiver() -> (String, std::sync::mpsc::Receiver<(String, String)>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/secret-path", listener.local_addr().unwrap());
    let (sender, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if let Some((head, body)) = support::read_request(&mut stream) {
                let _ = sender.send((head.to_lowercase(), String::from_utf8_lossy(&body).into_owned()));
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (url, received)
}

#[test]
fn failures_and_recoveries_are_told_and_signed() {
    let place = Place::new();
    place.small_workflow("small", "");
    let settings =
        "[notify]\nwebhook_url_env = \"TEST_NOTIFY_URL\"\nwebhook_key_env = \"CORPUSMITH_TEST_HOOK_KEY\"\n";
    std::fs::write(place.data().join("service.toml"), settings).unwrap();
    let (url, received) = receiver();
    let served =
        place.serve_with(&["--public-url", "https://corpus.example.org"], &[("TEST_NOTIFY_URL", &url)]);
    let rows = place.workflows().join("../small.jsonl");
    let good = std::fs::read(&rows).unwrap();
    std::fs::write(&rows, "{not json\n").unwrap();
    // The service is still asked by its own address.
    let failed = served.submit("small.toml");
    served.wait_for(&failed, &["failed"]);
    let (head, body) = received.recv_timeout(PATIENCE).unwrap();
    let notice: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&notice["event"], &notice["stage"]), (&json!("run_failed"), &json!("pages")), "{notice:#}");
    assert_eq!(notice["link"], format!("https://corpus.example.org/runs/{failed}#stage-pages"));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, HOOK_KEY.1.as_bytes());
    let digest = ring::hmac::sign(&key, body.as_bytes());
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(head.contains(&format!("x-corpusmith-signature: sha256={digits}")), "{head}");
    std::fs::write(&rows, good).unwrap();
    let id = served.submit("small.toml");
    served.wait_for(&id, &["succeeded"]);
    let (_, body) = received.recv_timeout(PATIENCE).unwrap();
    assert!(body.contains("run_recovered"), "{body}");
    assert_eq!(served.post("/api/v1/notify/test", &json!({})).status, 204);
    assert!(received.recv_timeout(PATIENCE).unwrap().1.contains("\"test\""));
    // A run that succeeds after one that did is no news.
    let id = served.submit("small.toml");
    served.wait_for(&id, &["succeeded"]);
    assert!(received.recv_timeout(Duration::from_secs(2)).is_err());
}
