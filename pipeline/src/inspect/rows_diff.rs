//! Rows that two tables do not share, found by their ids in memory that does not grow with the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use super::diff::Both;
use super::distribution::{Distribution, Distributor};
use super::parquet_files;
use super::trace::ID_COLUMNS;
use crate::engine::external_sort::{ExternalSorter, Spill};
use crate::runner::inputs::schema_of;
use crate::stages::text_column;

/// Memory of the sort, in bytes.
const SORT_BYTES: u64 = 256 << 20;

/// Ids shown of each kind.
const EXAMPLES: usize = 5;

/// Rows by their ids.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowChanges {
    /// Rows that both have, with the same values.
    pub same: u64,
    /// Rows whose id only the second table has.
    pub added: Ids,
    /// Rows whose id only the first table has.
    pub removed: Ids,
    /// Rows whose id both have, with other values.
    pub changed: Ids,
}

/// A number of rows and the ids of a few.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// Rows.
    pub rows: u64,
    /// The ids of the first few, in the order of their hashes.
    pub examples: Vec<String>,
}

impl Ids {
    fn add(&mut self, id: &str) {
        self.rows += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(id.to_owned());
        }
    }
}

/// What differs in the tables of two stage folders.
type Found = (Option<RowChanges>, BTreeMap<String, Both<Distribution>>);

/// Compares two tables in the columns that both have.
///
/// # Errors
/// A text that names the file that cannot be read.
pub fn compare_rows(tables: &Both<PathBuf>, ignored: &BTreeSet<String>) -> Result<Found, String> {
    let mut files: Both<Vec<PathBuf>> = Default::default();
    for (files, table) in files.iter_mut().zip(tables) {
        files.extend(parquet_files(table)?.into_iter().map(|(path, _)| path));
    }
    let [Some(of_first), Some(of_second)] = [files[0].first(), files[1].first()] else {
        return Ok((None, BTreeMap::new()));
    };
    let schemas = [schema_of(of_first)?, schema_of(of_second)?];
    let columns = Columns::shared(&schemas, ignored)?;
    let spill = Spill { folder: std::env::temp_dir(), memory_bytes: SORT_BYTES };
    let mut sorter = columns.id.as_ref().map(|_| spill.sorter(1));
    let mut distributions: Both<BTreeMap<String, Distributor>> = Default::default();
    for (side, files) in files.iter().enumerate() {
        for path in files {
            columns
                .read(path, side, sorter.as_mut(), &mut distributions[side])
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let changes = sorter.map(|sorter| merge(sorter).map_err(|error| error.to_string())).transpose()?;
    let [first, mut second] = distributions;
    let mut changed = BTreeMap::new();
    for (name, of_first) in first {
        let both = [of_first.finish(), second.remove(&name).unwrap_or_default().finish()];
        if both[0] != both[1] {
            changed.insert(name, both);
        }
    }
    Ok((changes, changed))
}

/// The columns that two tables are compared in.
struct Columns {
    id: Option<String>,
    names: Vec<String>,
    converter: RowConverter,
}

impl Columns {
    fn shared(schemas: &Both<SchemaRef>, ignored: &BTreeSet<String>) -> Result<Self, String> {
        let [first, second] = schemas;
        let shared = |name: &str| {
            let of = |schema: &SchemaRef| schema.field_with_name(name).ok().map(|f| f.data_type().clone());
            of(first).is_some() && of(first) == of(second)
        };
        let names: Vec<String> = first.fields().iter().map(|field| field.name().clone()).collect();
        let names: Vec<String> =
            names.into_iter().filter(|name| shared(name) && !ignored.contains(name)).collect();
        let id = ID_COLUMNS.into_iter().find(|id| names.iter().any(|name| name == id)).map(str::to_owned);
        let fields = names.iter().filter_map(|name| first.field_with_name(name).ok());
        let fields = fields.map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(|error| error.to_string())?;
        Ok(Self { id, names, converter })
    }

    fn read(
        &self,
        path: &Path,
        side: usize,
        mut sorter: Option<&mut ExternalSorter>,
        distributions: &mut BTreeMap<String, Distributor>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
            let batch = batch?;
            let columns: Vec<ArrayRef> =
                self.names.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect();
            let rows = self.converter.convert_columns(&columns)?;
            let hashes: Vec<blake3::Hash> =
                (0..batch.num_rows()).map(|row| blake3::hash(rows.row(row).as_ref())).collect();
            for (name, column) in self.names.iter().zip(&columns) {
                let Some(numbers) = Distributor::numbers(column)? else { continue };
                let distributor = distributions.entry(name.clone()).or_default();
                for (row, hash) in hashes.iter().enumerate() {
                    distributor.push(&numbers, row, first_eight(hash.as_bytes()));
                }
            }
            if let (Some(sorter), Some(id)) = (sorter.as_deref_mut(), &self.id) {
                push_rows(sorter, &batch, id, side, &hashes)?;
            }
        }
        Ok(())
    }
}

fn first_eight(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Bytes of a hash that a record holds.
const HASH: usize = 16;

/// A record: the id's hash, the row's, the side, the id.
fn push_rows(
    sorter: &mut ExternalSorter,
    batch: &RecordBatch,
    id: &str,
    side: usize,
    hashes: &[blake3::Hash],
) -> Result<(), Box<dyn std::error::Error>> {
    let ids = text_column(batch, id)?;
    let mut record = Vec::new();
    for (id, hash) in ids.iter().zip(hashes) {
        let id = id.unwrap_or_default();
        record.clear();
        record.extend_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..HASH]);
        record.extend_from_slice(&hash.as_bytes()[..HASH]);
        record.push(u8::from(side == 1));
        record.extend_from_slice(id.as_bytes());
        sorter.push(&record)?;
    }
    Ok(())
}

