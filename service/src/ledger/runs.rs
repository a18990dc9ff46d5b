//! Runs: asked for, listed, stopped, resumed, forgotten.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::sql::{Connection, Row, Value};
use super::{Ledger, LedgerError, from_json, millis, time, to_json};
use crate::run::{NewRun, Run, RunId, RunState, Wish};

pub(super) const COLUMNS: &str = "id, spec, workflow, folder, state, wish, waiting_for, trigger_json, created_at, \
                       started_at, ended_at, attempt, exit_code, error, demands, stages, progress, owner, \
                       epoch, version";

/// What became of a request for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// A new run.
    New(RunId),
    /// The run that the same key, or the same slot of the schedule, made before.
    Known(RunId),
}

impl Submitted {
    /// The run.
    pub fn id(&self) -> &RunId {
        match self {
            Self::New(id) | Self::Known(id) => id,
        }
    }
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only runs in these states; all when empty.
    pub states: Vec<RunState>,
    /// Only runs of this workflow.
    pub workflow: Option<String>,
    /// Only runs with this in their id, folder, file or error.
    pub text: Option<String>,
    /// Only runs older than this one: the last of the page before.
    pub before: Option<RunId>,
    /// At most so many.
    pub limit: usize,
}

/// A page of runs, the latest first.
#[derive(Clone, Debug)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<Run>,
    /// Where the next page begins; none at the end.
    pub next: Option<RunId>,
}

impl Ledger {
    /// Enters a run. With a key, or a schedule's slot, that the ledger knows, nothing is entered.
    ///
    /// # Errors
    /// The database fails, or the key was used for another request.
    pub fn submit(&self, run: &NewRun, now: Timestamp, random: u32) -> Result<Submitted, LedgerError> {
        let (schedule, slot) = match &run.trigger {
            crate::run::Trigger::Schedule { schedule, slot } => {
                (Some(schedule.clone()), Some(slot.as_millisecond()))
            }
            _ => (None, None),
        };
        let schedule_slot = slot.is_some();
        let id = RunId::new(now, random);
        let spec = to_json(&run.spec)?;
        let values = [
            id.0.as_str().into(),
            spec.clone(),
            run.workflow.as_str().into(),
            run.folder.as_str().into(),
            RunState::Queued.name().into(),
            to_json(&run.trigger)?,
            schedule.clone().into(),
            slot.into(),
            run.idempotency_key.clone().into(),
            millis(now),
            to_json(&run.demands)?,
            to_json(&run.stages)?,
        ];
        self.transaction(|connection| {
            let entered = connection.execute(
                "INSERT INTO runs (id, spec, workflow, folder, state, trigger_json, schedule, slot, \
                 idempotency_key, created_at, not_before, attempt, lost, demands, stages, progress, epoch, \
                 heartbeat, version) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, 0, 0, $11, $12, '{}', 0, 0, 1) \
                 ON CONFLICT DO NOTHING",
                &values,
            )?;
            if entered == 1 {
                note(connection, &id, now, "asked for")?;
                return Ok(Submitted::New(id));
            }
            let known = connection.query(
                "SELECT id, spec FROM runs WHERE idempotency_key = $1 OR (schedule = $2 AND slot = $3)",
                &[run.idempotency_key.clone().into(), schedule.into(), slot.into()],
            )?;
            let row =
                known.first().ok_or_else(|| LedgerError::Damaged(format!("two runs have the id {id}")))?;
            let known = RunId(row.text(0)?.to_owned());
            let same = schedule_slot || Value::from(row.text(1)?) == spec;
            if same { Ok(Submitted::Known(known)) } else { Err(LedgerError::KeyReused(known)) }
        })
    }

