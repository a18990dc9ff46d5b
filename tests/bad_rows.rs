//! Rows that a stage cannot use, tables without rows, and rows that are all the same: counted under a
//! reason, never lost in silence, and no reason to stop.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::path::Path;

use serde_json::{Value as Json, json};
use support::{Said, pipeline, run};

/// Every stage that reads texts, with what its config needs.
const STAGES: [(&str, &str); 16] = [
    ("extract", ""),
    ("language", ""),
    ("url_filter", ""),
    ("gopher_repetition", ""),
    ("gopher_quality", ""),
    ("c4_quality", ""),
    ("fineweb_quality", ""),
    ("pii", ""),
    ("code_quality", ""),
    ("exact_dedup", ""),
    ("url_dedup", ""),
    ("sentence_dedup", "unit = \"words\"\nrun = 20\n"),
    ("minhash", ""),
    (
        "decontaminate",
        "benchmarks = [{ name = \"humaneval\", asset = \"humaneval\", format = \"humaneval\" }]\n",
    ),
    ("score", "head = \"edu_web\"\n"),
    ("filter", "keep = \"length(text) > 0\"\n"),
];

/// Runs each of [`STAGES`] on the rows that are left of some after `keep`.
fn run_all(folder: &Path, rows: &str, keep: &str) -> Said {
    std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
    let mut workflow = format!(
        "name = \"w\"\n[stage.read]\nkind = \"read\"\npaths = [\"{}/rows.jsonl\"]\n\
         [stage.rows]\nkind = \"filter\"\ninput = \"read\"\nkeep = \"{keep}\"\n\
         [stage.mix]\nkind = \"mix\"\ninputs = {{ sources = [\"rows\"] }}\n\
         [stage.mix.subsets]\nall = {{ stage = \"rows\" }}\n",
        folder.display()
    );
    for (kind, config) in STAGES {
        workflow += &format!("[stage.{kind}]\nkind = \"{kind}\"\ninput = \"rows\"\n{config}");
    }
    std::fs::write(folder.join("w.toml"), workflow).unwrap();
    run(pipeline().arg("run").arg(folder.join("w.toml")).arg("--runs").arg(folder.join("runs")))
}

fn manifest(folder: &Path, stage: &str) -> Json {
    let path = folder.join("runs/w/sample").join(stage).join("manifest.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// How many rows a stage wrote, and how many it lost under a reason.
fn written_and_lost(manifest: &Json) -> (u64, u64) {
    let rows = |reasons: &Json| -> u64 {
        reasons.as_object().into_iter().flatten().map(|(_, rows)| rows.as_u64().unwrap()).sum()
    };
    let lost = rows(&manifest["dropped"]) + rows(&manifest["quarantined"]);
    (manifest["rows_out"].as_u64().unwrap(), lost)
}

fn row(id: usize, text: &Json) -> String {
    json!({"id": format!("r{id}"), "url": format!("https://a.org/{id}"), "text": text}).to_string()
}

/// Texts that no page of the web should have, and one that it may.
fn odd_texts() -> Vec<Json> {
    vec![
        json!("The tide rises twice a day because the moon pulls the sea, and so does the sun, but less."),
        Json::Null,
        json!(""),
        json!(" \n\t \u{a0}\n"),
        json!("\u{0}\u{1}\u{7f}\u{feff}\u{fffd}\u{10ffff}"),
        json!("\u{301}".repeat(5_000)),
        json!("a".repeat(2_000_000)),
        json!("<".repeat(100_000)),
        json!("(".repeat(50_000)),
        json!("\u{5b57}".repeat(100_000)),
        json!("word ".repeat(200_000)),
        json!("line\n".repeat(100_000)),
    ]
}

#[test]
fn odd_texts_are_kept_or_counted_by_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows: Vec<String> = odd_texts().iter().enumerate().map(|(id, text)| row(id, text)).collect();
    let readable = rows.len() as u64;
    // Half of a pair of surrogates is a character in JavaScript and Python, and none in Unicode.
    rows.push(r#"{"id": "half", "url": "https://a.org/half", "text": "cut \ud83d here"}"#.to_owned());
    let said = run_all(folder.path(), &rows.join("\n"), "true");
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    let read = manifest(folder.path(), "read");
    assert_eq!((&read["rows_out"], &read["quarantined"]), (&json!(readable), &json!({"bad_json": 1})));
    for (stage, _) in STAGES.iter().chain(&[("mix", "")]) {
        let manifest = manifest(folder.path(), stage);
        let (written, lost) = written_and_lost(&manifest);
        assert_eq!(written + lost, readable, "{stage}: {manifest:#}");
    }
}

#[test]
fn tables_without_rows_go_through_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let said = run_all(folder.path(), &row(1, &json!("A text.")), "false");
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    for (stage, _) in STAGES.iter().chain(&[("mix", "")]) {
        assert_eq!(written_and_lost(&manifest(folder.path(), stage)), (0, 0), "{stage}");
    }
}

#[test]
fn of_rows_that_are_all_the_same_one_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        json!("The tide rises twice a day because the moon pulls the sea, and so does the sun, but less.");
    let same = |id: usize| json!({"id": format!("r{id}"), "url": "https://a.org/", "text": text}).to_string();
    let rows: Vec<String> = (0..1_000).map(same).collect();
    let said = run_all(folder.path(), &rows.join("\n"), "true");
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    for stage in ["exact_dedup", "url_dedup", "minhash"] {
        assert_eq!(written_and_lost(&manifest(folder.path(), stage)), (1, 999), "{stage}");
    }
}
