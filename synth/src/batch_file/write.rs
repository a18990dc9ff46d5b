//! Request files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{BatchError, custom_id};
use crate::chat::{Api, ChatRequest};
use crate::client::{ServerKind, wire};

/// What one request file may hold at most (OpenAI's own limits are the defaults).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Requests.
    pub max_requests: u64,
    /// Bytes.
    pub max_bytes: u64,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { max_requests: 50_000, max_bytes: 200_000_000 }
    }
}

/// A request file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchFile {
    /// Its name in the folder.
    pub name: String,
    /// Requests in it.
    pub requests: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Writes requests into files of a folder that appears whole when it is finished.
pub struct BatchWriter {
    dir: PathBuf,
    partial: PathBuf,
    limits: BatchLimits,
    kind: ServerKind,
    files: Vec<BatchFile>,
    open: Option<BufWriter<File>>,
}

impl BatchWriter {
    /// Begins the folder `dir`, which must not be there. What an interrupted call left is thrown away.
    pub fn new(dir: &Path, limits: BatchLimits, kind: ServerKind) -> Result<Self, BatchError> {
        if dir.exists() {
            return Err(BatchError::Exists { path: dir.to_owned() });
        }
        let mut name = dir.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(io("remove", &partial))?;
        }
        fs::create_dir_all(&partial).map_err(io("make", &partial))?;
        Ok(Self { dir: dir.to_owned(), partial, limits, kind, files: Vec::new(), open: None })
    }

    /// Writes a request, into the next file if the last is full.
    pub fn push(&mut self, request: &ChatRequest) -> Result<(), BatchError> {
        let id = custom_id(&request.key());
        let url = match request.api {
            Api::Chat => "/v1/chat/completions",
            Api::Completions => "/v1/completions",
        };
        // The body is JSON already, and nothing in the other fields needs escaping.
        let mut line = format!(r#"{{"custom_id":"{id}","method":"POST","url":"{url}","body":"#).into_bytes();
        line.extend_from_slice(&wire::encode(request, self.kind));
        line.extend_from_slice(b"}\n");
        let bytes = line.len() as u64;
        if bytes > self.limits.max_bytes {
            return Err(BatchError::TooLarge { custom_id: id, bytes, limit: self.limits.max_bytes });
        }
        let full = self.files.last().is_none_or(|file| {
            file.requests >= self.limits.max_requests || file.bytes + bytes > self.limits.max_bytes
        });
        if full {
            self.close()?;
            let name = format!("requests-{:05}.jsonl", self.files.len());
            let path = self.partial.join(&name);
            self.open = Some(BufWriter::new(File::create(&path).map_err(io("make", &path))?));
            self.files.push(BatchFile { name, requests: 0, bytes: 0 });
        }
        let (Some(open), Some(file)) = (&mut self.open, self.files.last_mut()) else {
            return Ok(());
        };
        open.write_all(&line).map_err(io("write to", &self.partial))?;
        file.requests += 1;
        file.bytes += bytes;
        Ok(())
    }

    /// Makes the folder appear; without a request, there is none.
    pub fn finish(mut self) -> Result<Vec<BatchFile>, BatchError> {
        self.close()?;
        if self.files.is_empty() {
            fs::remove_dir_all(&self.partial).map_err(io("remove", &self.partial))?;
        } else {
            fs::rename(&self.partial, &self.dir).map_err(io("rename", &self.partial))?;
        }
        Ok(self.files)
    }

    fn close(&mut self) -> Result<(), BatchError> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.flush().and_then(|()| open.get_ref().sync_all()).map_err(io("write to", &self.partial))
    }
}

pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BatchError {
    let path = path.to_owned();
    move |error| BatchError::Io { doing, path, error }
}
