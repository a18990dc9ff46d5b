//! `pipeline plan`: the graph, what is up to date, and what a run would do and take.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, runtime};
use crate::cli::{PlanArgs, ResourceArgs, WorkflowArgs};
use crate::forecast::cluster::{self, ClusterSize, Share};
use crate::forecast::{Forecaster, Outlook, Past};
use crate::runner::error::{Fault, RunError, StageError};
use crate::runner::lock::Fence;
use crate::runner::progress::{StageProgress, count, duration, group, money, size};
use crate::runner::stage_run::StageRun;
use crate::runner::{self, RunOptions};
use crate::workflow::{self, OutputMode, StageNode, Workflow};
use crate::{dag, table};
use synth::estimate::{Estimate, Range};

/// What a run would do with a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing: it is up to date.
    UpToDate,
    /// Run it.
    Run,
    /// It depends on what a stage before it will make.
    AfterInputs,
    /// It is computed inside its consumers.
    Fused,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::Run => "run",
            Self::AfterInputs => "after inputs",
            Self::Fused => "fused",
        }
    }
}

struct Forecast<'a> {
    node: &'a StageNode,
    state: State,
    outlook: Outlook,
    memory_bytes: u64,
    /// Why its inputs could not be looked at, where a run may still succeed.
    doubt: Option<String>,
}

/// The options of a run as the command line gives them.
pub fn run_options(resources: &ResourceArgs) -> RunOptions {
    RunOptions {
        runs_folder: resources.runs_folder.clone(),
        memory_bytes: resources.memory_limit,
        threads: resources.threads,
        shard_bytes: resources.shard_size,
        until: resources.until.clone(),
        engine: resources.engine.clone(),
    }
}

/// `pipeline plan`.
///
/// # Errors
/// See [`show`].
pub fn plan(args: &PlanArgs) -> Result<(), Failure> {
    show(&args.workflow, &args.resources, args.cluster, args.json)
}

/// Shows what a run would do and take; writes nothing.
///
/// # Errors
/// The workflow has problems, or an input is missing.
pub fn show(
    workflow: &WorkflowArgs,
    resources: &ResourceArgs,
    cluster: Option<ClusterSize>,
    as_json: bool,
) -> Result<(), Failure> {
    let workflow = workflow::load(&workflow.workflow, &workflow.overrides())?;
    let options = run_options(resources);
    let forecasts = forecast(&workflow, &options)?;
    let shares = cluster.map(|size| shares(&workflow, &forecasts, size, &options));
    if as_json {
        for (at, forecast) in forecasts.iter().enumerate() {
            let mut json = forecast.json();
            if let Some(Share { place, seconds, tasks, moved_bytes }) =
                shares.as_ref().map(|shares| shares[at])
            {
                json["cluster"] = json!({
                    "place": place.name(), "seconds": seconds, "tasks": tasks, "moved_bytes": moved_bytes,
                });
            }
            println!("{json}");
        }
        return Ok(());
    }
    println!("{} (profile {}): {}\n", workflow.name, workflow.profile, workflow.description);
    println!("{}", dag::draw(&workflow.stages));
    print!("{}", rows_of(&forecasts));
    println!("\n{}", totals(&forecasts, &options, &workflow.profile));
    if let Some((size, shares)) = cluster.zip(shares) {
        print!("\n{}", on_cluster(&forecasts, &shares, size));
    }
    for Forecast { node, doubt, .. } in &forecasts {
        if let Some(doubt) = doubt {
            println!("{} could not be looked at: {doubt}", node.id);
        }
    }
    Ok(())
}

