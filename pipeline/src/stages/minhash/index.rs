//! A signature index: what later dumps need to know of the rows that an older dump kept.
//!
//! ```text
//! signatures/header.json      the format, the settings of the signatures, the number of rows
//! signatures/slots, ids       the rows, as duplicates/rows.rs writes them
//! signatures/buckets/00000 …  each bucket's hashes with their rows, sorted; the last one holds the
//!                             digests of texts without a signature
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::external::{Survey, slot_words};
use super::signature::{ShingleHash, SignatureOptions};
use crate::durable::{self, WriteContext, WriteError};
use crate::engine::external_sort::Sorted;
use crate::stages::duplicates::rows::RowReader;

/// Where it stands in a stage's folder.
pub const FOLDER: &str = "signatures";

/// Raised when older programs cannot read what this one writes.
const FORMAT: u32 = 1;

/// An index cannot be used.
#[derive(Debug, Error)]
pub enum IndexError {
    /// It is not there, or cannot be read or written.
    #[error(transparent)]
    File(#[from] WriteError),
    /// Its header is none.
    #[error("{path} is no header of a signature index: {source}")]
    Header {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It holds signatures that are not comparable.
    #[error("{path} was made with other settings: {theirs}, not {ours}")]
    Settings {
        /// The folder.
        path: PathBuf,
        /// Its settings.
        theirs: String,
        /// The settings at hand.
        ours: String,
    },
}

/// What an index says of itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u32,
    ngram_words: usize,
    buckets: usize,
    hashes_per_bucket: usize,
    seed: u32,
    hash: ShingleHash,
    rows: u32,
}

impl Header {
    fn new(options: &SignatureOptions, rows: u32) -> Self {
        let SignatureOptions { ngram_words, buckets, hashes_per_bucket, seed, hash } = *options;
        Self { format: FORMAT, ngram_words, buckets, hashes_per_bucket, seed, hash, rows }
    }

    fn settings(&self) -> String {
        format!(
            "format {}, ngram_words {}, buckets {}, hashes_per_bucket {}, seed {}, hash {:?}",
            self.format, self.ngram_words, self.buckets, self.hashes_per_bucket, self.seed, self.hash
        )
    }
}

/// The empty files for the rows of a new index.
///
/// # Errors
/// They cannot be made.
pub fn create(folder: &Path) -> Result<[File; 2], WriteError> {
    durable::remove_folder(folder)?;
    durable::make_folder(&folder.join("buckets"))?;
    let file = |name: &str| {
        let path = folder.join(name);
        File::create(&path).doing("create", &path)
    };
    Ok([file("slots")?, file("ids")?])
}

/// Writes the rest of an index whose rows a survey has written; returns how many there are.
///
/// # Errors
/// The disk is full.
pub fn finish(folder: &Path, options: &SignatureOptions, survey: Survey) -> Result<u32, IndexError> {
    let (rows, count, buckets) = survey.sorted()?;
    rows.sync()?;
    for (bucket, records) in buckets.into_iter().enumerate() {
        records.save(&bucket_path(folder, bucket))?;
    }
    let path = folder.join("header.json");
    let header = serde_json::to_vec_pretty(&Header::new(options, count))
        .map_err(|source| IndexError::Header { path: path.clone(), source })?;
    durable::write_file(&path, &header)?;
    Ok(count)
}

fn bucket_path(folder: &Path, bucket: usize) -> PathBuf {
    folder.join("buckets").join(format!("{bucket:05}"))
}

/// An index that stands beside the rows at hand.
#[derive(Debug)]
pub struct SignatureIndex {
    /// Its name, as it stands in the details of dropped rows.
    pub name: String,
    folder: PathBuf,
    /// The rows that it knows.
    pub rows: RowReader,
}

impl SignatureIndex {
    /// Opens an index.
    ///
    /// # Errors
    /// It is not there, is damaged, or was made with other settings.
    pub fn open(name: &str, folder: &Path, options: &SignatureOptions) -> Result<Self, IndexError> {
        let path = folder.join("header.json");
        let json = std::fs::read(&path).doing("read", &path)?;
        let header: Header =
            serde_json::from_slice(&json).map_err(|source| IndexError::Header { path, source })?;
        let ours = Header::new(options, header.rows);
        if header != ours {
            let (theirs, ours) = (header.settings(), ours.settings());
            return Err(IndexError::Settings { path: folder.to_owned(), theirs, ours });
        }
        let rows = RowReader::open(&folder.join("slots"), &folder.join("ids"), slot_words(options))?;
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), rows })
    }

    /// The sorted records of a bucket: its key and the row, big-endian.
    ///
    /// # Errors
    /// The bucket's file cannot be read.
    pub fn bucket(&self, bucket: usize) -> Result<Sorted, WriteError> {
        Sorted::open(&bucket_path(&self.folder, bucket))
    }
}
