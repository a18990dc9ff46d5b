//! `pipeline check`: every problem of a workflow file at once.

use super::Failure;
use crate::cli::CheckArgs;
use crate::workflow;

/// Times of a schedule that are shown.
const SHOWN_TIMES: usize = 5;

/// Checks a workflow file.
///
/// # Errors
/// All its problems.
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let workflow = workflow::load(&args.workflow.workflow, &args.workflow.overrides())?;
    if args.json {
        println!("{}", serde_json::to_string(&workflow.shape()).map_err(Failure::run)?);
        return Ok(());
    }
    let stages = workflow.stages.len();
    println!(
        "{}: {stages} stages, profile {}, no problem",
        args.workflow.workflow.display(),
        workflow.profile
    );
    if let Some(Ok(cron)) = workflow.service.schedule.as_ref().map(|schedule| schedule.parsed()) {
        let times = cron.next_times(jiff::Timestamp::now(), SHOWN_TIMES).join(", ");
        println!("`pipeline serve` runs it by itself, next at {times}");
    }
    Ok(())
}
