//! Which row of a group of duplicates is kept.

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stages::columns::text_column;

/// Which row of a group of duplicates is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first in the input.
    #[default]
    First,
    /// The one with the most bytes of text in this column, the first of equals.
    Longest(String),
    /// The one with the highest number in this column, the first of equals; NULL is lowest.
    Highest(String),
    /// The one with the last text in this column, a dump's name or a date, in the order of its bytes;
    /// the first of equals. NULL comes before all.
    Newest(String),
}

/// The ranks of a batch's rows: bytes of which the least are kept.
pub struct Ranks(Vec<Vec<u8>>);

impl Ranks {
    /// The rank of a row; the same for all where only their order decides.
    pub fn get(&self, row: usize) -> &[u8] {
        self.0.get(row).map_or(&[], Vec::as_slice)
    }
}

impl Keep {
    /// The column that decides.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::First => None,
            Self::Longest(column) | Self::Highest(column) | Self::Newest(column) => Some(column),
        }
    }

    /// The ranks of a batch's rows.
    ///
    /// # Errors
    /// The column is not there, or does not hold what is compared.
    pub fn ranks(&self, batch: &RecordBatch) -> Result<Ranks, ArrowError> {
        Ok(Ranks(match self {
            Self::First => Vec::new(),
            Self::Longest(column) => {
                let texts = text_column(batch, column)?;
                texts.iter().map(|text| (!(text.map_or(0, str::len) as u64)).to_be_bytes().into()).collect()
            }
            Self::Highest(column) => {
                let numbers = number_column(batch, column)?;
                numbers.iter().map(|number| highest_first(number).to_be_bytes().into()).collect()
            }
            Self::Newest(column) => {
                let column = batch.column(batch.schema().index_of(column)?);
                let texts = cast(column, &DataType::Utf8)?;
                texts.as_string::<i32>().iter().map(|text| last_first(text.unwrap_or_default())).collect()
            }
        }))
    }
}

fn number_column(batch: &RecordBatch, name: &str) -> Result<Float64Array, ArrowError> {
    let column = batch.column(batch.schema().index_of(name)?);
    if !column.data_type().is_numeric() {
        let message = format!("column `{name}` must hold numbers, not {}", column.data_type());
        return Err(ArrowError::SchemaError(message));
    }
    Ok(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

/// Whole numbers that fall as the number rises.
fn highest_first(number: Option<f64>) -> u64 {
    let number = number.filter(|number| !number.is_nan()).unwrap_or(f64::NEG_INFINITY);
    // Adding zero makes −0 the 0 that it equals.
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 1 { bits } else { !bits & (u64::MAX >> 1) }
}

/// Bytes whose order is that of the texts turned round. A text comes after those that it begins, so
/// the end is marked by the greatest byte, which the turned ones do not reach: UTF-8 has no 0xFF, and
/// zero is taken for one.
fn last_first(text: &str) -> Vec<u8> {
    text.bytes().map(|byte| !byte.max(1)).chain([u8::MAX]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_fall_as_values_rise(a in any::<f64>(), b in any::<f64>(), x in "[a-c\u{e9}]{0,3}", y in "[a-c\u{e9}]{0,3}") {
            let lowest = |n: f64| if n.is_nan() { f64::NEG_INFINITY } else { n };
            let order = lowest(b).partial_cmp(&lowest(a)).unwrap();
            prop_assert_eq!(highest_first(Some(a)).cmp(&highest_first(Some(b))), order);
            prop_assert_eq!(last_first(&x).cmp(&last_first(&y)), y.cmp(&x));
        }
    }

    #[test]
    fn zeros_are_equal_and_nothing_is_lowest() {
        assert_eq!(highest_first(Some(0.0)), highest_first(Some(-0.0)));
        assert!(highest_first(None) > highest_first(Some(f64::MIN)));
        assert!(last_first("") > last_first("a"));
    }
}
