//! Scans of exactly the Parquet files, or parts of files, that a task reads, in the given order.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{FooterTail, ParquetMetaDataReader, RowGroupMetaData};
use serde::{Deserialize, Serialize};

use super::data_file::DataFile;
use super::{BATCH_BYTES, BATCH_ROWS};

/// The store of the files on this machine.
const LOCAL: &str = "file:///";

/// A Parquet file, or the row groups of it that begin inside a byte range.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileSlice {
    /// The object store: `file:///` or `https://host/`.
    pub store: String,
    /// The path in the store, percent-decoded, without a leading `/`.
    pub path: String,
    /// The whole file's size in bytes.
    pub bytes: u64,
    /// The byte range whose row groups are read; `None` reads the file.
    pub range: Option<(u64, u64)>,
    /// What the store called the file's version (its ETag) when it was listed; `None` where that is not told, and
    /// of local files.
    #[serde(default)]
    pub version: Option<String>,
}

impl FileSlice {
    /// A whole local file.
    pub fn local(path: &Path, bytes: u64) -> Self {
        let path = path.to_string_lossy().trim_start_matches('/').to_owned();
        Self { store: LOCAL.to_owned(), path, bytes, range: None, version: None }
    }

    /// A whole local file as it lies on the disk.
    pub fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // A file that has gone is reported when it is read.
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        Self::local(&path, bytes)
    }

    /// Whether the file is on this machine.
    pub fn is_local(&self) -> bool {
        self.store == LOCAL
    }

    /// The file's address, or a local file's path.
    pub fn address(&self) -> String {
        if self.is_local() { format!("/{}", self.path) } else { format!("{}{}", self.store, self.path) }
    }

    /// Cuts a file into pieces of about `piece_bytes`. Row groups belong to the piece that their
    /// middle lies in, so each is read exactly once whatever the cuts.
    pub fn cut(&self, piece_bytes: u64) -> Vec<Self> {
        let pieces = self.bytes.div_ceil(piece_bytes.max(1)).max(1);
        if pieces == 1 {
            return vec![self.clone()];
        }
        let edge = |i: u64| self.bytes * i / pieces;
        (0..pieces).map(|i| Self { range: Some((edge(i), edge(i + 1))), ..self.clone() }).collect()
    }
}

/// How many rows of these files make a batch of [`BATCH_BYTES`], by the mean size of the rows of each row group.
/// Blocks: of a file elsewhere the footer is fetched.
pub fn batch_rows(files: &[DataFile]) -> usize {
    let longest = files.iter().filter_map(row_bytes).max().unwrap_or(0);
    usize::try_from(BATCH_BYTES / longest.max(1)).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
}

/// The mean size of the rows in the row group where they are the longest, unpacked. What is wrong with the file is
/// told when it is read.
fn row_bytes(file: &DataFile) -> Option<u64> {
    let is_parquet = file.name().extension().is_some_and(|end| end.eq_ignore_ascii_case("parquet"));
    let mut bytes = file.open().ok().filter(|_| is_parquet)?;
    let mut tail = [0; FOOTER_SIZE];
    bytes.seek(SeekFrom::End(-(FOOTER_SIZE as i64))).ok()?;
    bytes.read_exact(&mut tail).ok()?;
    let length = FooterTail::try_new(&tail).ok()?.metadata_length();
    bytes.seek(SeekFrom::End(-i64::try_from(FOOTER_SIZE + length).ok()?)).ok()?;
    let mut footer = Vec::new();
    bytes.take(length as u64).read_to_end(&mut footer).ok()?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).ok()?;
    let mean = |group: &RowGroupMetaData| {
        group.total_byte_size().max(0).cast_unsigned() / group.num_rows().max(1).cast_unsigned()
    };
    metadata.row_groups().iter().map(mean).max()
}

/// The rows of the slices, in order.
///
/// # Errors
/// The store's URL is not valid.
pub fn parquet(session: &SessionContext, schema: SchemaRef, slices: &[FileSlice]) -> Result<DataFrame> {
    // A table's metadata (pandas and Hugging Face keep theirs there) belongs to the file that it
    // came from; carried along, it would say untrue things about the rows of later stages.
    let schema = Arc::new(Schema::new(schema.fields().clone()));
    session.read_table(Arc::new(ParquetTable { schema, slices: slices.to_vec() }))
}

#[derive(Debug)]
struct ParquetTable {
    schema: SchemaRef,
    slices: Vec<FileSlice>,
}

#[async_trait]
impl TableProvider for ParquetTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let store = self.slices.first().map_or("file:///", |slice| &slice.store);
        let files = self.slices.iter().map(|slice| {
            let file = PartitionedFile::new(slice.path.clone(), slice.bytes);
            match slice.range {
                Some((start, end)) => file.with_range(start.cast_signed(), end.cast_signed()),
                None => file,
            }
        });
        let source = Arc::new(ParquetSource::new(self.schema.clone()));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(store)?, source)
            .with_projection_indices(projection.cloned())?
            .with_file_group(FileGroup::new(files.collect()))
            .with_preserve_order(true)
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};

    use super::*;

    #[test]
    fn long_rows_make_small_batches() {
        let folder = tempfile::tempdir().unwrap();
        let file_of = |name: &str, letters: usize| {
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
                (0..4).map(|row| format!("{row}{}", "x".repeat(letters))),
            ));
            let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
            let path = folder.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            path
        };
        let (short, long) = (file_of("short.parquet", 1_000), file_of("long.parquet", 4 << 20));
        let of = |paths: &[&Path]| {
            batch_rows(&paths.iter().map(|path| path.to_path_buf().into()).collect::<Vec<_>>())
        };
        assert_eq!(of(&[&short]), BATCH_ROWS);
        assert!((8..=16).contains(&of(&[&short, &long])));
        std::fs::write(folder.path().join("odd.parquet"), b"PAR1 is not all").unwrap();
        std::fs::copy(&long, folder.path().join("pages.jsonl")).unwrap();
        for other in ["not-there.parquet", "odd.parquet", "pages.jsonl"] {
            assert_eq!(of(&[&folder.path().join(other)]), BATCH_ROWS, "{other}");
        }
        assert_eq!(of(&[]), BATCH_ROWS);
    }

    #[test]
    fn cuts_cover_the_file_without_overlap() {
        let slice = FileSlice::local(Path::new("/a"), 1003);
        let pieces = slice.cut(100);
        assert_eq!(pieces.len(), 11);
        assert_eq!(pieces[0].range.unwrap().0, 0);
        assert_eq!(pieces[10].range.unwrap().1, 1003);
        assert!(pieces.windows(2).all(|w| w[0].range.unwrap().1 == w[1].range.unwrap().0));
        assert!(slice.cut(2000)[0].range.is_none());
    }
}
