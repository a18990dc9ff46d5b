//! Bad input of every kind gives one clear error that names the place and the mend; exit code 2 for
//! wrong input, 1 for a failed run; nothing already finished is lost.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use support::{Said, generate_workflow, pipeline, query, repository, run, serve};

/// Writes a workflow and runs `pipeline <command>` on it in a folder of its own.
fn on_workflow(command: &str, text: &str) -> (Said, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.toml");
    std::fs::write(&path, text).unwrap();
    let mut program = pipeline();
    program.arg(command).arg(&path);
    if command == "run" {
        program.arg("--runs").arg(folder.path().join("runs"));
    }
    (run(&mut program), folder)
}

fn assert_says(said: &Said, code: i32, words: &[&str]) {
    for word in words {
        assert!(said.err.contains(word), "no `{word}` in:\n{}\n{}", said.err, said.out);
    }
    assert_eq!(said.code, Some(code), "{}", said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn a_workflow_with_many_mistakes_gets_them_all_at_once_with_places() {
    let text = "name = \"w\"\n[stage.a]\nkind = \"reed\"\n[stage.b]\nkind = \"filter\"\ninput = \"c\"\nkeeep = \"x\"\n";
    let (said, _folder) = on_workflow("check", text);
    assert_says(
        &said,
        2,
        &[
            "w.toml:3:8",
            "did you mean \"read\"?",
            "w.toml:6:9",
            "no stage `c`",
            "w.toml:7:1",
            "did you mean `keep`?",
        ],
    );
}

#[test]
fn a_workflow_that_is_no_toml_or_not_there() {
    let (said, _folder) = on_workflow("check", "name = \n[stage");
    assert_says(&said, 2, &["w.toml:1"]);
    let said = run(pipeline().args(["check", "no/such/workflow.toml"]));
    assert_says(&said, 2, &["no/such/workflow.toml"]);
}

#[test]
fn a_cycle() {
    let text = "name = \"w\"\n[stage.a]\nkind = \"filter\"\ninput = \"b\"\nkeep = \"x\"\n[stage.b]\nkind = \"filter\"\ninput = \"a\"\nkeep = \"x\"\n";
    let (said, _folder) = on_workflow("check", text);
    assert_says(&said, 2, &["cycle: a → b → a"]);
}

fn read_and_filter(path: &Path, keep: &str) -> String {
    format!(
        "name = \"w\"\n[stage.pages]\nkind = \"read\"\npaths = [{:?}]\n[stage.kept]\nkind = \"filter\"\ninput = \"pages\"\nkeep = {keep:?}\n",
        path.display().to_string()
    )
}

/// Three pages as JSONL, with `extra` lines behind them.
fn pages(folder: &Path, extra: &[u8]) -> PathBuf {
    let path = folder.join("pages.jsonl");
    let mut text = Vec::new();
    for i in 0..3 {
        text.extend(format!("{{\"id\": \"p{i}\", \"text\": \"page {i}\", \"n\": {i}}}\n").into_bytes());
    }
    text.extend(extra);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_glob_that_matches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (said, _folder) = on_workflow("run", &read_and_filter(&folder.path().join("*.parquet"), "n > 0"));
    assert_says(&said, 2, &["stage `pages`", "*.parquet", "matches no file"]);
}

#[test]
fn rows_that_are_not_written_out_are_read_by_stages_that_go_file_by_file() {
    let folder = tempfile::tempdir().unwrap();
    pages(folder.path(), b"not JSON\n");
    std::fs::copy(folder.path().join("pages.jsonl"), folder.path().join("more.jsonl")).unwrap();
    let text = read_and_filter(&folder.path().join("*.jsonl"), "n > 0");
    let fused = text.replace("[stage.kept]", "materialize = false\n[stage.kept]");
    let (said, runs) = on_workflow("run", &fused);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let run_folder = runs.path().join("runs/w/sample");
    assert_eq!(query(&run_folder.join("kept"), "SELECT count(*) AS n FROM data")[0]["n"], 4);
    assert!(said.out.contains("failed: bad_json 2"), "{}", said.out);
    assert!(!run_folder.join("pages").exists());
    let whole = fused.replace("kind = \"filter\"", "kind = \"exact_dedup\"").replace("keep = \"n > 0\"", "");
    let (said, _runs) = on_workflow("run", &whole);
    assert_says(&said, 2, &["stage `pages`", "cannot be fused", "materialize = false"]);
}

#[test]
fn a_truncated_parquet_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages.parquet");
    std::fs::write(&path, b"PAR1 and then nothing of a Parquet file").unwrap();
    let (said, _folder) = on_workflow("run", &read_and_filter(&path, "n > 0"));
    assert_says(&said, 2, &["stage `pages`", "pages.parquet", "not a whole Parquet file"]);
}

#[test]
fn a_wrong_column_and_a_wrong_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = pages(folder.path(), b"");
    let (said, _folder) = on_workflow("run", &read_and_filter(&path, "nn > 0"));
    assert_says(&said, 2, &["stage `kept`", "nn"]);
    let text = format!(
        "name = \"w\"\n[stage.pages]\nkind = \"read\"\npaths = [{:?}]\n[stage.scored]\nkind = \"score\"\ninput = \"pages\"\ntext_column = \"n\"\n",
        path.display().to_string()
    );
    let (said, _folder) = on_workflow("run", &text);
    assert_says(&said, 2, &["stage `scored`", "`n`"]);
}

