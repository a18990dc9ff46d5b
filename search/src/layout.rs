//! What lies where on disk, and how it appears whole.
//!
//! ```text
//! index.json                    last: the whole index is there
//! shard-00000/                  a finished shard: Tantivy files, ids.bin, lengths.bin, shard.json
//! shard-00002/                  one whose runs were not merged: shard.json, and a folder a run with the rest
//! .partial-shard-00001/         a shard in the making
//!     run-00000/                pages indexed and synced; an interrupted build goes on after it
//!     run-00001.tmp/            being written
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use digests::Seal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::IndexError;

/// Version of this layout. Raised when an older index can no longer be read.
pub(crate) const FORMAT_VERSION: u32 = 4;
/// Name of the text analysis; terms of different analyses do not match each other.
pub(crate) const ANALYZER: &str = "english-1";

pub(crate) const INDEX_FILE: &str = "index.json";
pub(crate) const SHARD_FILE: &str = "shard.json";
pub(crate) const RUN_FILE: &str = "run.json";
pub(crate) const LENGTHS_FILE: &str = "lengths.bin";
const PARTIAL_PREFIX: &str = ".partial-";

/// What an index holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSummary {
    /// Pages indexed.
    pub pages: u64,
    /// Bytes of text of those pages.
    pub text_bytes: u64,
    /// Terms of those pages, stop words not counted.
    pub text_terms: u64,
    /// Bytes of the index on disk, but for its few records.
    pub index_bytes: u64,
    /// Shards of the index.
    pub shards: u32,
    /// Pages not indexed, by reason (the names of [`crate::Reject::reason`]).
    pub skipped_pages: BTreeMap<String, u64>,
}

/// The content of `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IndexRecord {
    pub(crate) format_version: u32,
    pub(crate) analyzer: String,
    pub(crate) summary: IndexSummary,
}

/// The content of `shard.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    pub(crate) format_version: u32,
    pub(crate) analyzer: String,
    pub(crate) shard: u32,
    pub(crate) shards: u32,
    pub(crate) pages: u64,
    pub(crate) text_bytes: u64,
    pub(crate) text_terms: u64,
    pub(crate) duplicate_pages: u64,
    pub(crate) read: StreamMark,
    /// Folders of its segments, in the order of their pages; none where the folder itself is the only one, as
    /// in older versions.
    #[serde(default)]
    pub(crate) runs: Vec<String>,
    /// Name and bytes of every file, to notice a truncated copy.
    pub(crate) files: BTreeMap<String, u64>,
    /// blake3 of every file but the records.
    pub(crate) digests: BTreeMap<String, String>,
}

/// The content of `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(crate) format_version: u32,
    pub(crate) analyzer: String,
    pub(crate) shards: u32,
    pub(crate) read: StreamMark,
    /// blake3 of every file but the record.
    #[serde(default)]
    pub(crate) digests: BTreeMap<String, String>,
}

/// How far a shard has read its part of the stream, and a digest of what it read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamMark {
    pub(crate) pages: u64,
    pub(crate) digest: String,
}

/// Folders of one shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardPlace {
    root: PathBuf,
    pub(crate) shard: u32,
    pub(crate) shards: u32,
}

impl ShardPlace {
    pub(crate) fn new(root: &Path, shard: u32, shards: u32) -> Self {
        Self { root: root.to_owned(), shard, shards }
    }

    pub(crate) fn finished(&self) -> PathBuf {
        self.root.join(shard_name(self.shard))
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join(format!("{PARTIAL_PREFIX}{}", shard_name(self.shard)))
    }

    pub(crate) fn run(&self, run: usize) -> PathBuf {
        self.partial().join(run_name(run))
    }
}

pub(crate) fn run_name(run: usize) -> String {
    format!("run-{run:05}")
}

pub(crate) fn shard_name(shard: u32) -> String {
    format!("shard-{shard:05}")
}

/// Makes the folder if need be and makes sure that nothing foreign lies in it.
pub(crate) fn prepare_root(root: &Path) -> Result<(), IndexError> {
    fs::create_dir_all(root).map_err(IndexError::io(root))?;
    for entry in fs::read_dir(root).map_err(IndexError::io(root))? {
        let path = entry.map_err(IndexError::io(root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.strip_prefix(PARTIAL_PREFIX).unwrap_or(&name);
        let number = plain.strip_prefix("shard-").unwrap_or_default();
        let is_shard = number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit());
        if !(is_shard || plain.strip_suffix(".tmp").unwrap_or(plain) == INDEX_FILE) {
            return Err(IndexError::ForeignFile { path });
        }
    }
    Ok(())
}

/// Reads a record; `None` if there is no such file.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, IndexError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IndexError::io(path)(error)),
    };
    let damaged = |source| IndexError::Record { path: path.to_owned(), source };
    // Records of older versions have no digest.
    if digests::check(&bytes) == Seal::Broken {
        let words = "it does not match its own digest";
        return Err(damaged(<serde_json::Error as serde::de::Error>::custom(words)));
    }
    serde_json::from_slice(&digests::unseal(&bytes)).map(Some).map_err(damaged)
}

