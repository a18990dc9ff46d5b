//! What a finished stage leaves beside its output: `manifest.json`, written last. A stage without a
//! manifest is not finished.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use digests::Seal;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thiserror::Error;

use crate::stages::External;

/// The file's name in a stage's folder.
pub const FILE_NAME: &str = "manifest.json";

/// The version of manifests. Those of version 1 have no digest of their own and name no side files.
pub const FORMAT: u32 = 2;

/// The layout of outputs, a part of each fingerprint: raised only when all must be made anew.
const LAYOUT: u32 = 1;

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
            "format": LAYOUT, "kind": kind, "version": version, "config": config,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What stands beside the output: tables of lost rows and the tasks' records. They are no part of
    /// `content`, since what is downstream does not read them.
    #[serde(default)]
    pub side_files: Vec<OutputFile>,
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
    /// Its bytes are not those that were written.
    #[error("{} is damaged ({problem}); `pipeline repair {}` puts it aside, and the next run makes it anew", path.display(), run_of(path).display())]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// How that shows.
        problem: String,
    },
    /// A later version wrote it.
    #[error("{} has version {found}, this program knows versions up to {FORMAT}: use a newer one", path.display())]
    TooNew {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// The run's folder, of a manifest in a stage's.
fn run_of(path: &Path) -> PathBuf {
    path.parent().and_then(Path::parent).unwrap_or(path).to_owned()
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
        Self::parse(&bytes, &path).map(Some)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, ManifestError> {
        let damaged = |problem| ManifestError::Damaged { path: path.to_owned(), problem };
        let seal = digests::check(bytes);
        if seal == Seal::Broken {
            return Err(damaged("it does not match its own digest".to_owned()));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        match manifest.format {
            found if found > FORMAT => Err(ManifestError::TooNew { path: path.to_owned(), found }),
            FORMAT if seal == Seal::Missing => Err(damaged("its digest is missing".to_owned())),
            _ => Ok(manifest),
        }
    }

    /// The bytes of `manifest.json`.
    ///
    /// # Errors
    /// A number in it has no form in JSON.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        Ok(digests::seal(&serde_json::to_string_pretty(self)?))
    }

    /// All files that the manifest has a digest of.
    pub fn all_files(&self) -> impl Iterator<Item = &OutputFile> {
        self.files.iter().chain(&self.side_files)
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

    /// The size of the output, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The Parquet shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = &OutputFile> {
        self.files.iter().filter(|file| file.path.starts_with("data/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest of version 1, as it was written.
    const FIRST: &str = r#"{"format": 1, "stage": "pages", "kind": "read", "fingerprint": "00112233445566778899",
        "content": "c", "config": {}, "inputs": {}, "files": [], "rows_in": 1, "rows_out": 1, "dropped": {},
        "quarantined": {}, "metrics": {}, "seconds": 1.5, "peak_memory_bytes": 1}"#;

    #[test]
    fn manifests_of_older_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Manifest::read(folder.path()).unwrap().is_none());
        std::fs::write(folder.path().join(FILE_NAME), FIRST).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap().unwrap().rows_out, 1);
        let newer = FIRST.replace("\"format\": 1", "\"format\": 3");
        std::fs::write(folder.path().join(FILE_NAME), newer).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("version 3"), "{error}");
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_the_mend_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let stage = folder.path().join("pages");
        std::fs::create_dir(&stage).unwrap();
        let mut manifest: Manifest = serde_json::from_str(FIRST).unwrap();
        manifest.format = FORMAT;
        let bytes = manifest.to_bytes().unwrap();
        let path = stage.join(FILE_NAME);
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, other).unwrap();
            let error = Manifest::read(&stage).unwrap_err().to_string();
            let mend = format!("pipeline repair {}", folder.path().display());
            let named = error.contains(&path.display().to_string());
            assert!(named && (error.contains(&mend) || error.contains("version")), "bit {bit}: {error}");
        }
    }
}
