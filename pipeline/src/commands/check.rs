//! `pipeline check`: every problem of a workflow file at once.

use super::Failure;
use crate::cli::WorkflowArgs;
use crate::workflow;

/// Checks a workflow file.
///
/// # Errors
/// All its problems.
pub fn check(args: &WorkflowArgs) -> Result<(), Failure> {
    let workflow = workflow::load(&args.workflow, &args.overrides())?;
    let stages = workflow.stages.len();
    println!("{}: {stages} stages, profile {}, no problem", args.workflow.display(), workflow.profile);
    Ok(())
}
