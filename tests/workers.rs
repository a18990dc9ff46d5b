//! One model trained by several processes: what they learn, and what happens when one of them is killed.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::{Value as Json, json};
use support::{TEXTS_TO_TOKENS, digests, pipeline, run, wait_for};

const WORKFLOW: &str = r#"
[stage.model]
kind = "pretrain"
inputs = { tokens = "tokens", tokenizer = "tokenizer", corpus = "corpus" }
weights = { a = 1.0 }
[stage.model.training]
model = { preset = "sample", hidden_size = 64, intermediate_size = 128, layers = 2, heads = 2, kv_heads = 1 }
context_tokens = 64
batch_sequences = 32
micro_batch_tokens = 256
steps = 40
warmup_steps = 4
cooldown_steps = 8
checkpoint_every_steps = 5
log_every_steps = 1
"#;

/// The place of one process: runs of its own, as on a machine of its own.
struct Place<'a> {
    folder: &'a Path,
    runs: PathBuf,
}

impl<'a> Place<'a> {
    fn new(folder: &'a Path, name: &str) -> Self {
        Self { folder, runs: folder.join(name) }
    }

    fn command(&self, workers: Option<(&[String], usize)>) -> std::process::Command {
        let mut command = pipeline();
        command.env("DATA", self.folder).arg("run").arg(self.folder.join("w.toml"));
        command.arg("--runs").arg(&self.runs).args(["--threads", "1"]);
        if let Some((addresses, rank)) = workers {
            let workers = format!("{{ addresses = {addresses:?}, rank = {rank}, timeout_seconds = 60 }}");
            command.arg("--set").arg(format!("stage.model.training.workers={workers}"));
        }
        command
    }

    fn run(&self) -> PathBuf {
        self.runs.join("together/sample")
    }

    /// The loss of each step.
    fn losses(&self) -> Vec<f64> {
        let text = std::fs::read_to_string(self.run().join("model/loss.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str::<Json>(line).unwrap()["loss"].as_f64().unwrap();
        text.lines().map(line).collect()
    }

    /// Whether training has left a checkpoint and is not done.
    fn is_amid(&self) -> bool {
        let is_partial = |name: &str| name.starts_with(".partial-model-");
        let partial = std::fs::read_dir(self.run()).into_iter().flatten().flatten();
        let mut partial = partial.filter(|entry| is_partial(&entry.file_name().to_string_lossy()));
        partial.any(|entry| {
            let files = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
            files.filter(|file| file.file_name().to_string_lossy().starts_with("step-")).count() > 0
        })
    }
}

/// Ports that were free a moment ago.
fn addresses(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn start(places: &[Place], addresses: &[String]) -> Vec<Child> {
    let start = |(rank, place): (usize, &Place)| {
        let mut command = place.command(Some((addresses, rank)));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    places.iter().enumerate().map(start).collect()
}

#[test]
fn processes_train_what_one_does_also_after_one_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = |i: usize| format!("The number {i} comes after {} and before {}.", i.wrapping_sub(1), i + 1);
    let lines: Vec<String> =
        (1..2_000).map(|i| json!({"id": i.to_string(), "text": text(i)}).to_string()).collect();
    std::fs::write(folder.join("texts.jsonl"), lines.join("\n")).unwrap();
    std::fs::write(folder.join("w.toml"), format!("name = \"together\"\n{TEXTS_TO_TOKENS}{WORKFLOW}"))
        .unwrap();

    let alone = Place::new(folder, "alone");
    let said = run(&mut alone.command(None));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let alone = alone.losses();
    assert_eq!(alone.len(), 40);

    let places = [Place::new(folder, "first"), Place::new(folder, "second")];
    let addresses = addresses(2);
    let mut children = start(&places, &addresses);
    wait_for("no checkpoint was made", || places[0].is_amid());
    children[1].kill().unwrap();
    let first = children.remove(0).wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&first.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_ne!(first.status.code(), Some(0), "the killed worker was not missed");
    assert!(err.contains("lost worker 1") && err.contains("last checkpoint"), "{err}");
    children.remove(0).wait().unwrap();

    for child in start(&places, &addresses) {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let together = places[0].losses();
    assert_eq!(together.len(), alone.len());
    for (step, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert!((together - alone).abs() < 1e-5, "step {step}: {together}, {alone}");
    }
    let weights = |place: &Place| {
        let mut files = digests(&place.run().join("model"));
        files.retain(|name, _| name.ends_with(".safetensors"));
        files
    };
    assert!(!weights(&places[0]).is_empty());
    for (name, digest) in weights(&places[1]) {
        assert_eq!(weights(&places[0]).get(&name), Some(&digest), "{name}");
    }
}
