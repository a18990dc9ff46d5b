//! The ledger in one file: SQLite, write-ahead log, every commit synced.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ToSql, params_from_iter};

use super::LedgerError;
use super::sql::{Connection, Outcome, Row, Value};

/// How long a writer waits for another process (a backup, a look with `sqlite3`).
const BUSY: Duration = Duration::from_secs(10);

pub(super) struct Sqlite(rusqlite::Connection);

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |error: rusqlite::Error| LedgerError::Open {
            place: path.display().to_string(),
            reason: error.to_string(),
        };
        let connection = rusqlite::Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        // A torn or overwritten file is better found now than in the middle of a run.
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        match verdict.as_str() {
            "ok" => Ok(Self(connection)),
            _ => Err(LedgerError::Open { place: path.display().to_string(), reason: verdict }),
        }
    }
}

impl Connection for Sqlite {
    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, LedgerError> {
        let mut statement = self.0.prepare_cached(&numbered(sql))?;
        Ok(statement.execute(params_from_iter(parameters))? as u64)
    }

    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, LedgerError> {
        let mut statement = self.0.prepare_cached(&numbered(sql))?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(parameters))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let value = |column| match row.get_ref(column) {
                Ok(ValueRef::Integer(number)) => Ok(Value::Int(number)),
                Ok(ValueRef::Text(text)) => Ok(Value::Text(String::from_utf8_lossy(text).into_owned())),
                Ok(ValueRef::Null) => Ok(Value::Null),
                Ok(_) => Err(LedgerError::damaged(column, "neither number nor text")),
                Err(error) => Err(error.into()),
            };
            found.push(Row((0..columns).map(value).collect::<Result<_, _>>()?));
        }
        Ok(found)
    }

    fn begin(&mut self) -> Result<(), LedgerError> {
        Ok(self.0.execute_batch("BEGIN IMMEDIATE")?)
    }

    fn end(&mut self, outcome: Outcome) -> Result<(), LedgerError> {
        Ok(self.0.execute_batch(match outcome {
            Outcome::Commit => "COMMIT",
            Outcome::Rollback => "ROLLBACK",
        })?)
    }
}

/// SQLite numbers parameters by `?1`; `$1` would be a name, counted in the order in which names appear.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Self::Int(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}