    /// A run.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub fn run(&self, id: &RunId) -> Result<Run, LedgerError> {
        let rows =
            self.query(&format!("SELECT {COLUMNS} FROM runs WHERE id = $1"), &[id.0.as_str().into()])?;
        rows.first().map_or_else(|| Err(LedgerError::NoRun(id.clone())), run_of)
    }

    /// The run's version, which grows with every change.
    ///
    /// # Errors
    /// There is no such run, or the database fails.
    pub fn version(&self, id: &RunId) -> Result<u64, LedgerError> {
        let rows = self.query("SELECT version FROM runs WHERE id = $1", &[id.0.as_str().into()])?;
        let row = rows.first().ok_or_else(|| LedgerError::NoRun(id.clone()))?;
        Ok(row.int(0)? as u64)
    }

    /// Runs, the latest first.
    ///
    /// # Errors
    /// The database fails.
    pub fn runs(&self, filter: &RunFilter) -> Result<RunPage, LedgerError> {
        let mut values: Vec<Value> = Vec::new();
        let mut sql = format!("SELECT {COLUMNS} FROM runs WHERE 1 = 1");
        let mut with = |value: Value| {
            values.push(value);
            format!("${}", values.len())
        };
        if !filter.states.is_empty() {
            let states: Vec<String> = filter.states.iter().map(|state| with(state.name().into())).collect();
            sql += &format!(" AND state IN ({})", states.join(", "));
        }
        if let Some(workflow) = &filter.workflow {
            sql += &format!(" AND workflow = {}", with(workflow.as_str().into()));
        }
        if let Some(text) = &filter.text {
            // `%` and `_` are plain letters here.
            let text = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            let pattern = with(format!("%{text}%").into());
            let like = |column: &str| format!("{column} LIKE {pattern} ESCAPE '\\'");
            sql += &format!(" AND ({} OR {} OR {})", like("id"), like("folder"), like("COALESCE(error, '')"));
        }
        if let Some(before) = &filter.before {
            sql += &format!(" AND id < {}", with(before.0.as_str().into()));
        }
        let limit = filter.limit.clamp(1, 1_000);
        sql += &format!(" ORDER BY id DESC LIMIT {}", limit + 1);
        let rows = self.query(&sql, &values)?;
        let runs = rows.iter().take(limit).map(run_of).collect::<Result<Vec<_>, _>>()?;
        let next = (rows.len() > limit).then(|| runs.last().map(|run| run.id.clone())).flatten();
        Ok(RunPage { runs, next })
    }

    /// How many runs are in each state.
    ///
    /// # Errors
    /// The database fails.
    pub fn counts(&self) -> Result<BTreeMap<RunState, u64>, LedgerError> {
        let rows = self.query("SELECT state, COUNT(*) FROM runs GROUP BY state", &[])?;
        rows.iter().map(|row| Ok((state_of(row.text(0)?)?, row.int(1)? as u64))).collect()
    }

    /// Wishes a run to stop. One that waits is stopped at once.
    ///
    /// # Errors
    /// The run has ended, or there is none, or the database fails.
    pub fn wish(&self, id: &RunId, wish: Wish, now: Timestamp) -> Result<(), LedgerError> {
        let at_once = match wish {
            Wish::Cancel => RunState::Cancelled,
            Wish::Pause => RunState::Paused,
        };
        let action = match wish {
            Wish::Cancel => "cancelled",
            Wish::Pause => "paused",
        };
        self.transaction(|connection| {
            let state = state(connection, id)?;
            let changed = match state {
                RunState::Queued | RunState::Paused if state != at_once => connection.execute(
                    "UPDATE runs SET state = $1, ended_at = $2, waiting_for = NULL, version = version + 1 \
                     WHERE id = $3",
                    &[at_once.name().into(), millis(now), id.0.as_str().into()],
                )?,
                // A wish to stop for good is not taken back by one to pause.
                RunState::Running => connection.execute(
                    "UPDATE runs SET wish = CASE WHEN wish = 'cancel' THEN wish ELSE $1 END, \
                     version = version + 1 WHERE id = $2",
                    &[wish.name().into(), id.0.as_str().into()],
                )?,
                _ => 0,
            };
            match changed {
                0 => Err(LedgerError::WrongState { run: id.clone(), state: state.name(), action }),
                _ => note(connection, id, now, &format!("{} wished", wish.name())),
            }
        })
    }

    /// Lets a run wait for its turn again; it goes on from where it was.
    ///
    /// # Errors
    /// The run waits or works already, or there is none, or the database fails.
    pub fn resume(&self, id: &RunId, now: Timestamp) -> Result<(), LedgerError> {
        self.transaction(|connection| {
            let state = state(connection, id)?;
            if !matches!(state, RunState::Paused | RunState::Failed | RunState::Cancelled) {
                return Err(LedgerError::WrongState {
                    run: id.clone(),
                    state: state.name(),
                    action: "resumed",
                });
            }
            connection.execute(
                "UPDATE runs SET state = 'queued', attempt = 0, lost = 0, not_before = $1, ended_at = NULL, \
                 version = version + 1 WHERE id = $2",
                &[millis(now), id.0.as_str().into()],
            )?;
            note(connection, id, now, "resumed")
        })
    }

    /// Forgets a run that has ended. Its outputs are not touched.
    ///
    /// # Errors
    /// The run has not ended, or there is none, or the database fails.
    pub fn forget(&self, id: &RunId) -> Result<(), LedgerError> {
        self.transaction(|connection| {
            let state = state(connection, id)?;
            if !state.is_final() {
                return Err(LedgerError::WrongState {
                    run: id.clone(),
                    state: state.name(),
                    action: "deleted",
                });
            }
            connection.execute("DELETE FROM events WHERE run = $1", &[id.0.as_str().into()])?;
            connection.execute("DELETE FROM runs WHERE id = $1", &[id.0.as_str().into()]).map(drop)
        })
    }

    /// Runs that ended before a time, the oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub fn ended_before(&self, time: Timestamp, limit: usize) -> Result<Vec<RunId>, LedgerError> {
        let rows = self.query(
            &format!(
                "SELECT id FROM runs WHERE state IN ('succeeded', 'failed', 'cancelled') AND ended_at < $1 \
                 ORDER BY id LIMIT {limit}"
            ),
            &[millis(time)],
        )?;
        rows.iter().map(|row| Ok(RunId(row.text(0)?.to_owned()))).collect()
    }

    /// What happened to a run, in order.
    ///
    /// # Errors
    /// The database fails.
    pub fn events(&self, id: &RunId) -> Result<Vec<(Timestamp, String)>, LedgerError> {
        let rows = self.query(
            "SELECT at, text FROM events WHERE run = $1 ORDER BY number LIMIT 1000",
            &[id.0.as_str().into()],
        )?;
        rows.iter().map(|row| Ok((time(row.int(0)?)?, row.text(1)?.to_owned()))).collect()
    }
}

