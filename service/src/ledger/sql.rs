//! The little of a database that the ledger needs, so that its statements stand in one place.

use super::LedgerError;

/// A value that goes in or comes out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row of an answer.
#[derive(Debug)]
pub(super) struct Row(pub(super) Vec<Value>);

impl Row {
    /// The number in a column.
    pub(super) fn int(&self, column: usize) -> Result<i64, LedgerError> {
        self.optional_int(column)?.ok_or_else(|| LedgerError::damaged(column, "a number is missing"))
    }

    /// The number in a column that may have none.
    pub(super) fn optional_int(&self, column: usize) -> Result<Option<i64>, LedgerError> {
        match self.0.get(column) {
            Some(Value::Int(number)) => Ok(Some(*number)),
            Some(Value::Null) => Ok(None),
            _ => Err(LedgerError::damaged(column, "not a number")),
        }
    }

    /// The text in a column.
    pub(super) fn text(&self, column: usize) -> Result<&str, LedgerError> {
        self.optional_text(column)?.ok_or_else(|| LedgerError::damaged(column, "a text is missing"))
    }

    /// The text in a column that may have none.
    pub(super) fn optional_text(&self, column: usize) -> Result<Option<&str>, LedgerError> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(LedgerError::damaged(column, "not a text")),
        }
    }
}

/// A connection to a database. Parameters stand as `$1`, `$2`, … in the statements.
pub(super) trait Connection: Send {
    /// Runs a statement; how many rows it changed.
    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, LedgerError>;

    /// Runs a query.
    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, LedgerError>;

    /// Begins a transaction that no other writer interferes with.
    fn begin(&mut self) -> Result<(), LedgerError>;

    /// Ends the transaction: its changes hold, or none of them.
    fn end(&mut self, outcome: Outcome) -> Result<(), LedgerError>;
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Commit,
    Rollback,
}
