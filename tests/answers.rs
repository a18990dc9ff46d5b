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
