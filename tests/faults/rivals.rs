//! Several processes on one run's folder: one works, the others say who does.

use std::process::Stdio;
use std::time::Duration;

use crate::fixture::{Fixture, run_folder, size};
use crate::language_model::{Reply, Server};
use crate::support::{pipeline, run};

#[test]
fn one_wins_and_the_others_say_who_holds_the_folder() {
    let processes = size("CORPUSMITH_RIVALS", 8);
    for round in 0..size("CORPUSMITH_RIVAL_ROUNDS", 3) {
        let fixture = Fixture::new(Server::start(Duration::from_millis(10), Box::new(|_, _| Reply::Answer)));
        let runs = tempfile::tempdir().unwrap();
        let started: Vec<_> = (0..processes)
            .map(|_| {
                let mut command = fixture.command(runs.path());
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let pids: Vec<u32> = started.iter().map(std::process::Child::id).collect();
        let (mut won, mut told) = (0, 0);
        for child in started {
            let said = child.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&said.stderr).into_owned();
            match said.status.code() {
                // The first, or one that came when there was nothing left to do.
                Some(0) => won += 1,
                Some(1) => {
                    let named = pids.iter().any(|pid| words.contains(&format!("process {pid} on")));
                    let being_named = words.contains("another `pipeline` works in");
                    assert!(named || being_named, "round {round}: {words}");
                    told += 1;
                }
                other => panic!("round {round}: exit code {other:?}: {words}"),
            }
        }
        assert!(won >= 1 && told >= 1, "round {round}: {won} won, {told} were told");
        fixture.check(runs.path(), &format!("round {round}"));
        let asked = fixture.server.asked();
        assert!(asked.values().all(|times| *times == 1), "round {round}: asked twice: {asked:?}");
    }
}

#[test]
fn nothing_is_repaired_under_a_run_at_work() {
    let fixture = Fixture::new(Server::start(Duration::from_millis(200), Box::new(|_, _| Reply::Answer)));
    let runs = tempfile::tempdir().unwrap();
    let mut command = fixture.command(runs.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !run_folder(runs.path()).join("prompts/manifest.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    for more in [&["--dry-run"][..], &[]] {
        let said = run(pipeline().arg("repair").arg(run_folder(runs.path())).args(more));
        assert_eq!(said.code, Some(1), "{}", said.out);
        assert!(said.err.contains(&format!("process {} on", child.id())), "{}", said.err);
    }
    // A look is allowed, and says that somebody works there.
    let said = run(pipeline().arg("verify").arg(run_folder(runs.path())));
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains(&format!("process {} on", child.id())), "{}", said.out);
    child.kill().unwrap();
    child.wait().unwrap();
    fixture.keep_answers(runs.path());
}
