//! Work on runs: claimed, kept alive, ended, taken back.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::runs::{COLUMNS, note, run_of, state_of};
use super::sql::{Connection, Row, Value};
use super::{Ledger, LedgerError, from_json, millis, to_json};
use crate::pools::{self, Contender};
use crate::run::{Amounts, Run, RunId, RunState, StageProgress, Wish};

/// A run whose processes were lost so often fails.
const MOST_LOST: i64 = 5;

/// The answer to a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Go on, or do what is wished.
    Held(Option<Wish>),
    /// Somebody else has the run, or it is gone: stop, and write nothing more.
    Lost,
}

/// Why a run's process is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It gave no sign of life. That may be the run's own doing.
    Silent,
    /// Its service was killed.
    ServiceRestarted,
}

/// How a run's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All stages are done.
    Succeeded,
    /// It failed.
    Failed {
        /// The exit code; none where a signal ended it.
        exit_code: Option<i32>,
        /// What went wrong.
        error: String,
        /// It is worth another attempt, after so long.
        retry_after: Option<SignedDuration>,
    },
    /// It was stopped, as wished.
    Stopped(Wish),
    /// It was stopped because the service ends: it waits for the next one.
    Released,
}

impl Ledger {
    /// Hands the first queued run that fits to `owner`, and writes to the others why they wait.
    ///
    /// # Errors
    /// The database fails.
    pub fn claim(&self, owner: &str, capacity: &Amounts, now: Timestamp) -> Result<Option<Run>, LedgerError> {
        self.transaction(|connection| {
            let contenders = |connection: &mut dyn Connection, state: RunState| {
                let rows = connection.query(
                    "SELECT id, folder, demands, owner, not_before, waiting_for FROM runs WHERE state = $1 \
                     ORDER BY id LIMIT 1000",
                    &[state.name().into()],
                )?;
                let contender = |row: &Row| -> Result<(Contender, Option<String>), LedgerError> {
                    let contender = Contender {
                        id: RunId(row.text(0)?.to_owned()),
                        folder: row.text(1)?.to_owned(),
                        demands: from_json(row.text(2)?)?,
                        owner: row.optional_text(3)?.map(str::to_owned),
                        delayed: row.int(4)? > now.as_millisecond(),
                    };
                    Ok((contender, row.optional_text(5)?.map(str::to_owned)))
                };
                rows.iter().map(contender).collect::<Result<Vec<_>, LedgerError>>()
            };
            let (queued, reasons): (Vec<_>, Vec<_>) =
                contenders(connection, RunState::Queued)?.into_iter().unzip();
            if queued.is_empty() {
                return Ok(None);
            }
            let (active, _): (Vec<_>, Vec<_>) =
                contenders(connection, RunState::Running)?.into_iter().unzip();
            let choice = pools::choose(owner, capacity, &active, &queued);
            for (id, reason) in &choice.waiting {
                let known = queued.iter().position(|run| run.id == *id).and_then(|at| reasons[at].as_ref());
                if known != Some(reason) {
                    connection.execute(
                        "UPDATE runs SET waiting_for = $1, version = version + 1 WHERE id = $2",
                        &[reason.as_str().into(), id.0.as_str().into()],
                    )?;
                }
            }
            let Some(id) = choice.start else {
                return Ok(None);
            };
            connection.execute(
                "UPDATE runs SET state = 'running', wish = NULL, waiting_for = NULL, owner = $1, \
                 epoch = epoch + 1, heartbeat = 0, attempt = attempt + 1, started_at = $2, ended_at = NULL, \
                 exit_code = NULL, error = NULL, version = version + 1 WHERE id = $3",
                &[owner.into(), millis(now), id.0.as_str().into()],
            )?;
            note(connection, &id, now, &format!("started by {owner}"))?;
            let rows = connection
                .query(&format!("SELECT {COLUMNS} FROM runs WHERE id = $1"), &[id.0.as_str().into()])?;
            rows.first().map(run_of).transpose()
        })
    }

    /// A sign of life of the run's process, with what its stages have done.
    ///
    /// # Errors
    /// The database fails.
    pub fn heartbeat(
        &self,
        id: &RunId,
        epoch: u64,
        progress: Option<&BTreeMap<String, StageProgress>>,
    ) -> Result<Heartbeat, LedgerError> {
        let progress = progress.map(to_json).transpose()?;
        let grown = i64::from(progress.is_some());
        let rows = self.query(
            "UPDATE runs SET heartbeat = heartbeat + 1, progress = COALESCE($1, progress), \
             version = version + $2 WHERE id = $3 AND epoch = $4 AND state = 'running' RETURNING wish",
            &[progress.unwrap_or(Value::Null), grown.into(), id.0.as_str().into(), (epoch as i64).into()],
        )?;
        match rows.first() {
            Some(row) => Ok(Heartbeat::Held(row.optional_text(0)?.and_then(Wish::from_name))),
            None => Ok(Heartbeat::Lost),
        }
    }

