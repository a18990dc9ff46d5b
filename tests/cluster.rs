//! A run whose tasks are done by the executors of a cluster leaves the bytes of an undisturbed embedded one,
//! whatever happens to executors, scheduler and driver meanwhile.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Said, digests, pipeline, run};

const WORKFLOW: &str = r#"
name = "w"
[stage.pages]
kind = "read"
paths = ["pages/*.jsonl"]
[stage.clean]
kind = "pii"
input = "pages"
[stage.language]
kind = "language"
input = "clean"
languages = ["en"]
materialize = false
[stage.repetition]
kind = "gopher_repetition"
input = "language"
keep_dropped = true
[stage.near]
kind = "minhash"
input = "repetition"
[stage.long]
kind = "filter"
input = "near"
keep = "length(text) > 200"
reason = "short"
[stage.sorted]
kind = "sql"
inputs = { tables = ["long"] }
query = "SELECT id, text FROM long ORDER BY id"
"#;

/// Files of pages, each a task of the first stages.
const FILES: usize = 24;
const PAGES: usize = 60;

/// A folder with pages and a workflow over them.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pages")).unwrap();
    for file in 0..FILES {
        let page = |page: usize| {
            let words: Vec<String> = (0..20 + page).map(|word| sentence(file * PAGES + page, word)).collect();
            serde_json::json!({"id": format!("{file}-{page}"), "text": words.concat()}).to_string() + "\n"
        };
        let text: String = (0..PAGES).map(page).collect();
        std::fs::write(folder.path().join(format!("pages/{file:02}.jsonl")), text).unwrap();
    }
    std::fs::write(folder.path().join("w.toml"), WORKFLOW).unwrap();
    folder
}

/// Words that look random; every seventh page is nearly that before it.
fn sentence(page: usize, word: usize) -> String {
    let page = if page % 7 == 6 { page - 1 } else { page };
    let mut state = (page * 7_919 + word) as u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let syllables =
        ["ra", "ten", "mo", "li", "sur", "ka", "ven", "do", "pel", "na", "shi", "gor", "win", "ba"];
    let mut name = || (0..3).map(|_| syllables[next(syllables.len() as u64) as usize]).collect::<String>();
    let words: Vec<String> = (0..8).map(|_| name()).collect();
    format!(
        "The {} of the {} and a {} had {} that were {} in {}. ",
        words[0], words[1], words[2], words[3], words[4], words[5]
    ) + &format!("Write to {}@{}.org.\n", words[6], words[7])
}

/// What a run's stages have left, by path; unfinished files would be among it.
fn outputs(runs: &Path) -> BTreeMap<String, String> {
    let is_output = |path: &String| path.contains("/data/") || path.contains("/dropped/");
    digests(&runs.join("w/sample")).into_iter().filter(|(path, _)| is_output(path)).collect()
}

/// A part of a cluster, which ends with this value.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cluster {
    folder: PathBuf,
    port: u16,
    scheduler: Option<Part>,
    executors: Vec<Part>,
}

