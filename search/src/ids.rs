//! The ids of a shard's pages, sorted, each at a known place: `ids.bin`.
//!
//! Tantivy keeps them too, in a dictionary whose blocks must be decoded from their start; a thousand
//! ids of one answer then cost more than finding the pages.
//!
//! Layout: the ids one after the other; where each ends (little-endian u64); the number of ids (u64).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use tantivy::columnar::StrColumn;
use tantivy::directory::{Directory, MmapDirectory, OwnedBytes};

use crate::error::SearchError;

pub(crate) const IDS_FILE: &str = "ids.bin";

/// Bytes of one number of the file.
const NUMBER: usize = size_of::<u64>();

/// Writes the file from a shard's column of ids.
pub(crate) fn write(folder: &Path, ids: &StrColumn) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(folder.join(IDS_FILE))?);
    let mut ends = Vec::with_capacity(ids.num_terms());
    let mut end = 0_u64;
    let mut stream = ids.dictionary().stream()?;
    while stream.advance() {
        file.write_all(stream.key())?;
        end += stream.key().len() as u64;
        ends.push(end);
    }
    for number in ends.iter().chain([&(ends.len() as u64)]) {
        file.write_all(&number.to_le_bytes())?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

/// The file, memory-mapped.
pub(crate) struct IdTable {
    bytes: OwnedBytes,
    count: usize,
}

impl IdTable {
    pub(crate) fn open(folder: &Path) -> Result<Self, SearchError> {
        let path = folder.join(IDS_FILE);
        let damaged = |problem: String| SearchError::Damaged { path: path.clone(), problem };
        let directory = MmapDirectory::open(folder).map_err(|error| damaged(error.to_string()))?;
        let slice = directory.open_read(Path::new(IDS_FILE)).map_err(|error| damaged(error.to_string()))?;
        let bytes = slice.read_bytes().map_err(SearchError::io(&path))?;
        let count = bytes.len().checked_sub(NUMBER).map(|at| number_at(&bytes, at) as usize);
        let room = |count: usize| count.checked_add(1)?.checked_mul(NUMBER);
        match count {
            Some(count) if room(count).is_some_and(|room| room <= bytes.len()) => Ok(Self { bytes, count }),
            _ => Err(damaged("its ids do not fit into it".to_owned())),
        }
    }

    /// The id at a place among the sorted ids; empty where the file is damaged.
    pub(crate) fn get(&self, ord: u64) -> &str {
        let ends = self.bytes.len() - (self.count + 1) * NUMBER;
        let end = |ord: usize| number_at(&self.bytes, ends + ord * NUMBER) as usize;
        let ord = ord as usize;
        if ord >= self.count {
            return "";
        }
        let start = if ord == 0 { 0 } else { end(ord - 1) };
        let id = self.bytes[..ends].get(start..end(ord)).unwrap_or_default();
        std::str::from_utf8(id).unwrap_or_default()
    }
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes[at..].first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(number)
}
