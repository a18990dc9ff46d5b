//! The Arrow border: batches of pages and topics with the column types the rest works with.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, LargeStringArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};

use crate::schema::{ID, INT_SCORE, LANGUAGE, LANGUAGE_SCORE, TOKEN_COUNT, URL};

/// A column that is missing or cannot be read.
#[derive(Debug)]
pub(crate) struct ColumnProblem {
    pub(crate) column: &'static str,
    pub(crate) problem: String,
}

/// The columns of a page batch that are indexed.
pub(crate) struct PageBatch {
    pub(crate) text: LargeStringArray,
    pub(crate) id: LargeStringArray,
    url: Option<LargeStringArray>,
    language: Option<LargeStringArray>,
    language_score: Option<Float64Array>,
    token_count: Option<Int64Array>,
    int_score: Option<Int64Array>,
}

impl PageBatch {
    /// `text` and `id` must be there; the columns of the filters may be absent.
    pub(crate) fn new(batch: &RecordBatch) -> Result<Self, ColumnProblem> {
        Ok(Self {
            text: strings(batch, "text")?,
            id: strings(batch, ID)?,
            url: optional(batch, URL, &DataType::LargeUtf8)?.map(|c| c.as_string::<i64>().clone()),
            language: optional(batch, LANGUAGE, &DataType::LargeUtf8)?.map(|c| c.as_string::<i64>().clone()),
            language_score: optional(batch, LANGUAGE_SCORE, &DataType::Float64)?
                .map(|c| c.as_primitive::<Float64Type>().clone()),
            token_count: integers(batch, TOKEN_COUNT)?,
            int_score: integers(batch, INT_SCORE)?,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.id.len()
    }

    pub(crate) fn url(&self, row: usize) -> Option<&str> {
        let column = self.url.as_ref()?;
        column.is_valid(row).then(|| column.value(row))
    }

    /// In lower case, as the filters ask for it.
    pub(crate) fn language(&self, row: usize) -> Option<String> {
        let column = self.language.as_ref()?;
        column.is_valid(row).then(|| column.value(row).to_lowercase())
    }

    pub(crate) fn language_score(&self, row: usize) -> Option<f64> {
        let column = self.language_score.as_ref()?;
        column.is_valid(row).then(|| column.value(row))
    }

    pub(crate) fn token_count(&self, row: usize) -> Option<i64> {
        let column = self.token_count.as_ref()?;
        column.is_valid(row).then(|| column.value(row))
    }

    pub(crate) fn int_score(&self, row: usize) -> Option<i64> {
        let column = self.int_score.as_ref()?;
        column.is_valid(row).then(|| column.value(row))
    }
}

/// A string column that must be there, whatever string type it has.
pub(crate) fn strings(batch: &RecordBatch, column: &'static str) -> Result<LargeStringArray, ColumnProblem> {
    optional(batch, column, &DataType::LargeUtf8)?
        .map(|c| c.as_string::<i64>().clone())
        .ok_or_else(|| ColumnProblem { column, problem: "is missing".to_owned() })
}

fn integers(batch: &RecordBatch, column: &'static str) -> Result<Option<Int64Array>, ColumnProblem> {
    Ok(optional(batch, column, &DataType::Int64)?.map(|c| c.as_primitive::<Int64Type>().clone()))
}

fn optional(
    batch: &RecordBatch,
    column: &'static str,
    wanted: &DataType,
) -> Result<Option<ArrayRef>, ColumnProblem> {
    let Some(array) = batch.column_by_name(column) else {
        return Ok(None);
    };
    let text_wanted = *wanted == DataType::LargeUtf8;
    let found = array.data_type();
    if text_wanted && !(found.is_string() || found.is_null() || is_dictionary(found)) {
        return Err(ColumnProblem { column, problem: format!("has type {found}, not a string") });
    }
    cast(array, wanted)
        .map(Some)
        .map_err(|error| ColumnProblem { column, problem: format!("has type {found} ({error})") })
}

fn is_dictionary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Dictionary(_, value) if value.is_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, StringViewArray};
    use std::sync::Arc;

    #[test]
    fn reads_any_string_type_and_misses_politely() {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
        let id: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["x", "y"]));
        let batch = RecordBatch::try_from_iter([("text", text.clone()), ("id", id)]).unwrap();
        let pages = PageBatch::new(&batch).unwrap();
        assert_eq!(pages.text.value(0), "a");
        assert!(pages.text.is_null(1));
        assert_eq!(pages.url(0), None);

        let batch = RecordBatch::try_from_iter([("text", text.clone())]).unwrap();
        let problem = PageBatch::new(&batch).err().unwrap();
        assert_eq!((problem.column, problem.problem.as_str()), ("id", "is missing"));

        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let batch = RecordBatch::try_from_iter([("text", text), ("id", numbers)]).unwrap();
        let problem = PageBatch::new(&batch).err().unwrap();
        assert!(problem.problem.contains("Int32"), "{problem:?}");
    }
}
