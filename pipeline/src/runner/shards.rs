//! Parquet shards: bounded in size, hashed while they are written, synced, renamed into place.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::allocator;
use crate::durable::{self, WriteContext, WriteError};
use crate::manifest::OutputFile;

/// Rows of a row group: small enough that a preview or a resumed task reads little.
const ROW_GROUP_ROWS: usize = 4096;

/// Rows that are handed to the encoder at once.
const WRITE_ROWS: usize = 1024;
/// Bytes of texts that are handed to it at once, unless one row has more.
const WRITE_BYTES: usize = 256 << 20;

/// A file writer that hashes and counts what goes through it.
struct HashingFile {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for HashingFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct OpenShard {
    writer: ArrowWriter<HashingFile>,
    temporary: PathBuf,
    path: PathBuf,
    rows: u64,
}

/// Writes one task's rows into shards `data/<task>-<n>.parquet` of a stage's folder.
pub struct ShardWriter {
    folder: PathBuf,
    task: usize,
    schema: SchemaRef,
    shard_bytes: u64,
    /// Operators hand on rows as they become ready; cut into batches of one size, the pages and the
    /// size of a shard are a function of the rows alone.
    pending: BatchCoalescer,
    /// Rows and bytes of texts that are pending.
    pending_size: (usize, usize),
    write_bytes: usize,
    open: Option<OpenShard>,
    done: Vec<OutputFile>,
}

impl ShardWriter {
    /// A writer whose shards are closed at about `shard_bytes` of Parquet.
    pub fn new(stage_folder: &Path, task: usize, schema: SchemaRef, shard_bytes: u64) -> Self {
        let folder = stage_folder.join("data");
        let pending = BatchCoalescer::new(schema.clone(), WRITE_ROWS);
        Self {
            folder,
            task,
            schema,
            shard_bytes,
            pending,
            pending_size: (0, 0),
            write_bytes: WRITE_BYTES,
            open: None,
            done: Vec::new(),
        }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// The disk is full or not writable; the message names the file.
    pub fn write(&mut self, batch: RecordBatch) -> Result<(), WriteError> {
        let sizes = TextSizes::of(&batch);
        let mut start = 0;
        while start < batch.num_rows() {
            let (rows, bytes) = self.pending_size;
            let most = (WRITE_ROWS - rows).min(batch.num_rows() - start);
            let fit = sizes.fit(start, most, self.write_bytes.saturating_sub(bytes), rows > 0);
            self.pending_size = (rows + fit, bytes + sizes.bytes(start, fit));
            let pushed = self.pending.push_batch(batch.slice(start, fit)).map_err(io::Error::other);
            pushed.doing("encode", &self.folder)?;
            if fit < most {
                self.finish_pending()?;
            } else if self.pending_size.0 == WRITE_ROWS {
                self.pending_size = (0, 0);
            }
            start += fit;
        }
        self.write_whole()
    }

    fn finish_pending(&mut self) -> Result<(), WriteError> {
        self.pending_size = (0, 0);
        self.pending.finish_buffered_batch().map_err(io::Error::other).doing("encode", &self.folder)
    }

    fn write_whole(&mut self) -> Result<(), WriteError> {
        while let Some(batch) = self.pending.next_completed_batch() {
            self.write_batch(&batch)?;
        }
        Ok(())
    }

    fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.start()?,
        };
        let wrote = shard.writer.write(batch).map_err(io_error);
        wrote.doing("write", &shard.temporary)?;
        shard.rows += batch.num_rows() as u64;
        let size = shard.writer.bytes_written() + shard.writer.in_progress_size();
        if size as u64 >= self.shard_bytes {
            self.close(shard)
        } else {
            self.open = Some(shard);
            Ok(())
        }
    }

    /// Closes the last shard and returns them all. A task without rows leaves one empty shard, so
    /// that its schema is known.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(mut self) -> Result<Vec<OutputFile>, WriteError> {
        self.finish_pending()?;
        self.write_whole()?;
        if let Some(shard) = self.open.take() {
            self.close(shard)?;
        } else if self.done.is_empty() {
            let shard = self.start()?;
            self.close(shard)?;
        }
        Ok(self.done)
    }

    fn start(&self) -> Result<OpenShard, WriteError> {
        durable::make_folder(&self.folder)?;
        let name = format!("{:05}-{:05}.parquet", self.task, self.done.len());
        let path = self.folder.join(name);
        let temporary = durable::temporary_name(&path);
        let writer = open_writer(&temporary, self.schema.clone())?;
        Ok(OpenShard { writer, temporary, path, rows: 0 })
    }

    fn close(&mut self, shard: OpenShard) -> Result<(), WriteError> {
        let (bytes, digest) = close_writer(shard.writer, &shard.temporary)?;
        durable::publish(&shard.temporary, &shard.path)?;
        // A row group and its pages have just been freed.
        allocator::give_back();
        let name = shard.path.file_name().unwrap_or_default().to_string_lossy();
        self.done.push(OutputFile {
            path: format!("data/{name}"),
            bytes,
            rows: Some(shard.rows),
            blake3: digest,
        });
        Ok(())
    }
}

/// Where the texts of a batch's rows begin, by column.
struct TextSizes<'a>(Vec<&'a [i32]>);

