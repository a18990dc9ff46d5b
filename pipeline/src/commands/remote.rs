//! Commands that speak with a service: `pipeline --server URL run|ls|logs|cancel|pause|resume`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use service::client::{CA_VARIABLE, Client, TOKEN_VARIABLE};
use service::run::{Run, RunId, RunState, StageState};

use super::{Failure, runtime};
use crate::cli::{LogsArgs, LsArgs, RunArgs};
use crate::runner::progress::group;
use crate::table;

/// How often a log is looked at.
const LOOK: Duration = Duration::from_secs(1);

fn client(server: Option<&str>) -> Result<Client, Failure> {
    let url = server.ok_or_else(|| {
        Failure::message(
            "this speaks with a service, and none is named",
            "name it with --server http://127.0.0.1:8420, or in CORPUSMITH_SERVER",
        )
    })?;
    let authority = std::env::var_os(CA_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    Client::new(url, std::env::var(TOKEN_VARIABLE).ok(), authority.as_deref()).map_err(Failure::run)
}

/// Runs a workflow on a service, and watches it to its end.
///
/// # Errors
/// The service cannot be reached, refuses, or the run fails.
pub fn run(server: &str, args: &RunArgs) -> Result<(), Failure> {
    let client = client(Some(server))?;
    // The service has its own folder of workflows: what counts is the file's name.
    let file = args.workflow.workflow.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let request = json!({
        "file": file,
        "profile": args.workflow.profile,
        "set": args.workflow.set,
        "name": args.workflow.run_name,
        "until": args.resources.until,
        "from": args.from,
        "for": args.each()?,
    });
    runtime(1)?.block_on(async {
        let runs = client.submit(&request, None).await.map_err(Failure::run)?;
        for run in &runs {
            println!("{run}");
        }
        if args.detach {
            return Ok(());
        }
        for run in &runs {
            watch(&client, run).await?;
        }
        Ok(())
    })
}

async fn watch(client: &Client, id: &RunId) -> Result<(), Failure> {
    let mut seen: Vec<(String, StageState)> = Vec::new();
    let mut last: Option<Run> = None;
    let each = |run: &Run| {
        if last.as_ref().is_none_or(|last| (last.state, &last.waiting_for) != (run.state, &run.waiting_for)) {
            let why = run.waiting_for.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            eprintln!("{}{why}", run.state.name());
        }
        for (stage, progress) in &run.progress {
            let now = (stage.clone(), progress.state);
            if matches!(progress.state, StageState::Done | StageState::UpToDate) && !seen.contains(&now) {
                eprintln!("{stage}: {} out, {:.1} s", group(progress.rows_out), progress.seconds);
                seen.push(now);
            }
        }
        last = Some(run.clone());
    };
    client.watch(id, each).await.map_err(Failure::run)?;
    let run = client.run(id).await.map_err(Failure::run)?;
    match run.state {
        RunState::Succeeded => Ok(()),
        state => {
            let error = run.error.unwrap_or_default();
            Err(Failure::failed(format!("run {id} is {}\n{error}", state.name())))
        }
    }
}

/// Lists runs.
///
/// # Errors
/// The service cannot be reached, or refuses.
pub fn ls(server: Option<&str>, args: &LsArgs) -> Result<(), Failure> {
    let runs = runtime(1)?.block_on(client(server)?.runs(&args.state, args.limit)).map_err(Failure::run)?;
    if args.json {
        for run in &runs {
            println!("{}", serde_json::to_string(run).map_err(Failure::run)?);
        }
        return Ok(());
    }
    let row = |run: &Run| {
        let done = run.progress.values().filter(|stage| stage.ended_ms.is_some()).count();
        let why = run.waiting_for.clone().filter(|_| run.state == RunState::Queued).unwrap_or_default();
        [
            run.id.to_string(),
            run.folder.clone(),
            run.state.name().to_owned(),
            format!("{done}/{}", run.stages.len()),
            why,
        ]
    };
    print!(
        "{}",
        table::render(
            &["run", "folder", "state", "stages", ""],
            runs.iter().map(row).collect(),
            &[0, 1, 2, 4]
        )
    );
    Ok(())
}

/// Prints a run's log.
///
/// # Errors
/// The service cannot be reached, or refuses.
pub fn logs(server: Option<&str>, args: &LogsArgs) -> Result<(), Failure> {
    let client = client(server)?;
    let id = RunId(args.run.clone());
    runtime(1)?.block_on(async {
        let mut offset = 0;
        loop {
            let ended = client.run(&id).await.map_err(Failure::run)?.state.is_final();
            let (bytes, next) = client.log(&id, offset).await.map_err(Failure::run)?;
            // A reader that went away has seen enough.
            if std::io::stdout().write_all(&bytes).is_err() {
                return Ok(());
            }
            if next == offset {
                if ended || !args.follow {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
            offset = next;
        }
    })
}

/// Asks a run to `cancel`, `pause` or `resume`.
///
/// # Errors
/// The service cannot be reached, or refuses.
pub fn ask(server: Option<&str>, run: &str, action: &str) -> Result<(), Failure> {
    let client = client(server)?;
    runtime(1)?.block_on(client.ask(&RunId(run.to_owned()), action)).map_err(Failure::run)
}
