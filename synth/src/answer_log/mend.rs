//! Looking for damage in a log, and mending it without losing a byte.
//!
//! A segment with damage in it is written anew under its own name with the records that are whole; the old
//! file goes into a folder beside what the caller names. The new one takes the old one's place in one step, so
//! that no crash leaves a log without its answers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::AnswerLogError;
use super::format::{self, HEADER_BYTES, Version};
use super::open::{lock, segment_files};
use super::scan::{Record, Scanned, scan};
use super::writer::sync_folder;

/// A damaged segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedSegment {
    /// The file.
    pub path: PathBuf,
    /// How the damage shows.
    pub found: String,
    /// Answers in it that can be read.
    pub whole: u64,
    /// It is the last segment and only its end is torn, as a crash leaves it: opening the log cuts it.
    pub torn: bool,
}

/// Looks at every record of the log in `dir`; nothing is locked or changed.
///
/// # Errors
/// A file cannot be read. A missing folder holds no damage.
pub fn damage(dir: &Path) -> Result<Vec<DamagedSegment>, AnswerLogError> {
    let mut damaged = Vec::new();
    let segments = if dir.is_dir() { segment_files(dir)? } else { Vec::new() };
    for (position, (_, path)) in segments.iter().enumerate() {
        let segment = Segment::open(path)?;
        let mut whole = 0;
        let scanned = segment.scan(|_| {
            whole += 1;
            Ok(())
        })?;
        damaged.extend(segment.damage(&scanned, whole, position + 1 == segments.len()));
    }
    Ok(damaged)
}

/// Mends the log in `dir`, which no other process may have open; what is taken out of it goes into `aside`.
/// It reads the whole log: call it outside of async code.
///
/// # Errors
/// The log is in use, or a file cannot be read or written; then the log is as it was.
pub fn mend(dir: &Path, aside: &Path) -> Result<Vec<DamagedSegment>, AnswerLogError> {
    let _lock = lock(dir)?;
    let mut mended = damage(dir)?;
    for segment in &mut mended {
        let io = |doing: &'static str, error| AnswerLogError::io(doing, &segment.path, error);
        fs::create_dir_all(aside).map_err(|error| io("make a folder beside", error))?;
        let name = segment.path.file_name().unwrap_or_default();
        fs::copy(&segment.path, aside.join(name)).map_err(|error| io("copy", error))?;
        File::open(aside.join(name)).and_then(|copy| copy.sync_all()).map_err(|error| io("sync", error))?;
        sync_folder(aside)?;
        rewrite(&segment.path)?;
        sync_folder(dir)?;
    }
    Ok(mended)
}

/// Writes a segment's whole records into a new file, which takes its place.
fn rewrite(path: &Path) -> Result<(), AnswerLogError> {
    let temporary = path.with_extension("log.tmp");
    let io = |doing: &'static str| {
        let temporary = temporary.clone();
        move |error| AnswerLogError::io(doing, &temporary, error)
    };
    let segment = Segment::open(path)?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).open(&temporary).map_err(io("make"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&format::header(segment.version)).map_err(io("write"))?;
    segment.scan(|record| out.write_all(record.bytes))?;
    out.flush().map_err(io("write"))?;
    out.get_ref().sync_all().map_err(io("sync"))?;
    fs::rename(&temporary, path).map_err(io("rename"))
}

/// A segment that is looked at.
struct Segment<'p> {
    path: &'p Path,
    file: File,
    bytes: u64,
    version: Version,
    /// What is wrong with its header.
    header: Option<String>,
}

impl<'p> Segment<'p> {
    fn open(path: &'p Path) -> Result<Self, AnswerLogError> {
        let io = |error| AnswerLogError::io("read", path, error);
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let (version, header) = match format::check_header(&head(&file, bytes).map_err(io)?) {
            Ok(version) => (version, None),
            Err(problem) => (version_by_records(&file, bytes).map_err(io)?, Some(problem)),
        };
        Ok(Self { path, file, bytes, version, header })
    }

    fn scan(&self, on_record: impl FnMut(Record<'_>) -> io::Result<()>) -> Result<Scanned, AnswerLogError> {
        scan(&self.file, self.bytes, self.version, on_record)
            .map_err(|error| AnswerLogError::io("read", self.path, error))
    }

    /// What is damaged, by a scan that found so many whole answers.
    fn damage(&self, scanned: &Scanned, whole: u64, last: bool) -> Option<DamagedSegment> {
        let end = scanned.end.min(self.bytes);
        let torn_bytes = self.bytes - end;
        let mut found = Vec::new();
        if let Some(header) = &self.header {
            found.push(format!("it does not begin as an answer log does: {header}"));
        }
        for (offset, bytes) in &scanned.damaged {
            found.push(format!("{bytes} bytes at {offset} hold no whole record"));
        }
        let torn = found.is_empty() && last;
        if self.bytes < HEADER_BYTES as u64 {
            found.push(format!("it ends after {} bytes, within its header", self.bytes));
        } else if torn_bytes > 0 {
            found.push(format!("the last {torn_bytes} bytes, from {end}, hold no whole record"));
        }
        let torn = torn && !found.is_empty();
        (!found.is_empty()).then(|| DamagedSegment {
            path: self.path.to_owned(),
            found: found.join("; "),
            whole,
            torn,
        })
    }
}

/// The version of a segment whose header is damaged: in the first version the answer's JSON stands where the
/// second has its figures.
fn version_by_records(file: &File, bytes: u64) -> io::Result<Version> {
    let mut first = false;
    scan(file, bytes, Version::V1, |record| {
        first |= format::decode(record.bytes, Version::V1).is_some();
        Ok(())
    })?;
    Ok(if first { Version::V1 } else { Version::V2 })
}

fn head(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEADER_BYTES.min(bytes as usize)];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}
