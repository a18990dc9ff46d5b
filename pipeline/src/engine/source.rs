//! Where data comes from: `hf://`, buckets, web addresses and local paths and globs become a sorted list of
//! files, each with the digest of its content.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::SessionContext;
use object_store::ObjectStore;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use super::hub::{Hub, HubError};
use super::scan::FileSlice;
use super::stores::{self, StoreError};
use super::web::{Web, WebError};
use crate::durable;

/// How a file is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Parquet.
    Parquet,
    /// One JSON object a line.
    JsonLines,
    /// Comma- or tab-separated values under a line of column names.
    Csv,
    /// Arrow IPC, file or stream.
    ArrowIpc,
    /// WARC or WET.
    Warc,
}

/// A file to read.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub slice: FileSlice,
    /// How it is encoded.
    pub format: Format,
    /// blake3 of a local file's content, or a remote file's ETag and size.
    pub digest: String,
}

/// A file of any kind, wherever it lies.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Where it is.
    pub slice: FileSlice,
    /// As [`SourceFile::digest`].
    pub digest: String,
}

/// A source cannot be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// No file under that name.
    #[error("`{0}` matches no file; check the path, or its pattern")]
    Empty(String),
    /// A pattern that is none.
    #[error(
        "`{0}` is not a path this program reads; give a local path or glob, hf://datasets/<owner>/<name>/<path>, \
         s3://<bucket>/<path>, gs://<bucket>/<path>, az://<container>/<path> or the http(s) address of a file"
    )]
    Unsupported(String),
    /// A file that cannot be opened.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file whose name tells no format.
    #[error(
        "{0}: the name must end in .parquet, .jsonl, .csv, .tsv (these also with .gz or .zst), .arrow, .feather, \
         .warc, .warc.gz, .wet or .wet.gz"
    )]
    Format(String),
    /// The hub does not give it.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The bucket does not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server does not give it.
    #[error(transparent)]
    Web(#[from] WebError),
}

impl SourceError {
    /// Whether the next try may go better: then the input is not wrong.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Hub(HubError::Web(error)) | Self::Web(error) => error.may_pass(),
            Self::Store(StoreError::Store { .. }) => true,
            _ => false,
        }
    }
}

/// Resolves paths and patterns to files, sorted within each pattern.
///
/// # Errors
/// A pattern matches nothing, or a file cannot be read.
pub async fn resolve(
    session: &SessionContext,
    patterns: &[String],
    digest_cache: &Path,
) -> Result<Vec<SourceFile>, SourceError> {
    let mut files = Vec::new();
    for StoredFile { slice, digest } in locate(session, patterns, digest_cache).await? {
        let format = format_of(&slice.path)?;
        files.push(SourceFile { slice, format, digest });
    }
    Ok(files)
}

/// As [`resolve`], whatever the files' names end in.
///
/// # Errors
/// As [`resolve`].
pub async fn locate(
    session: &SessionContext,
    patterns: &[String],
    digest_cache: &Path,
) -> Result<Vec<StoredFile>, SourceError> {
    let mut files = Vec::new();
    let mut cache = DigestCache::load(digest_cache);
    for pattern in patterns {
        let before = files.len();
        if pattern.contains("://") {
            files.extend(elsewhere(session, pattern).await?);
        } else {
            for path in expand(pattern)? {
                let (digest, bytes) = cache
                    .digest(&path)
                    .map_err(|source| SourceError::Read { path: path.display().to_string(), source })?;
                files.push(StoredFile { slice: FileSlice::local(&path, bytes), digest });
            }
        }
        if files.len() == before {
            return Err(SourceError::Empty(pattern.clone()));
        }
    }
    cache.save();
    Ok(files)
}

/// The files that are not on this machine and match a pattern.
async fn elsewhere(session: &SessionContext, pattern: &str) -> Result<Vec<StoredFile>, SourceError> {
    if let Some(path) = pattern.strip_prefix("hf://") {
        let hub = Hub::from_environment()?;
        hub.web().register(session);
        Ok(hub.list(path).await?)
    } else if stores::is_bucket(pattern) {
        Ok(stores::list(session, pattern).await?)
    } else if pattern.starts_with("http://") || pattern.starts_with("https://") {
        let url = Url::parse(pattern).map_err(|_| WebError::Address(pattern.to_owned()))?;
        let web = Web::open(&url)?;
        web.register(session);
        Ok(vec![web.file(&url).await?])
    } else {
        Err(SourceError::Unsupported(pattern.to_owned()))
    }
}

/// The object store of a file that was listed in this session.
///
/// # Errors
/// It was not.
pub fn store_of(
    session: &SessionContext,
    slice: &FileSlice,
) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
    session.runtime_env().object_store(ObjectStoreUrl::parse(&slice.store)?)
}

/// Rows of local Parquet files, by their footers; `None` when any of the files is of another kind, is
/// remote, or cannot be read.
pub fn local_parquet_rows(patterns: &[String]) -> Option<u64> {
    let mut rows = 0;
    for pattern in patterns {
        for path in expand(pattern).ok().filter(|paths| !paths.is_empty())? {
            let file = SerializedFileReader::new(File::open(path).ok()?).ok()?;
            rows += u64::try_from(file.metadata().file_metadata().num_rows()).ok()?;
        }
    }
    Some(rows)
}

