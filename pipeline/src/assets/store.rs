//! The cache folder of assets: look up with verification, pull, list.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::AssetError;
use super::fetch::Tools;
use super::spec::{AssetFile, AssetSpec, Platform};
use super::table::Asset;

pub(super) const STAMP_FOLDER: &str = ".verified";

/// The environment variable with the path of another ONNX Runtime than the asset, as the crate `ort` has it.
pub const ORT_LIBRARY: &str = "ORT_DYLIB_PATH";

/// A folder of assets.
///
/// A file is hashed once: its length, time of change and digest are noted (in `.verified/`), and hashed again only
/// when one of them has moved.
#[derive(Debug)]
pub struct AssetStore {
    pub(super) folder: PathBuf,
    pub(super) tools: Tools,
    verified: Mutex<BTreeMap<&'static str, Stamp>>,
}

/// What a file was when it was last hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size_bytes: u64,
    modified_ns: u128,
    blake3: String,
}

/// What a check goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// The note of an earlier check, while length and time of change are as they were.
    Stamp,
    /// The bytes alone.
    Nothing,
}

/// How an asset lies in the cache.
#[derive(Debug)]
pub enum AssetState {
    /// There, and its digest is right.
    Verified,
    /// Not there.
    Missing,
    /// There and wrong, or unreadable, or not offered for this platform.
    Bad(AssetError),
}

/// One line of [`AssetStore::list`].
#[derive(Debug)]
pub struct AssetStatus {
    /// The asset.
    pub asset: Asset,
    /// Its length in bytes; `None` where it is not offered for this platform.
    pub size_bytes: Option<u64>,
    /// SPDX licence expression.
    pub licence: &'static str,
    /// Where it lies or would lie; `None` where it is not offered for this platform.
    pub path: Option<PathBuf>,
    /// How it lies there.
    pub state: AssetState,
}

