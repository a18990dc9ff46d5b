//! What a run leaves, and the commands that look into it.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::process::Stdio;

use serde_json::{Value as Json, json};
use support::{pipeline, query, reference_run, repository, run, run_folder, tiny};

#[test]
fn every_stage_leaves_something_to_look_at() {
    let folder = run_folder(&reference_run());
    for path in [
        "pages/data/00000-00000.parquet",
        "topics/data/00000-00000.parquet",
        "outlines/data/00000-00000.parquet",
        "index/index/index.json",
        "retrieve/data/00000-00000.parquet",
        "prompts/data/00000-00000.parquet",
        "generate/data/00000-00000.parquet",
        "score/data/00000-00000.parquet",
        "corpus/data/00000-00000.parquet",
        "tokenizer/tokenizer.json",
        "tokens/python-edu/tokens-00000.bin",
        "model/final/model.safetensors",
        "model/loss.jsonl",
        "model/evaluations.jsonl",
        "evaluation/evaluation.json",
        "export/model/config.json",
        "export/model/tokenizer.json",
        "export/model/onnx/model.onnx",
        "dataset/README.md",
        "report.html",
    ] {
        assert!(folder.join(path).exists(), "{path} is missing");
    }
}

#[test]
fn the_loss_falls() {
    let text = std::fs::read_to_string(run_folder(&reference_run()).join("model/loss.jsonl")).unwrap();
    let losses: Vec<f64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect();
    assert!(losses.last().unwrap() + 0.5 < losses[0], "{losses:?}");
}

