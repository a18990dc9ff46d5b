//! An answer that was once received is never asked for again, however the workflow changes.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value as Json, json};
use support::{copied_run, pipeline, query, run, run_folder, tiny};

const RAISED: [&str; 2] = ["--set", "stage.generate.max_new_tokens=90"];

fn batch(command: &str, runs: &Path) -> Command {
    let mut program = pipeline();
    // The arguments of `run`, after the command itself.
    program.args(["batch", command]).args(&tiny(runs)[1..]).args(RAISED);
    program
}

fn statistics(runs: &Path) -> Json {
    let log = run_folder(runs).join("generate");
    let said = run(pipeline().args(["answers", "stats", "--json"]).arg(log));
    serde_json::from_str::<Json>(said.out.trim()).unwrap()["stats"].clone()
}

#[test]
fn a_raised_limit_asks_for_the_cut_answers_alone_and_batch_files_bring_them() {
    let runs = copied_run();
    let before = statistics(runs.path());
    let cut = before["cut_answers"].as_u64().unwrap();
    assert!(cut >= 2, "{before}");

    let requests = runs.path().join("requests");
    let said = run(batch("export", runs.path()).arg("--output").arg(&requests));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let text = std::fs::read_to_string(requests.join("requests-00000.jsonl")).unwrap();
    let asked: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(asked.len() as u64, cut);
    assert!(asked.iter().all(|request| request["body"]["max_tokens"] == 90), "{text}");

    // All but one come back, in another order; one line is broken.
    let words = "Sets are collections of different things, and the things are called its elements.";
    let answer = |request: &Json| {
        let choice =
            json!({"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"});
        let body = json!({"model": "m", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 40}});
        json!({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": null})
    };
    let mut lines: Vec<String> =
        asked.iter().skip(1).rev().map(|request| answer(request).to_string()).collect();
    lines.push("{\"custom_id\"".to_owned());
    let answers = runs.path().join("answers.jsonl");
    std::fs::write(&answers, lines.join("\n")).unwrap();
    for taken in [cut - 1, 0] {
        let said = run(batch("import", runs.path()).arg("--json").arg("--answers").arg(&answers));
        assert_eq!(said.code, Some(0), "{}", said.err);
        let said: Json = serde_json::from_str(said.out.trim()).unwrap();
        assert_eq!(said["imported"]["new_answers"], taken, "{said}");
        assert_eq!(said["imported"]["foreign_lines"], 1, "{said}");
        assert_eq!(said["rows"]["open"], 1, "{said}");
    }

    let said = run(pipeline().args(tiny(runs.path())).args(RAISED).args(["--until", "generate"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let sql = format!("SELECT count(*) AS n FROM data WHERE completion = '{words}'");
    let generated = run_folder(runs.path()).join("generate");
    assert_eq!(query(&generated, &sql), [json!({"n": cut - 1})]);
    // The run itself asked for the one that had not come.
    let after = statistics(runs.path());
    let count = |statistics: &Json| statistics["totals"]["answers"].as_u64().unwrap();
    assert_eq!(count(&after), count(&before) + cut, "{after}");

    let log = run_folder(runs.path()).join("generate");
    let said = run(pipeline().args(["answers", "compact"]).arg(log));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(statistics(runs.path())["superseded"], 0);
}

/// Two stages of ten prompts each share the run's limit: the first takes what it needs, the second what is left,
/// and raising the limit goes on where they stopped.
#[test]
fn a_runs_limit_holds_over_its_stages_and_its_processes() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 170\r\nconnection: close\r\n\r\n";
    let body = json!({
        "choices": [{"message": {"content": "Sets hold things."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20},
    });
    let body = format!("{:<170}", body.to_string());
    let url = support::serve(Some(Box::leak(format!("{ANSWER}{body}").into_boxed_str())));
    let folder = tempfile::tempdir().unwrap();
    let rows = |stage: &str| {
        let row = |n: usize| json!({"prompt_id": format!("{stage}{n}"), "prompt": format!("{stage} {n}?")});
        (0..10).map(|n| row(n).to_string()).collect::<Vec<_>>().join("\n")
    };
    let mut text = "name = \"limited\"\n[limits]\nmax_requests = 14\n".to_owned();
    for stage in ["one", "two"] {
        std::fs::write(folder.path().join(format!("{stage}.jsonl")), rows(stage)).unwrap();
        let paths = folder.path().join(format!("{stage}.jsonl"));
        text.push_str(&format!(
            "[stage.{stage}_prompts]\nkind = \"read\"\npaths = [{paths:?}]\n[stage.{stage}]\nkind = \"generate\"\n\
             input = \"{stage}_prompts\"\nmin_tokens = 1\n[stage.{stage}.llm]\nbase_urls = [{url:?}]\nmodel = \"m\"\n\
             usd_per_million_completion_tokens = 1000.0\n"
        ));
    }
    let path = folder.path().join("limited.toml");
    std::fs::write(&path, text).unwrap();
    let runs = folder.path().join("runs");
    let go = |until: &str, set: &[&str]| {
        let mut command = pipeline();
        command.arg("run").arg(&path).args(["--until", until, "--runs"]).arg(&runs);
        set.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        run(&mut command)
    };
    let first = go("one", &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    let second = go("two", &[]);
    assert_eq!(second.code, Some(1), "{}", second.err);
    for words in ["the run's budget of 14 requests", "raise max_requests in the workflow's [limits]"] {
        assert!(second.err.contains(words), "{words} not in: {}", second.err);
    }
    let spent = || -> Json {
        let file = std::fs::read(runs.join("limited/sample/.answers/spent.json")).unwrap();
        serde_json::from_slice::<Json>(&file).unwrap()["stages"].clone()
    };
    let before = spent();
    assert_eq!((&before["one"]["requests"], &before["two"]["requests"]), (&json!(10), &json!(4)), "{before}");
    let third = go("two", &["limits.max_requests=20"]);
    assert_eq!(third.code, Some(0), "{}", third.err);
    let after = spent();
    assert_eq!(after["two"]["requests"], 10, "{after}");
    let usd = after["two"]["usd"].as_f64().unwrap();
    assert!((usd - 10.0 * 20.0 * 1e-3).abs() < 1e-9, "{usd}");
}
