//! What the ledger remembers of schedules: up to when their slots were looked at, and whether they rest.

use jiff::Timestamp;

use super::{Ledger, LedgerError, millis, time};
use crate::run::{RunId, RunState};

/// What is remembered of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleRecord {
    /// All slots up to this time were looked at.
    pub seen_until: Timestamp,
    /// It rests: its slots pass by.
    pub paused: bool,
}

impl Ledger {
    /// What is remembered of a schedule. One that is new begins now: slots of the past are not its.
    ///
    /// # Errors
    /// The database fails.
    pub fn schedule(&self, name: &str, now: Timestamp) -> Result<ScheduleRecord, LedgerError> {
        self.transaction(|connection| {
            connection.execute(
                "INSERT INTO schedules (name, seen_until, paused) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
                &[name.into(), millis(now)],
            )?;
            let rows = connection
                .query("SELECT seen_until, paused FROM schedules WHERE name = $1", &[name.into()])?;
            let row =
                rows.first().ok_or_else(|| LedgerError::Damaged(format!("schedule {name} vanished")))?;
            Ok(ScheduleRecord { seen_until: time(row.int(0)?)?, paused: row.int(1)? != 0 })
        })
    }

    /// All slots up to a time were looked at. It never goes back, whatever the clock does.
    ///
    /// # Errors
    /// The database fails.
    pub fn schedule_seen(&self, name: &str, until: Timestamp) -> Result<(), LedgerError> {
        self.query(
            "UPDATE schedules SET seen_until = $1 WHERE name = $2 AND seen_until < $1 RETURNING name",
            &[millis(until), name.into()],
        )
        .map(drop)
    }

    /// Lets a schedule rest, or go on.
    ///
    /// # Errors
    /// The database fails.
    pub fn set_schedule_paused(&self, name: &str, paused: bool) -> Result<(), LedgerError> {
        self.query(
            "UPDATE schedules SET paused = $1 WHERE name = $2 RETURNING name",
            &[i64::from(paused).into(), name.into()],
        )
        .map(drop)
    }

    /// The runs of a schedule that have not ended, those of slots before this one.
    ///
    /// # Errors
    /// The database fails.
    pub fn open_runs(&self, schedule: &str, before: Timestamp) -> Result<Vec<RunId>, LedgerError> {
        let rows = self.query(
            "SELECT id FROM runs WHERE schedule = $1 AND state IN ($2, $3, $4) AND slot < $5 ORDER BY id",
            &[
                schedule.into(),
                RunState::Queued.name().into(),
                RunState::Running.name().into(),
                RunState::Paused.name().into(),
                millis(before),
            ],
        )?;
        rows.iter().map(|row| Ok(RunId(row.text(0)?.to_owned()))).collect()
    }

    /// Runs of a workflow that succeeded after a time and that `seer` has not [seen](Self::saw), the first
    /// first. Not by the time of the last that was seen: of two that end at once, one is written later.
    ///
    /// # Errors
    /// The database fails.
    pub fn unseen_successes(
        &self,
        seer: &str,
        workflow: &str,
        since: Timestamp,
    ) -> Result<Vec<RunId>, LedgerError> {
        let rows = self.query(
            "SELECT id FROM runs WHERE workflow = $1 AND state = $2 AND ended_at > $3 AND NOT EXISTS \
             (SELECT 1 FROM seen_files WHERE seen_files.workflow = $4 AND seen_files.path = runs.id) \
             ORDER BY ended_at, id LIMIT 100",
            &[workflow.into(), RunState::Succeeded.name().into(), millis(since), seer.into()],
        )?;
        rows.iter().map(|row| Ok(RunId(row.text(0)?.to_owned()))).collect()
    }

    /// Whether a file under the prefix of a workflow, or a run that it waits for, was seen before.
    ///
    /// # Errors
    /// The database fails.
    pub fn is_seen(&self, workflow: &str, path: &str) -> Result<bool, LedgerError> {
        let rows = self.query(
            "SELECT 1 FROM seen_files WHERE workflow = $1 AND path = $2",
            &[workflow.into(), path.into()],
        )?;
        Ok(!rows.is_empty())
    }

    /// Notes that a file under the prefix of a workflow, or a run that it waits for, was seen.
    ///
    /// # Errors
    /// The database fails.
    pub fn saw(&self, workflow: &str, path: &str) -> Result<(), LedgerError> {
        self.query(
            "INSERT INTO seen_files VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING path",
            &[workflow.into(), path.into()],
        )
        .map(drop)
    }
}
