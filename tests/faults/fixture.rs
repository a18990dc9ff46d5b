//! A small workflow over many kinds of stages, which runs in less than a second, and what its runs must leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value as Json, json};

use crate::language_model::{Server, answer_to};
use crate::support::{Said, digests, pipeline, run};

const WORKFLOW: &str = r#"
name = "w"
[stage.pages]
kind = "read"
paths = ["${env:FAULTS}/pages/*.jsonl"]
[stage.long]
kind = "filter"
input = "pages"
keep = "length(text) > 100"
reason = "short"
keep_dropped = true
[stage.once]
kind = "exact_dedup"
input = "long"
keep_dropped = true
[stage.near]
kind = "minhash"
input = "once"
keep_dropped = true
[stage.prompts]
kind = "sql"
inputs = { tables = ["near"] }
query = "SELECT id AS prompt_id, 'Write about ' || substr(text, 1, 40) AS prompt FROM near ORDER BY id"
[stage.generate]
kind = "generate"
input = "prompts"
min_tokens = 0
llm = { base_urls = ["http://127.0.0.1:${env:FAULTS_PORT}/v1"], model = "m", max_in_flight = 4, max_attempts = 8, backoff_seconds = 0.02, request_timeout_seconds = 1.0 }
[stage.answers]
kind = "sql"
inputs = { tables = ["generate"] }
query = "SELECT prompt_id AS id, completion AS text FROM generate ORDER BY prompt_id"
[stage.corpus]
kind = "mix"
inputs = { sources = ["near", "answers"] }
heldout_share = 0.1
[stage.corpus.subsets]
web = { stage = "near" }
synthetic = { stage = "answers" }
[stage.tokenizer]
kind = "tokenizer"
input = "corpus"
vocab_size = 400
[stage.tokens]
kind = "pack"
inputs = { corpus = "corpus", tokenizer = "tokenizer" }
[stage.index]
kind = "index"
input = "near"
shards = 2
[stage.model]
kind = "pretrain"
inputs = { tokens = "tokens", tokenizer = "tokenizer" }
weights = { web = 0.7, synthetic = 0.3 }
[stage.model.training]
model = { preset = "sample", vocab_size = 400, hidden_size = 16, intermediate_size = 32, layers = 1, heads = 2, kv_heads = 1, context_tokens = 32 }
context_tokens = 32
batch_sequences = 2
steps = 20
warmup_steps = 2
cooldown_steps = 4
checkpoint_every_steps = 5
log_every_steps = 5
[stage.dataset]
kind = "dataset"
inputs = { sources = ["near", "answers"] }
title = "Pages"
description = "Pages and answers."
[stage.dataset.subsets]
web = { stage = "near" }
synthetic = { stage = "answers" }
"#;

/// Prompts that are asked at once.
pub const IN_FLIGHT: usize = 4;

/// Pages, a workflow over them, and a server that it asks.
pub struct Fixture {
    pub folder: &'static Path,
    pub server: Server,
}

impl Fixture {
    pub fn new(server: Server) -> Self {
        // One for all: the pages' path stands in the table of failed rows.
        static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
        let folder = FOLDER.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let pages = folder.path().join("pages");
            std::fs::create_dir(&pages).unwrap();
            for file in 0..3 {
                std::fs::write(pages.join(format!("{file}.jsonl")), page_file(file)).unwrap();
            }
            std::fs::write(folder.path().join("w.toml"), WORKFLOW).unwrap();
            folder
        });
        Self { folder: folder.path(), server }
    }

    /// `pipeline run` of the workflow into a folder of runs.
    pub fn command(&self, runs: &Path) -> Command {
        let mut program = pipeline();
        program.env("FAULTS", self.folder).env("FAULTS_PORT", self.server.port.to_string());
        program.arg("run").arg(self.folder.join("w.toml")).args(["--threads", "2", "--runs"]).arg(runs);
        program
    }

    /// Runs the workflow to its end, which must be a good one.
    pub fn complete(&self, runs: &Path, after: &str) {
        let said = run(&mut self.command(runs));
        assert_eq!(said.code, Some(0), "{after}: {}\n{}", said.out, said.err);
        self.check(runs, after);
    }

    /// The outputs are those of an undisturbed run, and no answer on disk was asked for again.
    pub fn check(&self, runs: &Path, after: &str) {
        self.check_but(runs, None, after);
    }

    /// The same, but for one file.
    pub fn check_but(&self, runs: &Path, harmed: Option<&str>, after: &str) {
        let (expected, found) = (reference(), outputs(runs));
        for (path, digest) in expected.iter().filter(|(path, _)| Some(path.as_str()) != harmed) {
            assert_eq!(found.get(path), Some(digest), "{after}: {path} has other bytes");
        }
        let more: Vec<&String> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
        assert!(more.is_empty(), "{after}: more files: {more:?}");
        let again = self.server.asked_again();
        assert!(again.is_empty(), "{after}: asked again although the answer was on disk: {again:?}");
    }

    /// Tells the server which answers are on disk: whole records of the log, as `answers export` reads them.
    pub fn keep_answers(&self, runs: &Path) -> usize {
        let kept = kept_answers(runs);
        let count = kept.len();
        self.server.keep(kept);
        count
    }
}

