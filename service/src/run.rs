//! A run as the service knows it: what was asked for, what became of it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::trace;

/// A run's id: the time at which it was asked for, and a random end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// A new id. Ids of later milliseconds sort behind it.
    pub fn new(now: Timestamp, random: u32) -> Self {
        Self(format!("{}-{random:08x}", now.strftime("%Y%m%dT%H%M%S%3f")))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn.
    Queued,
    /// A process works on it.
    Running,
    /// It was stopped, and goes on from there when it is resumed.
    Paused,
    /// All its stages are done.
    Succeeded,
    /// A stage failed, or the input was wrong.
    Failed,
    /// It was stopped for good. What was finished stays.
    Cancelled,
}

impl RunState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Paused, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state's name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Nothing more will happen to the run.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What is wished of a running run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// To stop for good.
    Cancel,
    /// To stop, and go on when it is resumed.
    Pause,
}

impl Wish {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Cancel, Self::Pause].into_iter().find(|wish| wish.name() == name)
    }
}

/// What made a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Trigger {
    /// Somebody asked for it.
    Manual {
        /// Who: the name of the token.
        by: String,
        /// The trace that the request was part of (W3C trace context).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
    /// A schedule.
    Schedule {
        /// The schedule's name.
        schedule: String,
        /// The time for which the schedule planned it.
        #[schemars(with = "String")]
        slot: Timestamp,
    },
    /// A new file under the prefix that the workflow watches.
    File {
        /// The file.
        path: String,
    },
    /// Another run's success.
    Run {
        /// That run.
        run: RunId,
    },
    /// A signed request from elsewhere.
    Webhook {
        /// The trace that the request was part of (W3C trace context).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
}

impl Trigger {
    /// Somebody asks, now and in this trace.
    pub fn manual(by: impl Into<String>) -> Self {
        Self::Manual { by: by.into(), traceparent: trace::current() }
    }

    /// A signed request asks, now and in this trace.
    pub fn webhook() -> Self {
        Self::Webhook { traceparent: trace::current() }
    }

    /// The trace of the request that made it.
    pub fn traceparent(&self) -> Option<&str> {
        match self {
            Self::Manual { traceparent, .. } | Self::Webhook { traceparent } => traceparent.as_deref(),
            _ => None,
        }
    }

    /// The schedule, if it was one.
    pub fn schedule(&self) -> Option<&str> {
        match self {
            Self::Schedule { schedule, .. } => Some(schedule),
            _ => None,
        }
    }
}

/// Amounts of named pools: `memory` in bytes, `threads`, and pools that the operator names.
pub type Amounts = BTreeMap<String, u64>;

/// What is to be run, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// The workflow file, relative to the service's folder of workflows.
    pub file: String,
    /// The profile; `sample` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Overrides: a dotted path and TOML, for example `vars.topics=24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// The run's folder under its workflow's; the profile's name by default. Runs of other settings that
    /// shall stand side by side need folders of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Run only this stage and what it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Make this stage anew, and what reads it when its content differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How often a failed run is tried again by itself. Wrong input is not.
    #[serde(default)]
    pub retries: u32,
    /// The run fails when it takes longer, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Without progress for so long it hangs; the workflow says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_after_seconds: Option<u64>,
}

/// A run that is to be entered in the ledger.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// What is to be run.
    pub spec: RunSpec,
    /// The workflow's name.
    pub workflow: String,
    /// The run's folder, relative to the folder of all runs.
    pub folder: String,
    /// What it takes of the pools.
    pub demands: Amounts,
    /// The stages in order, with what each reads.
    pub stages: Vec<StageShape>,
    /// What made it.
    pub trigger: Trigger,
    /// The client's key: a second request with the same key makes no second run.
    pub idempotency_key: Option<String>,
}

/// A stage of a workflow's graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageShape {
    /// The stage's name.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// The stages that it reads.
    #[serde(default)]
    pub reads: Vec<String>,
}

/// Where a stage of a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// It has not begun.
    #[default]
    Waiting,
    /// It works.
    Running,
    /// It ran to its end.
    Done,
    /// It had nothing to do, or is part of its readers.
    UpToDate,
    /// It failed, or was stopped.
    Ended,
}

/// A stage at work, or done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StageProgress {
    /// Where it stands.
    pub state: StageState,
    /// Rows (or pages, or steps) done.
    pub rows: u64,
    /// Rows that there will be; 0 when unknown.
    pub total_rows: u64,
    /// Tokens read or generated.
    pub tokens: u64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Rows that a rule left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Rows that failed, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Seconds at work.
    pub seconds: f64,
    /// The largest resident memory seen, in bytes.
    pub peak_memory_bytes: u64,
    /// When it began, in milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: Option<i64>,
}

/// A run in the ledger.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What was asked for.
    pub spec: RunSpec,
    /// The workflow's name.
    pub workflow: String,
    /// The run's folder, relative to the folder of all runs.
    pub folder: String,
    /// Where it stands.
    pub state: RunState,
    /// What is wished of it while it runs.
    pub wish: Option<Wish>,
    /// Why it waits.
    pub waiting_for: Option<String>,
    /// What made it.
    pub trigger: Trigger,
    /// When it was asked for.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// When its latest process began.
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// Attempts so far.
    pub attempt: u32,
    /// The exit code of its latest process.
    pub exit_code: Option<i32>,
    /// What went wrong.
    pub error: Option<String>,
    /// What it takes of the pools.
    pub demands: Amounts,
    /// The stages in order, with what each reads.
    pub stages: Vec<StageShape>,
    /// How far each stage is.
    pub progress: BTreeMap<String, StageProgress>,
    /// Who works on it: a service's name.
    pub owner: Option<String>,
    /// How often it was handed to a process. Only the latest may write.
    pub epoch: u64,
    /// Grows with every change of the run.
    pub version: u64,
}
