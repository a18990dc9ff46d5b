//! `[schedule]`, `[trigger]` and `[run]`: what a workflow file says to `pipeline serve`.

use serde::de::DeserializeOwned;
use service::schedule::{RunConfig, ScheduleConfig, TriggerConfig};
use service::workflows::RunDemands;

use super::problem::Problem;
use super::tree::Table;
use crate::units;

/// The three tables.
#[derive(Clone, Debug, Default)]
pub struct ServiceTables {
    /// When the workflow runs by itself.
    pub schedule: Option<ScheduleConfig>,
    /// What else makes it run.
    pub trigger: TriggerConfig,
    /// What a run takes of the service's pools.
    pub run: RunDemands,
}

/// Reads the tables out of a file whose shape has been checked.
pub(super) fn read(table: &Table, problems: &mut Vec<Problem>) -> ServiceTables {
    let schedule: Option<ScheduleConfig> = parsed(table, "schedule");
    if let (Some(schedule), Some(entry)) = (&schedule, table.get("schedule"))
        && let Err(reason) = schedule.parsed()
    {
        let cron = entry.node.as_table().and_then(|table| table.get("cron"));
        let place = cron.map_or(&entry.key, |cron| &cron.node.place);
        problems.push(Problem::at(place, reason, "here"));
    }
    let run: RunConfig = parsed(table, "run").unwrap_or_default();
    let memory = run.memory.as_deref().map(units::parse_bytes);
    if let (Some(Err(reason)), Some(entry)) = (&memory, table.get("run")) {
        let memory = entry.node.as_table().and_then(|table| table.get("memory"));
        let place = memory.map_or(&entry.key, |memory| &memory.node.place);
        problems.push(Problem::at(place, reason.clone(), "here"));
    }
    let run = RunDemands {
        memory_bytes: memory.and_then(Result::ok),
        threads: run.threads,
        pools: run.pools,
        stalled_after_seconds: run.stalled_after_seconds,
    };
    ServiceTables { schedule, trigger: parsed(table, "trigger").unwrap_or_default(), run }
}

/// A table as its type; none where it is missing, or has problems that the check has found.
fn parsed<T: DeserializeOwned>(table: &Table, key: &str) -> Option<T> {
    serde_json::from_value(table.get(key)?.node.to_json()).ok()
}