fn state(connection: &mut dyn Connection, id: &RunId) -> Result<RunState, LedgerError> {
    let rows = connection.query("SELECT state FROM runs WHERE id = $1", &[id.0.as_str().into()])?;
    state_of(rows.first().ok_or_else(|| LedgerError::NoRun(id.clone()))?.text(0)?)
}

pub(super) fn note(
    connection: &mut dyn Connection,
    id: &RunId,
    now: Timestamp,
    text: &str,
) -> Result<(), LedgerError> {
    connection
        .execute(
            "INSERT INTO events SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3 FROM events WHERE run = $1",
            &[id.0.as_str().into(), millis(now), text.into()],
        )
        .map(drop)
}

pub(super) fn state_of(name: &str) -> Result<RunState, LedgerError> {
    RunState::from_name(name).ok_or_else(|| LedgerError::Damaged(format!("`{name}` is no state of a run")))
}

pub(super) fn run_of(row: &Row) -> Result<Run, LedgerError> {
    let text = |column| row.optional_text(column).map(|text| text.map(str::to_owned));
    Ok(Run {
        id: RunId(row.text(0)?.to_owned()),
        spec: from_json(row.text(1)?)?,
        workflow: row.text(2)?.to_owned(),
        folder: row.text(3)?.to_owned(),
        state: state_of(row.text(4)?)?,
        wish: row.optional_text(5)?.and_then(Wish::from_name),
        waiting_for: text(6)?,
        trigger: from_json(row.text(7)?)?,
        created_at: time(row.int(8)?)?,
        started_at: row.optional_int(9)?.map(time).transpose()?,
        ended_at: row.optional_int(10)?.map(time).transpose()?,
        attempt: row.int(11)? as u32,
        exit_code: row.optional_int(12)?.map(|code| code as i32),
        error: text(13)?,
        demands: from_json(row.text(14)?)?,
        stages: from_json(row.text(15)?)?,
        progress: from_json(row.text(16)?)?,
        owner: text(17)?,
        epoch: row.int(18)? as u64,
        version: row.int(19)? as u64,
    })
}
