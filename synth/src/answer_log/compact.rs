//! Compaction: drops records that better answers took the place of, and damaged bytes.
//!
//! Each segment with something to drop is written anew, under the next free number and a temporary name;
//! synced, renamed, and only then is the old one removed. A crash in between leaves records twice, which
//! reading takes for one; the next compaction drops the copies. The last segment comes first, so that a
//! record never moves behind a worse one of its request. Beyond the log itself, this takes the room of one
//! segment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::format::{self, Content};
use super::index::{Place, Totals};
use super::open::{Tail, load_segment, lock, segment_files, segment_path};
use super::writer::sync_folder;
use super::{AnswerLogError, OpenReport, Segment, Shared, scan};

/// Whether compaction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// Drop what is superseded.
    Write,
    /// Only say what would be dropped.
    DryRun,
}

/// What compaction did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Segments written anew.
    pub segments: u64,
    /// Records dropped.
    pub records: u64,
    /// Bytes of the log before.
    pub bytes_before: u64,
    /// Bytes of the log after.
    pub bytes_after: u64,
}

/// Compacts the log in `dir`, which no other process may have open. It reads the whole log: call it outside
/// of async code.
///
/// Records of one segment that are all good stay where they are; nothing is lost but superseded records and
/// damaged bytes. What the dropped answers cost stays in [`Totals`].
pub fn compact(dir: &Path, compaction: Compaction) -> Result<CompactReport, AnswerLogError> {
    let _lock = lock(dir)?;
    let shared = Shared::new(dir);
    let numbered = segment_files(dir)?;
    for (_, path) in &numbered {
        // A torn tail is dropped like any damage: nothing is cut in place.
        load_segment(&shared, path, Tail::Keep, &mut OpenReport::default())?;
    }
    let mut report = CompactReport::default();
    let mut next_number = numbered.last().map_or(0, |(number, _)| number + 1);
    for (index, (_, path)) in numbered.iter().enumerate().rev() {
        let Some(segment) = shared.segment(index as u32) else {
            continue;
        };
        let io = |doing: &'static str| move |error| AnswerLogError::io(doing, path, error);
        let bytes = segment.file.metadata().map_err(io("read"))?.len();
        report.bytes_before += bytes;
        let kept = Kept::of(&shared, index as u32, &segment, bytes).map_err(io("read"))?;
        if kept.bytes == bytes {
            report.bytes_after += bytes;
            continue;
        }
        report.segments += 1;
        report.records += kept.dropped_records;
        if compaction == Compaction::DryRun {
            report.bytes_after += kept.bytes;
            continue;
        }
        if kept.is_empty() {
            fs::remove_file(path).map_err(io("remove"))?;
        } else {
            let written = rewrite(&shared, index as u32, &segment, bytes, &kept, dir, next_number)?;
            report.bytes_after += written;
            next_number += 1;
            fs::remove_file(path).map_err(io("remove"))?;
        }
        sync_folder(dir)?;
    }
    Ok(report)
}

/// What of a segment stays.
struct Kept {
    /// Bytes of the header and the live records.
    bytes: u64,
    records: u64,
    dropped_records: u64,
    /// What the dropped records cost.
    dropped: Totals,
}

impl Kept {
    fn of(shared: &Shared, index: u32, segment: &Segment, file_bytes: u64) -> io::Result<Self> {
        let mut kept = Self {
            bytes: format::HEADER_BYTES as u64,
            records: 0,
            dropped_records: 0,
            dropped: Totals::default(),
        };
        scan::scan(&segment.file, file_bytes, segment.version, |record| {
            if is_live(shared, index, &record)? {
                kept.bytes += record.bytes.len() as u64;
                kept.records += 1;
            } else if let Content::Answer { id, meta } = &record.content {
                kept.dropped_records += 1;
                if shared.index().weigh(id, meta)? == super::index::Offer::Worse {
                    kept.dropped.add(meta);
                }
            }
            Ok(())
        })?;
        Ok(kept)
    }

    fn is_empty(&self) -> bool {
        self.records == 0 && self.dropped == Totals::default()
    }
}

fn is_live(shared: &Shared, segment: u32, record: &scan::Record<'_>) -> io::Result<bool> {
    match &record.content {
        Content::Answer { id, .. } => {
            shared.index().is_live(id, Place { segment, offset: record.offset as u32 })
        }
        // What earlier compactions dropped was paid for.
        Content::Dropped(_) => Ok(true),
    }
}

/// Writes the live records of a segment into a new one; returns its bytes.
fn rewrite(
    shared: &Shared,
    index: u32,
    segment: &Segment,
    file_bytes: u64,
    kept: &Kept,
    dir: &Path,
    number: u32,
) -> Result<u64, AnswerLogError> {
    let path = segment_path(dir, number);
    let temporary = path.with_extension("log.tmp");
    let io = |doing: &'static str| {
        let temporary = temporary.clone();
        move |error| AnswerLogError::io(doing, &temporary, error)
    };
    let file: File =
        OpenOptions::new().write(true).create(true).truncate(true).open(&temporary).map_err(io("make"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut write = || -> io::Result<()> {
        out.write_all(&format::header(segment.version))?;
        scan::scan(&segment.file, file_bytes, segment.version, |record| {
            if is_live(shared, index, &record)? { out.write_all(record.bytes) } else { Ok(()) }
        })?;
        // Old records have no answers that take another's place, so there is nothing to note in theirs.
        if kept.dropped != Totals::default() && segment.version == format::Version::V2 {
            out.write_all(&format::encode_dropped(&kept.dropped).map_err(io::Error::other)?)?;
        }
        out.flush()
    };
    write().map_err(io("write"))?;
    let file = out.get_ref();
    let bytes = file.metadata().map_err(io("read"))?.len();
    file.sync_all().map_err(io("sync"))?;
    fs::rename(&temporary, &path).map_err(io("rename"))?;
    sync_folder(dir)?;
    Ok(bytes)
}
