//! Runs the real binary in fresh folders.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The sample workflow.
pub fn workflow() -> PathBuf {
    repository().join("workflows/cosmopedia_v2.toml")
}

/// A command of the program, without the caller's overrides.
pub fn pipeline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    for variable in [
        "CORPUSMITH_SET",
        "CORPUSMITH_RUNS",
        "CORPUSMITH_SERVER",
        "CORPUSMITH_TOKEN",
        "CORPUSMITH_CA_FILE",
        "CORPUSMITH_LOG_FORMAT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "TRACEPARENT",
    ] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1");
    command.current_dir(repository());
    command
}

/// What a command said, for assertions and their messages.
pub struct Said {
    /// The exit code; `None` when it was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error, its line breaks undone: reports are wrapped to the terminal's width.
    pub err: String,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let err = String::from_utf8_lossy(&stderr).into_owned();
    let err = err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    Said { code: status.code(), out: String::from_utf8_lossy(&stdout).into_owned(), err }
}

/// The arguments of a run of the tiny profile.
pub fn tiny(runs: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    ["run", &text(&workflow()), "--profile", "tiny", "--runs", &text(runs), "--threads", "2"]
        .map(str::to_owned)
        .to_vec()
}

/// A finished, undisturbed run of the tiny profile, made once for each build of the binary and
/// shared by the tests.
pub fn reference_run() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_pipeline")).metadata().unwrap();
    let age = binary.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let workflow_digest = blake3::hash(&std::fs::read(workflow()).unwrap()).to_hex();
    let name = format!("reference-{age}-{}", &workflow_digest[..8]);
    let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&runs).unwrap();
    // Tests are processes of their own: the first one makes the run, the others wait for it.
    let lock = File::create(runs.join("made-by-one")).unwrap();
    lock.lock().unwrap();
    let said = run(pipeline().args(tiny(&runs)));
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    runs
}

/// The folder of the tiny profile's run.
pub fn run_folder(runs: &Path) -> PathBuf {
    runs.join("cosmopedia_v2").join("tiny")
}

/// A copy of the reference run, to be changed.
pub fn copied_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copied =
        Command::new("cp").arg("-r").arg(reference_run().join("cosmopedia_v2")).arg(folder.path()).status();
    assert!(copied.unwrap().success());
    folder
}

/// The answer of `inspect --sql` over a table.
pub fn query(table: &Path, sql: &str) -> Vec<serde_json::Value> {
    let said = run(pipeline().arg("inspect").arg(table).args(["--sql", sql, "--json"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The stages from `texts.jsonl` in the folder `DATA` to tokens, for workflows that train.
pub const TEXTS_TO_TOKENS: &str = r#"
[stage.texts]
kind = "read"
paths = ["${env:DATA}/texts.jsonl"]
[stage.corpus]
kind = "mix"
inputs = { sources = ["texts"] }
heldout_share = 0.05
subsets = { a = { stage = "texts" } }
[stage.tokenizer]
kind = "tokenizer"
input = "corpus"
vocab_size = 400
[stage.tokens]
kind = "pack"
inputs = { corpus = "corpus", tokenizer = "tokenizer" }
"#;

/// Waits until it holds.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server that answers each request with the same bytes, or stalls.
pub fn serve(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                // The whole request is small and comes in one piece.
                let _ = stream.read(&mut buffer);
                match answer {
                    Some(answer) => {
                        let _ = stream.write_all(answer.as_bytes());
                    }
                    None => std::thread::sleep(Duration::from_secs(60)),
                }
            });
        }
    });
    url
}

/// A whole request, head and body; `None` when the connection ends before it.
pub fn read_request(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let (mut request, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&buffer[..read]);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).into_owned();
        let lower = head.to_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length = length.map_or(0, |length| length.trim().parse::<usize>().unwrap());
        if request.len() >= end + 4 + length {
            return Some((head, request[end + 4..].to_vec()));
        }
    }
}

/// Prompts as JSONL, asked of a server at `url`.
pub fn generate_workflow(folder: &Path, url: &str) -> String {
    let path = folder.join("prompts.jsonl");
    let rows: String =
        (0..3).map(|i| format!("{{\"prompt_id\": \"q{i}\", \"prompt\": \"Write about {i}.\"}}\n")).collect();
    std::fs::write(&path, rows).unwrap();
    format!(
        "name = \"w\"\n[stage.prompts]\nkind = \"read\"\npaths = [{:?}]\n[stage.generate]\nkind = \"generate\"\ninput = \"prompts\"\nmin_tokens = 0\n\
         llm = {{ base_urls = [{url:?}], model = \"m\", max_attempts = 2, backoff_seconds = 0.05, request_timeout_seconds = 2.0, down_after_seconds = 1.0 }}\n",
        path.display().to_string()
    )
}

/// Every file under a folder with its digest, by path.
pub fn digests(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut queue = vec![folder.to_owned()];
    while let Some(current) = queue.pop() {
        for entry in std::fs::read_dir(&current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else {
                let inside = path.strip_prefix(folder).unwrap().display().to_string();
                let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
                found.insert(inside, digest);
            }
        }
    }
    found
}

/// Files whose bytes hold measured times: the answers' latency, and the manifests' seconds.
fn holds_times(path: &str) -> bool {
    path.starts_with("generate/data") || path.ends_with("manifest.json") || path.contains("/tasks/")
}

/// The outputs of the tiny profile's run that are the same in every run, with their digests.
pub fn outputs(runs: &Path) -> Vec<(String, String)> {
    let files = digests(&run_folder(runs));
    let visible = |path: &str| !path.starts_with('.') && path != "report.html";
    files.into_iter().filter(|(path, _)| visible(path) && !holds_times(path)).collect()
}