/// Rows of one id: equal ones of both sides are the same; of the others, as many as both sides have are
/// changed, and the rest is added or removed.
fn merge(sorter: ExternalSorter) -> Result<RowChanges, crate::durable::WriteError> {
    let mut sorted = sorter.finish()?;
    let mut changes = RowChanges::default();
    let mut group = Group::default();
    while let Some(record) = sorted.next_record()? {
        let (Some((id_hash, rest)), Some(&side)) = (record.split_at_checked(HASH), record.get(2 * HASH))
        else {
            continue;
        };
        if group.id_hash != id_hash {
            std::mem::take(&mut group).finish(&mut changes);
            group.id_hash = id_hash.to_vec();
            group.id = String::from_utf8_lossy(&record[2 * HASH + 1..]).into_owned();
        }
        group.push(&rest[..HASH], usize::from(side), &mut changes);
    }
    group.finish(&mut changes);
    Ok(changes)
}

/// The rows of one id.
#[derive(Default)]
struct Group {
    id_hash: Vec<u8>,
    id: String,
    /// The hash of the row that was seen last, and how often each side has it.
    row: Vec<u8>,
    of_row: Both<u64>,
    /// Rows of each side that the other has not.
    alone: Both<u64>,
}

impl Group {
    fn push(&mut self, row: &[u8], side: usize, changes: &mut RowChanges) {
        if self.row != row {
            self.close_row(changes);
            self.row = row.to_vec();
        }
        self.of_row[side] += 1;
    }

    fn close_row(&mut self, changes: &mut RowChanges) {
        let [first, second] = std::mem::take(&mut self.of_row);
        let same = first.min(second);
        changes.same += same;
        self.alone[0] += first - same;
        self.alone[1] += second - same;
    }

    fn finish(mut self, changes: &mut RowChanges) {
        self.close_row(changes);
        let [first, second] = self.alone;
        (0..first.min(second)).for_each(|_| changes.changed.add(&self.id));
        (second..first).for_each(|_| changes.removed.add(&self.id));
        (first..second).for_each(|_| changes.added.add(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::stages::testing;

    fn table(rows: Json) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let batch = testing::batch(rows);
        let file = File::create(folder.path().join("data/00000-00000.parquet")).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        folder
    }

    #[test]
    fn rows_are_the_same_added_removed_or_changed() {
        let first = table(json!([
            {"id": "a", "n": 1, "t": "x", "latency_ms": 5}, {"id": "b", "n": 2, "t": "y", "latency_ms": 5},
            {"id": "c", "n": 3, "t": "z", "latency_ms": 5}, {"id": "d", "n": 4, "t": "z", "latency_ms": 5},
            {"id": "d", "n": 4, "t": "z", "latency_ms": 5},
        ]));
        let second = table(json!([
            {"id": "d", "n": 4, "t": "z", "latency_ms": 6}, {"id": "e", "n": 9, "t": "zz", "latency_ms": 6},
            {"id": "a", "n": 1, "t": "x", "latency_ms": 6}, {"id": "b", "n": 7, "t": "y", "latency_ms": 6},
        ]));
        let tables = [first.path().to_owned(), second.path().to_owned()];
        let ignored = BTreeSet::from(["latency_ms".to_owned()]);
        let (changes, columns) = compare_rows(&tables, &ignored).unwrap();
        let changes = changes.unwrap();
        assert_eq!(changes.same, 2);
        assert_eq!((changes.added.rows, changes.added.examples), (1, vec!["e".to_owned()]));
        let mut removed = changes.removed.examples;
        removed.sort();
        assert_eq!((changes.removed.rows, removed), (2, vec!["c".to_owned(), "d".to_owned()]));
        assert_eq!((changes.changed.rows, changes.changed.examples), (1, vec!["b".to_owned()]));
        let numbers = &columns["n"];
        assert_eq!((numbers[0].mean, numbers[1].mean), (Some(2.8), Some(5.25)));
        assert_eq!((numbers[0].p50, numbers[1].p90), (Some(3.0), Some(9.0)));
        assert_eq!(columns["t"][1].mean, Some(1.25));
        assert!(!columns.contains_key("latency_ms"));
    }

    #[test]
    fn a_table_without_ids_is_compared_by_its_distributions() {
        let tables = [table(json!([{"n": 1}])), table(json!([{"n": 2}]))];
        let paths = [tables[0].path().to_owned(), tables[1].path().to_owned()];
        let (changes, columns) = compare_rows(&paths, &BTreeSet::new()).unwrap();
        assert!(changes.is_none());
        assert_eq!(columns["n"][1].mean, Some(2.0));
    }
}
