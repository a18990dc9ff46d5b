//! Vectors that are kept on disk, so that a page goes through a backbone once, however often a head is
//! trained on it.
//!
//! One file for each backbone identity (model, tokenizer, length, pooling), named by its digest:
//!
//! ```text
//! header   "corpusmith vectors 1\n" · hidden (u32) · blake3 of the identity (32 bytes)
//! record   blake3 of the text (32 bytes) · hidden values (f32) · first 8 bytes of blake3 of both
//! ```
//!
//! All numbers are little-endian. Records are only appended. One that a crash tore, or a disk spoilt, does
//! not fit its checksum: it and what follows are cut off when the file is opened.

use crate::{Backbone, BackboneError, BackboneIdentity};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// How a file begins.
const MAGIC: &[u8] = b"corpusmith vectors 1\n";
const HEADER_BYTES: usize = MAGIC.len() + 4 + KEY_BYTES;
const KEY_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;
/// Pages that are embedded before their vectors are written and synced.
const PAGES_A_WRITE: usize = 512;

/// Why vectors could not be kept or read.
#[derive(Debug, Error)]
pub enum CacheError {
    /// A file or folder could not be read or written.
    #[error("vectors: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// Another process has the file.
    #[error("vectors: {} is in use by another process; wait for it, or give another folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is another's.
    #[error("vectors: {} is no file of vectors of this backbone; move it away, or give another folder", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The backbone is not the one the file was opened for.
    #[error("vectors: {} holds those of another backbone, length or pooling", path.display())]
    OtherBackbone {
        /// The file.
        path: PathBuf,
    },
    /// A page could not be embedded.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
}

type Key = [u8; KEY_BYTES];

/// The vectors of one backbone, on disk.
#[derive(Debug)]
pub struct VectorCache {
    path: PathBuf,
    file: File,
    identity: Key,
    hidden: usize,
    /// Where each text's values stand in the file.
    places: HashMap<Key, u64>,
    end: u64,
}

