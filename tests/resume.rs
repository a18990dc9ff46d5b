//! A run that is killed at any moment and started again ends with the bytes of an undisturbed one.
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{
    copied_run, digests, generate_workflow, outputs, pipeline, reference_run, run, run_folder, serve, tiny,
    wait_for,
};

const KILLS: u32 = 20;

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bytes() {
    let reference = reference_run();
    let mut folder = tempfile::tempdir().unwrap();
    // Seeded, so that a failure can be repeated; the moments cover start-up and every stage.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut killed = 0;
    while killed < KILLS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let wait = Duration::from_millis(20 + state % 4000);
        let mut child =
            pipeline().args(tiny(folder.path())).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        } else {
            // It came to its end between two kills: the next ones hit a new run.
            same_bytes(&reference, folder.path());
            folder = tempfile::tempdir().unwrap();
        }
    }
    let said = run(pipeline().args(tiny(folder.path())));
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    same_bytes(&reference, folder.path());
}

fn same_bytes(reference: &Path, runs: &Path) {
    let (expected, found) = (outputs(reference), outputs(runs));
    let names = |files: &[(String, String)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected, "other bytes after kills");
    }
    assert!(expected.iter().any(|(path, _)| path == "model/final/model.safetensors"));
    assert!(expected.iter().any(|(path, _)| path.starts_with("corpus/data/")));
}

#[test]
fn a_second_run_does_nothing_and_says_so() {
    let runs = reference_run();
    let before = digests(&run_folder(&runs));
    let said = run(pipeline().args(tiny(&runs)));
    assert_eq!(said.code, Some(0));
    assert!(said.out.contains("nothing to do"), "{}", said.out);
    assert_eq!(digests(&run_folder(&runs)), before);
}

#[test]
fn a_changed_setting_runs_only_what_depends_on_it() {
    let runs = reference_run();
    let mut plan = pipeline();
    let mut arguments = tiny(&runs);
    arguments[0] = "plan".to_owned();
    let said = run(plan.args(arguments).args(["--set", "stage.evaluation.max_texts=4", "--json"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    for line in said.out.lines() {
        let stage: serde_json::Value = serde_json::from_str(line).unwrap();
        let expected = match stage["stage"].as_str().unwrap() {
            "evaluation" => "run",
            "dataset" => "after inputs",
            _ => "up to date",
        };
        assert_eq!(stage["state"], expected, "{line}");
    }
}

#[test]
fn a_lost_last_rename_is_made_up_for() {
    // Killed between writing the manifest and the last rename: the folder is still the partial one.
    let folder = copied_run();
    let run_folder = run_folder(folder.path());
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run_folder.join("dataset/manifest.json")).unwrap()).unwrap();
    let fingerprint = &manifest["fingerprint"].as_str().unwrap()[..16];
    let partial = run_folder.join(format!(".partial-dataset-{fingerprint}"));
    std::fs::rename(run_folder.join("dataset"), &partial).unwrap();
    let said = run(pipeline().args(tiny(folder.path())));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(run_folder.join("dataset/README.md").exists() && !partial.exists());
}

#[cfg(unix)]
fn press_ctrl_c(child: &Child) {
    // The shell's own: a bare machine has no program of this name.
    assert!(
        Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success()
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_what_is_in_flight_and_the_run_goes_on_later() {
    let reference = reference_run();
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        pipeline().args(tiny(folder.path())).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let seeds = run_folder(folder.path()).join("retrieve/manifest.json");
    wait_for("the seeds do not come", || seeds.exists());
    press_ctrl_c(&child);
    let status = child.wait().unwrap();
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("press Ctrl-C again"), "{said}");
    assert!(!run_folder(folder.path()).join("dataset").exists());
    let said = run(pipeline().args(tiny(folder.path())));
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    same_bytes(&reference, folder.path());
}

#[cfg(unix)]
#[test]
fn a_second_ctrl_c_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // The server does not answer, and the client would wait for it.
    let text = generate_workflow(folder.path(), &serve(None)).replace("= 2.0", "= 60.0");
    let workflow = folder.path().join("w.toml");
    std::fs::write(&workflow, text).unwrap();
    let mut program = pipeline();
    let program = program.arg("run").arg(workflow).arg("--runs").arg(folder.path());
    let mut child = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let prompts = folder.path().join("w/sample/prompts/manifest.json");
    wait_for("the prompts are not read", || prompts.exists());
    std::thread::sleep(Duration::from_millis(300));
    press_ctrl_c(&child);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it does not wait for what is in flight");
    press_ctrl_c(&child);
    let pressed = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(pressed.elapsed() < Duration::from_secs(20), "it waits for a server that does not answer");
}
