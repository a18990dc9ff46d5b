//! Sorting more records than memory holds: sorted runs on disk, then merged.
//!
//! A record is a string of bytes, and records come out in the order of their bytes: a caller writes
//! what it sorts by first, numbers big-endian. Runs lie one after another in a file without a name,
//! which the system takes back when the process ends, however it ends.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::slice::ParallelSliceMut;

use crate::durable::{self, WriteContext, WriteError};

/// The least that is read of a run at once, in bytes: it bounds how many runs are merged at a time.
const MERGE_BUFFER_BYTES: usize = 32 << 10;

/// The largest buffer, in bytes: places in it have 32 bits.
const MAX_MEMORY_BYTES: usize = 1 << 30;

/// Where and in how much memory to sort.
#[derive(Clone, Debug)]
pub struct Spill {
    /// The folder whose disk takes what memory does not hold.
    pub folder: PathBuf,
    /// Memory for all that is sorted at once, in bytes.
    pub memory_bytes: u64,
}

impl Spill {
    /// A sorter that takes one of `shares` equal parts of the memory.
    pub fn sorter(&self, shares: usize) -> ExternalSorter {
        let memory_bytes = self.memory_bytes / shares.max(1) as u64;
        ExternalSorter {
            folder: self.folder.clone(),
            memory_bytes: usize::try_from(memory_bytes).unwrap_or(MAX_MEMORY_BYTES).min(MAX_MEMORY_BYTES),
            buffer: Buffer::default(),
            spilled: None,
        }
    }

    /// A file without a name on the disk that takes spills.
    ///
    /// # Errors
    /// The folder is not writable.
    pub fn file(&self) -> Result<File, WriteError> {
        tempfile::tempfile_in(&self.folder).doing("spill into", &self.folder)
    }
}

/// Takes records in any order.
pub struct ExternalSorter {
    folder: PathBuf,
    memory_bytes: usize,
    buffer: Buffer,
    spilled: Option<Spilled>,
}

impl ExternalSorter {
    /// Adds a record.
    ///
    /// # Errors
    /// The disk is full or not writable.
    pub fn push(&mut self, record: &[u8]) -> Result<(), WriteError> {
        if self.buffer.bytes_with(record) > self.memory_bytes && !self.buffer.entries.is_empty() {
            self.spill().doing("spill into", &self.folder)?;
        }
        self.buffer.push(record).doing("spill into", &self.folder)
    }

    fn spill(&mut self) -> io::Result<()> {
        self.buffer.sort();
        let mut spilled = match self.spilled.take() {
            Some(spilled) => spilled,
            None => Spilled { file: Arc::new(tempfile::tempfile_in(&self.folder)?), runs: Vec::new() },
        };
        spilled
            .append(|out| self.buffer.entries.iter().try_for_each(|e| write(out, self.buffer.record(e))))?;
        self.buffer.clear();
        self.spilled = Some(spilled);
        Ok(())
    }

    /// The records in order.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Sorted, WriteError> {
        let source = self.merge().doing("sort in", &self.folder)?;
        Ok(Sorted { source, folder: self.folder })
    }

    fn merge(&mut self) -> io::Result<Source> {
        if self.spilled.is_some() && !self.buffer.entries.is_empty() {
            self.spill()?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let Some(mut spilled) = self.spilled.take() else {
            buffer.sort();
            return Ok(Source::Memory { buffer, next: 0 });
        };
        drop(buffer);
        let most = (self.memory_bytes / MERGE_BUFFER_BYTES).max(2);
        while spilled.runs.len() > most {
            let rest = spilled.runs.split_off(most);
            let mut merge = Merge::new(&spilled.file, &spilled.runs, MERGE_BUFFER_BYTES)?;
            spilled.runs = rest;
            spilled.append(|out| {
                while let Some(record) = merge.next()? {
                    write(out, record)?;
                }
                Ok(())
            })?;
        }
        let share = self.memory_bytes / spilled.runs.len().max(1);
        let merge = Merge::new(&spilled.file, &spilled.runs, share.clamp(4 << 10, 1 << 20))?;
        Ok(Source::Disk(merge))
    }
}

/// Records in one piece of memory.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The first eight bytes: they decide most comparisons.
    prefix: u64,
    start: u32,
    len: u32,
}

impl Buffer {
    fn bytes_with(&self, record: &[u8]) -> usize {
        self.bytes.len() + record.len() + size_of::<Entry>() * (self.entries.len() + 1)
    }

    fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let place = |at: usize| u32::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
        let (start, len) = (place(self.bytes.len())?, place(record.len())?);
        let mut prefix = [0; 8];
        let known = record.len().min(8);
        prefix[..known].copy_from_slice(&record[..known]);
        self.entries.push(Entry { prefix: u64::from_be_bytes(prefix), start, len });
        self.bytes.extend_from_slice(record);
        Ok(())
    }

    fn record(&self, entry: &Entry) -> &[u8] {
        record_in(&self.bytes, entry)
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.entries.par_sort_unstable_by(|left, right| {
            let prefixes = left.prefix.cmp(&right.prefix);
            prefixes.then_with(|| record_in(bytes, left).cmp(record_in(bytes, right)))
        });
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

fn record_in<'a>(bytes: &'a [u8], entry: &Entry) -> &'a [u8] {
    &bytes[entry.start as usize..entry.start as usize + entry.len as usize]
}