#[test]
fn bad_lines_are_counted_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = pages(folder.path(), b"\xff\xfe\n{\"id\": \n{\"id\": \"last\", \"text\": \"t\", \"n\": 9}\n");
    let (said, runs) = on_workflow("run", &read_and_filter(&path, "n > 0"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out.contains("failed: not_utf8 1") && said.out.contains("failed: bad_json 1"),
        "{}",
        said.out
    );
    let quarantine = runs.path().join("runs/w/sample/pages/quarantine/00000.parquet");
    let shown = run(pipeline().arg("inspect").arg(&quarantine).args([
        "--sql",
        "SELECT id FROM data ORDER BY id",
        "--json",
    ]));
    assert!(shown.out.contains("pages.jsonl:4") && shown.out.contains("pages.jsonl:5"), "{}", shown.out);
}

#[test]
fn a_head_that_is_not_there_is_found_before_the_run() {
    let text = "name = \"w\"\n[stage.pages]\nkind = \"sample_dump\"\ncontent = \"pages\"\n\
                [stage.score]\nkind = \"score\"\ninput = \"pages\"\nhead = \"edu_webb\"\n";
    let (said, _runs) = on_workflow("check", text);
    assert_says(&said, 2, &["`edu_webb` is neither a head", "edu_python"]);
}

#[test]
fn a_foreign_or_broken_onnx_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = pages(folder.path(), b"");
    let model = folder.path().join("model.onnx");
    std::fs::write(&model, b"this is no ONNX file").unwrap();
    let text = format!(
        "name = \"w\"\n[stage.pages]\nkind = \"read\"\npaths = [{:?}]\n[stage.scored]\nkind = \"score\"\ninput = \"pages\"\nbackbone = {:?}\n",
        path.display().to_string(),
        model.display().to_string()
    );
    let (said, _folder) = on_workflow("run", &text);
    assert_says(&said, 2, &["stage `scored`", "model.onnx"]);
}

fn ask(answer: Option<&'static str>) -> (Said, tempfile::TempDir, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (said, runs) = on_workflow("run", &generate_workflow(folder.path(), &serve(answer)));
    (said, runs, folder)
}

#[test]
fn a_server_that_refuses_the_key_ends_the_run() {
    let (said, _runs, _folder) =
        ask(Some("HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\nConnection: close\r\n\r\nbad key"));
    assert_says(&said, 1, &["stage `generate`", "401", "key"]);
}

#[test]
fn a_server_that_is_down_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", free.local_addr().unwrap());
    drop(free);
    let (said, _runs) = on_workflow("run", &generate_workflow(folder.path(), &url));
    assert_says(&said, 1, &["stage `generate`", "127.0.0.1"]);
}

/// When every row fails, the run fails, with the first failure's reason and the server's address; it
/// neither hangs nor panics.
fn assert_handled(said: &Said, reason: &str) {
    assert_says(said, 1, &["stage `generate`", "every row failed", reason, "127.0.0.1"]);
}

#[test]
fn a_server_that_answers_500_or_429() {
    let (said, _runs, _folder) =
        ask(Some("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"));
    assert_handled(&said, "llm_http_500");
    let (said, _runs, _folder) =
        ask(Some("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow"));
    assert_handled(&said, "llm_http_429");
}

#[test]
fn a_server_that_answers_garbage_or_stalls() {
    let (said, _runs, _folder) = ask(Some(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"choices",
    ));
    assert_handled(&said, "llm_bad_json");
    let (said, _runs, _folder) = ask(None);
    assert_handled(&said, "llm_timeout");
}

