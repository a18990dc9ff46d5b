//! Parts of large Parquet files: a page of rows, and what the columns hold, without reading the files
//! through.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, statistics::StatisticsConverter};
use serde::Serialize;

use super::distribution::Distributor;

/// Rows that the distributions are drawn from, and the places in the files where they are taken.
const SAMPLE_ROWS: u64 = 2_000;
const SAMPLE_PLACES: u64 = 10;

/// Bars of a distribution.
const BINS: usize = 12;

/// Characters of a value that are shown.
const SHOWN_CHARS: usize = 120;

/// What a column holds.
#[derive(Debug, Serialize)]
pub struct ColumnPage {
    /// Its name.
    pub column: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Values that are not there, as the files' footers tell.
    pub nulls: Option<u64>,
    /// The smallest value, as the footers tell.
    pub smallest: Option<String>,
    /// The largest value, as the footers tell.
    pub largest: Option<String>,
    /// Bytes in the files.
    pub compressed_bytes: u64,
    /// Bytes before compression.
    pub bytes: u64,
    /// What the bars count: `values`, or `bytes` of texts.
    pub bins_of: &'static str,
    /// How the values of a sample are distributed.
    pub bins: Vec<Bin>,
    /// Rows of the sample.
    pub sampled_rows: u64,
}

/// A bar.
#[derive(Debug, PartialEq, Serialize)]
pub struct Bin {
    /// A value, or where the bar begins.
    pub label: String,
    /// Rows of the sample.
    pub rows: u64,
}

/// The rows from `offset` on, at most `limit`. Row groups before them are passed over unread.
///
/// # Errors
/// A text that names what cannot be read.
pub fn rows(files: &[(PathBuf, u64)], offset: u64, limit: u64) -> Result<Vec<RecordBatch>, String> {
    let (mut skip, mut wanted) = (offset, limit);
    let mut batches = Vec::new();
    for (path, rows) in files {
        if skip >= *rows {
            skip -= rows;
            continue;
        }
        if wanted == 0 {
            break;
        }
        let taken = wanted.min(rows - skip);
        batches.extend(read(path, skip, taken)?);
        (skip, wanted) = (0, wanted - taken);
    }
    Ok(batches)
}

fn read(path: &Path, offset: u64, limit: u64) -> Result<Vec<RecordBatch>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| wrong(&error))?;
    // Row groups that end before the page need not be opened.
    let (mut skip, mut groups) = (offset, Vec::new());
    for (number, group) in builder.metadata().row_groups().iter().enumerate() {
        let rows = group.num_rows() as u64;
        if groups.is_empty() && skip >= rows {
            skip -= rows;
        } else {
            groups.push(number);
        }
    }
    let builder = builder.with_row_groups(groups).with_offset(skip as usize).with_limit(limit as usize);
    let reader =
        builder.with_batch_size(limit.clamp(1, 1_024) as usize).build().map_err(|error| wrong(&error))?;
    reader.collect::<Result<_, _>>().map_err(|error| wrong(&error))
}

/// What each column holds: footers, and a sample of rows from several places.
///
/// # Errors
/// A text that names what cannot be read.
pub fn columns(files: &[(PathBuf, u64)]) -> Result<Vec<ColumnPage>, String> {
    let mut pages: BTreeMap<usize, ColumnPage> = BTreeMap::new();
    for (path, _) in files {
        add_footer(path, &mut pages)?;
    }
    let all: u64 = files.iter().map(|(_, rows)| rows).sum();
    let mut sample = Vec::new();
    if all <= SAMPLE_ROWS {
        sample = rows(files, 0, all)?;
    } else {
        for place in 0..SAMPLE_PLACES {
            sample.extend(rows(files, all / SAMPLE_PLACES * place, SAMPLE_ROWS / SAMPLE_PLACES)?);
        }
    }
    let mut pages: Vec<ColumnPage> = pages.into_values().collect();
    for (number, page) in pages.iter_mut().enumerate() {
        let columns: Vec<&ArrayRef> = sample.iter().filter_map(|batch| batch.columns().get(number)).collect();
        page.sampled_rows = columns.iter().map(|column| column.len() as u64).sum();
        (page.bins_of, page.bins) = bins(&columns).map_err(|error| format!("{}: {error}", page.column))?;
    }
    Ok(pages)
}

