//! One shard: a thread that indexes its pages run by run and publishes the merged result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::directory::OwnedBytes;
use tantivy::fastfield::AliveBitSet;
use tantivy::indexer::merge_filtered_segments;
use tantivy::{BitSet, Index, Segment, SegmentReader};
use tokio::sync::mpsc;

use crate::columns::PageBatch;
use crate::dedupe::{self, OpenRun};
use crate::error::IndexError;
use crate::ids::{IDS_FILE, IdTable, IdWriter};
use crate::layout::{
    self, ANALYZER, FORMAT_VERSION, RUN_FILE, RunRecord, SHARD_FILE, ShardPlace, ShardRecord, StreamMark,
};
use crate::run::{self, RunWriter};
use crate::schema;
use crate::{OnReject, Reject};

/// Segment name of a merged shard; runs are numbered from 1.
const MERGED_SEGMENT: u32 = 0;

/// Where runs are merged.
const MERGED_FOLDER: &str = "merged.tmp";

/// What a shard's thread is sent.
pub(crate) enum Feed {
    /// Rows of a batch that belong to the shard.
    Pages(Arc<PageBatch>, Vec<u32>),
    /// The stream has ended; without this message nothing is published.
    End,
}

/// When a run is full, and how many may stay as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunLimits {
    pub(crate) memory_bytes: usize,
    pub(crate) pages: usize,
    pub(crate) runs: usize,
}

/// The indexing of one shard.
pub(crate) struct ShardWorker {
    place: ShardPlace,
    limits: RunLimits,
    on_reject: OnReject,
    /// The shard as an earlier build finished it: then the pages are only compared with it.
    finished: Option<ShardRecord>,
    runs: Vec<RunRecord>,
    writer: Option<RunWriter>,
    read: StreamReader,
}

impl ShardWorker {
    /// Takes up what an earlier build left.
    pub(crate) fn open(
        place: ShardPlace,
        limits: RunLimits,
        on_reject: OnReject,
    ) -> Result<Self, IndexError> {
        let finished = finished_shard(&place)?;
        let runs = match finished {
            Some(_) => Vec::new(),
            None => finished_runs(&place)?,
        };
        Ok(Self { place, limits, on_reject, finished, runs, writer: None, read: StreamReader::default() })
    }

    /// Whether an earlier build finished this shard.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Works until the end of the stream. `None` if the build was given up.
    pub(crate) fn work(mut self, mut feed: mpsc::Receiver<Feed>) -> Result<Option<ShardRecord>, IndexError> {
        while let Some(message) = feed.blocking_recv() {
            match message {
                Feed::Pages(pages, rows) => {
                    for row in rows {
                        self.take(&pages, row as usize)?;
                    }
                }
                Feed::End => return self.finish().map(Some),
            }
        }
        Ok(None)
    }

    fn take(&mut self, pages: &PageBatch, row: usize) -> Result<(), IndexError> {
        self.read.add(pages.id.value(row), pages.text.value(row));
        if self.finished.is_some() {
            return Ok(());
        }
        if let Some(last) = self.runs.last()
            && self.read.pages <= last.read.pages
        {
            return match self.read.pages == last.read.pages && self.read.mark() != last.read {
                true => Err(self.pages_changed(self.place.partial())),
                false => Ok(()),
            };
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => RunWriter::create(&self.run_in_the_making(), self.limits.memory_bytes)?,
        };
        writer.add(pages, row)?;
        let full = writer.pages() >= self.limits.pages || writer.memory_bytes() >= self.limits.memory_bytes;
        match full {
            true => self.close_run(writer),
            false => {
                self.writer = Some(writer);
                Ok(())
            }
        }
    }

    fn run_in_the_making(&self) -> PathBuf {
        self.place.run(self.runs.len()).with_extension("tmp")
    }

    fn close_run(&mut self, writer: RunWriter) -> Result<(), IndexError> {
        let number = self.runs.len();
        let record = RunRecord {
            format_version: FORMAT_VERSION,
            analyzer: ANALYZER.to_owned(),
            shards: self.place.shards,
            read: self.read.mark(),
            digests: BTreeMap::new(),
        };
        let record = writer.finish(&self.place.run(number), number as u32 + 1, record)?;
        tracing::debug!(shard = self.place.shard, run = number, "run written");
        self.runs.push(record);
        Ok(())
    }

    fn pages_changed(&self, path: PathBuf) -> IndexError {
        IndexError::PagesChanged { path, page: self.read.pages }
    }

