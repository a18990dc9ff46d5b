//! A run: the pages of a shard that fit into the writer's memory, written as one segment.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tantivy::directory::MmapDirectory;
use tantivy::{Index, IndexBuilder, SingleSegmentIndexWriter, TantivyDocument};

use crate::analyzer::English;
use crate::columns::PageBatch;
use crate::error::IndexError;
use crate::ids::IdWriter;
use crate::layout::{self, LENGTHS_FILE, RUN_FILE, RunRecord};
use crate::schema::{self, Fields};

/// Size of one page, as kept in `lengths.bin` (two little-endian u32 a page).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageLength {
    pub(crate) terms: u32,
    pub(crate) text_bytes: u32,
}

/// Writes one run.
pub(crate) struct RunWriter {
    writer: SingleSegmentIndexWriter,
    fields: Fields,
    folder: PathBuf,
    lengths: Vec<PageLength>,
    ids: IdWriter,
    terms_in_last_text: Arc<AtomicU32>,
}

impl RunWriter {
    /// Starts a run in `folder`, which is emptied first.
    pub(crate) fn create(folder: &Path, memory_bytes: usize) -> Result<Self, IndexError> {
        let directory = fresh_directory(folder)?;
        let ids = IdWriter::create(folder).map_err(IndexError::io(folder))?;
        let english = English::new();
        let terms_in_last_text = english.terms_in_last_text();
        let fields = Fields::new();
        let writer = IndexBuilder::new()
            .schema(fields.schema.clone())
            .settings(schema::settings())
            .tokenizers(schema::tokenizers(english))
            .single_segment_index_writer(directory, memory_bytes)
            .map_err(IndexError::tantivy(folder))?;
        Ok(Self { writer, fields, folder: folder.to_owned(), lengths: Vec::new(), ids, terms_in_last_text })
    }

    /// Adds the page in `row`.
    pub(crate) fn add(&mut self, pages: &PageBatch, row: usize) -> Result<(), IndexError> {
        let text = pages.text.value(row);
        let mut document = TantivyDocument::new();
        document.add_text(self.fields.text, text);
        document.add_text(self.fields.id, pages.id.value(row));
        if let Some(url) = pages.url(row) {
            document.add_text(self.fields.url, url);
        }
        if let Some(language) = pages.language(row) {
            document.add_text(self.fields.language, language);
        }
        if let Some(score) = pages.language_score(row) {
            document.add_f64(self.fields.language_score, score);
        }
        if let Some(tokens) = pages.token_count(row) {
            document.add_i64(self.fields.token_count, tokens);
        }
        if let Some(score) = pages.int_score(row) {
            document.add_i64(self.fields.int_score, score);
        }
        self.writer.add_document(document).map_err(IndexError::tantivy(&self.folder))?;
        self.ids.push(pages.id.value(row)).map_err(IndexError::io(self.ids.path()))?;
        self.lengths.push(PageLength {
            terms: self.terms_in_last_text.load(Ordering::Relaxed),
            text_bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
        });
        Ok(())
    }

    pub(crate) fn pages(&self) -> usize {
        self.lengths.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.writer.mem_usage() + self.lengths.len() * size_of::<PageLength>() + self.ids.memory_bytes()
    }

    /// Writes the segment and publishes the folder as `to`. The record is handed back with the digests of the
    /// files.
    pub(crate) fn finish(self, to: &Path, number: u32, record: RunRecord) -> Result<RunRecord, IndexError> {
        let folder = self.folder;
        let index = self.writer.finalize().map_err(IndexError::tantivy(&folder))?;
        drop(index);
        name_segment(&folder, number)?;
        write_lengths(&folder, &self.lengths)?;
        self.ids.finish().map_err(IndexError::io(&folder))?;
        let record = RunRecord { digests: layout::digests_of(&folder)?, ..record };
        layout::write_record(&folder.join(RUN_FILE), &record)?;
        layout::publish_folder(&folder, to)?;
        Ok(record)
    }
}

/// An empty folder as a Tantivy directory.
pub(crate) fn fresh_directory(folder: &Path) -> Result<MmapDirectory, IndexError> {
    layout::remove(folder)?;
    fs::create_dir_all(folder).map_err(IndexError::io(folder))?;
    MmapDirectory::open(folder).map_err(|error| IndexError::tantivy(folder)(error.into()))
}

/// Writes the page lengths of a run or shard, in page order.
pub(crate) fn write_lengths(folder: &Path, lengths: &[PageLength]) -> Result<(), IndexError> {
    let path = folder.join(LENGTHS_FILE);
    let pair = |length: &PageLength| [length.terms.to_le_bytes(), length.text_bytes.to_le_bytes()];
    let bytes: Vec<u8> = lengths.iter().flat_map(pair).flatten().collect();
    fs::write(&path, bytes).map_err(IndexError::io(&path))
}

/// The page lengths of a run or shard, in page order.
pub(crate) fn read_lengths(folder: &Path) -> Result<Vec<PageLength>, IndexError> {
    let path = folder.join(LENGTHS_FILE);
    let bytes = fs::read(&path).map_err(IndexError::io(&path))?;
    let number = |b: &[u8; 4]| u32::from_le_bytes(*b);
    Ok(bytes
        .as_chunks::<4>()
        .0
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[terms, text_bytes]| PageLength { terms: number(terms), text_bytes: number(text_bytes) })
        .collect())
}

/// Gives the only segment of the folder a name that is a function of its place.
///
/// Tantivy names segments at random; with fixed names the same pages leave the same files.
pub(crate) fn name_segment(folder: &Path, number: u32) -> Result<(), IndexError> {
    let index = Index::open_in_dir(folder).map_err(IndexError::tantivy(folder))?;
    let ids = index.searchable_segment_ids().map_err(IndexError::tantivy(folder))?;
    drop(index);
    let wanted = format!("{number:032x}");
    for path in layout::files_of(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Only a writer needs Tantivy's list of files and its lock files; nobody writes again.
        if name == ".managed.json" || name.ends_with(".lock") {
            layout::remove(&path)?;
        }
        for id in &ids {
            if let Some(rest) = name.strip_prefix(&id.uuid_string()) {
                let to = folder.join(format!("{wanted}{rest}"));
                fs::rename(&path, &to).map_err(IndexError::io(&to))?;
            }
        }
    }
    let meta = folder.join("meta.json");
    let mut text = fs::read_to_string(&meta).map_err(IndexError::io(&meta))?;
    for id in &ids {
        let plain = id.uuid_string();
        text = text.replace(&hyphenated(&plain), &hyphenated(&wanted)).replace(&plain, &wanted);
    }
    fs::write(&meta, text).map_err(IndexError::io(&meta))
}

/// 32 hexadecimal digits in the 8-4-4-4-12 form that `meta.json` uses.
fn hyphenated(hex: &str) -> String {
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
