//! What opening a log does: lock the folder, find the segments, read and repair them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{self, Version};
use super::index::Place;
use super::{AnswerLogError, DamagedPlace, OpenReport, Segment, Shared, scan};

/// What to do with a torn end: only the last segment may be cut, the others are finished.
pub(super) enum Tail {
    Cut,
    Keep,
}

pub(super) fn lock(dir: &Path) -> Result<File, AnswerLogError> {
    let path = dir.join("lock");
    let io = |doing: &'static str| {
        let path = path.clone();
        move |error| AnswerLogError::io(doing, &path, error)
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message: an unreadable one names nobody.
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() {
                "another process".into()
            } else {
                format!("process {}", holder.trim())
            };
            return Err(AnswerLogError::Locked { dir: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io("lock")(error)),
    }
    file.set_len(0).map_err(io("write"))?;
    file.seek(SeekFrom::Start(0)).map_err(io("write"))?;
    write!(file, "{}", std::process::id()).map_err(io("write"))?;
    Ok(file)
}

/// The segments in a folder, by number.
pub(super) fn segment_files(dir: &Path) -> Result<Vec<(u32, PathBuf)>, AnswerLogError> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(|error| AnswerLogError::io("list", dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| AnswerLogError::io("list", dir, error))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("answers-")?.strip_suffix(".log")?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("answers-{number:05}.log"))
}

/// Opens a segment and checks what it is.
pub(super) fn open_segment(path: &Path, options: &OpenOptions) -> Result<Segment, AnswerLogError> {
    let io = |doing: &'static str| move |error| AnswerLogError::io(doing, path, error);
    let foreign = |found| AnswerLogError::Foreign { path: path.to_owned(), found };
    let file = options.open(path).map_err(io("open"))?;
    let file_bytes = file.metadata().map_err(io("read"))?.len();
    if u32::try_from(file_bytes).is_err() {
        return Err(foreign("a file of over 4 GiB".into()));
    }
    let mut head = vec![0; format::HEADER_BYTES.min(file_bytes as usize)];
    file.read_exact_at(&mut head, 0).map_err(io("read"))?;
    let version = format::check_header(&head).map_err(foreign)?;
    Ok(Segment { path: path.into(), file: Arc::new(file), version })
}

/// Reads a segment into the index; returns where its whole records end, and its version.
pub(super) fn load_segment(
    shared: &Shared,
    path: &Path,
    tail: Tail,
    report: &mut OpenReport,
) -> Result<(u64, Version), AnswerLogError> {
    let io = |doing: &'static str| move |error| AnswerLogError::io(doing, path, error);
    let Segment { file, version, .. } = open_segment(path, OpenOptions::new().read(true).write(true))
        .inspect(|segment| {
            shared.push_segment(segment.clone());
        })?;
    let segment = shared.segments() - 1;
    let file_bytes = file.metadata().map_err(io("read"))?.len();
    if file_bytes < format::HEADER_BYTES as u64 {
        // Torn while it was begun: nothing was ever in it.
        report.torn_bytes += file_bytes;
        if matches!(tail, Tail::Cut) {
            file.write_all_at(&format::header(version), 0).map_err(io("write"))?;
            file.sync_all().map_err(io("sync"))?;
        }
        return Ok((format::HEADER_BYTES as u64, version));
    }
    let mut index = shared.index_mut();
    let scanned = scan::scan(&file, file_bytes, version, |record| {
        index.load(&record.content, Place { segment, offset: record.offset as u32 }, version)
    })
    .map_err(io("read"))?;
    drop(index);
    let place = |(offset, bytes)| DamagedPlace { path: path.to_owned(), offset, bytes };
    report.damaged.extend(scanned.damaged.into_iter().map(place));
    let torn_bytes = file_bytes - scanned.end;
    match tail {
        Tail::Cut if torn_bytes > 0 => {
            file.set_len(scanned.end).map_err(io("cut the torn end of"))?;
            file.sync_all().map_err(io("sync"))?;
            report.torn_bytes += torn_bytes;
        }
        Tail::Keep if torn_bytes > 0 => report.damaged.push(place((scanned.end, torn_bytes))),
        _ => {}
    }
    Ok((scanned.end, version))
}
