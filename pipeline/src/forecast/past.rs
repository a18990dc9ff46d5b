//! What an earlier run of a stage measured.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::manifest::{Manifest, ManifestError};
use crate::runner::stage_run::stage_folder;

/// Rows that a spread is taken over: enough for an estimate, and quick on any output.
const MEAN_ROWS: usize = 10_000;

/// Mean and variance of a figure, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Rows with the figure.
    pub rows: u64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_of_squares: f64,
}

impl Spread {
    /// One figure, of which nothing more is known.
    pub fn of_one(value: f64) -> Self {
        Self { rows: 1, sum: value, sum_of_squares: value * value }
    }

    /// Counts a figure.
    pub fn add(&mut self, value: f64) {
        self.rows += 1;
        self.sum += value;
        self.sum_of_squares += value * value;
    }
}

/// An earlier run of a stage.
pub struct Past {
    /// The profile that it ran under.
    pub profile: String,
    /// What it left.
    pub manifest: Manifest,
    folder: PathBuf,
}

impl Past {
    /// The last run of a stage under a profile.
    ///
    /// # Errors
    /// Its manifest is damaged.
    pub fn of_profile(run_folder: &Path, stage: &str) -> Result<Option<Self>, ManifestError> {
        let folder = stage_folder(run_folder, stage);
        let profile = run_folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Manifest::read(&folder)?.map(|manifest| Self { profile, manifest, folder }))
    }

    /// Its largest run under another profile of the same workflow. Manifests that cannot be read tell
    /// nothing.
    pub fn of_another(run_folder: &Path, stage: &str) -> Option<Self> {
        let profiles = std::fs::read_dir(run_folder.parent()?).ok()?.flatten();
        let runs = profiles.filter_map(|entry| Self::of_profile(&entry.path(), stage).ok().flatten());
        runs.max_by_key(|past| past.manifest.rows_out)
    }

    /// The share of rows that it kept (above 1 for a stage that makes several of one).
    pub fn rows_out_per_row_in(&self) -> Option<f64> {
        let Manifest { rows_in, rows_out, .. } = self.manifest;
        (rows_in > 0).then(|| rows_out as f64 / rows_in as f64)
    }

    /// Bytes on disk for each row written.
    pub fn bytes_per_row_out(&self) -> Option<f64> {
        (self.manifest.rows_out > 0).then(|| self.manifest.bytes() as f64 / self.manifest.rows_out as f64)
    }

    /// The spread of a numeric column over the first rows; of a text column, of the lengths in
    /// characters.
    pub fn spread(&self, column: &str) -> Option<Spread> {
        let mut spread = Spread::default();
        let mut rows = 0;
        for shard in self.manifest.shards() {
            let file = File::open(self.folder.join(&shard.path)).ok()?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).ok()?;
            let mask = ProjectionMask::columns(reader.parquet_schema(), [column]);
            let reader = reader.with_projection(mask).with_limit(MEAN_ROWS - rows).build().ok()?;
            for batch in reader.map_while(Result::ok) {
                let values = batch.column_by_name(column)?;
                let values = match values.data_type() {
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                        let texts = cast(values, &DataType::Utf8).ok()?;
                        let lengths = texts.as_string::<i32>().iter().map(|t| t.map(|t| t.chars().count()));
                        lengths.map(|length| length.map(|length| length as f64)).collect()
                    }
                    _ => cast(values, &DataType::Float64).ok()?.as_primitive::<Float64Type>().clone(),
                };
                rows += values.len();
                values.iter().flatten().for_each(|value| spread.add(value));
            }
            if rows >= MEAN_ROWS {
                break;
            }
        }
        (spread.rows > 0).then_some(spread)
    }
}