fn add_footer(path: &Path, pages: &mut BTreeMap<usize, ColumnPage>) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| wrong(&error))?;
    let (metadata, schema) = (builder.metadata().clone(), builder.schema().clone());
    for (number, field) in schema.fields().iter().enumerate() {
        let page = pages.entry(number).or_insert_with(|| ColumnPage {
            column: field.name().clone(),
            kind: field.data_type().to_string(),
            nulls: Some(0),
            smallest: None,
            largest: None,
            compressed_bytes: 0,
            bytes: 0,
            bins_of: "values",
            bins: Vec::new(),
            sampled_rows: 0,
        });
        for group in metadata.row_groups() {
            let own = group
                .columns()
                .iter()
                .filter(|column| column.column_path().parts().first() == Some(field.name()));
            for column in own {
                page.compressed_bytes += column.compressed_size().max(0) as u64;
                page.bytes += column.uncompressed_size().max(0) as u64;
            }
        }
        let Ok(converter) = StatisticsConverter::try_new(field.name(), &schema, builder.parquet_schema())
        else {
            page.nulls = None;
            continue;
        };
        let nulls = converter.row_group_null_counts(metadata.row_groups()).ok();
        page.nulls = match (page.nulls, nulls) {
            (Some(so_far), Some(counts)) if counts.null_count() == 0 => {
                Some(so_far + counts.values().iter().sum::<u64>())
            }
            _ => None,
        };
        if let Ok(values) = converter.row_group_mins(metadata.row_groups()) {
            page.smallest = extreme(page.smallest.take(), &values, Side::Smallest);
        }
        if let Ok(values) = converter.row_group_maxes(metadata.row_groups()) {
            page.largest = extreme(page.largest.take(), &values, Side::Largest);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Smallest,
    Largest,
}

/// The outermost of the values so far and those of a file's row groups: numbers by value, texts by order.
fn extreme(so_far: Option<String>, values: &ArrayRef, side: Side) -> Option<String> {
    let format = FormatOptions::default();
    let Ok(formatter) = ArrayFormatter::try_new(values.as_ref(), &format) else {
        return so_far;
    };
    let shown = (0..values.len())
        .filter(|row| !values.is_null(*row))
        .map(|row| cut(&formatter.value(row).to_string()));
    so_far.into_iter().chain(shown).reduce(|a, b| {
        let order = match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => a.total_cmp(&b),
            _ => a.cmp(&b),
        };
        if (order.is_le()) == (side == Side::Smallest) { a } else { b }
    })
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

/// The bars of a column: its most frequent values where few are different, or equal steps of its numbers
/// or of its texts' lengths.
fn bins(columns: &[&ArrayRef]) -> Result<(&'static str, Vec<Bin>), arrow::error::ArrowError> {
    let format = FormatOptions::default();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    'all: for column in columns {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &format)?;
        for row in 0..column.len() {
            let value =
                if column.is_null(row) { "null".to_owned() } else { formatter.value(row).to_string() };
            *counts.entry(value).or_default() += 1;
            if counts.len() > 2 * BINS {
                break 'all;
            }
        }
    }
    if counts.len() <= 2 * BINS {
        let mut bins: Vec<Bin> =
            counts.into_iter().map(|(label, rows)| Bin { label: cut(&label), rows }).collect();
        bins.sort_by_key(|bin| std::cmp::Reverse(bin.rows));
        return Ok(("values", bins));
    }
    let mut numbers: Vec<f64> = Vec::new();
    let mut of = "values";
    for column in columns {
        if let Some(values) = Distributor::numbers(column)? {
            of = if column.data_type().is_numeric() { "values" } else { "bytes" };
            numbers.extend(
                values.as_primitive::<Float64Type>().iter().flatten().filter(|value| value.is_finite()),
            );
        }
    }
    let (low, high) =
        numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    if numbers.is_empty() || low == high {
        return Ok((of, Vec::new()));
    }
    let step = (high - low) / BINS as f64;
    let mut rows = [0; BINS];
    for number in numbers {
        rows[(((number - low) / step) as usize).min(BINS - 1)] += 1;
    }
    let whole = step >= 4.0;
    let label = |bin: usize| {
        let start = low + step * bin as f64;
        if whole { format!("from {start:.0}") } else { format!("from {start:.3}") }
    };
    Ok((of, rows.into_iter().enumerate().map(|(bin, rows)| Bin { label: label(bin), rows }).collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// Files of 100 rows each, in row groups of 10.
    fn files(folder: &Path, count: usize) -> Vec<(PathBuf, u64)> {
        (0..count)
            .map(|number| {
                let path = folder.join(format!("{number}.parquet"));
                let ids = Int64Array::from_iter_values((0..100).map(|row| (number * 100 + row) as i64));
                let texts = StringArray::from_iter_values((0..100).map(|row| "x".repeat(row)));
                let kinds = StringArray::from_iter(
                    (0..100).map(|row| (row % 10 != 0).then_some(if row % 2 == 0 { "a" } else { "b" })),
                );
                let batch = RecordBatch::try_from_iter([
                    ("id", Arc::new(ids) as ArrayRef),
                    ("text", Arc::new(texts) as ArrayRef),
                    ("kind", Arc::new(kinds) as ArrayRef),
                ])
                .unwrap();
                let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
                let mut writer =
                    ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties))
                        .unwrap();
                writer.write(&batch).unwrap();
                writer.close().unwrap();
                (path, 100)
            })
            .collect()
    }

    #[test]
    fn a_page_begins_and_ends_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), 3);
        let ids = |offset, limit| -> Vec<i64> {
            let batches = rows(&files, offset, limit).unwrap();
            let ids = |batch: &RecordBatch| {
                batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
            };
            batches.iter().flat_map(ids).collect()
        };
        assert_eq!(ids(0, 3), [0, 1, 2]);
        assert_eq!(ids(95, 10), (95..105).collect::<Vec<_>>());
        assert_eq!(ids(10, 10), (10..20).collect::<Vec<_>>());
        assert_eq!(ids(299, 10), [299]);
        assert_eq!(ids(300, 10), [] as [i64; 0]);
        assert_eq!(ids(0, 1_000).len(), 300);
    }

    #[test]
    fn columns_are_told_from_footers_and_a_sample() {
        let folder = tempfile::tempdir().unwrap();
        let pages = columns(&files(folder.path(), 2)).unwrap();
        let [id, text, kind] = &pages[..] else { panic!("three columns") };
        assert_eq!(
            (id.smallest.as_deref(), id.largest.as_deref(), id.nulls),
            (Some("0"), Some("199"), Some(0))
        );
        assert_eq!((id.bins.len(), id.bins.iter().map(|bin| bin.rows).sum::<u64>()), (BINS, 200));
        assert_eq!((text.bins_of, text.sampled_rows), ("bytes", 200));
        assert_eq!(kind.nulls, Some(20));
        let shown: Vec<_> = kind.bins.iter().map(|bin| (bin.label.as_str(), bin.rows)).collect();
        assert_eq!(shown, [("b", 100), ("a", 80), ("null", 20)]);
        assert!(id.compressed_bytes > 0 && text.bytes > 0);
    }
}
