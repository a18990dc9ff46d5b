//! Reading texts, numbers and conversations out of record batches.

use crate::infer::{Message, Role};
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
    StructArray,
};
use arrow::datatypes::{DataType, Float64Type};

/// Why a column cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// It is not there.
    #[error("there is no column {column}; the columns are {have}")]
    Missing {
        /// The wanted column.
        column: String,
        /// Those of the batch.
        have: String,
    },
    /// It holds something else.
    #[error("column {column} is {found} where {wanted} is needed")]
    Kind {
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What is needed.
        wanted: &'static str,
    },
}

fn kind(column: &str, array: &dyn Array, wanted: &'static str) -> ColumnError {
    ColumnError::Kind { column: column.to_owned(), found: array.data_type().to_string(), wanted }
}

/// A column by name.
pub(crate) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ColumnError> {
    batch.column_by_name(name).ok_or_else(|| {
        let schema = batch.schema();
        let have: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        ColumnError::Missing { column: name.to_owned(), have: have.join(", ") }
    })
}

/// A column of texts, in any of Arrow's forms.
pub(crate) enum Texts<'a> {
    Short(&'a StringArray),
    Long(&'a LargeStringArray),
    View(&'a StringViewArray),
}

impl<'a> Texts<'a> {
    pub(crate) fn of(name: &str, array: &'a dyn Array) -> Result<Self, ColumnError> {
        match array.data_type() {
            DataType::Utf8 => Ok(Self::Short(array.as_string())),
            DataType::LargeUtf8 => Ok(Self::Long(array.as_string())),
            DataType::Utf8View => Ok(Self::View(array.as_string_view())),
            _ => Err(kind(name, array, "text")),
        }
    }

    /// The text of a row; none for a null.
    pub(crate) fn at(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Short(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Long(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }
}

/// The texts of a column by name.
pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<Texts<'a>, ColumnError> {
    Texts::of(name, column(batch, name)?.as_ref())
}

/// A column of numbers, whole or not.
pub(crate) fn numbers(batch: &RecordBatch, name: &str) -> Result<Float64Array, ColumnError> {
    let array = column(batch, name)?;
    if !array.data_type().is_numeric() {
        return Err(kind(name, array, "a number"));
    }
    let cast = arrow::compute::cast(array, &DataType::Float64).map_err(|_| kind(name, array, "a number"))?;
    Ok(cast.as_primitive::<Float64Type>().clone())
}

/// Whether a column is a list of messages.
pub(crate) fn is_messages(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) => {
            matches!(item.data_type(), DataType::Struct(fields) if fields.find("role").is_some() && fields.find("content").is_some())
        }
        _ => false,
    }
}

/// A column of message lists: `list<struct<role, content>>`.
pub(crate) struct Conversations<'a> {
    name: String,
    array: &'a ArrayRef,
}

impl<'a> Conversations<'a> {
    pub(crate) fn of(batch: &'a RecordBatch, name: &str) -> Result<Self, ColumnError> {
        let array = column(batch, name)?;
        match is_messages(array.data_type()) {
            true => Ok(Self { name: name.to_owned(), array }),
            false => Err(kind(name, array, "a list of messages (role, content)")),
        }
    }

    /// The messages of a row; a reason where it cannot be used.
    pub(crate) fn at(&self, row: usize) -> Result<Result<Vec<Message>, &'static str>, ColumnError> {
        if self.array.is_null(row) {
            return Ok(Err("empty"));
        }
        let items = match self.array.data_type() {
            DataType::List(_) => self.array.as_list::<i32>().value(row),
            _ => self.array.as_list::<i64>().value(row),
        };
        let items: &StructArray = items.as_struct();
        let field = |name: &str| {
            let missing = || kind(&self.name, self.array, "a list of messages (role, content)");
            items.column_by_name(name).ok_or_else(missing)
        };
        let (roles, contents) = (field("role")?, field("content")?);
        let (roles, contents) = (Texts::of("role", roles)?, Texts::of("content", contents)?);
        let message = |index: usize| {
            let role = match roles.at(index) {
                Some("system") => Role::System,
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                _ => return Err("unknown_role"),
            };
            Ok(Message { role, content: contents.at(index).unwrap_or_default().to_owned() })
        };
        Ok((0..items.len()).map(message).collect())
    }
}