    fn finish(mut self) -> Result<ShardRecord, IndexError> {
        if let Some(record) = &self.finished {
            return match record.read == self.read.mark() {
                true => Ok(record.clone()),
                false => Err(self.pages_changed(self.place.finished())),
            };
        }
        if let Some(last) = self.runs.last()
            && self.read.pages < last.read.pages
        {
            return Err(self.pages_changed(self.place.partial()));
        }
        if let Some(writer) = self.writer.take() {
            self.close_run(writer)?;
        }
        let (folder, mut record) = self.merge()?;
        for (segment, prefix) in record.segments(&folder) {
            let files = index_files(&segment)?;
            record.files.extend(files.into_iter().map(|(name, bytes)| (format!("{prefix}{name}"), bytes)));
        }
        layout::write_record(&folder.join(SHARD_FILE), &record)?;
        layout::publish_folder(&folder, &self.place.finished())?;
        layout::remove(&self.place.partial())?;
        tracing::info!(
            shard = self.place.shard,
            pages = record.pages,
            runs = self.runs.len(),
            "shard finished"
        );
        Ok(record)
    }

    /// Leaves few runs as they are, if no page stands in them twice, and brings others into one segment; the
    /// folder of the shard.
    fn merge(&self) -> Result<(PathBuf, ShardRecord), IndexError> {
        let mut record = ShardRecord {
            format_version: FORMAT_VERSION,
            analyzer: ANALYZER.to_owned(),
            shard: self.place.shard,
            shards: self.place.shards,
            pages: 0,
            text_bytes: 0,
            text_terms: 0,
            duplicate_pages: 0,
            read: self.read.mark(),
            runs: Vec::new(),
            files: BTreeMap::new(),
            digests: BTreeMap::new(),
        };
        let mut segments: Vec<Segment> = Vec::new();
        let mut open = Vec::new();
        for number in 0..self.runs.len() {
            let folder = self.place.run(number);
            let segment = only_segment(&folder)?;
            let reader = SegmentReader::open(&segment).map_err(IndexError::tantivy(&folder))?;
            open.push(OpenRun::new(&folder, reader)?);
            segments.push(segment);
        }
        let keep = dedupe::pages_to_keep(&open, &mut |id| {
            record.duplicate_pages += 1;
            (self.on_reject)(Reject {
                id: id.to_owned(),
                reason: "duplicate_id".to_owned(),
                detail: "a page with this id came earlier in the stream".to_owned(),
            });
        })
        .map_err(IndexError::io(&self.place.partial()))?;
        let kept = |number: usize, page: u32| keep[number].as_ref().is_none_or(|keep| keep.contains(page));
        let mut lengths = Vec::new();
        for number in 0..keep.len() {
            let of_run = run::read_lengths(&self.place.run(number))?;
            lengths
                .extend((0..).zip(of_run).filter(|(page, _)| kept(number, *page)).map(|(_, length)| length));
        }
        record.pages = lengths.len() as u64;
        record.text_terms = lengths.iter().map(|length| u64::from(length.terms)).sum();
        record.text_bytes = lengths.iter().map(|length| u64::from(length.text_bytes)).sum();
        drop(open);
        if segments.len() == 1 && keep[0].is_none() {
            record.digests.clone_from(&self.runs[0].digests);
            return Ok((self.place.run(0), record));
        }
        let folder = self.place.partial().join(MERGED_FOLDER);
        if (2..=self.limits.runs).contains(&segments.len()) && keep.iter().all(Option::is_none) {
            record.runs = (0..segments.len()).map(layout::run_name).collect();
            for (run, folder) in self.runs.iter().zip(&record.runs) {
                let inside =
                    |(name, digest): (&String, &String)| (format!("{folder}/{name}"), digest.clone());
                record.digests.extend(run.digests.iter().map(inside));
            }
            // What a killed build may have left between the runs.
            layout::remove(&folder)?;
            layout::remove(&self.run_in_the_making())?;
            return Ok((self.place.partial(), record));
        }
        let directory = run::fresh_directory(&folder)?;
        if !segments.is_empty() {
            let (segments, alive) =
                non_empty(segments, &keep).map_err(IndexError::io(&self.place.partial()))?;
            let merged = merge_filtered_segments(&segments, schema::settings(), alive, directory)
                .map_err(IndexError::tantivy(&folder))?;
            drop(merged);
            run::name_segment(&folder, MERGED_SEGMENT)?;
            // Merging keeps the order of runs and pages.
            run::write_lengths(&folder, &lengths)?;
            let mut ids = IdWriter::create(&folder).map_err(IndexError::io(&folder))?;
            for number in 0..keep.len() {
                let run = self.place.run(number);
                let of_run = IdTable::open(&run).map_err(IndexError::io(&run.join(IDS_FILE)))?;
                for page in (0..of_run.pages()).filter(|page| kept(number, *page)) {
                    ids.push(of_run.get(page)).map_err(IndexError::io(ids.path()))?;
                }
            }
            ids.finish().map_err(IndexError::io(&folder))?;
        }
        record.digests = layout::digests_of(&folder)?;
        Ok((folder, record))
    }
}

