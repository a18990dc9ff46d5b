//! The answer log: every answer ever received, on disk before its row goes on, so that no crash makes us
//! ask (and pay) again.
//!
//! **Files.** A folder of segments `answers-00000.log`, `answers-00001.log`, …, each append-only: a header
//! of 16 bytes, then records of marker, length, checksum, request id and the answer as JSON (see
//! [`mod@format`]). Only the last segment grows. The file `lock` in the folder is locked by the one process that has it open.
//!
//! **Durability.** [`AnswerLog::append`] returns when the record is on disk. Appends that come while the
//! disk is at work are written and synced together by one writer thread.
//!
//! **Which answer counts.** An answer is kept under all that decides it but its longest length. One that
//! came to its end is good for every request of that id; one that was cut by its length is good for requests
//! that allow no more than the one it answered. So a raised `max_new_tokens` asks again just for what was
//! cut, and the better answer takes the place of the cut one, whose record stays until [`compact`] drops it.
//!
//! **Memory.** The index of a log takes 6 MB and 1.6 bytes an answer, 70 MB for the 39 million of Cosmopedia v2;
//! the rest of it lies in files without a name (`runs.rs`), which are made when the log is opened.
//!
//! **Damage.** [`AnswerLog::open`] reads every record and checks it. A torn tail, as a crash leaves it, is
//! cut off after the last whole record. Damage in the middle is skipped: reading goes on at the next record
//! whose marker and checksum hold, and the bytes between stay untouched on disk; the answers in them are
//! lost and will be asked again. [`OpenReport`] tells both; [`damage`] looks without opening, and [`mend`]
//! writes damaged segments anew with all that is whole in them. A file that does not begin as a log does, or
//! whose format is newer, is an error, and nothing is changed in it.

mod compact;
mod error;
pub mod format;
mod index;
mod mend;
mod open;
mod runs;
mod scan;
mod survey;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::chat::{ChatAnswer, RequestKey};

pub use compact::{CompactReport, Compaction, compact};
pub use error::AnswerLogError;
pub use index::Totals;
pub use mend::{DamagedSegment, damage, mend};
pub use survey::{LogStats, LoggedAnswer, ModelStats, segments_exist, survey, totals};

use format::{Meta, Version};
use index::Index;
use open::{Tail, load_segment, lock, segment_files};
use writer::{Job, Writer};

/// Appends that may wait for the writer before the next has to wait for room.
const QUEUED_JOBS: usize = 1024;

/// Options of an [`AnswerLog`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerLogOptions {
    /// Size from which on a new segment is begun, in bytes; at most 2 GiB.
    pub segment_bytes: u32,
}

impl Default for AnswerLogOptions {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30 }
    }
}

/// What [`AnswerLog::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Answers that can be read.
    pub answers: u64,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Damaged places in the middle, which were skipped.
    pub damaged: Vec<DamagedPlace>,
}

/// Bytes of a segment that hold no readable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The segment.
    pub path: PathBuf,
    /// Offset of the first such byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// What readers and the writer share.
struct Shared {
    index: RwLock<Index>,
    segments: RwLock<Vec<Segment>>,
}

#[derive(Clone)]
struct Segment {
    path: Arc<Path>,
    file: Arc<File>,
    version: Version,
}

// The locks below guard map inserts and a vector push, which leave nothing half done when a panic strikes.
impl Shared {
    /// Of the log in `dir`, with nothing read yet.
    fn new(dir: &Path) -> Self {
        Self { index: RwLock::new(Index::new(dir)), segments: RwLock::default() }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn segment(&self, index: u32) -> Option<Segment> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(index as usize).cloned()
    }

    fn segments(&self) -> u32 {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).len() as u32
    }

    fn push_segment(&self, segment: Segment) -> u32 {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(segment);
        (segments.len() - 1) as u32
    }
}

/// A log of answers, open for reading and appending by any number of tasks of this process.
pub struct AnswerLog {
    dir: PathBuf,
    shared: Arc<Shared>,
    report: OpenReport,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Holds the folder's lock until the writer is done.
    lock: File,
}

impl AnswerLog {
    /// Opens the log in the folder `dir`, which is made if it is missing, with the usual options; see
    /// [`open_with`](Self::open_with).
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, AnswerLogError> {
        Self::open_with(dir, &AnswerLogOptions::default())
    }