impl<'a> TextSizes<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        let offsets = |column: &'a ArrayRef| match column.data_type() {
            DataType::Utf8 => Some(&**column.as_string::<i32>().offsets()),
            DataType::Binary => Some(&**column.as_binary::<i32>().offsets()),
            _ => None,
        };
        Self(batch.columns().iter().filter_map(offsets).collect())
    }

    /// Bytes of the texts of some rows.
    fn bytes(&self, start: usize, rows: usize) -> usize {
        self.0.iter().map(|offsets| offsets[start + rows].abs_diff(offsets[start]) as usize).sum()
    }

    /// How many rows fit, of `most`; one at least, unless they may wait.
    fn fit(&self, start: usize, most: usize, bytes: usize, may_wait: bool) -> usize {
        if self.bytes(start, most) <= bytes {
            return most;
        }
        let fit = (1..=most).take_while(|rows| self.bytes(start, *rows) <= bytes).last().unwrap_or(0);
        if may_wait { fit } else { fit.max(1) }
    }
}

/// The I/O error inside an encoder's error, so that a full disk is known as one.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

fn open_writer(path: &Path, schema: SchemaRef) -> Result<ArrowWriter<HashingFile>, WriteError> {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let file = File::create(path).doing("create", path)?;
    let file = HashingFile { file: BufWriter::new(file), hasher: blake3::Hasher::new(), bytes: 0 };
    ArrowWriter::try_new(file, schema, Some(properties)).map_err(io_error).doing("create", path)
}

fn close_writer(writer: ArrowWriter<HashingFile>, path: &Path) -> Result<(u64, String), WriteError> {
    let mut file = writer.into_inner().map_err(io_error).doing("write", path)?;
    file.flush().doing("write", path)?;
    file.file.get_ref().sync_all().doing("sync", path)?;
    Ok((file.bytes, file.hasher.finalize().to_hex().to_string()))
}

/// Writes one small table as a whole Parquet file.
///
/// # Errors
/// The file cannot be written.
pub fn write_table(path: &Path, batch: &RecordBatch) -> Result<(), WriteError> {
    write_batches(path, batch.schema(), std::iter::once(Ok(batch.clone()))).map(|_file| ())
}

/// Streams batches into one whole Parquet file; returns what it is, under its bare name.
///
/// # Errors
/// The file cannot be written, or a batch cannot be made.
pub fn write_batches(
    path: &Path,
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
) -> Result<OutputFile, WriteError> {
    if let Some(parent) = path.parent() {
        durable::make_folder(parent)?;
    }
    let temporary = durable::temporary_name(path);
    let mut writer = open_writer(&temporary, schema)?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch.map_err(io::Error::other).doing("make the rows of", path)?;
        writer.write(&batch).map_err(io_error).doing("write", &temporary)?;
        rows += batch.num_rows() as u64;
    }
    let (bytes, blake3) = close_writer(writer, &temporary)?;
    durable::publish(&temporary, path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(OutputFile { path: name, bytes, rows: Some(rows), blake3 })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn batch(from: i64) -> RecordBatch {
        let column = Int64Array::from_iter_values((0..5000).map(|x| (x + from) * 7919 % 104_729));
        RecordBatch::try_from_iter([("x", Arc::new(column) as _)]).unwrap()
    }

    fn write_all(folder: &Path, piece: usize) -> Vec<OutputFile> {
        let mut writer = ShardWriter::new(folder, 3, batch(0).schema(), 40_000);
        for i in 0..6 {
            let batch = batch(i);
            // However the rows are cut, the bytes are the same.
            for start in (0..5000).step_by(piece) {
                writer.write(batch.slice(start, piece.min(5000 - start))).unwrap();
            }
        }
        writer.finish().unwrap()
    }

    #[test]
    fn shards_are_bounded_hashed_and_the_same_each_time() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = write_all(a.path(), 5000);
        let again = write_all(b.path(), 37);
        assert!(files.len() > 1);
        assert_eq!(files.iter().filter_map(|file| file.rows).sum::<u64>(), 30_000);
        for (file, other) in files.iter().zip(&again) {
            let bytes = std::fs::read(a.path().join(&file.path)).unwrap();
            assert_eq!(blake3::hash(&bytes).to_hex().to_string(), file.blake3);
            assert_eq!(bytes.len() as u64, file.bytes);
            assert_eq!(file.blake3, other.blake3);
        }
    }

    #[test]
    fn long_texts_are_handed_on_in_pieces_that_the_rows_decide() {
        let lengths = [10, 90, 1, 400, 5, 5, 1_500, 70, 0, 30];
        let texts = |count: usize| {
            let texts = (0..count).map(|row| "x".repeat(lengths[row % lengths.len()]));
            let column = StringArray::from_iter_values(texts);
            RecordBatch::try_from_iter([("text", Arc::new(column) as _)]).unwrap()
        };
        let all = texts(500);
        let write = |piece: usize, write_bytes: usize| {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = ShardWriter::new(folder.path(), 0, all.schema(), 1 << 20);
            writer.write_bytes = write_bytes;
            for start in (0..500).step_by(piece) {
                writer.write(all.slice(start, piece.min(500 - start))).unwrap();
                assert!(writer.pending_size.1 <= write_bytes.max(1_500));
            }
            let files = writer.finish().unwrap();
            assert_eq!(files[0].rows, Some(500));
            files[0].blake3.clone()
        };
        for bytes in [0, 400, 600, 3_000, 1 << 20] {
            assert_eq!(write(500, bytes), write(7, bytes), "{bytes}");
            assert_eq!(write(500, bytes), write(1, bytes), "{bytes}");
        }
    }

    #[test]
    fn a_task_without_rows_leaves_its_schema() {
        let folder = tempfile::tempdir().unwrap();
        let files = ShardWriter::new(folder.path(), 0, batch(0).schema(), 1000).finish().unwrap();
        assert_eq!((files.len(), files[0].rows), (1, Some(0)));
    }
}
