//! The n-th call fails, once or from then on: the disk is full, reports errors, writes but a part, does not
//! sync; and the process is killed at exactly that call.

use std::path::Path;
use std::process::Command;

use crate::fixture::Fixture;
use crate::language_model::Server;
use crate::shim::{self, Fault};
use crate::support::run;

const MODES: [(&str, bool); 9] = [
    ("kill", false),
    ("enospc", false),
    ("enospc", true),
    ("eio", false),
    ("eio", true),
    ("short", false),
    ("short", true),
    ("fsync", false),
    ("fsync", true),
];

#[test]
fn every_call_may_fail() {
    if !shim::ready() {
        return;
    }
    let fixture = Fixture::new(Server::faithful());
    let calls = shim::count_calls(&fixture);
    let (mut stopped, mut completed, mut struck) = (0, 0, 0);
    // One mode alone, for a closer look.
    let wanted = std::env::var("CORPUSMITH_IO_MODE").ok();
    let modes = MODES.into_iter().filter(|(mode, _)| wanted.as_ref().is_none_or(|wanted| wanted == mode));
    for (salt, (mode, ever)) in modes.enumerate() {
        for at in shim::points(calls, 3, "CORPUSMITH_IO_POINTS", salt as u64) {
            let runs = tempfile::tempdir().unwrap();
            fixture.server.forgive();
            let (said, made) = shim::run_with(&fixture, runs.path(), &Fault { mode, at, ever });
            struck += usize::from(made.iter().any(|call| call.starts_with('!')));
            let place = made.iter().find(|call| call.starts_with('!')).cloned().unwrap_or_default();
            let after = format!("{mode} at call {at} of {calls} (ever: {ever}; {place})");
            assert!(!said.err.contains("panicked"), "{after}: {}", said.err);
            match said.code {
                // It says that it is done: then all must be there.
                Some(0) => {
                    fixture.check(runs.path(), &after);
                    // Nobody knows what is on disk after a failed sync, whatever reading it gives.
                    assert!(mode != "fsync" || place.is_empty(), "{after}: it took a failed sync for done");
                    if !place.is_empty() && mode != "short" {
                        eprintln!("borne: {after}");
                    }
                    completed += 1;
                }
                Some(1) => {
                    assert_ne!(mode, "short", "{after}: {}", said.err);
                    assert!(said.err.len() > 20, "{after}: it does not say why");
                    stopped += 1;
                }
                None => assert_eq!(mode, "kill", "{after}: {}", said.err),
                other => panic!("{after}: exit code {other:?}: {}", said.err),
            }
            fixture.keep_answers(runs.path());
            fixture.complete(runs.path(), &format!("going on after {after}"));
        }
    }
    assert!(struck > 0, "no fault struck");
    eprintln!("{calls} calls a run; {struck} faults struck: {completed} runs completed, {stopped} stopped");
}

#[test]
fn a_full_disk_stops_the_run_and_room_lets_it_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), "300k") else {
        eprintln!("skipped: a small disk can only be mounted by root");
        return;
    };
    let fixture = Fixture::new(Server::faithful());
    let said = run(&mut fixture.command(folder.path()));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("make room") || said.err.contains("No space left"), "{}", said.err);
    fixture.keep_answers(folder.path());
    disk.grow("64m");
    fixture.complete(folder.path(), "after a full disk");
}

/// A file system in memory, as large as is said.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder);
        mount.output().is_ok_and(|said| said.status.success()).then_some(Self(folder))
    }

    fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        let grown = mount.args(["-o", &format!("remount,size={size}")]).arg(self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // The folder is removed after it; a failure shows there.
        let _ = Command::new("umount").arg(self.0).status();
    }
}