fn write(out: &mut impl Write, record: &[u8]) -> io::Result<()> {
    out.write_all(&(record.len() as u32).to_le_bytes())?;
    out.write_all(record)
}

/// Sorted runs in one file.
struct Spilled {
    file: Arc<File>,
    /// Their places, in bytes.
    runs: Vec<Range<u64>>,
}

impl Spilled {
    fn append(&mut self, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
        // Readers give their own offsets, so the file's own is always at its end.
        let start = self.file.metadata()?.len();
        let mut out = BufWriter::with_capacity(1 << 18, &*self.file);
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        self.runs.push(start..self.file.metadata()?.len());
        Ok(())
    }
}

/// Records in the order of their bytes.
pub struct Sorted {
    source: Source,
    folder: PathBuf,
}

enum Source {
    Memory { buffer: Buffer, next: usize },
    Disk(Merge),
}

impl Sorted {
    /// The next record.
    ///
    /// # Errors
    /// What was spilled cannot be read.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, WriteError> {
        match &mut self.source {
            Source::Memory { buffer, next } => {
                let entry = buffer.entries.get(*next);
                *next += 1;
                Ok(entry.map(|entry| buffer.record(entry)))
            }
            Source::Disk(merge) => merge.next().doing("sort in", &self.folder),
        }
    }

    /// Writes the records into a file that [`Self::open`] reads.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(mut self, path: &Path) -> Result<(), WriteError> {
        let temporary = durable::temporary_name(path);
        let file = File::create(&temporary).doing("create", &temporary)?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        while let Some(record) = self.next_record()? {
            write(&mut out, record).doing("write", &temporary)?;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error).doing("write", &temporary)?;
        file.sync_all().doing("sync", &temporary)?;
        durable::publish(&temporary, path)
    }

    /// The records of a file that [`Self::save`] wrote.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Self, WriteError> {
        let file = Arc::new(File::open(path).doing("open", path)?);
        let bytes = file.metadata().doing("read", path)?.len();
        let merge = Merge::new(&file, std::slice::from_ref(&(0..bytes)), 1 << 18).doing("read", path)?;
        Ok(Self { source: Source::Disk(merge), folder: path.to_owned() })
    }
}

/// Takes the least record of several runs in turn.
struct Merge {
    // Boxed, so that the heap moves pointers.
    heap: BinaryHeap<Box<Cursor>>,
    current: Vec<u8>,
}

impl Merge {
    fn new(file: &Arc<File>, runs: &[Range<u64>], buffer_bytes: usize) -> io::Result<Self> {
        let mut heap = BinaryHeap::with_capacity(runs.len());
        for run in runs {
            let input = RunReader { file: file.clone(), at: run.start, end: run.end };
            let input = BufReader::with_capacity(buffer_bytes, input);
            let mut cursor = Box::new(Cursor { input, record: Vec::new() });
            if cursor.advance()? {
                heap.push(cursor);
            }
        }
        Ok(Self { heap, current: Vec::new() })
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(mut least) = self.heap.peek_mut() else { return Ok(None) };
        std::mem::swap(&mut self.current, &mut least.record);
        if !least.advance()? {
            PeekMut::pop(least);
        }
        Ok(Some(&self.current))
    }
}

/// A place in a run.
struct Cursor {
    input: BufReader<RunReader>,
    record: Vec<u8>,
}

impl Cursor {
    fn advance(&mut self) -> io::Result<bool> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        self.record.resize(u32::from_le_bytes(length) as usize, 0);
        self.input.read_exact(&mut self.record)?;
        Ok(true)
    }
}

/// The other way round, since the heap gives its greatest.
impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> Ordering {
        other.record.cmp(&self.record)
    }
}

impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.record == other.record
    }
}

impl Eq for Cursor {}

/// Reads a part of a file that others read and append to.
struct RunReader {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for RunReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = out.len().min(left);
        let read = self.file.read_at(&mut out[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spill(memory_bytes: u64) -> Spill {
        Spill { folder: std::env::temp_dir(), memory_bytes }
    }

    fn all(mut sorted: Sorted) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while let Some(record) = sorted.next_record().unwrap() {
            records.push(record.to_vec());
        }
        records
    }

    proptest! {
        /// From everything in memory to a run a record, merged in many passes.
        #[test]
        fn any_memory_gives_the_order_of_bytes(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..200),
            memory_bytes in prop::sample::select(vec![0, 100, 1000, 1 << 20]),
        ) {
            let mut sorter = spill(memory_bytes).sorter(1);
            for record in &records {
                sorter.push(record).unwrap();
            }
            let mut want = records;
            want.sort();
            prop_assert_eq!(all(sorter.finish().unwrap()), want);
        }
    }

    #[test]
    fn sorted_records_can_be_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut sorter = spill(1).sorter(1);
        for record in ["b", "", "abc", "a"] {
            sorter.push(record.as_bytes()).unwrap();
        }
        sorter.finish().unwrap().save(&path).unwrap();
        assert_eq!(all(Sorted::open(&path).unwrap()), [&b""[..], b"a", b"abc", b"b"]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut cut = Sorted::open(&path).unwrap();
        let error = (0..4).find_map(|_| cut.next_record().err()).unwrap();
        assert!(error.to_string().contains("run"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut sorter = Spill { folder: "/no/such/folder".into(), memory_bytes: 1 }.sorter(1);
        sorter.push(b"a").unwrap();
        let error = sorter.push(b"b").unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