#[test]
fn inspect_shows_schema_statistics_and_answers_queries() {
    let folder = run_folder(&reference_run());
    let pages = folder.join("pages");
    let inspect = |arguments: &[&str]| run(pipeline().arg("inspect").arg(&pages).args(arguments));
    let schema = inspect(&["--schema"]);
    assert!(schema.out.contains("text: Utf8") && schema.out.contains("token_count: Int64"), "{}", schema.out);
    let statistics = inspect(&["--stats"]);
    assert!(statistics.out.contains("mean_or_mean_chars"), "{}\n{}", statistics.out, statistics.err);
    let count =
        inspect(&["--sql", "SELECT count(*) AS n, min(length(text)) AS shortest FROM data", "--json"]);
    let row: serde_json::Value = serde_json::from_str(count.out.trim()).unwrap();
    assert!(row["n"].as_i64().unwrap() > 30 && row["shortest"].as_i64().unwrap() >= 600, "{row}");
    let wrong = inspect(&["--sql", "SELECT nothing FROM data"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains("nothing"), "{}", wrong.err);
    let whole_run = run(pipeline().arg("inspect").arg(&folder));
    assert!(whole_run.out.contains("pretrain"), "{}", whole_run.out);
}

#[test]
fn trace_follows_a_seed_page_to_its_prompt_and_answer() {
    let folder = run_folder(&reference_run());
    let sql = "SELECT seed_doc_id FROM data LIMIT 1";
    let said = run(pipeline().arg("inspect").arg(folder.join("prompts")).args(["--sql", sql, "--json"]));
    let row: serde_json::Value = serde_json::from_str(said.out.trim()).unwrap();
    let said = run(pipeline().arg("trace").arg(&folder).arg(row["seed_doc_id"].as_str().unwrap()));
    assert_eq!(said.code, Some(0), "{}", said.err);
    for stage in ["pages · in the output", "retrieve · in the output", "generate · in the output"] {
        assert!(said.out.contains(stage), "{stage} not in:\n{}", said.out);
    }
    let nowhere = run(pipeline().arg("trace").arg(&folder).arg("no-such-id"));
    assert_eq!(nowhere.code, Some(2));
}

#[test]
fn search_and_preview_work_on_a_run() {
    let folder = run_folder(&reference_run());
    let hits = run(pipeline()
        .args(["search", "shortest path in a graph", "-k", "3", "--json", "--index"])
        .arg(folder.join("index")));
    assert_eq!(hits.out.lines().count(), 3, "{}\n{}", hits.out, hits.err);
    let prompt = run(pipeline().args(["prompts", "preview"]).arg(&folder));
    assert!(prompt.out.contains("topic"), "{}\n{}", prompt.out, prompt.err);
    let lint = run(pipeline().args(["prompts", "lint"]));
    assert_eq!(lint.code, Some(0), "{}\n{}", lint.out, lint.err);
    let statistics = run(pipeline().args(["prompts", "statistics"]).arg(&folder));
    assert!(statistics.out.contains("mean tokens"), "{}\n{}", statistics.out, statistics.err);
}

#[test]
fn templates_with_faults_are_listed_and_end_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let head = "+++\nname = \"mine\"\naudience = \"general\"\nstyle = \"poem\"\nshare = \"other\"\n+++\n";
    std::fs::write(folder.path().join("mine.jinja"), format!("{head}{{{{ topic }}}}: {{{{ seed }}}}"))
        .unwrap();
    let lint = run(pipeline().args(["prompts", "lint", "--json", "--templates-dir"]).arg(folder.path()));
    assert_eq!(lint.code, Some(2), "{}", lint.err);
    let found: serde_json::Value = serde_json::from_str(lint.out.trim()).unwrap();
    let what = found["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains("does not fence the seed"), "{found}");
    let list = run(pipeline().args(["prompts", "list", "--templates-dir"]).arg(folder.path()));
    assert!(list.out.contains("poem"), "{}", list.out);
}

#[test]
fn the_schema_in_the_repository_is_the_programs() {
    let said = run(pipeline().arg("schema"));
    let kept = std::fs::read_to_string(repository().join("workflows/workflow.schema.json")).unwrap();
    assert!(said.out == kept, "run `make schema` and commit workflows/workflow.schema.json");
}

#[test]
fn every_workflow_checks_in_every_profile() {
    for entry in std::fs::read_dir(repository().join("workflows")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let profiles = text.get("profile").and_then(toml::Value::as_table);
        let profiles = profiles.into_iter().flat_map(toml::Table::keys).map(String::as_str);
        for profile in profiles.chain(["sample"]) {
            let said = run(pipeline().arg("check").arg(&path).args(["--profile", profile]));
            assert_eq!(said.code, Some(0), "{}: {}", path.display(), said.err);
        }
    }
}

#[test]
fn pages_are_clustered_named_and_written_about() {
    let folder = tempfile::tempdir().unwrap();
    let workflow = repository().join("workflows/cosmopedia_v1.toml");
    let said = run(pipeline()
        .arg("run")
        .arg(workflow)
        .args(["--profile", "tiny", "--set", "stage.topics.max_retries=6", "--runs"])
        .arg(folder.path()));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let run_folder = folder.path().join("cosmopedia_v1/tiny");
    let sql = "SELECT topic_id, count(*) AS pages, max(rank) AS last FROM data GROUP BY 1 ORDER BY 1";
    let clusters =
        run(pipeline().arg("inspect").arg(run_folder.join("clusters")).args(["--sql", sql, "--json"]));
    let rows: Vec<serde_json::Value> =
        clusters.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3, "{}", clusters.out);
    assert!(rows.iter().all(|row| row["pages"] == row["last"]), "{}", clusters.out);
    let count =
        |table: &str| query(&run_folder.join(table), "SELECT count(*) AS n FROM data")[0]["n"].as_u64();
    assert!(count("topics") > Some(0) && count("generate") > Some(0), "no cluster was named");
    let report = std::fs::read_to_string(run_folder.join("report.html")).unwrap();
    assert!(report.contains("Map of the clusters") && report.contains("<circle"));
    // Seeds with and without topics are asked about; how many answers of so small a model stay is chance.
    let sql = "SELECT topic_id = '' AS alone, count(*) AS n FROM data GROUP BY 1 ORDER BY 1";
    let asked = query(&run_folder.join("generate"), sql);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(count("math_prompts") == Some(1) && count("story_prompts") == Some(1));
    let seeds = query(&run_folder.join("story_prompts"), "SELECT seed_text FROM data");
    assert!(seeds.iter().all(|row| row["seed_text"].as_str().unwrap().ends_with('?')), "{seeds:?}");
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let said = run(pipeline().args(["completions", shell]));
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.out.contains("serve") && said.out.contains("cancel"), "{shell}");
    }
    // A reader that goes away at once.
    let mut child = pipeline().args(["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(pipeline().arg("man").arg(folder.path())).code, Some(0));
    assert!(folder.path().join("pipeline-serve.1").is_file());
}

#[test]
fn every_kind_is_listed_and_explained() {
    let listed = run(pipeline().arg("stages")).out;
    assert!(listed.lines().count() > 15);
    for line in listed.lines() {
        let kind = line.split_whitespace().next().unwrap();
        let said = run(pipeline().args(["explain", kind]));
        assert!(said.out.contains("Fields:"), "{kind}: {}", said.err);
    }
    let generate = run(pipeline().args(["explain", "generate"])).out;
    assert!(generate.contains("\n    max_in_flight = 32\n"), "fields inside `llm`: {generate}");
    let said = run(pipeline().args(["explain", "scroe"]));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("did you mean `score`?"), "{}", said.err);
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    // More than a pipe holds.
    let mut program = pipeline();
    program.arg("schema").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = program.spawn().unwrap();
    drop(program.stdout.take());
    let said = program.wait_with_output().unwrap();
    assert!(said.status.success(), "{:?}", said.status);
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(pipeline().args(support::tiny(folder.path())).arg("--dry-run"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("├─") && said.out.contains("have never run"), "{}", said.out);
    let files = support::digests(folder.path());
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn two_runs_are_compared_by_their_settings_and_rows() {
    let (first, second) = (reference_run(), support::copied_run());
    let mut again = pipeline();
    again.args(tiny(second.path())).args([
        "--set",
        "stage.code_dedup.hashes_per_bucket=1",
        "--until",
        "code_dedup",
    ]);
    let said = run(&mut again);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let runs = [run_folder(&first), run_folder(second.path())];
    let said = run(pipeline().arg("diff").args(&runs).arg("--json"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let stages: Vec<Json> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| stages.iter().find(|stage| stage["stage"] == name).unwrap();
    assert_eq!(of("pages")["state"], "same");
    let dedup = of("code_dedup");
    assert_eq!(dedup["settings"]["hashes_per_bucket"], json!([8, 1]), "{dedup}");
    let [before, after] = [0, 1].map(|run| dedup["rows"][run].as_u64().unwrap());
    let count = |what: &str| dedup["changes"][what]["rows"].as_u64().unwrap();
    assert_eq!(before + count("added") - count("removed"), after, "{dedup}");
    let text = run(pipeline().arg("diff").args(&runs));
    assert!(text.out.contains("setting  hashes_per_bucket: 8 → 1"), "{}", text.out);
    let said = run(pipeline().arg("diff").arg(&runs[0]).arg(second.path()));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("is not the folder of a run"), "{}", said.err);
}