const GOOD_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 177\r\nConnection: close\r\n\r\n\
    {\"model\": \"m\", \"choices\": [{\"message\": {\"role\": \"assistant\", \"content\": \"A text about it.\"}, \"finish_reason\": \"stop\"}], \"usage\": {\"prompt_tokens\": 5, \"completion_tokens\": 6}   }";

#[test]
fn any_openai_compatible_server_is_one_line_of_toml() {
    let (said, runs, _folder) = ask(Some(GOOD_ANSWER));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let generated = runs.path().join("runs/w/sample/generate");
    let shown = run(pipeline().arg("inspect").arg(&generated).args([
        "--sql",
        "SELECT completion FROM data",
        "--json",
    ]));
    assert_eq!(shown.out.matches("A text about it.").count(), 3, "{}", shown.out);
}

#[test]
fn failed_rows_are_asked_again_by_retry_and_only_those() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REQUESTS: AtomicU32 = AtomicU32::new(0);
    // A server that fails for one prompt until it is mended.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let mended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server_mended = mended.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = vec![0; 65536];
            let read = stream.read(&mut buffer).unwrap_or(0);
            REQUESTS.fetch_add(1, Ordering::SeqCst);
            let asked = String::from_utf8_lossy(&buffer[..read]).contains("Write about 1.");
            let answer = if asked && !server_mended.load(Ordering::SeqCst) {
                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
            } else {
                GOOD_ANSWER
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let (said, runs) = on_workflow("run", &generate_workflow(folder.path(), &url));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("failed: llm_http_500 1"), "{}", said.out);
    mended.store(true, Ordering::SeqCst);
    let before = REQUESTS.load(Ordering::SeqCst);
    let workflow = runs.path().join("w.toml");
    let said = run(pipeline().arg("retry").arg(&workflow).arg("--runs").arg(runs.path().join("runs")));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(REQUESTS.load(Ordering::SeqCst) - before, 1, "only the failed row may be asked again");
    let generated = runs.path().join("runs/w/sample/generate");
    let shown = run(pipeline().arg("inspect").arg(&generated).args([
        "--sql",
        "SELECT count(*) AS n FROM data",
        "--json",
    ]));
    assert!(shown.out.contains("\"n\":3"), "{}", shown.out);
}

#[test]
fn two_runs_cannot_work_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = pages(folder.path(), b"");
    let (said, runs) = on_workflow("run", &read_and_filter(&path, "n > 0"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let lock = std::fs::File::create(runs.path().join("runs/w/sample/.lock")).unwrap();
    lock.lock().unwrap();
    let said = run(pipeline()
        .arg("run")
        .arg(runs.path().join("w.toml"))
        .arg("--runs")
        .arg(runs.path().join("runs")));
    assert_says(&said, 1, &["another `pipeline` works in"]);
}

#[test]
fn a_missing_package_client_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = pipeline();
    command.env("PATH", folder.path()).env("CORPUSMITH_ASSETS", folder.path().join("assets"));
    let said = run(command.args(["assets", "pull", "humaneval"]));
    assert_says(&said, 2, &["humaneval", "not installed"]);
    let said = run(pipeline().args(["assets", "pull", "humanevil"]));
    assert_says(&said, 2, &["humanevil"]);
}

#[test]
fn a_full_disk_stops_the_run_and_it_resumes_when_there_is_room() {
    // Needs a small file system of its own, which only root can mount.
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&small)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("no file system can be mounted here: the full disk is not tried");
        return;
    }
    let rows: String = (0..4000u64)
        .map(|i| {
            let noise = blake3::hash(&i.to_le_bytes()).to_hex();
            format!("{{\"id\": \"p{i}\", \"text\": \"{noise}{noise}\", \"n\": {i}}}\n")
        })
        .collect();
    let path = folder.path().join("pages.jsonl");
    std::fs::write(&path, rows).unwrap();
    let workflow = folder.path().join("w.toml");
    std::fs::write(&workflow, read_and_filter(&path, "n >= 0")).unwrap();
    let go = || run(pipeline().arg("run").arg(&workflow).arg("--runs").arg(small.join("runs")));
    let full = go();
    let grown = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(&small).status();
    let after = go();
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(grown.unwrap().success() && unmounted.unwrap().success());
    assert_says(&full, 1, &["small/runs", "make room"]);
    assert_eq!(after.code, Some(0), "{}", after.err);
}

#[test]
fn hostile_workflow_names_do_not_leave_the_folder() {
    let (said, _folder) =
        on_workflow("check", "name = \"../up\"\n[stage.a]\nkind = \"read\"\npaths = [\"x.parquet\"]\n");
    assert_says(&said, 2, &["name"]);
    let (said, _folder) =
        on_workflow("check", "name = \"w\"\n[stage.\"../a\"]\nkind = \"read\"\npaths = [\"x.parquet\"]\n");
    assert_says(&said, 2, &["../a"]);
    assert!(repository().join("Cargo.toml").exists());
}
