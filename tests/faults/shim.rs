//! `shim.c`, compiled by the test, between the program and the system's calls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::fixture::Fixture;
use crate::support::{Said, repository, run};

/// What is to happen.
pub struct Fault {
    pub mode: &'static str,
    /// The call from which on, counted from 1.
    pub at: usize,
    /// Whether all calls from there on fail.
    pub ever: bool,
}

/// Where the library is; `None` on a machine without a C compiler.
fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("shim.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library);
        compiler.arg(repository().join("tests/faults/shim.c")).args(["-ldl", "-lpthread"]);
        match compiler.output() {
            Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr)),
            Err(error) => {
                eprintln!("skipped: no C compiler ({error})");
                return None;
            }
        }
        Some((folder, library))
    });
    built.as_ref().map(|(_, library)| library.as_path())
}

/// Whether faults can be made on this machine.
pub fn ready() -> bool {
    library().is_some()
}

/// Runs the workflow with a fault; returns what it said and the calls that it made.
pub fn run_with(fixture: &Fixture, runs: &Path, fault: &Fault) -> (Said, Vec<String>) {
    strike(&mut fixture.command(runs), runs, fault)
}

/// Runs a command with a fault in the calls that write under `root`.
pub fn strike(command: &mut Command, root: &Path, fault: &Fault) -> (Said, Vec<String>) {
    let beside = tempfile::tempdir().unwrap();
    let (log, trash) = (beside.path().join("calls"), beside.path().join("trash"));
    std::fs::create_dir(&trash).unwrap();
    command.env("LD_PRELOAD", library().unwrap()).env("FAULT_ROOT", root).env("FAULT_LOG", &log);
    command.env("FAULT_TRASH", &trash).env("FAULT_MODE", fault.mode).env("FAULT_AT", fault.at.to_string());
    if fault.ever {
        command.env("FAULT_EVER", "1");
    }
    let said = run(command);
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    (said, calls.lines().map(str::to_owned).collect())
}

/// How many calls an undisturbed run makes.
pub fn count_calls(fixture: &Fixture) -> usize {
    let runs = tempfile::tempdir().unwrap();
    let (said, calls) = run_with(fixture, runs.path(), &Fault { mode: "count", at: 1, ever: false });
    assert_eq!(said.code, Some(0), "{}", said.err);
    fixture.check(runs.path(), "counting");
    assert!(calls.len() >= 200, "{} calls", calls.len());
    calls.len()
}

/// The points at which a fault strikes: some of them, or every one.
pub fn points(calls: usize, usual: usize, variable: &str, salt: u64) -> Vec<usize> {
    if std::env::var(variable).is_ok_and(|text| text == "all") {
        return (1..=calls).collect();
    }
    let count = crate::fixture::size(variable, usual);
    let mut dice = crate::fixture::Dice::new(salt);
    (0..count).map(|_| 1 + dice.below(calls)).collect()
}
