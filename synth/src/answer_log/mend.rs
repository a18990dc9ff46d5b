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
        let looked = Looked::at(path, |_| Ok(()))?;
        damaged.extend(looked.damage(path, position + 1 == segments.len()));
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
    let version = Looked::version(path)?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).open(&temporary).map_err(io("make"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&format::header(version)).map_err(io("write"))?;
    Looked::at(path, |record| out.write_all(record.bytes))?;
    out.flush().map_err(io("write"))?;
    out.get_ref().sync_all().map_err(io("sync"))?;
    fs::rename(&temporary, path).map_err(io("rename"))
}

/// What a segment is found to be.
struct Looked {
    bytes: u64,
    header: Option<String>,
    scanned: Scanned,
    whole: u64,
}

impl Looked {
    fn at(
        path: &Path,
        mut on_record: impl FnMut(&Record<'_>) -> io::Result<()>,
    ) -> Result<Self, AnswerLogError> {
        let io = |error| AnswerLogError::io("read", path, error);
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let header = format::check_header(&head(&file, bytes).map_err(io)?).err();
        let version = Self::version(path)?;
        let mut whole = 0;
        let scanned = scan(&file, bytes, version, |record| {
            whole += 1;
            on_record(&record)
        });
        Ok(Self { bytes, header, scanned: scanned.map_err(io)?, whole })
    }

    /// The version in the header. Where that is damaged, the records tell: in the first version the answer's
    /// JSON stands where the second has its figures.
    fn version(path: &Path) -> Result<Version, AnswerLogError> {
        let io = |error| AnswerLogError::io("read", path, error);
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if let Ok(version) = format::check_header(&head(&file, bytes).map_err(io)?) {
            return Ok(version);
        }
        let mut first = false;
        scan(&file, bytes, Version::V1, |record| {
            first |= format::decode(record.bytes, Version::V1).is_some();
            Ok(())
        })
        .map_err(io)?;
        Ok(if first { Version::V1 } else { Version::V2 })
    }

    fn damage(&self, path: &Path, last: bool) -> Option<DamagedSegment> {
        let end = self.scanned.end.min(self.bytes);
        let torn_bytes = self.bytes - end;
        let mut found = Vec::new();
        if let Some(header) = &self.header {
            found.push(format!("it does not begin as an answer log does: {header}"));
        }
        for (offset, bytes) in &self.scanned.damaged {
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
            path: path.to_owned(),
            found: found.join("; "),
            whole: self.whole,
            torn,
        })
    }
}

fn head(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEADER_BYTES.min(bytes as usize)];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}