/// The name under which a record is written; a killed build may leave it.
pub(crate) fn temporary_of(record: &Path) -> PathBuf {
    record.with_extension("json.tmp")
}

/// Writes a record under a temporary name, syncs it and renames it into place.
pub(crate) fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), IndexError> {
    let json = serde_json::to_string_pretty(record)
        .map_err(|source| IndexError::Record { path: path.to_owned(), source })?;
    let bytes = digests::seal(&json);
    let temporary = temporary_of(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(IndexError::io(path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// blake3 of the files of a shard or run, but for the records, by name.
pub(crate) fn digests_of(folder: &Path) -> Result<BTreeMap<String, String>, IndexError> {
    let mut digests = BTreeMap::new();
    for path in files_of(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ![SHARD_FILE, RUN_FILE].contains(&name.as_str()) {
            digests.insert(name, digests::of_file(&path).map_err(IndexError::io(&path))?);
        }
    }
    Ok(digests)
}

/// The record of a shard or run that an earlier build finished, if its files are what that build wrote. Of a
/// damaged one nothing is kept: its pages come by again.
pub(crate) fn finished_record<T: DeserializeOwned>(
    record: &Path,
    digests: impl Fn(&T) -> &BTreeMap<String, String>,
) -> Result<Option<T>, IndexError> {
    let problem = match read_record::<T>(record) {
        Ok(None) => return Ok(None),
        Ok(Some(found)) => {
            let folder = record.parent().unwrap_or(Path::new("."));
            // Records of older versions name some files, or none.
            let is_other = |(name, wanted): &(&String, &String)| {
                digests::of_file(&folder.join(name)).ok().as_ref() != Some(wanted)
            };
            let changed = digests(&found).iter().find(is_other);
            match changed {
                None => return Ok(Some(found)),
                Some((name, _)) => format!("{name} is not what was written"),
            }
        }
        Err(IndexError::Record { source, .. }) => source.to_string(),
        Err(error) => return Err(error),
    };
    tracing::warn!(record = %record.display(), problem, "a finished part of an index is damaged: it is made anew");
    Ok(None)
}

/// Syncs every file of a folder, renames it to its final name and syncs the folder above.
pub(crate) fn publish_folder(from: &Path, to: &Path) -> Result<(), IndexError> {
    for path in files_of(from)? {
        File::open(&path).and_then(|file| file.sync_all()).map_err(IndexError::io(&path))?;
    }
    sync_folder(from)?;
    fs::rename(from, to).map_err(IndexError::io(to))?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

impl ShardRecord {
    /// The folders of its segments, each with what names of its files begin with in `files` and `digests`.
    pub(crate) fn segments(&self, shard: &Path) -> Vec<(PathBuf, String)> {
        match self.runs.is_empty() {
            true => vec![(shard.to_owned(), String::new())],
            false => self.runs.iter().map(|run| (shard.join(run), format!("{run}/"))).collect(),
        }
    }
}

/// The plain files of a folder, sorted by name.
pub(crate) fn files_of(folder: &Path) -> Result<Vec<PathBuf>, IndexError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(IndexError::io(folder))? {
        let path = entry.map_err(IndexError::io(folder))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Removes a file or a folder with all it holds, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), IndexError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(IndexError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Makes renames in the folder durable. Only Unix lets a folder be synced.
fn sync_folder(folder: &Path) -> Result<(), IndexError> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(IndexError::io(folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("shard-00001")).unwrap();
        fs::create_dir(root.path().join(".partial-shard-00002")).unwrap();
        prepare_root(root.path()).unwrap();
        fs::write(root.path().join("thesis.tex"), "x").unwrap();
        let error = prepare_root(root.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
    }

    #[test]
    fn a_record_is_written_whole_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("index.json");
        let read = || read_record::<IndexRecord>(&path).map(|record| record.map(|record| record.summary));
        assert!(read().unwrap().is_none());
        let summary = IndexSummary { pages: 3, ..IndexSummary::default() };
        let record = IndexRecord {
            format_version: FORMAT_VERSION,
            analyzer: ANALYZER.to_owned(),
            summary: summary.clone(),
        };
        write_record(&path, &record).unwrap();
        assert_eq!(read().unwrap(), Some(summary.clone()));
        assert_eq!(files_of(root.path()).unwrap(), std::slice::from_ref(&path));
        let bytes = fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, other).unwrap();
            // A bit of the digest's name at most: then the rest is what was written.
            assert!(read().map_or(true, |read| read == Some(summary.clone())), "bit {bit}");
        }
        fs::write(&path, "{").unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("index.json"), "{error}");
    }
}