/// The prompts whose answers a run's log holds.
pub fn kept_answers(runs: &Path) -> Vec<String> {
    let log = run_folder(runs).join(".answers/generate");
    if !log.is_dir() {
        return Vec::new();
    }
    let said = run(pipeline().args(["answers", "export"]).arg(&log));
    let lines = said.out.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let text = answer_to("|");
    let (before, after) = text.split_once('|').unwrap();
    lines
        .map(|line| {
            let text = line["text"].as_str().unwrap().to_owned();
            text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap().to_owned()
        })
        .collect()
}

fn page_file(file: usize) -> String {
    let word = |n: usize| {
        let letters = blake3::hash(&n.to_le_bytes());
        letters.as_bytes()[..7].iter().map(|byte| char::from(b'a' + byte % 26)).collect::<String>()
    };
    let text = |n: usize, words: usize| (0..words).map(|at| word(60 * n + at)).collect::<Vec<_>>().join(" ");
    let page = |n: usize| {
        // Of ten pages one is short, one a copy of the page before it, one nearly so.
        let text = match n % 10 {
            3 => text(n, 5),
            7 => text(n - 1, 60),
            9 => text(n - 1, 60) + " more",
            _ => text(n, 60),
        };
        json!({"id": format!("p{n}"), "text": text, "url": format!("https://a.org/{n}")}).to_string()
    };
    let mut lines: Vec<String> = (file * 40..file * 40 + 40).map(page).collect();
    lines.push("{\"broken".to_owned());
    lines.join("\n")
}

/// The folder of the run.
pub fn run_folder(runs: &Path) -> PathBuf {
    runs.join("w/sample")
}

/// The files that are the same in every run, with their digests. Left out is what holds measured times: the
/// answers' latencies (their texts are in the stage `answers`), manifests and records.
pub fn outputs(runs: &Path) -> BTreeMap<String, String> {
    let mut files = digests(&run_folder(runs));
    files.retain(|path, _| {
        let hidden = path.starts_with('.') || path.contains("/.") || path == "report.html";
        let times = path.starts_with("generate/data") || path.ends_with("manifest.json");
        !(hidden || times || path.contains("/tasks/"))
    });
    files
}

/// An undisturbed run.
pub fn reference_runs() -> &'static Path {
    static RUNS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = RUNS.get_or_init(|| {
        let (fixture, runs) = (Fixture::new(Server::faithful()), tempfile::tempdir().unwrap());
        let said: Said = run(&mut fixture.command(runs.path()));
        assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
        let asked = fixture.server.asked();
        assert!(asked.len() > 50 && asked.values().all(|times| *times == 1), "{asked:?}");
        runs
    });
    folder.path()
}

fn reference() -> &'static BTreeMap<String, String> {
    static OUTPUTS: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    OUTPUTS.get_or_init(|| {
        let outputs = outputs(reference_runs());
        for path in ["model/final/model.safetensors", "index/index/index.json", "tokens/web/tokens-00000.bin"]
        {
            assert!(outputs.contains_key(path), "{outputs:?}");
        }
        outputs
    })
}

/// A copy of the undisturbed run.
pub fn copied_reference() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&reference_runs().join("w"), folder.path());
    folder
}

/// Copies a folder with the times of its files.
pub fn copy(from: &Path, into: &Path) {
    let copied = Command::new("cp").args(["-r", "--preserve=timestamps"]).arg(from).arg(into).status();
    assert!(copied.unwrap().success());
}

/// A number from the environment, or the size that is good for every day.
pub fn size(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

/// Numbers that look random and can be repeated; CORPUSMITH_SEED gives others.
pub struct Dice(u64);

impl Dice {
    pub fn new(salt: u64) -> Self {
        let seed = size("CORPUSMITH_SEED", 1) as u64;
        Self(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed).wrapping_add(salt) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % bound.max(1) as u64) as usize
    }
}