/// What a run would do with each stage, in order.
fn forecast<'a>(workflow: &'a Workflow, options: &RunOptions) -> Result<Vec<Forecast<'a>>, Failure> {
    let spill = tempfile::tempdir().map_err(Failure::run)?;
    let (spill_folder, stop) = (spill.path().to_owned(), CancellationToken::new());
    let env = runner::environment(workflow, options, spill_folder, Fence::default(), stop)?;
    let nodes = runner::selection(workflow, options.until.as_deref()).map_err(RunError::from)?;
    let runtime = runtime(options.threads)?;
    let mut fresh: Vec<&str> = Vec::new();
    let mut forecaster = Forecaster::default();
    let mut forecasts = Vec::new();
    for node in nodes {
        let inputs_are_fresh = node.upstream().iter().all(|id| fresh.contains(id));
        let (mut state, mut doubt) = (State::AfterInputs, None);
        let last = Past::of_profile(&env.run_folder, &node.id).map_err(RunError::from)?;
        if node.output == OutputMode::Fuse {
            state = State::Fused;
        } else if inputs_are_fresh {
            state = State::Run;
            let progress = StageProgress::default();
            let inputs = runner::resolver(workflow, &env, node, &progress);
            let run = StageRun { env: env.clone(), node, inputs, progress };
            match runtime.block_on(run.fingerprint()) {
                Ok(print) => {
                    if last.as_ref().is_some_and(|last| last.manifest.fingerprint == print) {
                        state = State::UpToDate;
                    }
                }
                // The network may be back when the run starts.
                Err(StageError { fault: Fault::Run, message, .. }) => doubt = Some(message),
                Err(error) => return Err(RunError::from(error).into()),
            }
        }
        if inputs_are_fresh && matches!(state, State::UpToDate | State::Fused) {
            fresh.push(&node.id);
        }
        let outlook = match last {
            Some(last) if state == State::UpToDate => {
                let rows = Some(last.manifest.rows_out as f64);
                let disk_bytes = Some(last.manifest.bytes() as f64);
                forecaster.done(node, last);
                Outlook { rows, disk_bytes, ..Outlook::default() }
            }
            last => forecaster.expect(node, last.or_else(|| Past::of_another(&env.run_folder, &node.id))),
        };
        let memory_bytes = node.stage.needs().memory_bytes(options.memory_bytes);
        forecasts.push(Forecast { node, state, outlook, memory_bytes, doubt });
    }
    Ok(forecasts)
}

impl Forecast<'_> {
    fn json(&self) -> serde_json::Value {
        let Outlook { rows, seconds, disk_bytes, asks, gpu_hours, measured_in } = &self.outlook;
        json!({
            "stage": self.node.id, "kind": self.node.kind.name, "inputs": self.node.inputs,
            "state": self.state.name(), "rows": rows, "seconds": seconds, "disk_bytes": disk_bytes,
            "memory_bytes": self.memory_bytes, "gpu_hours": gpu_hours,
            "asks": asks, "measured_in": measured_in, "doubt": self.doubt,
        })
    }
}

/// `34.0 M (34.0 M to 51.0 M)`
fn between(range: Range, show: fn(f64) -> String) -> String {
    let [low, expected, high] = [range.low, range.expected, range.high].map(show);
    if low == high { expected } else { format!("{expected} ({low} to {high})") }
}

