//! FineWeb-Edu, Python-Edu, and the corpus that is mixed of them and of synthetic texts.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::path::Path;

use serde_json::Value as Json;
use support::{pipeline, query, reference_run, repository, run, run_folder};

/// Runs a workflow's profile `tiny`.
fn run_tiny(name: &str, runs: &Path, set: &[String]) {
    let mut command = pipeline();
    command.arg("run").arg(repository().join(format!("workflows/{name}.toml")));
    command.args(["--profile", "tiny", "--threads", "2", "--runs"]).arg(runs);
    set.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    let said = run(&mut command);
    assert_eq!(said.code, Some(0), "{name}: {}\n{}", said.out, said.err);
}

fn manifest(stage: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(stage.join("manifest.json")).unwrap()).unwrap()
}

/// The sample's judge is a head that ships, so the classifier that is trained on its scores scores like it.
#[test]
fn a_classifier_is_trained_on_judged_pages_and_scores_them() {
    let folder = tempfile::tempdir().unwrap();
    run_tiny("edu_classifier", folder.path(), &[]);
    let run = folder.path().join("edu_classifier/tiny");
    let trained = manifest(&run.join("classifier"))["metrics"].clone();
    assert!(trained["held_out_macro_f1"].as_f64().unwrap() > 0.4, "{trained}");
    let scores = |stage: &str| {
        let rows = query(&run.join(stage), "SELECT id, CAST(score AS DOUBLE) AS score FROM data ORDER BY id");
        let score = |row: &serde_json::Value| (row["id"].to_string(), row["score"].as_f64().unwrap());
        rows.iter().map(score).collect::<Vec<_>>()
    };
    let (judged, own) = (scores("annotations"), scores("score"));
    assert!(judged.len() > 20, "{}", judged.len());
    let apart = |(a, b): (&(String, f64), &(String, f64))| {
        assert_eq!(a.0, b.0);
        (a.1 - b.1).abs()
    };
    let mean = judged.iter().zip(&own).map(apart).sum::<f64>() / judged.len() as f64;
    assert!(mean < 0.5, "{mean}");
    assert!(run.join("classifier/classifier.onnx").is_file());
}

#[test]
fn three_datasets_become_a_mixture_with_its_card() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path();

    run_tiny("fineweb_edu", runs, &[]);
    let web = runs.join("fineweb_edu/tiny");
    let scored = &query(&web.join("score"), "SELECT count(*) AS n, max(score) AS best FROM data")[0];
    let kept = &query(&web.join("edu"), "SELECT count(*) AS n, min(int_score) AS least FROM data")[0];
    assert!(kept["n"].as_i64() < scored["n"].as_i64() && kept["n"].as_i64().unwrap() > 10, "{scored} {kept}");
    assert_eq!(kept["least"], 3);

    run_tiny("python_edu", runs, &[]);
    let code = runs.join("python_edu/tiny");
    let files = &query(
        &code.join("decontaminate"),
        "SELECT min(length_bytes) AS shortest, min(int_score) AS least FROM data",
    );
    assert!(
        files[0]["shortest"].as_i64().unwrap() > 0 && files[0]["least"].as_i64().unwrap() >= 2,
        "{files:?}"
    );

    let of = |var: &str, dataset: &Path, subset: &str| {
        format!("vars.{var}=\"{}/dataset/data/{subset}/*.parquet\"", dataset.display())
    };
    let set = [
        of("synthetic", &run_folder(&reference_run()), "cosmopedia-v2"),
        of("web", &web, "fineweb-edu-dedup"),
        of("code", &code, "python-edu"),
    ];
    run_tiny("smollm_corpus", runs, &set);
    let corpus = runs.join("smollm_corpus/tiny");
    let mixture = manifest(&corpus.join("corpus"))["metrics"]["mixture"].clone();
    let taken = |subset: &str| mixture[subset]["tokens_taken"].as_f64().unwrap();
    let all = ["cosmopedia-v2", "fineweb-edu-dedup", "python-edu"].map(taken).iter().sum::<f64>();
    // 0.70 of 0.93, within a document's length.
    let share = taken("fineweb-edu-dedup") / all;
    assert!((share - 0.70 / 0.93).abs() < 0.05, "{share} {mixture}");
    assert!(
        mixture["cosmopedia-v2"]["documents_taken"].as_u64() > mixture["cosmopedia-v2"]["documents"].as_u64()
    );

    let card = std::fs::read_to_string(corpus.join("dataset/README.md")).unwrap();
    let row = card.lines().find(|line| line.starts_with("| fineweb-edu-dedup | 75.3 % |"));
    assert!(row.is_some(), "{card}");
    let report = std::fs::read_to_string(corpus.join("report.html")).unwrap();
    assert!(report.contains("Tokens by subset"));
}