    /// The run's process has ended. False if somebody else has the run by now: then nothing is written.
    ///
    /// # Errors
    /// The database fails.
    pub fn end(&self, id: &RunId, epoch: u64, ended: &Ended, now: Timestamp) -> Result<bool, LedgerError> {
        let (state, exit_code, error, not_before) = match ended {
            Ended::Succeeded => (RunState::Succeeded, Some(0), None, now),
            Ended::Failed { exit_code, error, retry_after: None } => {
                (RunState::Failed, *exit_code, Some(error.as_str()), now)
            }
            Ended::Failed { exit_code, error, retry_after: Some(after) } => (
                RunState::Queued,
                *exit_code,
                Some(error.as_str()),
                now.saturating_add(*after).unwrap_or(now),
            ),
            Ended::Stopped(Wish::Cancel) => (RunState::Cancelled, None, None, now),
            Ended::Stopped(Wish::Pause) => (RunState::Paused, None, None, now),
            Ended::Released => (RunState::Queued, None, None, now),
        };
        self.transaction(|connection| {
            let changed = connection.execute(
                "UPDATE runs SET state = $1, exit_code = $2, error = $3, not_before = $4, ended_at = $5, \
                 wish = NULL, waiting_for = NULL, owner = NULL, attempt = attempt - $8, \
                 version = version + 1 WHERE id = $6 AND epoch = $7 AND state = 'running'",
                &[
                    state.name().into(),
                    exit_code.map(i64::from).into(),
                    error.into(),
                    millis(not_before),
                    millis(now),
                    id.0.as_str().into(),
                    (epoch as i64).into(),
                    i64::from(*ended == Ended::Released).into(),
                ],
            )?;
            if changed == 1 {
                let words = match ended {
                    Ended::Failed { error, retry_after: Some(_), .. } => {
                        format!("failed, tried again: {error}")
                    }
                    Ended::Failed { error, .. } => format!("failed: {error}"),
                    Ended::Released => "stopped with the service; it goes on with the next one".to_owned(),
                    _ => state.name().to_owned(),
                };
                note(connection, id, now, &words)?;
            }
            Ok(changed == 1)
        })
    }

    /// Running runs with their owner, epoch and signs of life: whoever watches them sees which have
    /// fallen silent, by a clock of its own.
    ///
    /// # Errors
    /// The database fails.
    pub fn signs_of_life(&self) -> Result<Vec<(RunId, String, u64, u64)>, LedgerError> {
        let rows = self.query("SELECT id, owner, epoch, heartbeat FROM runs WHERE state = 'running'", &[])?;
        rows.iter()
            .map(|row| {
                let owner = row.optional_text(1)?.unwrap_or_default().to_owned();
                Ok((RunId(row.text(0)?.to_owned()), owner, row.int(2)? as u64, row.int(3)? as u64))
            })
            .collect()
    }

    /// Takes a run from an owner that has fallen silent: it waits for its turn again, and goes on from
    /// where it was. False if it has shown life, or ended, in between.
    ///
    /// # Errors
    /// The database fails.
    pub fn take_back(
        &self,
        id: &RunId,
        (epoch, heartbeat): (u64, u64),
        loss: Loss,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        self.transaction(|connection| {
            let rows = connection.query(
                "UPDATE runs SET owner = NULL, lost = lost + $6, epoch = epoch + 1, version = version + 1, \
                 not_before = $1, \
                 state = CASE WHEN wish = 'cancel' THEN 'cancelled' WHEN wish = 'pause' THEN 'paused' \
                 WHEN lost + $6 > $2 THEN 'failed' ELSE 'queued' END, \
                 error = CASE WHEN lost + $6 > $2 AND wish IS NULL THEN 'its process was lost too often' \
                 ELSE error END, wish = NULL \
                 WHERE id = $3 AND epoch = $4 AND heartbeat = $5 AND state = 'running' RETURNING state",
                &[
                    millis(now),
                    (MOST_LOST - 1).into(),
                    id.0.as_str().into(),
                    (epoch as i64).into(),
                    (heartbeat as i64).into(),
                    i64::from(loss == Loss::Silent).into(),
                ],
            )?;
            let Some(row) = rows.first() else {
                return Ok(false);
            };
            let state = state_of(row.text(0)?)?;
            if state.is_final() {
                connection.execute(
                    "UPDATE runs SET ended_at = $1 WHERE id = $2",
                    &[millis(now), id.0.as_str().into()],
                )?;
            }
            note(connection, id, now, &format!("its process was lost: {}", state.name()))?;
            Ok(true)
        })
    }
}
