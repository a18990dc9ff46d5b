//! How the values of a column are distributed: numbers by their value, texts by their length.

use std::collections::BinaryHeap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use serde::Serialize;

/// Values kept for the quantiles.
const SAMPLE: usize = 4096;

/// A column's values in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Values that are there.
    pub values: u64,
    /// Values that are not.
    pub nulls: u64,
    /// The mean.
    pub mean: Option<f64>,
    /// The value below which a tenth lies, of a sample of 4,096 at most.
    pub p10: Option<f64>,
    /// The middle one.
    pub p50: Option<f64>,
    /// The value above which a tenth lies.
    pub p90: Option<f64>,
}

/// Sees the values of a column go by.
#[derive(Default)]
pub struct Distributor {
    values: u64,
    nulls: u64,
    sum: f64,
    /// The values of the rows with the smallest hashes: a sample that the order of the rows has no part in.
    sample: BinaryHeap<(u64, u64)>,
}

impl Distributor {
    /// What is counted of a column: its numbers, or the lengths of its texts in bytes; `None` for others.
    ///
    /// # Errors
    /// The column cannot be read.
    pub fn numbers(column: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError> {
        let lengths = match column.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                arrow::compute::kernels::length::length(&cast(column, &DataType::LargeUtf8)?)?
            }
            other if other.is_numeric() => column.clone(),
            _ => return Ok(None),
        };
        Ok(Some(cast(&lengths, &DataType::Float64)?))
    }

    /// Adds a row's value of [`Self::numbers`]; `hash` is the row's.
    pub fn push(&mut self, numbers: &ArrayRef, row: usize, hash: u64) {
        if numbers.is_null(row) {
            self.nulls += 1;
            return;
        }
        let value = numbers.as_primitive::<Float64Type>().value(row);
        self.values += 1;
        self.sum += value;
        if self.sample.len() < SAMPLE {
            self.sample.push((hash, value.to_bits()));
        } else if self.sample.peek().is_some_and(|(largest, _)| hash < *largest) {
            self.sample.pop();
            self.sample.push((hash, value.to_bits()));
        }
    }

    /// The distribution of what was seen.
    pub fn finish(self) -> Distribution {
        let mut sample: Vec<f64> = self.sample.into_iter().map(|(_, bits)| f64::from_bits(bits)).collect();
        sample.sort_unstable_by(f64::total_cmp);
        let quantile = |share: f64| {
            let at = (share * sample.len().saturating_sub(1) as f64).round() as usize;
            sample.get(at).copied()
        };
        let (p10, p50, p90) = (quantile(0.1), quantile(0.5), quantile(0.9));
        let mean = (self.values > 0).then(|| self.sum / self.values as f64);
        Distribution { values: self.values, nulls: self.nulls, mean, p10, p50, p90 }
    }
}