impl VectorCache {
    /// Opens the backbone's file in `folder`, and makes both where they are missing. The file is this
    /// process's until the cache is dropped.
    ///
    /// # Errors
    /// The file cannot be read or written, is another's, or in use.
    pub fn open(folder: &Path, backbone: &BackboneIdentity) -> Result<Self, CacheError> {
        let identity = identity_digest(backbone);
        let name: String = identity[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(format!("{name}.vectors"));
        let io = |source| CacheError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CacheError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut cache =
            Self { path, file, identity, hidden: backbone.hidden, places: HashMap::new(), end: 0 };
        cache.read_places()?;
        Ok(cache)
    }

    /// Texts whose vectors are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no vector is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// As [`Backbone::embed`], but pages that are kept are not run again.
    ///
    /// # Errors
    /// A page cannot be embedded, the file cannot be read or written, or the backbone is another one.
    pub fn embed(&mut self, backbone: &Backbone, texts: &[&str]) -> Result<Vec<f32>, CacheError> {
        if identity_digest(backbone.identity()) != self.identity {
            return Err(CacheError::OtherBackbone { path: self.path.clone() });
        }
        let keys: Vec<Key> = texts.iter().map(|text| *blake3::hash(text.as_bytes()).as_bytes()).collect();
        let missing: HashMap<Key, &str> = keys
            .iter()
            .zip(texts)
            .filter(|(key, _)| !self.places.contains_key(*key))
            .map(|(k, t)| (*k, *t))
            .collect();
        // In the order of the texts, each once: the file's bytes follow from what is asked.
        let mut wanted = Vec::with_capacity(missing.len());
        let mut left = missing;
        for key in &keys {
            wanted.extend(left.remove_entry(key));
        }
        for pages in wanted.chunks(PAGES_A_WRITE) {
            let texts: Vec<&str> = pages.iter().map(|(_, text)| *text).collect();
            let vectors = backbone.embed(&texts)?;
            let rows = pages.iter().map(|(key, _)| key).zip(vectors.chunks(self.hidden.max(1)));
            self.append(rows)?;
        }
        let mut all = Vec::with_capacity(texts.len() * self.hidden);
        for key in &keys {
            self.read_into(key, &mut all)?;
        }
        Ok(all)
    }

    fn io(&self, source: std::io::Error) -> CacheError {
        CacheError::Io { path: self.path.clone(), source }
    }

    fn record_bytes(&self) -> usize {
        KEY_BYTES + self.hidden * 4 + CHECK_BYTES
    }

    fn header(&self) -> Vec<u8> {
        let hidden = u32::try_from(self.hidden).unwrap_or(u32::MAX);
        [MAGIC, &hidden.to_le_bytes(), &self.identity].concat()
    }

    /// Reads all records up to the first that is torn, and cuts the file there.
    fn read_places(&mut self) -> Result<(), CacheError> {
        let header = self.header();
        let length = self.file.metadata().map_err(|error| self.io(error))?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut found = vec![0; HEADER_BYTES.min(usize::try_from(length).unwrap_or(HEADER_BYTES))];
        reader.read_exact(&mut found).map_err(|error| self.io(error))?;
        if !header.starts_with(&found) {
            return Err(CacheError::Foreign { path: self.path.clone() });
        }
        if found.len() < header.len() {
            // New, or torn within its header.
            let mut file = &self.file;
            let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&header));
            written.map_err(|error| self.io(error))?;
            self.end = header.len() as u64;
            return self.sync();
        }
        let mut record = vec![0; self.record_bytes()];
        let values = KEY_BYTES..record.len() - CHECK_BYTES;
        self.end = header.len() as u64;
        while self.end + record.len() as u64 <= length {
            reader.read_exact(&mut record).map_err(|error| self.io(error))?;
            let (content, check) = record.split_at(values.end);
            if check_of(content) != check {
                break;
            }
            let mut key = [0; KEY_BYTES];
            key.copy_from_slice(&content[..KEY_BYTES]);
            self.places.insert(key, self.end + KEY_BYTES as u64);
            self.end += record.len() as u64;
        }
        if self.end < length {
            tracing::warn!(path = %self.path.display(), bytes = length - self.end, "torn vectors are cut off");
            self.file.set_len(self.end).map_err(|error| self.io(error))?;
            return self.sync();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), CacheError> {
        self.file.sync_all().map_err(|error| self.io(error))
    }

    /// Writes records behind the others and syncs them; only then are they known.
    fn append<'a>(&mut self, rows: impl Iterator<Item = (&'a Key, &'a [f32])>) -> Result<(), CacheError> {
        let mut bytes = Vec::new();
        let mut keys = Vec::new();
        for (key, vector) in rows {
            let start = bytes.len();
            bytes.extend_from_slice(key);
            bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
            let check = check_of(&bytes[start..]);
            bytes.extend_from_slice(&check);
            keys.push(*key);
        }
        self.file.seek(SeekFrom::Start(self.end)).map_err(|error| self.io(error))?;
        self.file.write_all(&bytes).map_err(|error| self.io(error))?;
        self.file.sync_data().map_err(|error| self.io(error))?;
        for key in keys {
            self.places.insert(key, self.end + KEY_BYTES as u64);
            self.end += self.record_bytes() as u64;
        }
        Ok(())
    }

    fn read_into(&mut self, key: &Key, all: &mut Vec<f32>) -> Result<(), CacheError> {
        let place = self.places.get(key).copied().unwrap_or(self.end);
        let mut bytes = vec![0; self.hidden * 4];
        self.file
            .seek(SeekFrom::Start(place))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| self.io(error))?;
        let (values, _) = bytes.as_chunks::<4>();
        all.extend(values.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        Ok(())
    }
}

fn check_of(content: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(content).as_bytes()[..CHECK_BYTES]);
    check
}

