//! What a finished stage leaves beside its output: `manifest.json`, written last. A stage without a
//! manifest is not finished.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thiserror::Error;

use crate::stages::External;

/// The file's name in a stage's folder.
pub const FILE_NAME: &str = "manifest.json";

/// The layout version of manifests and stage folders.
pub const FORMAT: u32 = 1;

/// Identifies the work of a stage: blake3 over its kind, version, config, the *content* of its
/// inputs and its externals, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of a stage's work.
    pub fn of(
        kind: &str,
        version: u32,
        config: &Json,
        inputs: &BTreeMap<String, Vec<String>>,
        externals: &[External],
    ) -> Self {
        let identity = serde_json::json!({
            "format": FORMAT, "kind": kind, "version": version, "config": config,
            "inputs": inputs, "externals": externals,
        });
        Self(blake3::hash(identity.to_string().as_bytes()).to_hex().to_string())
    }

    /// The first 16 hex digits, for folder names.
    pub fn short(&self) -> &str {
        &self.0[..16]
    }
}

/// One output file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutputFile {
    /// The path inside the stage's folder, with `/`.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its rows, for a shard of a table.
    pub rows: Option<u64>,
    /// blake3 of its content, in hex.
    pub blake3: String,
}

/// What a finished stage did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// What work this is the result of.
    pub fingerprint: Fingerprint,
    /// blake3 over the files' names and digests: what downstream fingerprints hold.
    pub content: String,
    /// The config with defaults.
    pub config: Json,
    /// The content digests of the inputs by role.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// The output files, sorted by path.
    pub files: Vec<OutputFile>,
    /// Rows of the first input.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Dropped rows by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Failed rows by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// Named figures.
    pub metrics: BTreeMap<String, Json>,
    /// Wall-clock time over all calls that did the work, in seconds.
    pub seconds: f64,
    /// The process's largest resident memory while the stage ran, in bytes.
    pub peak_memory_bytes: u64,
}

/// A manifest cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It is there but not readable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a manifest.
    #[error("{} is damaged ({source}); remove its folder and run the workflow again", path.display())]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Manifest {
    /// Reads a stage folder's manifest; `None` when the stage is not finished.
    ///
    /// # Errors
    /// It is there and unreadable.
    pub fn read(folder: &Path) -> Result<Option<Self>, ManifestError> {
        let path = folder.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ManifestError::Read { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(source) => Err(ManifestError::Parse { path, source }),
        }
    }

    /// The digest of a set of output files.
    pub fn content_of(files: &[OutputFile]) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in files {
            hasher.update(file.path.as_bytes());
            hasher.update(&[0]);
            hasher.update(file.blake3.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The Parquet shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = &OutputFile> {
        self.files.iter().filter(|file| file.path.starts_with("data/"))
    }
}
