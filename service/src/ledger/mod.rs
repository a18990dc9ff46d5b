//! The ledger: every run, schedule and token that the service knows, in a database.
//!
//! All changes are single transactions, and whoever works on a run shows its *epoch*: a process that was
//! given up, and comes back, has an old one and changes nothing.

mod migrations;
mod postgres;
mod runs;
mod schedules;
mod sql;
mod sqlite;
#[cfg(test)]
mod tests;
mod tokens;
mod work;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use thiserror::Error;

pub use runs::{RunFilter, RunPage, Submitted};
pub use schedules::ScheduleRecord;
use sql::{Connection, Outcome, Row, Value};
pub use tokens::{Scope, TokenRecord};
pub use work::{Ended, Heartbeat, Loss};

use crate::run::RunId;

/// The ledger cannot do what it was asked.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// It cannot be opened.
    #[error("cannot open the ledger {place}: {reason}")]
    Open {
        /// The file or address.
        place: String,
        /// What the database says.
        reason: String,
    },
    /// It was written by a later version of this program.
    #[error(
        "the ledger {place} has version {found}, this program knows versions up to {known}: use a newer one"
    )]
    TooNew {
        /// The file or address.
        place: String,
        /// Its version.
        found: usize,
        /// The latest that is known.
        known: usize,
    },
    /// The database failed.
    #[error("the ledger's database failed: {0}")]
    Database(String),
    /// A row does not hold what it should.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    /// There is no such run.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// The run's state does not allow it.
    #[error("run {run} is {state}: it cannot be {action}")]
    WrongState {
        /// The run.
        run: RunId,
        /// Its state.
        state: &'static str,
        /// What was asked.
        action: &'static str,
    },
    /// The same key came with another request.
    #[error("the idempotency key was used for another request, run {0}")]
    KeyReused(RunId),
}

impl LedgerError {
    fn damaged(column: usize, reason: &str) -> Self {
        Self::Damaged(format!("column {column}: {reason}"))
    }
}

/// The ledger. Clones share one connection; calls block.
#[derive(Clone)]
pub struct Ledger(Arc<Mutex<Box<dyn Connection>>>);

impl Ledger {
    /// Opens the ledger in a file, and makes it if it is not there.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was written by a later version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::migrated(Box::new(sqlite::Sqlite::open(path)?), &path.display().to_string())
    }

    /// Opens the ledger at a path, `sqlite:PATH`, or a `postgres://` URL.
    ///
    /// # Errors
    /// It cannot be opened, is damaged, or was written by a later version.
    pub fn open_url(url: &str) -> Result<Self, LedgerError> {
        if is_server(url) {
            return Self::migrated(Box::new(postgres::Postgres::open(url)?), &postgres::place(url));
        }
        Self::open(Path::new(url.strip_prefix("sqlite:").unwrap_or(url)))
    }

    fn migrated(mut connection: Box<dyn Connection>, place: &str) -> Result<Self, LedgerError> {
        let known = migrations::MIGRATIONS.len();
        transaction(&mut *connection, |connection| {
            connection.execute("CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY)", &[])?;
            let found = connection.query("SELECT COUNT(*) FROM migrations", &[])?;
            let found = found.first().map_or(Ok(0), |row| row.int(0))? as usize;
            if found > known {
                return Err(LedgerError::TooNew { place: place.to_owned(), found, known });
            }
            for (version, statements) in migrations::MIGRATIONS.iter().enumerate().skip(found) {
                for statement in *statements {
                    connection.execute(statement, &[])?;
                }
                connection.execute("INSERT INTO migrations VALUES ($1)", &[(version as i64).into()])?;
            }
            Ok(())
        })?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub fn ping(&self) -> Result<(), LedgerError> {
        self.query("SELECT 1", &[]).map(drop)
    }

    fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, LedgerError> {
        // A panic in another thread leaves no transaction half done: the database undoes it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).query(sql, parameters)
    }

    fn transaction<T>(
        &self,
        work: impl FnOnce(&mut dyn Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        transaction(&mut **connection, work)
    }
}

/// Whether a ledger's URL names a server, which several services share.
pub(crate) fn is_server(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn transaction<T>(
    connection: &mut dyn Connection,
    work: impl FnOnce(&mut dyn Connection) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    connection.begin()?;
    let result = work(connection);
    let outcome = if result.is_ok() { Outcome::Commit } else { Outcome::Rollback };
    match (connection.end(outcome), &result) {
        (Err(error), Ok(_)) => Err(error),
        _ => result,
    }
}

fn millis(time: Timestamp) -> Value {
    time.as_millisecond().into()
}

fn time(millis: i64) -> Result<Timestamp, LedgerError> {
    Timestamp::from_millisecond(millis).map_err(|error| LedgerError::Damaged(error.to_string()))
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, LedgerError> {
    let text = serde_json::to_string(value).map_err(|error| LedgerError::Damaged(error.to_string()))?;
    Ok(text.into())
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|error| LedgerError::Damaged(error.to_string()))
}
