//! Fetches assets into the cache folder, each whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::AssetError;
use super::fetch::fetch;
use super::spec::{AssetFile, AssetSpec, Platform};
use super::store::{AssetStore, Trust, stamp_of, unique_suffix};
use super::table::Asset;
use super::unpack::extract;

/// Assets fetched at the same time.
const PULLS_AT_ONCE: usize = 4;
/// Temporary folders older than this were left by a killed pull and are removed by the next one.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
const TEMPORARY_PREFIX: &str = ".pull-";

/// What a pull reports as it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PullEvent {
    /// The asset is there and verified: nothing to do.
    Present {
        /// Which.
        asset: Asset,
    },
    /// The package client has been started.
    Started {
        /// Which.
        asset: Asset,
        /// Its length in bytes (the package is another size).
        size_bytes: u64,
    },
    /// The asset has been fetched, verified and moved in.
    Done {
        /// Which.
        asset: Asset,
        /// Its length in bytes.
        size_bytes: u64,
        /// How long it took.
        seconds: f64,
    },
}

impl AssetStore {
    /// Fetches the assets that are not there, four at a time; one that is there and wrong is fetched anew. `progress`
    /// is called from several threads.
    ///
    /// # Errors
    /// The first failure in the order of `assets`, after the other assets have been tried.
    pub fn pull(&self, assets: &[Asset], progress: &(dyn Fn(PullEvent) + Sync)) -> Result<(), AssetError> {
        fs::create_dir_all(&self.folder).map_err(AssetError::io("create", &self.folder))?;
        self.remove_stale();
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..PULLS_AT_ONCE.min(assets.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&asset) = assets.get(i) else { return };
                        if let Err(error) = self.pull_one(asset, progress) {
                            failures.lock().unwrap_or_else(PoisonError::into_inner).insert(i, error);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.into_values().next().map_or(Ok(()), Err)
    }

    fn pull_one(&self, asset: Asset, progress: &(dyn Fn(PullEvent) + Sync)) -> Result<(), AssetError> {
        let spec = asset.spec();
        let file = spec.file(Platform::current())?;
        if self.verify_file(spec, file, Trust::Stamp).is_ok() {
            progress(PullEvent::Present { asset });
            return Ok(());
        }
        let start = Instant::now();
        progress(PullEvent::Started { asset, size_bytes: file.size_bytes });
        self.fetch_file(spec, file)?;
        progress(PullEvent::Done {
            asset,
            size_bytes: file.size_bytes,
            seconds: start.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// Fetches, checks and moves in one file.
    fn fetch_file(&self, spec: &AssetSpec, file: &'static AssetFile) -> Result<(), AssetError> {
        let temporary = TemporaryFolder::new(&self.folder)?;
        let archive = fetch(spec, file, &temporary.path, &self.tools)?;
        let whole = temporary.path.join(file.file_name);
        let written = extract(spec.name, &archive, &file.member, &whole, file.size_bytes)?;
        if written.bytes != file.size_bytes {
            return Err(AssetError::SizeMismatch {
                name: spec.name,
                path: archive,
                expected_bytes: file.size_bytes,
                found_bytes: written.bytes,
            });
        }
        if written.blake3 != file.blake3 {
            return Err(AssetError::DigestMismatch {
                name: spec.name,
                path: archive,
                expected: file.blake3,
                found: written.blake3,
            });
        }
        let target = self.folder.join(file.file_name);
        fs::rename(&whole, &target).map_err(AssetError::io("move in", &target))?;
        sync_folder(&self.folder).map_err(AssetError::io("sync", &self.folder))?;
        let metadata = fs::metadata(&target).map_err(AssetError::io("read", &target))?;
        self.note(file, stamp_of(&metadata, written.blake3));
        Ok(())
    }

    fn remove_stale(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
            if ours && age.is_some_and(|age| age > STALE_AFTER) {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder inside the cache (so that a rename never crosses file systems) that is removed when dropped.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn new(inside: &Path) -> Result<Self, AssetError> {
        let path = inside.join(format!("{TEMPORARY_PREFIX}{}", unique_suffix()));
        fs::create_dir(&path).map_err(AssetError::io("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::store::STAMP_FOLDER;
    use crate::assets::{Member, PipKind, Source, Tools};
    use std::ffi::OsString;
    use std::io::Write;
    use std::time::SystemTime;

    const WORDS: &[u8] = b"a model, as it were";

    /// A spec for a package `tiny` with the file tiny/data.bin, and a folder with its wheel for pip's --find-links.
    fn tiny(blake3: &str, size_bytes: u64) -> (&'static AssetSpec, tempfile::TempDir) {
        let file = AssetFile {
            platform: Platform::Any,
            file_name: "data.bin",
            size_bytes,
            blake3: blake3.to_owned().leak(),
            member: Member::Zip(&["tiny/data.bin"]),
        };
        let spec = AssetSpec {
            name: "tiny",
            about: "a test",
            licence: "MIT",
            source: Source::Pip { package: "tiny", version: "1.0", kind: PipKind::Wheel },
            files: vec![file].leak(),
        };
        let folder = tempfile::tempdir().unwrap();
        let mut zip =
            zip::ZipWriter::new(File::create(folder.path().join("tiny-1.0-py3-none-any.whl")).unwrap());
        let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        for (path, bytes) in [
            ("tiny/data.bin", WORDS),
            ("tiny-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"),
            ("tiny-1.0.dist-info/WHEEL", wheel.as_bytes()),
            ("tiny-1.0.dist-info/RECORD", b""),
        ] {
            zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        (Box::leak(Box::new(spec)), folder)
    }

    fn store(cache: &Path, packages: &Path) -> AssetStore {
        let pairs = [("PIP_NO_INDEX", OsString::from("1")), ("PIP_FIND_LINKS", packages.into())];
        let environment = pairs.into_iter().map(|(key, value)| (key.into(), value)).collect();
        AssetStore::new(cache).with_tools(Tools { environment, ..Tools::default() })
    }

    fn visible(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != STAMP_FOLDER).collect()
    }

    fn pip_is_missing(error: &AssetError) -> bool {
        let missing = matches!(error, AssetError::ToolMissing { .. });
        if missing {
            println!("skipped: no pip here");
        }
        missing
    }

    #[test]
    fn a_real_pip_fetches_verifies_and_moves_in_whole() {
        let digest = blake3::hash(WORDS).to_hex().to_string();
        let (spec, packages) = tiny(&digest, WORDS.len() as u64);
        let cache = tempfile::tempdir().unwrap();
        let store = store(cache.path(), packages.path());
        let file = &spec.files[0];
        assert!(matches!(
            store.verify_file(spec, file, Trust::Stamp),
            Err(AssetError::Missing { name: "tiny", .. })
        ));
        match store.fetch_file(spec, file) {
            Err(error) if pip_is_missing(&error) => return,
            other => other.unwrap(),
        }
        assert_eq!(visible(cache.path()), ["data.bin"]);
        let path = store.verify_file(spec, file, Trust::Stamp).unwrap();
        assert_eq!(fs::read(&path).unwrap(), WORDS);

        // Another process trusts the stamp; changed bytes of the same length are noticed by the time of change.
        fs::write(&path, b"A MODEL, AS IT WERE").unwrap();
        let later = SystemTime::now() + Duration::from_secs(5);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        let error = AssetStore::new(cache.path()).verify_file(spec, file, Trust::Stamp).unwrap_err();
        assert!(matches!(error, AssetError::DigestMismatch { .. }), "{error}");
        assert!(store.verify_file(spec, file, Trust::Nothing).is_err());
        fs::write(&path, b"short").unwrap();
        let error = store.verify_file(spec, file, Trust::Stamp).unwrap_err();
        assert!(matches!(error, AssetError::SizeMismatch { found_bytes: 5, .. }), "{error}");
    }

    #[test]
    fn two_pulls_at_once_do_not_disturb_each_other() {
        let digest = blake3::hash(WORDS).to_hex().to_string();
        let (spec, packages) = tiny(&digest, WORDS.len() as u64);
        let cache = tempfile::tempdir().unwrap();
        let results: Vec<Result<(), AssetError>> = std::thread::scope(|scope| {
            // A store each, as two processes have.
            let pull = || store(cache.path(), packages.path()).fetch_file(spec, &spec.files[0]);
            let threads = [scope.spawn(pull), scope.spawn(pull)];
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for result in results {
            match result {
                Err(error) if pip_is_missing(&error) => return,
                other => other.unwrap(),
            }
        }
        assert_eq!(visible(cache.path()), ["data.bin"]);
    }

    #[test]
    fn another_digest_or_length_leaves_nothing_behind() {
        let other = blake3::hash(b"other").to_hex().to_string();
        for (digest, size_bytes) in
            [(other.as_str(), WORDS.len() as u64), (other.as_str(), 3), (other.as_str(), 999)]
        {
            let (spec, packages) = tiny(digest, size_bytes);
            let cache = tempfile::tempdir().unwrap();
            let error = store(cache.path(), packages.path()).fetch_file(spec, &spec.files[0]).unwrap_err();
            if pip_is_missing(&error) {
                return;
            }
            match error {
                AssetError::DigestMismatch { expected, .. } => assert_eq!(expected, other),
                AssetError::SizeMismatch { expected_bytes, .. } => {
                    assert_eq!(expected_bytes, size_bytes)
                }
                error => panic!("{error}"),
            }
            assert!(visible(cache.path()).is_empty());
        }
    }

    #[test]
    fn a_failed_pull_names_the_first_asset_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let empty = tempfile::tempdir().unwrap();
        let environment = vec![("PATH".into(), empty.path().into())];
        let store = AssetStore::new(cache.path()).with_tools(Tools { environment, ..Tools::default() });
        let events = Mutex::new(Vec::new());
        let record = |event| events.lock().unwrap().push(event);
        let error = store.pull(&[Asset::HumanEval, Asset::Bisac], &record).unwrap_err();
        assert!(matches!(error, AssetError::ToolMissing { name: "humaneval", .. }), "{error}");
        assert_eq!(events.lock().unwrap().len(), 2);
        assert!(visible(cache.path()).is_empty());
    }
}