/// The segments that keep a page, with what they keep as Tantivy wants it.
fn non_empty(
    segments: Vec<Segment>,
    keep: &[Option<BitSet>],
) -> std::io::Result<(Vec<Segment>, Vec<Option<AliveBitSet>>)> {
    let mut kept = (Vec::new(), Vec::new());
    for (segment, keep) in segments.into_iter().zip(keep) {
        if keep.as_ref().is_some_and(|keep| keep.len() == 0) {
            continue;
        }
        let alive = match keep {
            Some(keep) => {
                let mut bytes = Vec::new();
                keep.serialize(&mut bytes)?;
                Some(AliveBitSet::open(OwnedBytes::new(bytes)))
            }
            None => None,
        };
        kept.0.push(segment);
        kept.1.push(alive);
    }
    Ok(kept)
}

fn only_segment(folder: &Path) -> Result<Segment, IndexError> {
    let index = Index::open_in_dir(folder).map_err(IndexError::tantivy(folder))?;
    let segments = index.searchable_segments().map_err(IndexError::tantivy(folder))?;
    segments.into_iter().next().ok_or_else(|| IndexError::Io {
        path: folder.to_owned(),
        source: std::io::Error::other("the run holds no segment"),
    })
}

/// Name and bytes of the files that a finished shard keeps. A record that a killed build did not finish
/// writing is none of them, and goes.
fn index_files(folder: &Path) -> Result<BTreeMap<String, u64>, IndexError> {
    for record in [SHARD_FILE, RUN_FILE] {
        layout::remove(&layout::temporary_of(&folder.join(record)))?;
    }
    let mut files = BTreeMap::new();
    for path in layout::files_of(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ![SHARD_FILE, RUN_FILE].contains(&name.as_ref()) {
            let bytes = path.metadata().map_err(IndexError::io(&path))?.len();
            files.insert(name.into_owned(), bytes);
        }
    }
    Ok(files)
}

fn finished_shard(place: &ShardPlace) -> Result<Option<ShardRecord>, IndexError> {
    let folder = place.finished();
    let path = folder.join(SHARD_FILE);
    // A shard folder appears whole; without its record it is not ours.
    if folder.exists() && !path.exists() {
        return Err(IndexError::ForeignFile { path: folder });
    }
    let record = layout::finished_record(&path, |record: &ShardRecord| &record.digests)?;
    match &record {
        None => {
            layout::remove(&folder)?;
            Ok(None)
        }
        Some(found) => {
            let version = (found.format_version, found.analyzer.as_str());
            check_layout(&path, version, found.shards, place.shards)?;
            Ok(record)
        }
    }
}

fn finished_runs(place: &ShardPlace) -> Result<Vec<RunRecord>, IndexError> {
    let mut runs = Vec::new();
    loop {
        let path = place.run(runs.len()).join(RUN_FILE);
        let found = layout::finished_record(&path, |record: &RunRecord| &record.digests)?;
        let Some(run) = found else {
            // The runs behind a damaged one are of no use.
            for later in (runs.len()..).map(|run| place.run(run)).take_while(|folder| folder.exists()) {
                layout::remove(&later)?;
            }
            return Ok(runs);
        };
        let version = (run.format_version, run.analyzer.as_str());
        check_layout(&path, version, run.shards, place.shards)?;
        runs.push(run);
    }
}

fn check_layout(
    path: &Path,
    (version, analyzer): (u32, &str),
    shards: u32,
    wanted_shards: u32,
) -> Result<(), IndexError> {
    let found = format!("format {version}, analysis {analyzer}, {shards} shards");
    let wanted = format!("format {FORMAT_VERSION}, analysis {ANALYZER}, {wanted_shards} shards");
    match found == wanted {
        true => Ok(()),
        false => Err(IndexError::OtherLayout { path: path.to_owned(), found, wanted }),
    }
}

/// Counts and digests the pages a shard has read, to notice a stream that is not the old one.
#[derive(Default)]
struct StreamReader {
    pages: u64,
    hasher: blake3::Hasher,
}

impl StreamReader {
    /// The text goes in by its length alone: hashing all text would cost as much as reading it.
    fn add(&mut self, id: &str, text: &str) {
        self.pages += 1;
        self.hasher.update(&(id.len() as u64).to_le_bytes());
        self.hasher.update(id.as_bytes());
        self.hasher.update(&(text.len() as u64).to_le_bytes());
    }

    fn mark(&self) -> StreamMark {
        StreamMark { pages: self.pages, digest: self.hasher.finalize().to_hex().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_a_killed_build_left_half_written_is_no_file_of_the_shard() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["ids.bin", "shard.json.tmp", "run.json.tmp", "run.json"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let files = index_files(folder.path()).unwrap();
        assert_eq!(files, [("ids.bin".to_owned(), 7)].into());
        assert!(!folder.path().join("shard.json.tmp").exists());
    }
}
