//! The promise of the answer log, seen from the server: **a request whose answer is on disk is never sent
//! again, and no answer on disk is ever lost**, whatever is killed when. What was only on its way at a kill
//! may be asked again: at most `max_in_flight` requests a kill.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::super::request::row_request;
use super::*;
use crate::answer_log::survey;

const ROWS: usize = 6_000;
const KILLS: usize = 100;
const DIR: &str = "CORPUSMITH_TEST_KILL_DIR";
const URL: &str = "CORPUSMITH_TEST_KILL_URL";

fn options() -> GenerateOptions {
    GenerateOptions { model: "test-model".into(), max_in_flight: 32, ..GenerateOptions::default() }
}

/// No test of its own: the process that the test below starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run in a process of its own by the test below"]
async fn child_that_generates_until_killed() {
    let (Ok(dir), Ok(url)) = (std::env::var(DIR), std::env::var(URL)) else {
        return;
    };
    let log = Arc::new(AnswerLog::open(dir).unwrap());
    let client = ClientOptions {
        base_urls: vec![url],
        model: "test-model".into(),
        start_in_flight: 32,
        ..ClientOptions::default()
    };
    let model = Arc::new(OpenAiClient::new(&client, Budget::unlimited()).unwrap());
    let stream = run(model, Some(log), &options(), prompts(ROWS, 500).0).stream;
    let rows = stream.try_fold(0, async |sum, batch| Ok(sum + batch.num_rows())).await.unwrap();
    assert_eq!(rows, ROWS);
}

fn start_child(dir: &Path, url: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "generate::tests::kills::child_that_generates_until_killed", "--ignored"])
        .env(DIR, dir)
        .env(URL, url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The rows whose answers are on disk.
fn rows_on_disk(dir: &Path, row_of_request: &HashMap<String, usize>) -> HashSet<usize> {
    let mut rows = HashSet::new();
    survey(dir, |answer| {
        assert_eq!(answer.answer.text, format!("echo: write {}", row_of_request[&answer.request]));
        assert!(rows.insert(row_of_request[&answer.request]), "an answer stands twice");
        Ok(())
    })
    .unwrap();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_on_disk_is_never_asked_for_again_whatever_is_killed() {
    let row_of_request: HashMap<String, usize> = (0..ROWS)
        .map(|row| {
            let request = row_request(&options(), "", &format!("p{row}"), &format!("write {row}"), 0);
            (request.key().id.to_string(), row)
        })
        .collect();
    let on_disk: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let asked_again: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (known, violations) = (Arc::clone(&on_disk), Arc::clone(&asked_again));
    let server = TestServer::deciding(move |seen, _| {
        let row = row_of(seen.prompt());
        if known.lock().unwrap().contains(&row) {
            violations.lock().unwrap().push(row);
        }
        Act::Answer { tokens: 200 }
    })
    .await;
    server.forget();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    // Seeded, so that a failure can be repeated.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let (mut kills, mut kills_with_answers) = (0, 0);
    while kills < KILLS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let until = server.requests() + 1 + (state % 70) as usize;
        let mut child = start_child(&log, &server.base_url);
        while server.requests() < until {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let now = rows_on_disk(&log, &row_of_request);
        let mut before = on_disk.lock().unwrap();
        assert!(before.is_subset(&now), "an answer on disk was lost at kill {kills}");
        kills_with_answers += usize::from(now.len() > before.len());
        *before = now;
    }
    let left = ROWS - on_disk.lock().unwrap().len();
    assert!(
        left > 0 && kills_with_answers > KILLS / 2,
        "{left} left, {kills_with_answers} kills with answers"
    );
    assert!(start_child(&log, &server.base_url).wait().unwrap().success());
    assert_eq!(rows_on_disk(&log, &row_of_request).len(), ROWS);
    assert_eq!(*asked_again.lock().unwrap(), Vec::<usize>::new(), "rows on disk that were asked again");
    let wasted = server.requests() - ROWS;
    assert!(wasted <= KILLS * 32, "{wasted} requests beyond one a row");
    println!("{kills} kills, {} requests for {ROWS} rows", server.requests());
}
