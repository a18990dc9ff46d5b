//! A file as a reader of its bytes, wherever it lies.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::scan::FileSlice;
use super::source::store_of;

/// Bytes asked for at once of a file that lies elsewhere; the next so many are on their way meanwhile.
const RANGE_BYTES: u64 = 8 << 20;
/// Attempts of a range that was cut off; the stores repeat by themselves what was refused.
const ATTEMPTS: u32 = 3;

/// Bytes in any order.
pub trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// A file on this machine or in an object store.
#[derive(Clone)]
pub struct DataFile {
    name: PathBuf,
    stored: Option<Stored>,
}

#[derive(Clone)]
struct Stored {
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    bytes: u64,
    runtime: Handle,
}

impl DataFile {
    /// The file of a slice; call it inside the runtime.
    ///
    /// # Errors
    /// It lies in a store that is not the session's.
    pub fn of(session: &SessionContext, slice: &FileSlice) -> Result<Self, DataFusionError> {
        let stored = match slice.is_local() {
            true => None,
            false => Some(Stored {
                store: store_of(session, slice)?,
                path: StorePath::from(slice.path.as_str()),
                bytes: slice.bytes,
                runtime: Handle::current(),
            }),
        };
        Ok(Self { name: PathBuf::from(slice.address()), stored })
    }

    /// The path of a local file, else the address: for messages, and for what it ends in.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The bytes from the beginning. Those of a file elsewhere come as they are read, so this must not be done
    /// on an async thread.
    ///
    /// # Errors
    /// A local file cannot be opened.
    pub fn open(&self) -> io::Result<Box<dyn ReadSeek>> {
        Ok(match &self.stored {
            None => Box::new(File::open(&self.name)?),
            Some(stored) => Box::new(Ranges::new(stored.clone())),
        })
    }
}

impl From<PathBuf> for DataFile {
    fn from(path: PathBuf) -> Self {
        Self { name: path, stored: None }
    }
}

/// A file that is read range by range.
struct Ranges {
    file: Stored,
    position: u64,
    /// The range at hand, and where it begins.
    range: Bytes,
    start: u64,
    ahead: Option<(u64, JoinHandle<object_store::Result<Bytes>>)>,
}

impl Ranges {
    fn new(file: Stored) -> Self {
        Self { file, position: 0, range: Bytes::new(), start: 0, ahead: None }
    }

    fn fetch(&self, start: u64) -> impl Future<Output = object_store::Result<Bytes>> + Send + use<> {
        let Stored { store, path, bytes, .. } = self.file.clone();
        let range = start..(start + RANGE_BYTES).min(bytes);
        async move {
            let mut attempt = 1;
            loop {
                let error = match store.get_range(&path, range.clone()).await {
                    Err(error @ object_store::Error::Generic { .. }) if attempt < ATTEMPTS => error,
                    result => return result,
                };
                tracing::warn!("{error}; trying again");
                tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
                attempt += 1;
            }
        }
    }

    /// Makes the range at hand the one that begins at the position.
    fn advance(&mut self) -> io::Result<()> {
        let position = self.position;
        let fetched = match self.ahead.take() {
            Some((start, task)) if start == position => {
                self.file.runtime.block_on(task).map_err(io::Error::other)?
            }
            other => {
                if let Some((_, task)) = other {
                    task.abort();
                }
                self.file.runtime.block_on(self.fetch(position))
            }
        };
        self.range = fetched.map_err(io::Error::other)?;
        self.start = position;
        if self.range.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let next = position + self.range.len() as u64;
        if next < self.file.bytes {
            self.ahead = Some((next, self.file.runtime.spawn(self.fetch(next))));
        }
        Ok(())
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.file.bytes || buffer.is_empty() {
            return Ok(0);
        }
        let inside = self.position.checked_sub(self.start).filter(|at| *at < self.range.len() as u64);
        if inside.is_none() {
            self.advance()?;
        }
        let rest = &self.range[(self.position - self.start) as usize..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Ranges {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.file.bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        if let Some((_, task)) = self.ahead.take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    /// Longer than two ranges and a half.
    fn content() -> Vec<u8> {
        (0..RANGE_BYTES * 5 / 2).map(|byte| ((byte * 2_654_435_761) >> 16) as u8).collect()
    }

    async fn stored(content: Vec<u8>, bytes: u64) -> Stored {
        let (store, path) = (InMemory::new(), StorePath::from("a/b.jsonl"));
        store.put(&path, PutPayload::from(content)).await.unwrap();
        Stored { store: Arc::new(store), path, bytes, runtime: Handle::current() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_come_in_order_and_from_any_place() {
        let content = content();
        let file = stored(content.clone(), content.len() as u64).await;
        tokio::task::spawn_blocking(move || {
            let mut ranges = Ranges::new(file);
            let mut read = Vec::new();
            ranges.read_to_end(&mut read).unwrap();
            assert!(read == content);
            for place in [5, RANGE_BYTES - 2, RANGE_BYTES * 2, 3, content.len() as u64 - 4] {
                let mut four = [0; 4];
                ranges.seek(SeekFrom::Start(place)).unwrap();
                ranges.read_exact(&mut four).unwrap();
                assert_eq!(four, content[place as usize..][..4]);
            }
            assert_eq!(ranges.seek(SeekFrom::End(-4)).unwrap(), content.len() as u64 - 4);
            assert_eq!(ranges.read_to_end(&mut Vec::new()).unwrap(), 4);
            assert!(ranges.seek(SeekFrom::Current(-1 - content.len() as i64)).is_err());
        })
        .await
        .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_has_become_shorter_is_an_error() {
        let file = stored(vec![7; 100], 1_000_000).await;
        let read = tokio::task::spawn_blocking(move || Ranges::new(file).read_to_end(&mut Vec::new()));
        assert!(read.await.unwrap().is_err());
    }
}
