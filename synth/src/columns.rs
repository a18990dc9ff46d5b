//! String columns at the border: whatever string type comes in, `Utf8` goes on.

use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt32Type};
use arrow::error::ArrowError;

/// Why a column of an input batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// The batch has no column of that name.
    #[error(
        "column `{column}` is missing; the input has {present}: add the column, or rename one of them in the stage before"
    )]
    Missing {
        /// The column asked for.
        column: String,
        /// The columns there are.
        present: String,
    },
    /// The column holds values of another type.
    #[error("column `{column}` has type {found}, but {wanted} is needed: cast it in the stage before")]
    WrongType {
        /// The column asked for.
        column: String,
        /// Its type.
        found: String,
        /// What the operator reads.
        wanted: &'static str,
    },
}

impl From<ColumnError> for ArrowError {
    fn from(error: ColumnError) -> Self {
        ArrowError::ExternalError(Box::new(error))
    }
}

fn missing(batch: &RecordBatch, column: &str) -> ColumnError {
    let schema = batch.schema();
    let present: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    ColumnError::Missing { column: column.to_string(), present: format!("[{}]", present.join(", ")) }
}

/// The column as `Utf8`; Utf8, LargeUtf8, Utf8View and dictionaries of them are read.
pub(crate) fn strings(batch: &RecordBatch, column: &str) -> Result<StringArray, ColumnError> {
    optional_strings(batch, column)?.ok_or_else(|| missing(batch, column))
}

/// The column as `Utf8`, or `None` where the batch has none of that name.
pub(crate) fn optional_strings(
    batch: &RecordBatch,
    column: &str,
) -> Result<Option<StringArray>, ColumnError> {
    let Some(array) = batch.column_by_name(column) else {
        return Ok(None);
    };
    let wrong = || ColumnError::WrongType {
        column: column.to_string(),
        found: array.data_type().to_string(),
        wanted: "a string",
    };
    let is_string = |t: &DataType| {
        matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
    };
    let readable = match array.data_type() {
        DataType::Dictionary(_, value) => is_string(value),
        other => is_string(other),
    };
    if !readable {
        return Err(wrong());
    }
    let utf8 = cast(array, &DataType::Utf8).map_err(|_| wrong())?;
    utf8.as_string_opt::<i32>().cloned().map(Some).ok_or_else(wrong)
}

/// The column as `UInt32`; any integer type that holds only such values is read.
pub(crate) fn counts(batch: &RecordBatch, column: &str) -> Result<UInt32Array, ColumnError> {
    let array = batch.column_by_name(column).ok_or_else(|| missing(batch, column))?;
    let wrong = || ColumnError::WrongType {
        column: column.to_string(),
        found: array.data_type().to_string(),
        wanted: "an integer that fits in 32 bits",
    };
    if !array.data_type().is_integer() {
        return Err(wrong());
    }
    let cast = cast(array, &DataType::UInt32).map_err(|_| wrong())?;
    if cast.null_count() > array.null_count() {
        return Err(wrong());
    }
    cast.as_primitive_opt::<UInt32Type>().cloned().ok_or_else(wrong)
}

/// The text of a row, empty where the value is null.
pub(crate) fn text_at(array: &StringArray, row: usize) -> &str {
    if array.is_null(row) { "" } else { array.value(row) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, LargeStringArray, StringViewArray};
    use std::sync::Arc;

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("c", column)]).unwrap()
    }

    #[test]
    fn every_string_type_is_read_and_null_is_empty() {
        let values = [Some("a"), None, Some("é")];
        let arrays: [ArrayRef; 3] = [
            Arc::new(StringArray::from(values.to_vec())),
            Arc::new(LargeStringArray::from(values.to_vec())),
            Arc::new(StringViewArray::from(values.to_vec())),
        ];
        for array in arrays {
            let read = strings(&batch(array), "c").unwrap();
            assert_eq!([text_at(&read, 0), text_at(&read, 1), text_at(&read, 2)], ["a", "", "é"]);
        }
    }

    #[test]
    fn a_missing_or_wrong_column_is_named() {
        let numbers = batch(Arc::new(Int64Array::from(vec![1])));
        assert!(
            strings(&numbers, "text")
                .unwrap_err()
                .to_string()
                .contains("`text` is missing; the input has [c]")
        );
        assert!(strings(&numbers, "c").unwrap_err().to_string().contains("Int64"));
        assert_eq!(counts(&numbers, "c").unwrap().value(0), 1);
        let negative = batch(Arc::new(Int64Array::from(vec![-1])));
        assert!(counts(&negative, "c").is_err());
        let text = batch(Arc::new(StringArray::from(vec!["1"])));
        assert!(counts(&text, "c").is_err());
    }
}
