//! `pipeline plan`: the graph, what is up to date, and what a run would do.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, runtime};
use crate::cli::PlanArgs;
use crate::manifest::Manifest;
use crate::runner::progress::{StageProgress, group, rough};
use crate::runner::stage_run::{StageRun, stage_folder};
use crate::runner::{self, RunOptions};
use crate::workflow::{self, OutputMode, StageNode, Workflow};
use crate::{cli, dag};

/// What a run would do with a stage.
pub enum Forecast {
    /// Nothing: it is up to date.
    UpToDate(Box<Manifest>),
    /// Run it; the last run's manifest, if there is one, tells what to expect.
    Run(Option<Box<Manifest>>),
    /// It depends on what a stage before it will make.
    AfterInputs(Option<Box<Manifest>>),
    /// It is computed inside its consumers.
    Fused,
}

/// The options of a run as the command line gives them.
pub fn run_options(resources: &cli::ResourceArgs) -> RunOptions {
    RunOptions {
        runs_folder: resources.runs_folder.clone(),
        memory_bytes: resources.memory_limit,
        threads: resources.threads,
        shard_bytes: resources.shard_size,
        until: resources.until.clone(),
    }
}

/// Shows what a run would do; writes nothing but an empty run folder.
///
/// # Errors
/// The workflow has problems, or an input is missing.
pub fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let workflow = workflow::load(&args.workflow.workflow, &args.workflow.overrides())?;
    let options = run_options(&args.resources);
    let forecasts = forecast(&workflow, &options)?;
    if args.json {
        for (node, forecast) in &forecasts {
            let (state, manifest) = describe(forecast);
            println!(
                "{}",
                json!({
                    "stage": node.id, "kind": node.kind.name, "inputs": node.inputs, "state": state,
                    "rows": manifest.map(|m| m.rows_out), "seconds": manifest.map(|m| m.seconds),
                })
            );
        }
        return Ok(());
    }
    println!("{} (profile {}): {}\n", workflow.name, workflow.profile, workflow.description);
    print!("{}", dag::draw(&workflow.stages));
    println!();
    let width = forecasts.iter().map(|(node, _)| node.id.len()).max().unwrap_or(0);
    let mut expected_seconds = 0.0;
    let mut unknown = 0;
    for (node, forecast) in &forecasts {
        let (state, manifest) = describe(forecast);
        let last = match manifest {
            Some(m) => format!("{} rows, {:.1} s last time", group(m.rows_out), m.seconds),
            None => "no earlier run to judge by".to_owned(),
        };
        match (forecast, manifest) {
            (Forecast::UpToDate(_) | Forecast::Fused, _) => {}
            (_, Some(manifest)) => expected_seconds += manifest.seconds,
            (_, None) => unknown += 1,
        }
        println!("{:width$}  {state:<12}  {last}", node.id);
    }
    let expected = rough(std::time::Duration::from_secs_f64(expected_seconds));
    println!("\nexpected: about {expected} for the stages that have run before, {unknown} never run");
    Ok(())
}

fn describe(forecast: &Forecast) -> (&'static str, Option<&Manifest>) {
    match forecast {
        Forecast::UpToDate(manifest) => ("up to date", Some(manifest)),
        Forecast::Run(manifest) => ("run", manifest.as_deref()),
        Forecast::AfterInputs(manifest) => ("after inputs", manifest.as_deref()),
        Forecast::Fused => ("fused", None),
    }
}

/// What a run would do with each stage, in order.
///
/// # Errors
/// An input is missing.
pub fn forecast<'a>(
    workflow: &'a Workflow,
    options: &RunOptions,
) -> Result<Vec<(&'a StageNode, Forecast)>, Failure> {
    let env = runner::environment(workflow, options, CancellationToken::new())?;
    let nodes =
        runner::selection(workflow, options.until.as_deref()).map_err(runner::error::RunError::from)?;
    let runtime = runtime(options.threads)?;
    let mut fresh: Vec<&str> = Vec::new();
    let mut forecasts = Vec::new();
    for node in nodes {
        if node.output == OutputMode::Fuse {
            if node.upstream().iter().all(|id| fresh.contains(id)) {
                fresh.push(&node.id);
            }
            forecasts.push((node, Forecast::Fused));
            continue;
        }
        let folder = stage_folder(&env.run_folder, &node.id);
        let last = Manifest::read(&folder).map_err(runner::error::RunError::from)?.map(Box::new);
        if !node.upstream().iter().all(|id| fresh.contains(id)) {
            forecasts.push((node, Forecast::AfterInputs(last)));
            continue;
        }
        let progress = StageProgress::default();
        let inputs = runner::resolver(workflow, &env, node, &progress);
        let run = StageRun { env: env.clone(), node, inputs, progress };
        let fingerprint = runtime.block_on(run.fingerprint()).map_err(runner::error::RunError::from)?;
        forecasts.push(match last {
            Some(manifest) if manifest.fingerprint == fingerprint => {
                fresh.push(&node.id);
                (node, Forecast::UpToDate(manifest))
            }
            last => (node, Forecast::Run(last)),
        });
    }
    Ok(forecasts)
}