/// A digest over all that a vector depends on besides the text.
fn identity_digest(backbone: &BackboneIdentity) -> Key {
    let BackboneIdentity { model_blake3, tokenizer_blake3, hidden, max_tokens, pooling } = backbone;
    let text = format!("{model_blake3}\n{tokenizer_blake3}\n{hidden}\n{max_tokens}\n{pooling:?}\n");
    *blake3::hash(text.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::identity;

    fn key(at: u8) -> Key {
        [at; KEY_BYTES]
    }

    fn values(cache: &mut VectorCache, at: u8) -> Vec<f32> {
        let mut values = Vec::new();
        cache.read_into(&key(at), &mut values).unwrap();
        values
    }

    fn filled(folder: &Path) -> PathBuf {
        let mut cache = VectorCache::open(folder, &identity(3)).unwrap();
        let rows: Vec<(Key, Vec<f32>)> =
            (0..4_u8).map(|at| (key(at), vec![f32::from(at), 0.5, -1.0])).collect();
        cache.append(rows.iter().map(|(key, vector)| (key, vector.as_slice()))).unwrap();
        cache.path.clone()
    }

    #[test]
    fn what_is_kept_is_there_the_next_time_and_a_torn_end_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let record = KEY_BYTES + 12 + CHECK_BYTES;
        assert_eq!(whole.len(), HEADER_BYTES + 4 * record);
        // Cut anywhere: whole records stay, and new ones follow them.
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut cache = VectorCache::open(folder.path(), &identity(3)).unwrap();
            let kept = length.saturating_sub(HEADER_BYTES) / record;
            assert_eq!(cache.len(), kept, "{length} bytes");
            cache.append([(&key(9), [7.0, 8.0, 9.0].as_slice())].into_iter()).unwrap();
            assert_eq!(values(&mut cache, 9), [7.0, 8.0, 9.0]);
            drop(cache);
            let mut cache = VectorCache::open(folder.path(), &identity(3)).unwrap();
            assert_eq!(cache.len(), kept + 1);
            assert_eq!(values(&mut cache, 9), [7.0, 8.0, 9.0]);
            if kept > 1 {
                assert_eq!(values(&mut cache, 1), [1.0, 0.5, -1.0]);
            }
        }
    }

    #[test]
    fn a_spoilt_record_is_cut_off_with_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let second = HEADER_BYTES + (KEY_BYTES + 12 + CHECK_BYTES) + KEY_BYTES + 2;
        bytes[second] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(VectorCache::open(folder.path(), &identity(3)).unwrap().len(), 1);
    }

    #[test]
    fn other_files_and_other_processes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let held = VectorCache::open(folder.path(), &identity(3)).unwrap();
        let error = VectorCache::open(folder.path(), &identity(3)).unwrap_err();
        assert!(matches!(error, CacheError::InUse { .. }), "{error}");
        drop(held);
        // Another backbone has a file of its own.
        assert!(VectorCache::open(folder.path(), &identity(4)).unwrap().is_empty());
        std::fs::write(&path, "a poem").unwrap();
        let error = VectorCache::open(folder.path(), &identity(3)).unwrap_err();
        assert!(matches!(error, CacheError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"a poem");
    }

    #[test]
    fn kept_pages_have_the_bits_of_new_ones() {
        let Some(backbone) = crate::test_backbone(64, 1) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let texts = ["cells", "a sale", "cells"];
        let mut cache = VectorCache::open(folder.path(), backbone.identity()).unwrap();
        let new = cache.embed(&backbone, &texts).unwrap();
        assert_eq!((cache.len(), &new), (2, &backbone.embed(&texts).unwrap()));
        drop(cache);
        let mut cache = VectorCache::open(folder.path(), backbone.identity()).unwrap();
        assert_eq!(cache.embed(&backbone, &["a sale", "cells"]).unwrap(), new[384..]);
        let other = crate::test_backbone(32, 1).unwrap();
        assert!(matches!(cache.embed(&other, &texts), Err(CacheError::OtherBackbone { .. })));
    }
}
