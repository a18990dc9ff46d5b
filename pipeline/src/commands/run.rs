//! `pipeline run` and `pipeline retry`.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use service::supervisor::RUN_VARIABLE;
use service::trace;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::plan::{self, run_options};
use super::{Failure, runtime};
use crate::cli::RunArgs;
use crate::observe;
use crate::runner::error::RunError;
use crate::runner::lock::{Claim, lock};
use crate::runner::progress::{ProgressMode, Reporter, emit, group, size};
use crate::runner::{self, StageStatus, Summary, retry};
use crate::table;
use crate::workflow::{self, Workflow};

/// Runs a workflow.
///
/// # Errors
/// The workflow has problems, or a stage fails.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let started = Instant::now();
    if !args.each.is_empty() {
        return Err(Failure::message(
            "--for makes several runs, which a service queues",
            "name one with --server",
        ));
    }
    let workflow = workflow::load(&args.workflow.workflow, &args.workflow.overrides())?;
    if args.dry_run {
        return plan::show(&args.workflow, &args.resources, None, args.json);
    }
    execute(&workflow, args, started)
}

/// Asks again for the rows that failed.
///
/// # Errors
/// The workflow has problems, or a stage fails.
pub fn retry(args: &RunArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let workflow = workflow::load(&args.workflow.workflow, &args.workflow.overrides())?;
    let folder = runner::run_folder(&args.resources.runs_folder, &workflow);
    let failed = retry::quarantined_tasks(&workflow, &folder)?;
    if failed.is_empty() {
        println!("no row has failed in {}", folder.display());
        return Ok(());
    }
    for task in &failed {
        println!("{}: {} of task {} to ask again", task.stage, group(task.rows), task.name);
    }
    if args.dry_run {
        return Ok(());
    }
    let lock = lock(&folder, Claim::Polite)?;
    retry::reopen(&folder, &failed)?;
    drop(lock);
    execute(&workflow, args, started)
}

fn execute(workflow: &Workflow, args: &RunArgs, started: Instant) -> Result<(), Failure> {
    let options = run_options(&args.resources);
    let stop = CancellationToken::new();
    let mode = if args.json { ProgressMode::Json } else { ProgressMode::Human };
    let folder = runner::run_folder(&options.runs_folder, workflow);
    if args.supervised {
        end_with_standard_input();
    }
    let lock = lock(&folder, if args.supervised { Claim::supervised() } else { Claim::Polite })?;
    if let Some(stage) = &args.from {
        start_anew(workflow, &folder, stage)?;
    }
    // What a killed run spilled is of no use to this one.
    let spill = folder.join(runner::SPILL_FOLDER);
    crate::durable::remove_folder(&spill).map_err(RunError::from)?;
    let env = runner::environment(workflow, &options, spill, lock.fence(), stop.clone())?;
    // The pool's size is part of how CPU-bound stages share the machine; a second set-up in the
    // same process (tests) keeps the first pool.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
    let runtime = runtime(options.threads)?;
    let reporter = Reporter::start(mode);
    let span = run_span(workflow);
    let result = runtime.block_on(async {
        tokio::spawn(watch_interrupts(stop));
        runner::run(workflow, &options, &env, &reporter).instrument(span.clone()).await
    });
    if result.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    drop(span);
    // Blocking work of a failed run must not hold up the exit.
    runtime.shutdown_background();
    let summary = result?;
    finish(workflow, args, &summary, started)
}

/// The span around all stages: part of the trace that the environment names, where it names one.
fn run_span(workflow: &Workflow) -> Span {
    let span = tracing::info_span!(
        target: trace::TARGET,
        "pipeline run",
        otel.name = format!("pipeline run {}", workflow.name),
        otel.status_code = Empty,
        run = std::env::var(RUN_VARIABLE).ok(),
        workflow = workflow.name,
        run_name = workflow.run_name,
        trace_id = Empty,
    );
    trace::follow(&span, std::env::var(trace::VARIABLE).ok().as_deref());
    span
}

/// The service holds the other end of standard input. When that closes, the service is gone, and this
/// process ends at once: whatever is not published does not exist.
pub(super) fn end_with_standard_input() {
    std::thread::spawn(|| {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
        std::process::exit(1);
    });
}

/// Takes a stage's output away, finished or begun, so that it is made again.
fn start_anew(workflow: &Workflow, folder: &Path, stage: &str) -> Result<(), Failure> {
    runner::selection(workflow, Some(stage)).map_err(RunError::from)?;
    let begun = format!(".partial-{stage}-");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == *stage || name.to_string_lossy().starts_with(&begun) {
            crate::durable::remove_folder(&entry.path()).map_err(RunError::from)?;
        }
    }
    Ok(())
}

/// The first Ctrl-C finishes what is in flight; the second stops at once, which is as safe as a
/// kill: whatever is not published does not exist.
async fn watch_interrupts(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        observe::say("stopping: shards in flight are finished first; press Ctrl-C again to stop at once");
        stop.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(1);
        }
    }
}

fn finish(workflow: &Workflow, args: &RunArgs, summary: &Summary, started: Instant) -> Result<(), Failure> {
    let ran = summary.stages.iter().filter(|(_, status)| matches!(status, StageStatus::Ran(_))).count();
    let seconds = started.elapsed().as_secs_f64();
    let report = summary.folder.join("report.html");
    if ran > 0 || !report.exists() {
        let page = crate::report::render(workflow, summary);
        let html = runtime(args.resources.threads)?.block_on(page).map_err(Failure::run)?;
        crate::durable::write_file(&report, html.as_bytes()).map_err(RunError::from)?;
    }
    if args.json {
        emit(
            &json!({"event": "run_finished", "stages_run": ran, "seconds": seconds, "folder": summary.folder}),
        );
        return Ok(());
    }
    if ran == 0 {
        println!("nothing to do: all {} stages are up to date ({seconds:.2} s)", summary.stages.len());
        println!("outputs: {}", summary.folder.display());
        return Ok(());
    }
    print!("{}", stage_table(summary));
    println!("\n{ran} of {} stages run in {seconds:.1} s", summary.stages.len());
    println!("outputs: {}", summary.folder.display());
    println!("report:  {}", report.display());
    Ok(())
}

/// The table at the end of a run.
fn stage_table(summary: &Summary) -> String {
    let header = ["stage", "rows in", "rows out", "time", "peak memory", "dropped and failed"];
    let rows = summary.stages.iter().map(|(id, status)| {
        let Some(manifest) = status.manifest() else {
            return [id, "", "", "fused", "", ""].map(str::to_owned);
        };
        let lost = manifest.dropped.iter().map(|(reason, n)| format!("{reason} {}", group(*n)));
        let failed = manifest.quarantined.iter().map(|(reason, n)| format!("failed: {reason} {}", group(*n)));
        let time = match status {
            StageStatus::UpToDate(_) => "up to date".to_owned(),
            _ => format!("{:.1} s", manifest.seconds),
        };
        [
            id.clone(),
            if manifest.rows_in > 0 { group(manifest.rows_in) } else { "-".to_owned() },
            group(manifest.rows_out),
            time,
            size(manifest.peak_memory_bytes),
            lost.chain(failed).collect::<Vec<_>>().join(", "),
        ]
    });
    table::render(&header, rows.collect(), &[0, 5])
}