    /// Opens the log in the folder `dir`: locks it, reads and checks every record, and cuts off a torn tail.
    ///
    /// It reads the whole log: call it outside of async code.
    pub fn open_with(dir: impl AsRef<Path>, options: &AnswerLogOptions) -> Result<Self, AnswerLogError> {
        let dir = dir.as_ref();
        make_folder(dir)?;
        let lock = lock(dir)?;
        let shared = Arc::new(Shared::new(dir));
        let mut report = OpenReport::default();
        let numbered = segment_files(dir)?;
        let mut end = None;
        for (position, (_, path)) in numbered.iter().enumerate() {
            let tail = if position + 1 == numbered.len() { Tail::Cut } else { Tail::Keep };
            end = Some(load_segment(&shared, path, tail, &mut report)?);
        }
        report.answers = shared.index().len() as u64;
        if report.torn_bytes > 0 || !report.damaged.is_empty() {
            tracing::warn!(dir = %dir.display(), ?report, "the answer log was damaged; what was lost will be asked again (`pipeline verify` and `pipeline repair` tell and mend it)");
        }
        let next_number = numbered.last().map_or(0, |(number, _)| number + 1);
        let writer = Writer::new(dir, Arc::clone(&shared), options, next_number, end)?;
        let (jobs, queue) = mpsc::channel(QUEUED_JOBS);
        let writer = std::thread::Builder::new()
            .name("answer-log".into())
            .spawn(move || writer.run(queue))
            .map_err(|error| AnswerLogError::io("start a thread for", dir, error))?;
        Ok(Self { dir: dir.to_owned(), shared, report, jobs: Some(jobs), writer: Some(writer), lock })
    }

    /// What opening found.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// The log's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of answers in the log.
    pub fn len(&self) -> usize {
        self.shared.index().len()
    }

    /// Whether the log holds no answer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the log's answers cost.
    pub fn totals(&self) -> Totals {
        self.shared.index().totals()
    }

    /// Whether the log holds an answer that is good for that request. Looks into memory, and at a few KiB of
    /// the index's files at most.
    pub fn contains(&self, key: &RequestKey) -> Result<bool, AnswerLogError> {
        Ok(self.shared.index().find(key).map_err(self.index_error())?.is_some())
    }

    fn index_error(&self) -> impl Fn(std::io::Error) -> AnswerLogError {
        |error| AnswerLogError::io("read the index of", &self.dir, error)
    }

    /// The answer to that request, if the log holds one that is good for it. Reads from disk: call it outside of async code.
    ///
    /// A record that has gone bad since the log was opened is forgotten, with a warning, and counts as not
    /// there.
    pub fn get(&self, key: &RequestKey) -> Result<Option<ChatAnswer>, AnswerLogError> {
        let Some((id, place)) = self.shared.index().find(key).map_err(self.index_error())? else {
            return Ok(None);
        };
        let Some(segment) = self.shared.segment(place.segment) else {
            return Ok(None);
        };
        let offset = u64::from(place.offset);
        let read = |bytes: &mut [u8], at: u64| {
            segment
                .file
                .read_exact_at(bytes, at)
                .map_err(|error| AnswerLogError::io("read", &segment.path, error))
        };
        let mut head = [0; format::RECORD_HEAD_BYTES];
        read(&mut head, offset)?;
        let record = match format::payload_bytes(&head) {
            Some(payload_bytes) => {
                let mut record = vec![0; format::RECORD_HEAD_BYTES + payload_bytes];
                read(&mut record, offset)?;
                format::decode(&record, segment.version)
            }
            None => None,
        };
        match record {
            Some((found, answer)) if found == id => Ok(Some(answer)),
            Some(_) => Ok(None),
            None => {
                tracing::warn!(path = %segment.path.display(), offset, "an answer has gone bad on disk; it will be asked again");
                self.shared.index_mut().remove(&id).map_err(self.index_error())?;
                Ok(None)
            }
        }
    }

    /// Writes an answer and returns when it is on disk, with the answer the log now holds to that request:
    /// this one, or one that was there before and is as good, which stays.
    ///
    /// Dropping the future does not take the record back.
    pub async fn append(
        self: &Arc<Self>,
        key: &RequestKey,
        answer: &ChatAnswer,
    ) -> Result<ChatAnswer, AnswerLogError> {
        let (reply, done) = oneshot::channel();
        let record = format::encode(key, answer)
            .map_err(|detail| AnswerLogError::Unwritable { dir: self.dir.clone(), detail })?;
        let job = Job { id: key.id, meta: Meta::new(key, answer), record, reply };
        let stopped = || AnswerLogError::WriterStopped { dir: self.dir.clone() };
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())?;
        match done.await.map_err(|_| stopped())?? {
            Written::Now => Ok(answer.clone()),
            Written::Before => {
                let (log, key) = (Arc::clone(self), *key);
                let before =
                    tokio::task::spawn_blocking(move || log.get(&key)).await.map_err(|_| stopped())??;
                // Gone bad in this very moment: then the answer at hand is as good as any.
                Ok(before.unwrap_or_else(|| answer.clone()))
            }
        }
    }
}

/// Makes a folder, and puts its name and those of the folders made for it on disk: answers that were paid for
/// are lost with the folder that they lie in.
fn make_folder(dir: &Path) -> Result<(), AnswerLogError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(AnswerLogError::io("make the folder", dir, error))
        }
        _ => writer::sync_folder(parent),
    }
}

impl Drop for AnswerLog {
    fn drop(&mut self) {
        // The writer ends when its queue does; the lock goes only after its last write.
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(dir = %self.dir.display(), "the answer log's writer panicked");
        }
        // Closing the file is not enough: a process just being started elsewhere in this program holds a copy
        // of it for a moment. If this fails, the lock goes with the last copy.
        let _ = self.lock.unlock();
    }
}

/// How an append ended.
enum Written {
    /// The record was written.
    Now,
    /// There was one already.
    Before,
}
