//! Reads a segment from end to end, past damage.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::{self, Content, HEADER_BYTES, MARKER, RECORD_HEAD_BYTES, Version};

const WINDOW_BYTES: usize = 1 << 20;

/// What a scan found.
pub(super) struct Scanned {
    /// End of the last whole record.
    pub(super) end: u64,
    /// Offset and length of what lies between whole records and is none.
    pub(super) damaged: Vec<(u64, u64)>,
}

/// A whole record.
pub(super) struct Record<'a> {
    pub(super) offset: u64,
    pub(super) content: Content,
    pub(super) bytes: &'a [u8],
}

/// Calls `on_record` with every whole record. An error of it ends the scan.
pub(super) fn scan(
    file: &File,
    file_bytes: u64,
    version: Version,
    mut on_record: impl FnMut(Record<'_>) -> io::Result<()>,
) -> io::Result<Scanned> {
    let mut window = Window { file, file_bytes, start: 0, bytes: Vec::new() };
    let mut scanned = Scanned { end: HEADER_BYTES as u64, damaged: Vec::new() };
    let mut offset = scanned.end;
    loop {
        if let Some((content, bytes)) = window.record(offset, version)? {
            if offset > scanned.end {
                scanned.damaged.push((scanned.end, offset - scanned.end));
            }
            let record_bytes = bytes.len() as u64;
            on_record(Record { offset, content, bytes })?;
            offset += record_bytes;
            scanned.end = offset;
        } else if let Some(next) = window.find_marker(offset + 1)? {
            offset = next;
        } else {
            return Ok(scanned);
        }
    }
}

/// A part of the file in memory, read ahead.
struct Window<'a> {
    file: &'a File,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The file's bytes from `offset`, `wanted` of them or as many as there are.
    fn slice(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let wanted = self.file_bytes.saturating_sub(offset).min(wanted as u64) as usize;
        let inside = offset >= self.start && offset + wanted as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let left = self.file_bytes.saturating_sub(offset);
            self.bytes.resize(left.min(wanted.max(WINDOW_BYTES) as u64) as usize, 0);
            self.file.read_exact_at(&mut self.bytes, offset)?;
            self.start = offset;
        }
        let from = if wanted == 0 { 0 } else { (offset - self.start) as usize };
        Ok(&self.bytes[from..from + wanted])
    }

    /// The whole record at `offset`, if there is one.
    fn record(&mut self, offset: u64, version: Version) -> io::Result<Option<(Content, &[u8])>> {
        let head = self.slice(offset, RECORD_HEAD_BYTES)?;
        let Some(payload_bytes) = format::payload_bytes(head) else {
            return Ok(None);
        };
        let record = self.slice(offset, RECORD_HEAD_BYTES + payload_bytes)?;
        Ok(format::content(record, version).map(|content| (content, record)))
    }

    /// Offset of the first marker at or after `offset`.
    fn find_marker(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        loop {
            let chunk = self.slice(offset, WINDOW_BYTES)?;
            if let Some(at) = chunk.windows(MARKER.len()).position(|bytes| bytes == MARKER) {
                return Ok(Some(offset + at as u64));
            }
            if chunk.len() < WINDOW_BYTES {
                return Ok(None);
            }
            // A marker may lie across the two chunks.
            offset += (chunk.len() - MARKER.len() + 1) as u64;
        }
    }
}
