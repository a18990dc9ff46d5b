//! `pipeline verify` and `pipeline repair`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::Failure;
use crate::cli::{RepairArgs, VerifyArgs};
use crate::integrity::Damage;
use crate::integrity::repair::{self, Action};
use crate::integrity::verify::{self, Report, VerifyError};
use crate::runner::lock::{Claim, lock};
use crate::runner::progress::{emit, group, size};

/// Checks a run's files, a service's ledger, or both.
///
/// # Errors
/// Something is damaged, or there is nothing to check.
pub fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let mut damaged = 0;
    if let Some(run) = &args.run {
        let report = look(run, args.threads)?;
        show(&report.damaged, args.json);
        damaged += report.damaged.len();
        summary(run, &report, started, args.json);
    }
    if let Some(data) = &args.ledger {
        let found = verify::verify_ledger(data).map_err(|problem| Failure::message(problem, ""))?;
        show(&found, args.json);
        damaged += found.len();
        if args.json {
            emit(&json!({"event": "ledger_verified", "folder": data, "damaged": found.len()}));
        } else if found.is_empty() {
            println!("the ledger in {} is whole", data.display());
        }
    }
    match damaged {
        0 => Ok(()),
        n => Err(Failure::failed(format!("{n} of the files looked at are damaged"))),
    }
}

fn look(run: &Path, threads: usize) -> Result<Report, Failure> {
    verify::verify(run, threads).map_err(|error| match error {
        VerifyError::NoRun(_) | VerifyError::Read { .. } if !run.join(".lock").exists() => {
            Failure::message(error, "name a run's folder, for example runs/cosmopedia_v2/sample")
        }
        error => Failure::run(error),
    })
}

fn show(damaged: &[Damage], as_json: bool) {
    for damage in damaged {
        if as_json {
            let mut line = json!(damage);
            line["event"] = "damaged".into();
            emit(&line);
        } else {
            println!("{damage}\n    {}", damage.mend);
        }
    }
}

fn summary(run: &Path, report: &Report, started: Instant, as_json: bool) {
    let seconds = started.elapsed().as_secs_f64();
    if as_json {
        emit(&json!({
            "event": "verified", "folder": run, "files": report.files, "bytes": report.bytes,
            "damaged": report.damaged.len(), "older": report.older, "seconds": seconds,
            "at_work": report.holder,
        }));
        return;
    }
    let verdict = match report.damaged.len() {
        0 => "all are as they were written".to_owned(),
        damaged => format!("{} damaged", group(damaged as u64)),
    };
    println!("{} files, {}, in {seconds:.1} s: {verdict}", group(report.files), size(report.bytes));
    if !report.older.is_empty() {
        println!(
            "finished by an older version, which kept digests of the outputs alone: {}",
            report.older.join(", ")
        );
    }
    if let Some(holder) = &report.holder {
        println!(
            "process {} on {} works in this run: what it makes anew meanwhile may be named here",
            holder.pid, holder.host
        );
    }
}

/// Takes what is damaged out of a run's way.
///
/// # Errors
/// Another process works in the run, or a file cannot be moved.
pub fn repair(args: &RepairArgs) -> Result<(), Failure> {
    if !args.run.is_dir() {
        let words = format!("there is no run in {}", args.run.display());
        return Err(Failure::message(words, "name a run's folder, for example runs/cosmopedia_v2/sample"));
    }
    // Taken for a dry run as well: what another process is at cannot be told from damage.
    let _lock = lock(&args.run, Claim::Polite)?;
    let report = look(&args.run, args.threads)?;
    let actions = repair::plan(&report.damaged);
    show(&report.damaged, args.json);
    let aside = match args.dry_run || actions.is_empty() {
        true => None,
        false => Some(repair::apply(&args.run, &report.damaged, &actions).map_err(Failure::run)?),
    };
    tell(&actions, aside.as_ref(), report.damaged.is_empty(), args);
    Ok(())
}

fn tell(actions: &[Action], aside: Option<&PathBuf>, sound: bool, args: &RepairArgs) {
    let run = &args.run;
    let done: Vec<String> = actions.iter().map(Action::describe).collect();
    if args.json {
        emit(
            &json!({"event": "repaired", "folder": run, "dry_run": args.dry_run, "done": done, "aside": aside}),
        );
        return;
    }
    for action in &done {
        println!("{} {action}", if args.dry_run { "would" } else { "done:" });
    }
    match aside {
        Some(aside) => {
            println!("what was damaged is in {}; the next `pipeline run` makes it anew", aside.display())
        }
        None if sound => println!("nothing is damaged in {}", run.display()),
        None => {}
    }
}
