//! Rows that leave the line: dropped by a rule, or failed. Each has a reason, is counted, and may
//! be written to a side table. Beside them stand the figures that a stage notes of its work.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::shards::write_batches;
use crate::durable::WriteError;
use crate::engine::external_sort::{ExternalSorter, Sorted, Spill};
use crate::manifest::OutputFile;
use crate::workflow::DroppedRows;

/// Memory of a task for its lost rows, in bytes; more of them are sorted on disk.
const MEMORY_BYTES: u64 = 32 << 20;

/// Rows of a side table that are encoded at once.
const WRITE_ROWS: usize = 4096;

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

impl LostRow {
    /// Sorts by id, reason and detail; the lengths at the end tell the three apart.
    fn to_record(&self) -> Vec<u8> {
        let mut record = [self.id.as_str(), &self.reason, &self.detail].join("\0").into_bytes();
        record.extend((self.id.len() as u32).to_le_bytes());
        record.extend((self.reason.len() as u32).to_le_bytes());
        record
    }

    fn from_record(record: &[u8]) -> Option<Self> {
        let (rest, reason_bytes) = record.split_last_chunk::<4>()?;
        let (texts, id_bytes) = rest.split_last_chunk::<4>()?;
        let (id, rest) = texts.split_at_checked(u32::from_le_bytes(*id_bytes) as usize)?;
        let (reason, detail) = rest.get(1..)?.split_at_checked(u32::from_le_bytes(*reason_bytes) as usize)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Self { id: text(id), reason: text(reason), detail: text(detail.get(1..)?) })
    }
}

/// Where operators report rows: `(id, reason, detail)`.
pub type RowSink = Arc<dyn Fn(String, String, String) + Send + Sync>;

/// Collects the lost rows of one task, and what is to be told of it.
#[derive(Clone)]
pub struct Ledger {
    dropped: Arc<Mutex<Collected>>,
    quarantined: Arc<Mutex<Collected>>,
    figures: Arc<Mutex<BTreeMap<String, Json>>>,
}

struct Collected {
    counts: BTreeMap<String, u64>,
    first: Option<LostRow>,
    /// Sorted, since operators report from many threads; `None` where rows are only counted.
    rows: Option<ExternalSorter>,
    failure: Option<WriteError>,
}

/// The lost rows of one task.
pub struct LostRows {
    /// How many rows each reason took.
    pub counts: BTreeMap<String, u64>,
    /// The first of them in the order of ids.
    pub first: Option<LostRow>,
    rows: Option<Sorted>,
}

/// Puts the figures of tasks together: counts are added, of others the last stands.
pub fn add_figures(all: &mut BTreeMap<String, Json>, more: BTreeMap<String, Json>) {
    for (name, value) in more {
        let sum = all.get(&name).and_then(Json::as_u64).zip(value.as_u64()).map(|(a, b)| a + b);
        all.insert(name, sum.map_or(value, Json::from));
    }
}

fn locked(rows: &Mutex<Collected>) -> MutexGuard<'_, Collected> {
    // A panic in another thread leaves whole rows behind, so the list stays usable.
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collected {
    fn new(rows: Option<ExternalSorter>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { counts: BTreeMap::new(), first: None, rows, failure: None }))
    }

    fn add(&mut self, row: LostRow) {
        *self.counts.entry(row.reason.clone()).or_insert(0) += 1;
        if let Some(rows) = &mut self.rows
            && let Err(error) = rows.push(&row.to_record())
        {
            // A sink cannot fail; the task does when it takes the rows.
            self.failure.get_or_insert(error);
            self.rows = None;
        }
        if self.first.as_ref().is_none_or(|first| row < *first) {
            self.first = Some(row);
        }
    }

    fn take(&mut self) -> Result<LostRows, WriteError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let rows = self.rows.take().map(ExternalSorter::finish).transpose()?;
        Ok(LostRows { counts: std::mem::take(&mut self.counts), first: self.first.take(), rows })
    }
}

/// Keeps all rows, and spills among the system's temporary files.
impl Default for Ledger {
    fn default() -> Self {
        Self::new(&std::env::temp_dir(), DroppedRows::Keep)
    }
}

impl Ledger {
    /// A ledger that spills into a folder; failed rows are always kept.
    pub fn new(spill_folder: &Path, dropped: DroppedRows) -> Self {
        let spill = Spill { folder: spill_folder.to_owned(), memory_bytes: MEMORY_BYTES };
        let kept = (dropped == DroppedRows::Keep).then(|| spill.sorter(2));
        Self {
            dropped: Collected::new(kept),
            quarantined: Collected::new(Some(spill.sorter(2))),
            figures: Arc::default(),
        }
    }

    /// Notes a figure for the manifest, which must follow from the data. See [`add_figures`] for a stage with
    /// several tasks.
    pub fn note_figure(&self, name: &str, value: Json) {
        add_figures(&mut self.figures(), [(name.to_owned(), value)].into());
    }

    /// Adds to a count among the figures; nothing is no figure.
    pub fn count(&self, name: &str, rows: u64) {
        if rows > 0 {
            self.note_figure(name, rows.into());
        }
    }

    /// Counts the rows of a batch that have nothing in a column, as `rows_without_<column>`.
    pub fn count_nulls(&self, batch: &RecordBatch, column: &str) {
        if let Some(values) = batch.column_by_name(column) {
            self.count(&format!("rows_without_{column}"), values.null_count() as u64);
        }
    }

