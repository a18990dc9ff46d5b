//! `[schedule]`, `[trigger]` and `[run]` of a workflow file: when it runs by itself, and what it takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cron::Cron;
use crate::run::Amounts;

/// When a workflow runs by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Minute, hour, day of the month, month, day of the week: `0 3 * * *` is at three every night.
    pub cron: String,
    /// The time zone, for example `Europe/Berlin`.
    #[serde(default = "utc")]
    pub timezone: String,
    /// What to do with times that passed while no service was there.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// What to do while the run of an earlier time has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// How often a failed run is tried again. Wrong input is not.
    #[serde(default)]
    pub retries: u32,
    /// The run fails when it takes longer, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// The profile to run; `sample` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

impl ScheduleConfig {
    /// The expression in its time zone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parsed(&self) -> Result<Cron, String> {
        Cron::parse(&self.cron, &self.timezone)
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What to do with times that were missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Run for the latest of them only.
    #[default]
    Latest,
    /// Run for each of them, the oldest first; for the latest hundred if there are more.
    All,
    /// Run for none of them.
    None,
}

/// What to do while an earlier run of the schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Let the time pass by.
    #[default]
    Skip,
    /// Run after it.
    Queue,
    /// Cancel the earlier run.
    Cancel,
}

/// What else makes a workflow run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerConfig {
    /// A new file whose path begins so, inside the service's data folder. The file's path is the
    /// workflow's variable `trigger_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// The success of a run of this workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The environment variable of the service that holds the key with which requests to
    /// `/api/v1/hooks/<workflow>` are signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_key_env: Option<String>,
}

/// What a run takes of the service's pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Memory, for example `4GiB`; all that the service has by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// CPU threads; all that the service has by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub threads: Option<u64>,
    /// Amounts of pools that the service's operator has named, for example `{ llm = 1 }`.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub pools: Amounts,
    /// A run whose stages count nothing for so many seconds hangs: it fails, and is tried again where it has
    /// retries. Never when left out. Some work is counted at its end only: an index's merges, a tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub stalled_after_seconds: Option<u64>,
}