/// The table of the stages.
fn rows_of(forecasts: &[Forecast<'_>]) -> String {
    let header =
        ["stage", "state", "rows", "time here", "disk", "memory", "requests", "tokens in + out", "GPU hours"];
    let rows = forecasts.iter().map(|Forecast { node, state, outlook, memory_bytes, .. }| {
        let shown = |value: Option<f64>, show: fn(f64) -> String| value.map(show).unwrap_or_default();
        let working = !matches!(state, State::UpToDate | State::Fused);
        let memory = if working { size(*memory_bytes) } else { String::new() };
        let asks = outlook.asks.as_ref();
        [
            node.id.clone(),
            state.name().to_owned(),
            outlook.rows.map_or_else(|| "?".to_owned(), count),
            shown(outlook.seconds, |seconds| duration(Duration::from_secs_f64(seconds))),
            shown(outlook.disk_bytes.filter(|_| working), |bytes| size(bytes as u64)),
            memory,
            asks.map(|asks| count(asks.requests.expected)).unwrap_or_default(),
            asks.map(|asks| {
                format!("{} + {}", count(asks.prompt_tokens.expected), count(asks.answer_tokens.expected))
            })
            .unwrap_or_default(),
            shown(outlook.gpu_hours, |hours| {
                if hours < 0.05 { "< 0.1".to_owned() } else { group(hours.ceil() as u64) }
            }),
        ]
    });
    table::render(&header, rows.collect(), &[0, 1])
}

/// What each stage takes on a cluster.
fn shares(
    workflow: &Workflow,
    forecasts: &[Forecast<'_>],
    size: ClusterSize,
    options: &RunOptions,
) -> Vec<Share> {
    let bytes: BTreeMap<&str, Option<f64>> =
        forecasts.iter().map(|forecast| (forecast.node.id.as_str(), forecast.outlook.disk_bytes)).collect();
    let share = |Forecast { node, outlook, .. }: &Forecast<'_>| {
        // What the first role has is cut into tasks; the rest is read by each.
        let first = node.kind.inputs.first().and_then(|input| node.inputs.get(input.role));
        let read = first.map(|ids| ids.iter().map(|id| bytes.get(id.as_str()).copied().flatten()).sum());
        cluster::share(
            workflow,
            node,
            outlook,
            size,
            options.threads,
            read.unwrap_or(None),
            options.shard_bytes,
        )
    };
    forecasts.iter().map(share).collect()
}

/// The table of the stages on a cluster, and its sum.
fn on_cluster(forecasts: &[Forecast<'_>], shares: &[Share], cluster: ClusterSize) -> String {
    let working = |forecast: &Forecast<'_>| !matches!(forecast.state, State::UpToDate | State::Fused);
    let pairs = || forecasts.iter().zip(shares).filter(|(forecast, _)| working(forecast));
    let time = |seconds: f64| duration(Duration::from_secs_f64(seconds));
    let rows = pairs().map(|(Forecast { node, outlook, .. }, share)| {
        let usd = outlook.asks.as_ref().map(|asks| asks.usd.expected).filter(|usd| *usd > 0.0);
        [
            node.id.clone(),
            share.place.name().to_owned(),
            share.tasks.map(count).unwrap_or_default(),
            share.seconds.map(time).unwrap_or_default(),
            share.moved_bytes.map(|bytes| size(bytes as u64)).unwrap_or_default(),
            usd.map(money).unwrap_or_default(),
        ]
    });
    let title = format!("time on {cluster}");
    let header = ["stage", "where", "tasks", title.as_str(), "read + written", "US$"];
    let table = table::render(&header, rows.collect(), &[0, 1]);
    let seconds: f64 = pairs().filter_map(|(_, share)| share.seconds).sum();
    let moved: f64 = pairs().filter_map(|(_, share)| share.moved_bytes).sum();
    format!(
        "{table}on {} machines of {} cores: {}, stage after stage; {} between them and the shared disk. \
         Tasks of equal length, none lost: docs/SCALE.md says what skew, stragglers and preemption add\n",
        cluster.machines,
        cluster.cores,
        time(seconds),
        size(moved as u64)
    )
}

/// What all of it takes together, and where the figures come from.
fn totals(forecasts: &[Forecast<'_>], options: &RunOptions, profile: &str) -> String {
    let open = || forecasts.iter().filter(|forecast| forecast.state != State::UpToDate);
    if open().next().is_none() {
        return "nothing to do: all stages are up to date".to_owned();
    }
    let sum = |figure: fn(&Outlook) -> Option<f64>| open().filter_map(|f| figure(&f.outlook)).sum::<f64>();
    let asks = || open().filter_map(|forecast| forecast.outlook.asks.as_ref());
    let range = |figure: fn(&Estimate) -> Range| asks().map(figure).fold(Range::default(), Range::plus);
    let (seconds, disk_bytes) = (sum(|outlook| outlook.seconds), sum(|outlook| outlook.disk_bytes));
    let gpu_hours = sum(|outlook| outlook.gpu_hours);
    let mut parts = Vec::new();
    if seconds > 0.0 {
        let time = duration(Duration::from_secs_f64(seconds));
        parts.push(format!("{time} on this machine, stage after stage"));
        parts.push(format!("{} of disk", size(disk_bytes as u64)));
    }
    let requests = range(|asks| asks.requests);
    if requests.high > 0.0 {
        let tokens = (range(|asks| asks.prompt_tokens), range(|asks| asks.answer_tokens));
        parts.push(format!(
            "{} requests of {} + {} tokens",
            between(requests, count),
            between(tokens.0, count),
            between(tokens.1, count)
        ));
        parts.push(format!("{} by the prices given", between(range(|asks| asks.usd), money)));
    }
    if gpu_hours > 0.0 {
        parts.push(format!("{} GPU hours (H100)", count(gpu_hours.ceil())));
    }
    let mut lines = vec![format!("expected: {}", parts.join("; "))];
    lines.push(format!(
        "memory: stages side by side are held under {} (--memory-limit)",
        size(options.memory_bytes)
    ));
    let mut sources: Vec<&str> = open().filter_map(|f| f.outlook.measured_in.as_deref()).collect();
    sources.sort_unstable();
    sources.dedup();
    let never = open().filter(|f| f.outlook.measured_in.is_none() && f.state != State::Fused).count();
    if let [_, ..] = sources[..] {
        let other = if sources == [profile] { "" } else { ", scaled by rows" };
        lines.push(format!("rates: measured in the last run of profile {}{other}", sources.join(", ")));
    }
    for Forecast { node, outlook, .. } in forecasts {
        if let Some(asks) = &outlook.asks {
            lines.push(format!("{}: {}", node.id, asks.assumptions.join("; ")));
        }
    }
    if never > 0 {
        lines.push(format!("{never} stages have never run: their time and disk are not in the sums"));
    }
    lines.join("\n")
}
