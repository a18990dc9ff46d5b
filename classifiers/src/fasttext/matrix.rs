//! The weights: rows of 32-bit numbers, or rows quantised by product quantisation.

use std::io::Read;

use super::FastTextError;
use super::read::Reader;

/// Centroids of a part of a row: a code is one byte.
const CENTROIDS: usize = 256;

/// A matrix of weights.
#[derive(Debug)]
pub enum Matrix {
    /// Row by row.
    Dense { columns: usize, weights: Vec<f32> },
    /// Each part of a row is the nearest of 256 centroids (Jégou et al. 2011).
    Quantised { codes: Vec<u8>, parts: Parts, norms: Option<Norms> },
}

/// Lengths of rows, quantised apart from their directions.
#[derive(Debug)]
pub struct Norms {
    codes: Vec<u8>,
    values: Vec<f32>,
}

/// The centroids of all parts.
#[derive(Debug)]
pub struct Parts {
    columns: usize,
    count: usize,
    width: usize,
    last_width: usize,
    centroids: Vec<f32>,
}

impl Matrix {
    pub fn read(
        reader: &mut Reader<'_, impl Read>,
        quantised: bool,
        columns: usize,
    ) -> Result<Self, FastTextError> {
        let has_norms = quantised && reader.u8()? != 0;
        let rows = reader.size_i64("number of rows", 0)?;
        let found = reader.size_i64("number of columns", 1)?;
        if found != columns {
            return Err(reader.wrong(format_args!("a matrix has {found} columns, the model {columns}")));
        }
        if !quantised {
            return Ok(Self::Dense { columns, weights: reader.f32s(rows.checked_mul(columns))? });
        }
        let code_count = reader.size_i32("number of codes", 0)?;
        let codes = reader.bytes(Some(code_count))?;
        let parts = Parts::read(reader, columns)?;
        if rows.checked_mul(parts.count) != Some(code_count) {
            return Err(
                reader.wrong(format_args!("{code_count} codes for {rows} rows of {} parts", parts.count))
            );
        }
        let norms = has_norms.then(|| -> Result<Norms, FastTextError> {
            let codes = reader.bytes(Some(rows))?;
            Ok(Norms { codes, values: Parts::read(reader, 1)?.centroids })
        });
        Ok(Self::Quantised { codes, parts, norms: norms.transpose()? })
    }

    pub fn rows(&self) -> usize {
        match self {
            Self::Dense { columns, weights } => weights.len() / columns,
            Self::Quantised { codes, parts, .. } => codes.len() / parts.count,
        }
    }

    /// The mean of some rows, `[columns]`.
    pub fn mean(&self, rows: &[u32], mean: &mut Vec<f32>) {
        mean.clear();
        match self {
            Self::Dense { columns, weights } => {
                mean.resize(*columns, 0.0);
                for &row in rows {
                    let row = &weights[row as usize * columns..][..*columns];
                    mean.iter_mut().zip(row).for_each(|(sum, weight)| *sum += weight);
                }
            }
            Self::Quantised { parts, .. } => {
                mean.resize(parts.columns, 0.0);
                for &row in rows {
                    let norm = self.norm(row as usize);
                    for (part, sums) in mean.chunks_mut(parts.width).enumerate() {
                        let centroid = self.centroid(row as usize, part);
                        sums.iter_mut().zip(centroid).for_each(|(sum, weight)| *sum += norm * weight);
                    }
                }
            }
        }
        let share = (1.0 / rows.len() as f64) as f32;
        mean.iter_mut().for_each(|sum| *sum *= share);
    }

    /// The product of a row and a vector.
    pub fn dot(&self, row: usize, vector: &[f32]) -> f32 {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        match self {
            Self::Dense { columns, weights } => product(&weights[row * columns..][..*columns], vector),
            Self::Quantised { parts, .. } => {
                let of_parts = vector.chunks(parts.width).enumerate();
                let sum: f32 = of_parts.map(|(part, vector)| product(self.centroid(row, part), vector)).sum();
                sum * self.norm(row)
            }
        }
    }

    fn norm(&self, row: usize) -> f32 {
        match self {
            Self::Quantised { norms: Some(norms), .. } => norms.values[usize::from(norms.codes[row])],
            _ => 1.0,
        }
    }

    fn centroid(&self, row: usize, part: usize) -> &[f32] {
        match self {
            Self::Quantised { codes, parts, .. } => parts.centroid(part, codes[row * parts.count + part]),
            Self::Dense { .. } => &[],
        }
    }
}

impl Parts {
    fn read(reader: &mut Reader<'_, impl Read>, columns: usize) -> Result<Self, FastTextError> {
        let found = reader.size_i32("number of quantised columns", 1)?;
        let count = reader.size_i32("number of parts", 1)?;
        let width = reader.size_i32("width of a part", 1)?;
        let last_width = reader.size_i32("width of the last part", 1)?;
        let covered = (count - 1).checked_mul(width).and_then(|before| before.checked_add(last_width));
        if found != columns || last_width > width || covered != Some(columns) {
            return Err(reader.wrong(format_args!(
                "{count} parts of {width} (the last of {last_width}) are not {columns} columns"
            )));
        }
        let centroids = reader.f32s(columns.checked_mul(CENTROIDS))?;
        Ok(Self { columns, count, width, last_width, centroids })
    }

    fn centroid(&self, part: usize, code: u8) -> &[f32] {
        let width = if part + 1 == self.count { self.last_width } else { self.width };
        &self.centroids[part * CENTROIDS * self.width + usize::from(code) * width..][..width]
    }
}
