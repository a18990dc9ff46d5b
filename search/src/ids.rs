//! The ids of a run's or shard's pages, in page order, each at a known place: `ids.bin`.
//!
//! Tantivy keeps them too, sorted, in a dictionary whose blocks must be decoded from their start; a
//! thousand ids of one answer then cost more than finding the pages.
//!
//! Layout: the ids one after the other; if their lengths differ, where each ends (little-endian u64); the
//! length of every id, or 0 if they differ (u64); the number of ids (u64).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tantivy::directory::{Directory, MmapDirectory, OwnedBytes};

pub(crate) const IDS_FILE: &str = "ids.bin";

/// Bytes of one number of the file.
const NUMBER: usize = size_of::<u64>();

/// Writes the file, page by page.
pub(crate) struct IdWriter {
    path: PathBuf,
    file: BufWriter<File>,
    count: u64,
    /// Where the last id ends.
    end: u64,
    /// The length of every id so far; `None` once they differ.
    width: Option<u64>,
    /// Where each id ends; empty while they have one length.
    ends: Vec<u64>,
}

impl IdWriter {
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join(IDS_FILE);
        let file = BufWriter::new(File::create(&path)?);
        Ok(Self { path, file, count: 0, end: 0, width: None, ends: Vec::new() })
    }

    /// The file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn push(&mut self, id: &str) -> io::Result<()> {
        let width = id.len() as u64;
        self.file.write_all(id.as_bytes())?;
        if self.count == 0 {
            self.width = (width > 0).then_some(width);
        } else if let Some(before) = self.width.filter(|&before| before != width) {
            self.ends.extend((1..=self.count).map(|number| number * before));
            self.width = None;
        }
        self.count += 1;
        self.end += width;
        if self.width.is_none() {
            self.ends.push(self.end);
        }
        Ok(())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.ends.len() * NUMBER
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        for number in self.ends.iter().chain([&self.width.unwrap_or_default(), &self.count]) {
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// The file, memory-mapped.
pub(crate) struct IdTable {
    bytes: OwnedBytes,
    count: usize,
    width: usize,
    /// Where the ends begin, and the ids end.
    ends: usize,
}

impl IdTable {
    /// # Errors
    /// The file in `folder` cannot be read, or is damaged.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let directory = MmapDirectory::open(folder).map_err(io::Error::other)?;
        let bytes = directory.open_read(Path::new(IDS_FILE)).map_err(io::Error::other)?.read_bytes()?;
        let places = || {
            let footer = bytes.len().checked_sub(2 * NUMBER)?;
            let width = number_at(&bytes, footer) as usize;
            let count = number_at(&bytes, footer + NUMBER) as usize;
            let table = if width == 0 { count.checked_mul(NUMBER)? } else { 0 };
            let ends = footer.checked_sub(table)?;
            (width == 0 || count.checked_mul(width)? == ends).then_some((count, width, ends))
        };
        let (count, width, ends) = places()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its ids do not fit into it"))?;
        Ok(Self { bytes, count, width, ends })
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u32 {
        u32::try_from(self.count).unwrap_or(u32::MAX)
    }

    /// The id of a page; empty where the file is damaged.
    pub(crate) fn get(&self, page: u32) -> &str {
        std::str::from_utf8(self.bytes_of(page)).unwrap_or_default()
    }

    /// The bytes of a page's id, not looked at: a caller can ask for many before it waits for the first.
    #[inline]
    pub(crate) fn bytes_of(&self, page: u32) -> &[u8] {
        let page = page as usize;
        if page >= self.count {
            return &[];
        }
        let (start, end) = match self.width {
            0 => {
                let end = |page: usize| number_at(&self.bytes, self.ends + page * NUMBER) as usize;
                (if page == 0 { 0 } else { end(page - 1) }, end(page))
            }
            width => (page * width, (page + 1) * width),
        };
        self.bytes[..self.ends].get(start..end).unwrap_or_default()
    }
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes[at..].first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_come_back_by_page(ids in proptest::collection::vec("[a-zé]{0,4}", 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = IdWriter::create(folder.path()).unwrap();
            ids.iter().for_each(|id| writer.push(id).unwrap());
            writer.finish().unwrap();
            let table = IdTable::open(folder.path()).unwrap();
            let read: Vec<&str> = (0..ids.len() as u32).map(|page| table.get(page)).collect();
            prop_assert_eq!(read, ids.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(table.get(ids.len() as u32), "");
        }
    }

    #[test]
    fn ids_of_one_length_need_no_table() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = IdWriter::create(folder.path()).unwrap();
        (0..1000).for_each(|page| writer.push(&format!("{page:04}")).unwrap());
        writer.finish().unwrap();
        assert_eq!(folder.path().join(IDS_FILE).metadata().unwrap().len(), 4016);
        assert_eq!(IdTable::open(folder.path()).unwrap().get(999), "0999");
    }

    #[test]
    fn a_file_that_was_cut_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = IdWriter::create(folder.path()).unwrap();
        ["a", "bcd"].iter().for_each(|id| writer.push(id).unwrap());
        writer.finish().unwrap();
        let path = folder.path().join(IDS_FILE);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            match IdTable::open(folder.path()) {
                Ok(table) => assert!((0..3).all(|page| table.get(page).len() <= bytes.len())),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
            }
        }
    }
}
