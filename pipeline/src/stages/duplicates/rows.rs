//! What is remembered of each row between the passes, on disk, to be looked up by row number.
//!
//! One file holds a slot of one size for each row, the other the ids one after another. With the
//! published settings of `minhash` a slot has 928 bytes.

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::DedupError;
use crate::durable::{WriteContext, WriteError};

/// Words of a slot before the row's own: where its id begins, and its length, in bytes.
const HEAD_WORDS: usize = 2;

/// What stands for the files' names in messages, since they may have none.
const PLACE: &str = "the rows of the first pass";

/// Writes rows in order.
pub struct RowWriter {
    slots: BufWriter<File>,
    ids: BufWriter<File>,
    words: usize,
    rows: u32,
    id_bytes: u64,
    slot: Vec<u8>,
}

/// A row as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Its id.
    pub id: String,
    /// Its words.
    pub words: Vec<u64>,
}

impl RowWriter {
    /// Writes into two empty files; each row has `words` words.
    pub fn new(slots: File, ids: File, words: usize) -> Self {
        let buffered = |file| BufWriter::with_capacity(1 << 18, file);
        let (slots, ids) = (buffered(slots), buffered(ids));
        Self { slots, ids, words, rows: 0, id_bytes: 0, slot: Vec::new() }
    }

    /// How many rows there are.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Adds a row; words that are left out are zero. Returns its number.
    ///
    /// # Errors
    /// The disk is full, or there are 2^32 rows.
    pub fn push(&mut self, id: &str, words: &[u64]) -> Result<u32, DedupError> {
        let row = self.rows;
        self.rows = row.checked_add(1).ok_or(DedupError::TooManyRows)?;
        self.slot.clear();
        for word in [self.id_bytes, id.len() as u64].iter().chain(words) {
            self.slot.extend_from_slice(&word.to_le_bytes());
        }
        self.slot.resize(8 * (HEAD_WORDS + self.words), 0);
        self.id_bytes += id.len() as u64;
        self.slots.write_all(&self.slot).doing("write", Path::new(PLACE))?;
        self.ids.write_all(id.as_bytes()).doing("write", Path::new(PLACE))?;
        Ok(row)
    }

    /// Ends writing.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish(self) -> Result<RowReader, WriteError> {
        let whole = |file: BufWriter<File>| {
            file.into_inner().map_err(IntoInnerError::into_error).doing("write", Path::new(PLACE))
        };
        Ok(RowReader { slots: whole(self.slots)?, ids: whole(self.ids)?, words: self.words })
    }
}

/// Looks rows up.
#[derive(Debug)]
pub struct RowReader {
    slots: File,
    ids: File,
    words: usize,
}

impl RowReader {
    /// Opens what a [`RowWriter`] wrote with as many words a row.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn open(slots: &Path, ids: &Path, words: usize) -> Result<Self, WriteError> {
        let open = |path: &Path| File::open(path).doing("open", path);
        Ok(Self { slots: open(slots)?, ids: open(ids)?, words })
    }

    /// Makes sure that the files are on the disk.
    ///
    /// # Errors
    /// They cannot be synced.
    pub fn sync(&self) -> Result<(), WriteError> {
        self.slots.sync_all().and_then(|()| self.ids.sync_all()).doing("sync", Path::new(PLACE))
    }

    /// A row.
    ///
    /// # Errors
    /// There is none of that number, or it cannot be read.
    pub fn get(&self, row: u32) -> Result<StoredRow, WriteError> {
        let mut slot = vec![0; 8 * (HEAD_WORDS + self.words)];
        let place = u64::from(row) * slot.len() as u64;
        self.slots.read_exact_at(&mut slot, place).doing("read", Path::new(PLACE))?;
        let mut words = slot.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let (start, bytes) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        let mut id = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.ids.read_exact_at(&mut id, start).doing("read", Path::new(PLACE))?;
        Ok(StoredRow { id: String::from_utf8_lossy(&id).into_owned(), words: words.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_looked_up_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let file = |name: &str| File::create_new(path(name)).unwrap();
        let mut writer = RowWriter::new(file("slots"), file("ids"), 2);
        for (row, (id, words)) in [("a", &[1, 2][..]), ("", &[]), ("çd", &[3])].into_iter().enumerate() {
            assert_eq!(writer.push(id, words).unwrap() as usize, row);
        }
        writer.finish().unwrap().sync().unwrap();
        let rows = RowReader::open(&path("slots"), &path("ids"), 2).unwrap();
        assert_eq!(rows.get(2).unwrap(), StoredRow { id: "çd".into(), words: vec![3, 0] });
        assert_eq!(rows.get(1).unwrap(), StoredRow { id: String::new(), words: vec![0, 0] });
        assert_eq!(rows.get(0).unwrap().words, [1, 2]);
        assert!(rows.get(3).is_err());
    }
}
