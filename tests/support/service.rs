//! A service of a test's own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::pipeline;

/// Far longer than any wait here; only a service that hangs reaches it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The variable with the key of signed requests, and the key, of all services of tests.
pub const HOOK_KEY: (&str, &str) = ("CORPUSMITH_TEST_HOOK_KEY", "neither-told-nor-written-77ab");

/// A folder of workflows and one of data.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Empty folders.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("workflows")).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder }
    }

    /// The service's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The folder of workflow files.
    pub fn workflows(&self) -> PathBuf {
        self.folder.path().join("workflows")
    }

    /// Adds a workflow file.
    pub fn workflow(&self, file: &str, text: &str) {
        std::fs::write(self.workflows().join(file), text).unwrap();
    }

    /// Adds a workflow of two stages over ten rows; `tables` come before its stages.
    pub fn small_workflow(&self, name: &str, tables: &str) {
        let rows = self.folder.path().join(format!("{name}.jsonl"));
        let lines: String = (0..10)
            .map(|n| format!("{{\"id\": \"d{n}\", \"n\": {n}, \"text\": \"Text <b>{n}</b> & more\"}}\n"))
            .collect();
        std::fs::write(&rows, lines).unwrap();
        let text = format!(
            "name = \"{name}\"\ndescription = \"Ten rows\"\n{tables}\n[stage.pages]\nkind = \"read\"\npaths = [{:?}]\n\
             [stage.kept]\nkind = \"sql\"\ninputs = {{ tables = [\"pages\"] }}\nquery = \"SELECT * FROM pages WHERE n > 3 ORDER BY id\"\n",
            rows.display().to_string()
        );
        self.workflow(&format!("{name}.toml"), &text);
    }

    /// Starts a service on a free port.
    pub fn serve(&self, arguments: &[&str]) -> Served {
        self.serve_with(arguments, &[])
    }

    /// Starts a service with variables of its own.
    pub fn serve_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Served {
        let mut command = pipeline();
        command.args(["serve", "--listen", "127.0.0.1:0", "--grace", "5"]);
        command.arg("--data").arg(self.data()).arg("--workflows").arg(self.workflows()).args(arguments);
        command.env(HOOK_KEY.0, HOOK_KEY.1).envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("://").unwrap_or_else(|| panic!("not an address: {line}"));
        let address = rest.split(' ').next().unwrap().to_owned();
        Served { child, address }
    }
}

/// A running service; killed when the test ends.
pub struct Served {
    child: Child,
    pub address: String,
}

/// Status, head in lower case, and body of an answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    /// The head in the letters that came.
    pub head_as_it_came: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {} {}", self.status, self.body))
    }
}

impl Served {
    /// The service's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends a request with further head lines, each ended by `\r\n`.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = if headers.to_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.address)
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head_as_it_came = head.to_owned();
        let head = head.to_lowercase();
        let body =
            if head.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_owned() };
        Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, head_as_it_came, body }
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    /// A POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, "", &body.to_string())
    }

    /// Enters a run of a file; its id.
    pub fn submit(&self, file: &str) -> String {
        let answer = self.post("/api/v1/runs", &serde_json::json!({"file": file}));
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()["runs"][0].as_str().unwrap().to_owned()
    }

    /// Waits until a run is in one of the states.
    pub fn wait_for(&self, run: &str, states: &[&str]) -> Value {
        let start = Instant::now();
        loop {
            let shown = self.get(&format!("/api/v1/runs/{run}")).json();
            if states.contains(&shown["state"].as_str().unwrap_or_default()) {
                return shown;
            }
            assert!(start.elapsed() < PATIENCE, "never {states:?}: {shown:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the service at once, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the service to end; its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dechunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 || length > after.len() {
            break;
        }
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    whole
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Processes whose command line holds a text.
pub fn processes_with(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

/// A path as text.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