impl Cluster {
    fn start(folder: &Path, executors: usize) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = Self { folder: folder.to_owned(), port, scheduler: None, executors: Vec::new() };
        cluster.start_scheduler();
        for _ in 0..executors {
            cluster.add_executor();
        }
        cluster
    }

    fn url(&self) -> String {
        format!("ballista://127.0.0.1:{}", self.port)
    }

    fn part(&self, words: &[&str]) -> Part {
        let mut command = pipeline();
        command.current_dir(&self.folder).arg("cluster").args(words);
        Part(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn start_scheduler(&mut self) {
        self.scheduler = Some(self.part(&["scheduler", "--listen", &format!("127.0.0.1:{}", self.port)]));
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the scheduler does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn add_executor(&mut self) {
        let url = self.url();
        let part =
            self.part(&["executor", "--scheduler", &url, "--threads", "1", "--memory-limit", "256MiB"]);
        self.executors.push(part);
    }

    /// `pipeline run` on the cluster.
    fn command(&self, runs: &Path) -> Command {
        let mut command = pipeline();
        command.current_dir(&self.folder).args([
            "run",
            "w.toml",
            "--json",
            "--engine",
            &self.url(),
            "--runs",
        ]);
        command.arg(runs);
        command
    }
}

fn embedded(folder: &Path) -> BTreeMap<String, String> {
    let runs = folder.join("embedded");
    let said = run(pipeline().current_dir(folder).args(["run", "w.toml", "--runs"]).arg(&runs));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let outputs = outputs(&runs);
    assert!(outputs.len() > 2 * FILES, "{outputs:?}");
    outputs
}

fn good(said: &Said) {
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
}

#[test]
fn a_cluster_leaves_the_bytes_of_the_embedded_engine() {
    let place = place();
    let wanted = embedded(place.path());
    let cluster = Cluster::start(place.path(), 2);
    let runs = place.path().join("cluster");
    good(&run(&mut cluster.command(&runs)));
    assert_eq!(outputs(&runs), wanted);
    assert!(!runs.join("w/sample/.cluster/pages").exists());
    good(&run(pipeline().arg("verify").arg(runs.join("w/sample"))));
    // The embedded engine finds everything up to date: the engine is no part of what a stage is.
    let again = run(pipeline().current_dir(place.path()).args(["run", "w.toml", "--runs"]).arg(&runs));
    assert!(again.out.contains("nothing to do"), "{}", again.out);
}

#[test]
fn executors_that_are_killed_cost_no_row() {
    let kills: usize = std::env::var("CORPUSMITH_EXECUTOR_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let place = place();
    let wanted = embedded(place.path());
    let mut cluster = Cluster::start(place.path(), 3);
    let (mut killed, mut round) = (0, 0);
    while killed < kills {
        let runs = place.path().join(format!("run-{round}"));
        let mut driver = cluster.command(&runs).stdout(Stdio::null()).spawn().unwrap();
        // A moment that differs from round to round.
        std::thread::sleep(Duration::from_millis(150 + 370 * round as u64 % 1_900));
        if driver.try_wait().unwrap().is_none() {
            cluster.executors.remove(round % 3);
            cluster.add_executor();
            killed += 1;
        }
        assert!(driver.wait().unwrap().success(), "round {round}");
        assert_eq!(outputs(&runs), wanted, "round {round}");
        round += 1;
        assert!(round < 4 * kills + 8, "runs are over before an executor can be killed");
    }
}

#[test]
fn a_run_goes_on_after_its_driver_or_scheduler_was_lost() {
    let place = place();
    let wanted = embedded(place.path());
    let mut cluster = Cluster::start(place.path(), 1);
    let runs = place.path().join("cluster");
    let mut driver = cluster.command(&runs).stdout(Stdio::null()).spawn().unwrap();
    wait_for_a_task(&runs, &mut driver);
    driver.kill().unwrap();
    driver.wait().unwrap();
    let mut driver = cluster.command(&runs).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    cluster.scheduler = None;
    cluster.executors.clear();
    std::thread::sleep(Duration::from_millis(300));
    cluster.start_scheduler();
    // It comes late, and gets the work.
    cluster.add_executor();
    assert!(driver.wait().unwrap().success());
    assert_eq!(outputs(&runs), wanted);
}

fn wait_for_a_task(runs: &Path, driver: &mut Child) {
    let started = Instant::now();
    let run = runs.join("w/sample");
    let has_record = |folder: PathBuf| folder.join("tasks/00000.json").exists();
    while !std::fs::read_dir(&run).into_iter().flatten().flatten().any(|entry| has_record(entry.path())) {
        assert!(driver.try_wait().unwrap().is_none(), "the run is over");
        assert!(started.elapsed() < Duration::from_secs(60), "no task is done");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_is_wrong_with_a_cluster_is_said_in_plain_words() {
    let place = place();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let engine = format!("ballista://127.0.0.1:{port}");
    let mut command = pipeline();
    let said = run(command.current_dir(place.path()).args(["run", "w.toml", "--engine", &engine]));
    assert!(said.code != Some(0));
    assert!(
        said.err.contains(&format!("the scheduler at 127.0.0.1:{port} cannot be reached")),
        "{}",
        said.err
    );
    assert!(said.err.contains("pipeline cluster scheduler"), "{}", said.err);

    let said = run(pipeline().current_dir(place.path()).args(["run", "w.toml", "--engine", "spark://a:1"]));
    assert!(said.err.contains("ballista://HOST:PORT"), "{}", said.err);

    // Executors elsewhere would read other files under the same names.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(elsewhere.path(), 1);
    cluster.folder = place.path().to_owned();
    let said = run(&mut cluster.command(&place.path().join("cluster")));
    assert!(said.code != Some(0));
    assert!(said.err.contains("the run is made in"), "{}", said.err);
    assert!(said.err.contains(&elsewhere.path().display().to_string()), "{}", said.err);

    // A page that cannot be read is told as it is without a cluster.
    cluster.executors.clear();
    cluster.add_executor();
    std::fs::write(place.path().join("pages/05.jsonl"), "{\"id\": \"a\", \"text\": 7}\n[1]\n").unwrap();
    let said = run(&mut cluster.command(&place.path().join("other")));
    let alone = run(pipeline().current_dir(place.path()).args(["run", "w.toml", "--json"]));
    assert_eq!(said.code, alone.code, "{}\n{}", said.err, alone.err);
}