    fn figures(&self) -> MutexGuard<'_, BTreeMap<String, Json>> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the figures out.
    pub fn take_figures(&self) -> BTreeMap<String, Json> {
        std::mem::take(&mut *self.figures())
    }

    /// For rows that a rule drops.
    pub fn drop_sink(&self) -> RowSink {
        Self::sink(self.dropped.clone())
    }

    /// For rows that failed and can be tried again.
    pub fn quarantine_sink(&self) -> RowSink {
        Self::sink(self.quarantined.clone())
    }

    fn sink(rows: Arc<Mutex<Collected>>) -> RowSink {
        Arc::new(move |id, reason, detail| locked(&rows).add(LostRow { id, reason, detail }))
    }

    /// Takes the dropped rows out.
    ///
    /// # Errors
    /// They could not be spilled.
    pub fn take_dropped(&self) -> Result<LostRows, WriteError> {
        locked(&self.dropped).take()
    }

    /// Takes the failed rows out.
    ///
    /// # Errors
    /// They could not be spilled.
    pub fn take_quarantined(&self) -> Result<LostRows, WriteError> {
        locked(&self.quarantined).take()
    }
}

impl LostRows {
    fn next_rows(&mut self) -> Result<Vec<LostRow>, WriteError> {
        let mut rows = Vec::new();
        while let Some(sorted) = self.rows.as_mut().filter(|_| rows.len() < WRITE_ROWS)
            && let Some(record) = sorted.next_record()?
        {
            rows.extend(LostRow::from_record(record));
        }
        Ok(rows)
    }

    /// Writes the rows that were kept to a side table with the columns `id, reason, detail`; no rows,
    /// no table, and one that an earlier try left goes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(mut self, path: &Path) -> Result<Option<OutputFile>, WriteError> {
        if self.rows.is_none() || self.counts.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(WriteError::new("remove", path, error))
                }
                _ => Ok(None),
            };
        }
        let schema = schema();
        let batches = std::iter::from_fn(|| match self.next_rows() {
            Ok(rows) if rows.is_empty() => None,
            Ok(rows) => Some(batch(&rows)),
            Err(error) => Some(Err(ArrowError::ExternalError(Box::new(error)))),
        });
        write_batches(path, schema, batches).map(Some)
    }
}

fn schema() -> SchemaRef {
    let fields = ["id", "reason", "detail"].map(|name| Field::new(name, DataType::Utf8, false));
    Arc::new(Schema::new(fields.to_vec()))
}

fn batch(rows: &[LostRow]) -> Result<RecordBatch, ArrowError> {
    let column = |get: fn(&LostRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
    };
    let columns = vec![column(|row| &row.id), column(|row| &row.reason), column(|row| &row.detail)];
    RecordBatch::try_new(schema(), columns)
}

/// All rows at once, for tests.
#[cfg(test)]
impl Ledger {
    /// Dropped rows in order; they are taken out.
    pub fn dropped(&self) -> Vec<LostRow> {
        self.take_dropped().unwrap().all()
    }

    /// Failed rows in order; they are taken out.
    pub fn quarantined(&self) -> Vec<LostRow> {
        self.take_quarantined().unwrap().all()
    }
}

#[cfg(test)]
impl LostRows {
    fn all(mut self) -> Vec<LostRow> {
        std::iter::from_fn(|| Some(self.next_rows().unwrap()).filter(|rows| !rows.is_empty()))
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn lost_rows_are_counted_and_written_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path(), DroppedRows::Keep);
        let sink = ledger.drop_sink();
        for n in (0..10_000).rev() {
            sink(format!("row {n:05}"), ["long", "short"][n % 2].into(), format!("detail\0{n}"));
        }
        let lost = ledger.take_dropped().unwrap();
        assert_eq!(lost.counts, BTreeMap::from([("long".to_owned(), 5000), ("short".to_owned(), 5000)]));
        assert_eq!(lost.first.as_ref().unwrap().id, "row 00000");
        let path = folder.path().join("dropped/00000.parquet");
        lost.write(&path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let ids = crate::stages::testing::strings(&batches, "id");
        assert_eq!(ids, (0..10_000).map(|n| format!("row {n:05}")).collect::<Vec<_>>());
        assert_eq!(crate::stages::testing::strings(&batches, "detail")[7], "detail\u{0}7");
    }

    #[test]
    fn counts_of_tasks_are_added_and_other_figures_stand() {
        let ledger = Ledger::default();
        ledger.count("rows_without_text", 2);
        ledger.count("rows_without_text", 3);
        ledger.count("rows_without_url", 0);
        ledger.note_figure("mixture", serde_json::json!({"web": 1}));
        let mut all = BTreeMap::from([("rows_without_text".to_owned(), Json::from(10))]);
        add_figures(&mut all, ledger.take_figures());
        assert_eq!(Json::from_iter(all), serde_json::json!({"rows_without_text": 15, "mixture": {"web": 1}}));
        assert!(ledger.take_figures().is_empty());
    }

    #[test]
    fn rows_that_are_only_counted_leave_no_table() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path(), DroppedRows::Count);
        ledger.drop_sink()("a".into(), "short".into(), "detail".into());
        let lost = ledger.take_dropped().unwrap();
        assert_eq!(lost.counts["short"], 1);
        lost.write(&folder.path().join("dropped.parquet")).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
