//! The one thread that writes: it takes all appends that wait, writes them at once and syncs once.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::format::{self, Meta, Version};
use super::index::{Offer, Place, Spill};
use super::open::segment_path;
use super::{AnswerLogError, AnswerLogOptions, Segment, Shared, Written};
use crate::chat::RequestId;

/// Bytes written with one sync at most.
const GROUP_BYTES: usize = 8 << 20;
/// Segments may grow to this and a group more: offsets are 32 bits.
const MAX_SEGMENT_BYTES: u32 = 1 << 31;

/// One append.
pub(super) struct Job {
    pub(super) id: RequestId,
    pub(super) meta: Meta,
    pub(super) record: Vec<u8>,
    pub(super) reply: oneshot::Sender<Result<Written, AnswerLogError>>,
}

pub(super) struct Writer {
    dir: PathBuf,
    shared: Arc<Shared>,
    segment_bytes: u64,
    next_number: u32,
    /// Index of the segment that grows.
    segment: u32,
    /// Where the next record goes in it.
    end: u64,
    /// Why nothing more can be written.
    broken: Option<String>,
}

impl Writer {
    /// A writer that goes on at the end of the last segment, or begins the first. A segment of an older
    /// version is not gone on with.
    pub(super) fn new(
        dir: &Path,
        shared: Arc<Shared>,
        options: &AnswerLogOptions,
        next_number: u32,
        last: Option<(u64, Version)>,
    ) -> Result<Self, AnswerLogError> {
        let mut writer = Self {
            dir: dir.to_owned(),
            shared,
            segment_bytes: u64::from(options.segment_bytes.min(MAX_SEGMENT_BYTES)),
            next_number,
            segment: 0,
            end: 0,
            broken: None,
        };
        match last {
            Some((end, Version::V2)) => {
                writer.segment = writer.shared.segments() - 1;
                writer.end = end;
            }
            Some((_, Version::V1)) | None => writer.begin_segment()?,
        }
        Ok(writer)
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group_bytes = first.record.len();
            let mut group = vec![first];
            while group_bytes < GROUP_BYTES
                && let Ok(job) = queue.try_recv()
            {
                group_bytes += job.record.len();
                group.push(job);
            }
            self.commit(group);
        }
    }

    /// Writes a group and tells each of its tasks; one that has gone away does not mind.
    fn commit(&mut self, group: Vec<Job>) {
        if let Some(cause) = &self.broken {
            for job in group {
                let _ = job
                    .reply
                    .send(Err(AnswerLogError::Broken { dir: self.dir.clone(), cause: cause.clone() }));
            }
            return;
        }
        let mut fresh = Vec::new();
        let mut known = Vec::new();
        let mut written = Ok(());
        {
            let index = self.shared.index();
            let mut in_group: HashMap<RequestId, u32> = HashMap::new();
            for job in group {
                let worth = job.meta.worth();
                let offer = index.weigh(&job.id, &job.meta);
                let taken = matches!(offer, Ok(Offer::Taken));
                written = written.and(offer.map(drop));
                if taken && in_group.get(&job.id).is_none_or(|best| worth > *best) {
                    in_group.insert(job.id, worth);
                    fresh.push(job);
                } else {
                    known.push(job);
                }
            }
        }
        match written.map_err(|error| self.index_error(error)).and_then(|()| self.write(&fresh)) {
            Ok(()) => {
                for job in fresh {
                    let _ = job.reply.send(Ok(Written::Now));
                }
                for job in known {
                    let _ = job.reply.send(Ok(Written::Before));
                }
                self.spill_index();
            }
            Err(error) => {
                tracing::error!(%error, "the answer log could not be written");
                for job in fresh.into_iter().chain(known) {
                    let _ = job.reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn index_error(&self, error: std::io::Error) -> AnswerLogError {
        AnswerLogError::io("read the index of", &self.dir, error)
    }

    /// Readers go on while it writes: only this thread offers.
    fn spill_index(&self) {
        let spill = self.shared.index().spill();
        match spill.map(Spill::write) {
            None => {}
            Some(Ok(runs)) => self.shared.index_mut().spilled(runs),
            // The answers are on disk; their index stays in memory until the next try.
            Some(Err(error)) => {
                tracing::warn!(%error, dir = %self.dir.display(), "the answer log's index found no room on disk and grows in memory");
            }
        }
    }

    /// Writes and syncs records, then makes them known.
    fn write(&mut self, jobs: &[Job]) -> Result<(), AnswerLogError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let group_bytes: usize = jobs.iter().map(|job| job.record.len()).sum();
        let has_records = self.end > format::HEADER_BYTES as u64;
        if has_records && self.end + group_bytes as u64 > self.segment_bytes {
            self.begin_segment()?;
        }
        let mut bytes = Vec::with_capacity(group_bytes);
        let mut places = Vec::with_capacity(jobs.len());
        for job in jobs {
            let offset = (self.end + bytes.len() as u64) as u32;
            places.push(Place { segment: self.segment, offset });
            bytes.extend_from_slice(&job.record);
        }
        let Some(Segment { path, file, .. }) = self.shared.segment(self.segment) else {
            return Err(AnswerLogError::WriterStopped { dir: self.dir.clone() });
        };
        if let Err(error) = file.write_all_at(&bytes, self.end) {
            // A full disk leaves part of the group behind: take it back, so that the file ends whole.
            if let Err(cut) = file.set_len(self.end) {
                self.broken = Some(format!("{error}, then cutting the file back: {cut}"));
            }
            return Err(AnswerLogError::io("write", &path, error));
        }
        if let Err(error) = file.sync_data() {
            // After a failed sync nobody knows what is on disk; a second sync would claim success.
            self.broken = Some(error.to_string());
            return Err(AnswerLogError::io("sync", &path, error));
        }
        self.end += bytes.len() as u64;
        let mut index = self.shared.index_mut();
        for (job, place) in jobs.iter().zip(places) {
            index.offer(&job.id, &job.meta, place).map_err(|error| self.index_error(error))?;
        }
        Ok(())
    }

    /// Begins a new segment; its name is on disk when this returns.
    fn begin_segment(&mut self) -> Result<(), AnswerLogError> {
        let path = segment_path(&self.dir, self.next_number);
        let io = |doing: &'static str| {
            let path = path.clone();
            move |error| AnswerLogError::io(doing, &path, error)
        };
        // Truncating: a segment that could not be finished by an earlier try holds no record.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(io("make"))?;
        file.write_all_at(&format::header(Version::V2), 0).map_err(io("write"))?;
        file.sync_all().map_err(io("sync"))?;
        sync_folder(&self.dir)?;
        let segment = Segment { path: path.into(), file: Arc::new(file), version: Version::V2 };
        self.segment = self.shared.push_segment(segment);
        self.next_number += 1;
        self.end = format::HEADER_BYTES as u64;
        Ok(())
    }
}

/// Puts the names of a folder's files on disk.
pub(super) fn sync_folder(dir: &Path) -> Result<(), AnswerLogError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| AnswerLogError::io("sync the folder", dir, error))
}