impl AssetStore {
    /// A store in `folder`, which is made by the first pull.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), tools: Tools::default(), verified: Mutex::default() }
    }

    /// The store in `$CORPUSMITH_ASSETS`, or else in `~/.cache/corpusmith/assets`.
    ///
    /// # Errors
    /// [`AssetError::NoHome`] when neither that variable nor `HOME` is set.
    pub fn from_environment() -> Result<Self, AssetError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("CORPUSMITH_ASSETS")
            .or_else(|| set("HOME").map(|home| home.join(".cache/corpusmith/assets")))
            .ok_or(AssetError::NoHome)?;
        Ok(Self::new(folder))
    }

    /// Runs package clients otherwise than by default.
    #[must_use]
    pub fn with_tools(mut self, tools: Tools) -> Self {
        self.tools = tools;
        self
    }

    /// The cache folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of an asset that is there and verified.
    ///
    /// # Errors
    /// Missing, wrong length, wrong digest, unreadable, or not offered for this platform; each says what to do.
    pub fn path(&self, asset: Asset) -> Result<PathBuf, AssetError> {
        self.check(asset, Trust::Stamp)
    }

    /// The shared library of ONNX Runtime: the one that [`ORT_LIBRARY`] names, built for processors that the asset
    /// is not built for, or else the asset.
    ///
    /// # Errors
    /// As [`path`](Self::path).
    pub fn onnx_runtime(&self) -> Result<PathBuf, AssetError> {
        let own = std::env::var_os(ORT_LIBRARY).filter(|path| !path.is_empty());
        own.map_or_else(|| self.path(Asset::OnnxRuntime), |path| Ok(path.into()))
    }

    fn check(&self, asset: Asset, trust: Trust) -> Result<PathBuf, AssetError> {
        let spec = asset.spec();
        self.verify_file(spec, spec.file(Platform::current())?, trust)
    }

    /// Every asset and how it lies in the cache, in the order of the table.
    pub fn list(&self) -> Vec<AssetStatus> {
        self.statuses(Trust::Stamp)
    }

    /// As [`AssetStore::list`], and hashes every file that is there anew, whatever was noted about it.
    pub fn verify(&self) -> Vec<AssetStatus> {
        self.statuses(Trust::Nothing)
    }

    fn statuses(&self, trust: Trust) -> Vec<AssetStatus> {
        Asset::ALL
            .into_iter()
            .map(|asset| {
                let spec = asset.spec();
                let file = spec.file(Platform::current());
                let state = match self.check(asset, trust) {
                    Ok(_) => AssetState::Verified,
                    Err(AssetError::Missing { .. }) => AssetState::Missing,
                    Err(error) => AssetState::Bad(error),
                };
                AssetStatus {
                    asset,
                    size_bytes: file.as_ref().ok().map(|file| file.size_bytes),
                    licence: spec.licence,
                    path: file.ok().map(|file| self.folder.join(file.file_name)),
                    state,
                }
            })
            .collect()
    }

    pub(super) fn verify_file(
        &self,
        spec: &AssetSpec,
        file: &'static AssetFile,
        trust: Trust,
    ) -> Result<PathBuf, AssetError> {
        let path = self.folder.join(file.file_name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AssetError::Missing { name: spec.name, path });
            }
            Err(error) => return Err(AssetError::io("read", &path)(error)),
        };
        if metadata.len() != file.size_bytes {
            return Err(AssetError::SizeMismatch {
                name: spec.name,
                path,
                expected_bytes: file.size_bytes,
                found_bytes: metadata.len(),
            });
        }
        let expected = stamp_of(&metadata, file.blake3.to_owned());
        if trust == Trust::Stamp && self.noted(file).is_some_and(|stamp| stamp == expected) {
            return Ok(path);
        }
        let found = digests::of_file(&path).map_err(AssetError::io("read", &path))?;
        if found != file.blake3 {
            return Err(AssetError::DigestMismatch { name: spec.name, path, expected: file.blake3, found });
        }
        self.note(file, expected);
        Ok(path)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Stamp>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp_path(&self, file: &AssetFile) -> PathBuf {
        self.folder.join(STAMP_FOLDER).join(format!("{}.json", file.file_name))
    }

    fn noted(&self, file: &AssetFile) -> Option<Stamp> {
        if let Some(stamp) = self.lock().get(file.file_name) {
            return Some(stamp.clone());
        }
        serde_json::from_slice(&fs::read(self.stamp_path(file)).ok()?).ok()
    }

    /// Notes a verified file. A cache that may only be read is verified once a process instead.
    pub(super) fn note(&self, file: &'static AssetFile, stamp: Stamp) {
        let write = || -> io::Result<()> {
            fs::create_dir_all(self.folder.join(STAMP_FOLDER))?;
            let path = self.stamp_path(file);
            let temporary = path.with_extension(unique_suffix());
            fs::write(&temporary, serde_json::to_vec(&stamp)?)?;
            fs::rename(&temporary, &path)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, file = file.file_name, "cannot note that an asset is verified");
        }
        self.lock().insert(file.file_name, stamp);
    }
}

pub(super) fn stamp_of(metadata: &fs::Metadata, blake3: String) -> Stamp {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let modified_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    Stamp { size_bytes: metadata.len(), modified_ns, blake3 }
}

/// Differs between calls, threads and processes.
pub(super) fn unique_suffix() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{}-{}-{now_ns}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_store_lists_everything_as_missing() {
        let cache = tempfile::tempdir().unwrap();
        let store = AssetStore::new(cache.path().join("not yet"));
        for status in store.list() {
            assert!(matches!(
                status.state,
                AssetState::Missing | AssetState::Bad(AssetError::Platform { .. })
            ));
        }
        let error = store.path(Asset::Bisac).unwrap_err().to_string();
        assert!(error.contains("pipeline assets pull bisac"), "{error}");
    }
}
