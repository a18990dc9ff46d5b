//! Killed at random moments.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::{Dice, Fixture, run_folder, size};
use crate::language_model::Server;
use crate::support::{pipeline, run};

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bytes() {
    let fixture = Fixture::new(Server::faithful());
    let mut runs = tempfile::tempdir().unwrap();
    let started = Instant::now();
    fixture.complete(runs.path(), "undisturbed");
    let whole = started.elapsed();
    let (mut dice, kills) = (Dice::new(1), size("CORPUSMITH_KILLS", 20));
    let (mut killed, mut ended, mut kept) = (0, 0, 0);
    while killed < kills {
        // Each run is a new one until a kill leaves it unfinished; then it is gone on with.
        if run_folder(runs.path()).join("report.html").exists() {
            runs = tempfile::tempdir().unwrap();
            fixture.server.forgive();
        }
        let mut command = fixture.command(runs.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(dice.below(1000) as f64 / 1000.0).max(Duration::from_millis(1)));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            kept += fixture.keep_answers(runs.path());
            if run_folder(runs.path()).is_dir() && run_folder(runs.path()).read_dir().unwrap().count() > 2 {
                only_the_log_may_be_torn(runs.path(), killed);
            }
        } else {
            assert_eq!(child.wait().unwrap().code(), Some(0), "after {killed} kills");
            fixture.check(runs.path(), &format!("after {killed} kills"));
            ended += 1;
        }
    }
    fixture.complete(runs.path(), "after the last kill");
    assert!(kept > 0, "no kill came after the first answer");
    eprintln!("{killed} kills; {ended} runs came to their end between them");
}

/// What a kill leaves is whole but for the end of the answer log.
fn only_the_log_may_be_torn(runs: &std::path::Path, kill: usize) {
    let said = run(pipeline().arg("verify").arg(run_folder(runs)).arg("--json"));
    let damaged = said.out.lines().filter(|line| line.contains("\"event\":\"damaged\""));
    for line in damaged {
        assert!(line.contains("answer_log") && line.contains("the last"), "after kill {kill}: {line}");
    }
}
