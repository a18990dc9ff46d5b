//! Rows that leave the line: dropped by a rule, or failed. Each has a reason, is counted, and may
//! be written to a side table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};

use super::shards::write_table;
use crate::durable::WriteError;

/// A row that left the line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LostRow {
    /// The row's id.
    pub id: String,
    /// The rule or failure, in snake case.
    pub reason: String,
    /// What exactly happened.
    pub detail: String,
}

/// Where operators report rows: `(id, reason, detail)`.
pub type RowSink = Arc<dyn Fn(String, String, String) + Send + Sync>;

/// Collects the lost rows of one task.
#[derive(Clone, Default)]
pub struct Ledger {
    dropped: Arc<Mutex<Vec<LostRow>>>,
    quarantined: Arc<Mutex<Vec<LostRow>>>,
}

fn locked(rows: &Mutex<Vec<LostRow>>) -> MutexGuard<'_, Vec<LostRow>> {
    // A panic in another thread leaves whole rows behind, so the list stays usable.
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// For rows that a rule drops.
    pub fn drop_sink(&self) -> RowSink {
        Self::sink(self.dropped.clone())
    }

    /// For rows that failed and can be tried again.
    pub fn quarantine_sink(&self) -> RowSink {
        Self::sink(self.quarantined.clone())
    }

    fn sink(rows: Arc<Mutex<Vec<LostRow>>>) -> RowSink {
        Arc::new(move |id, reason, detail| locked(&rows).push(LostRow { id, reason, detail }))
    }

    /// Dropped rows in a fixed order.
    pub fn dropped(&self) -> Vec<LostRow> {
        sorted(&self.dropped)
    }

    /// Failed rows in a fixed order.
    pub fn quarantined(&self) -> Vec<LostRow> {
        sorted(&self.quarantined)
    }
}

/// Operators report from many threads; sorted, the side tables are a function of the data.
fn sorted(rows: &Mutex<Vec<LostRow>>) -> Vec<LostRow> {
    let mut rows = locked(rows).clone();
    rows.sort();
    rows
}

/// How many rows each reason took.
pub fn count(rows: &[LostRow]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.reason.clone()).or_insert(0) += 1;
    }
    counts
}

/// Writes lost rows to a side table with the columns `id, reason, detail`.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, rows: &[LostRow]) -> Result<(), WriteError> {
    let column = |get: fn(&LostRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
    };
    let batch = RecordBatch::try_from_iter([
        ("id", column(|row| &row.id)),
        ("reason", column(|row| &row.reason)),
        ("detail", column(|row| &row.detail)),
    ]);
    match batch {
        Ok(batch) => write_table(path, &batch),
        Err(error) => Err(WriteError::new("encode", path, std::io::Error::other(error))),
    }
}