/// How a file is encoded, by its name.
///
/// # Errors
/// The name tells no format.
pub fn format_of(name: &str) -> Result<Format, SourceError> {
    let lower = name.to_ascii_lowercase();
    let plain = lower.strip_suffix(".gz").or_else(|| lower.strip_suffix(".zst")).unwrap_or(&lower);
    let ends_in = |ends: &[&str]| ends.iter().any(|end| plain.ends_with(end));
    if lower.ends_with(".parquet") {
        Ok(Format::Parquet)
    } else if ends_in(&[".jsonl", ".ndjson"]) || lower.ends_with(".json.gz") {
        Ok(Format::JsonLines)
    } else if ends_in(&[".csv", ".tsv"]) {
        Ok(Format::Csv)
    } else if [".arrow", ".feather"].iter().any(|end| lower.ends_with(end)) {
        Ok(Format::ArrowIpc)
    } else if ends_in(&[".warc", ".wet"]) && !lower.ends_with(".zst") {
        Ok(Format::Warc)
    } else {
        Err(SourceError::Format(name.to_owned()))
    }
}

/// Expands `*` and `?` in a local path, folder by folder.
fn expand(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    let absolute = std::path::absolute(pattern)
        .map_err(|source| SourceError::Read { path: pattern.to_owned(), source })?;
    let mut found = vec![PathBuf::from("/")];
    for part in absolute.components().skip(1) {
        let part = part.as_os_str().to_string_lossy();
        if !part.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(part.as_ref()));
            continue;
        }
        let mut next = Vec::new();
        for folder in found {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let names = entries.flatten().map(|entry| entry.file_name());
            next.extend(
                names.filter(|name| wildcard(&part, &name.to_string_lossy())).map(|name| folder.join(name)),
            );
        }
        next.sort();
        found = next;
    }
    found.retain(|path| path.is_file());
    Ok(found)
}

/// Whether a name matches a pattern of `*` and `?`.
pub fn wildcard(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && (pattern[p] == '?' || (pattern[p] == name[n] && pattern[p] != '*')) {
            p += 1;
            n += 1;
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if let Some((star_p, star_n)) = star {
            // Let the last star swallow one character more.
            star = Some((star_p, star_n + 1));
            p = star_p + 1;
            n = star_n + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Digests of files that have not changed since they were hashed, so that an up-to-date run does
/// not read its inputs again.
struct DigestCache {
    path: PathBuf,
    known: Vec<KnownDigest>,
    changed: Changed,
}

#[derive(PartialEq, Eq)]
enum Changed {
    No,
    Yes,
}

#[derive(Clone, Serialize, Deserialize)]
struct KnownDigest {
    path: PathBuf,
    bytes: u64,
    modified_nanoseconds: u128,
    blake3: String,
}

impl DigestCache {
    fn load(path: &Path) -> Self {
        let known = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path: path.to_owned(), known: known.unwrap_or_default(), changed: Changed::No }
    }

    fn digest(&mut self, path: &Path) -> std::io::Result<(String, u64)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let bytes = metadata.len();
        if let Some(known) = self.known.iter().find(|known| known.path == path)
            && (known.bytes, known.modified_nanoseconds) == (bytes, modified)
        {
            return Ok((known.blake3.clone(), bytes));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        let blake3 = hasher.finalize().to_hex().to_string();
        self.known.retain(|known| known.path != path);
        self.known.push(KnownDigest {
            path: path.to_owned(),
            bytes,
            modified_nanoseconds: modified,
            blake3: blake3.clone(),
        });
        self.changed = Changed::Yes;
        Ok((blake3, bytes))
    }

    fn save(&self) {
        if self.changed == Changed::Yes
            && let Ok(json) = serde_json::to_vec(&self.known)
        {
            // A cache that cannot be kept, or is lost with the power, costs time, nothing else: it is not synced.
            let temporary = durable::temporary_name(&self.path);
            let _ = fs::write(&temporary, json).and_then(|()| fs::rename(&temporary, &self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_a_shell() {
        assert!(wildcard("*.parquet", "a.parquet"));
        assert!(wildcard("train-?????-of-*", "train-00000-of-00012.parquet"));
        assert!(wildcard("a*b*c", "aXbYbZc"));
        assert!(!wildcard("*.parquet", "a.jsonl"));
        assert!(!wildcard("a?", "a"));
    }

    #[tokio::test]
    async fn an_empty_pattern_and_an_unknown_scheme_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let session = SessionContext::new();
        let pattern = folder.path().join("*.parquet").display().to_string();
        let error =
            resolve(&session, std::slice::from_ref(&pattern), &folder.path().join("c")).await.unwrap_err();
        assert!(error.to_string().contains(&pattern));
        let error = resolve(&session, &["ftp://x/y".into()], &folder.path().join("c")).await.unwrap_err();
        assert!(error.to_string().contains("ftp://x/y"));
    }

    #[tokio::test]
    async fn a_digest_follows_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let (file, cache) = (folder.path().join("a.jsonl"), folder.path().join("cache"));
        let session = SessionContext::new();
        let mut digests = Vec::new();
        for text in ["{}", "{\"a\":1}"] {
            std::fs::write(&file, text).unwrap();
            let files = resolve(&session, &[file.display().to_string()], &cache).await.unwrap();
            digests.push(files[0].digest.clone());
        }
        assert_ne!(digests[0], digests[1]);
    }
}
