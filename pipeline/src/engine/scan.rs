//! Scans of exactly the Parquet files, or parts of files, that a task reads, in the given order.

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
use serde::{Deserialize, Serialize};

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
}

impl FileSlice {
    /// A whole local file.
    pub fn local(path: &Path, bytes: u64) -> Self {
        let path = path.to_string_lossy().trim_start_matches('/').to_owned();
        Self { store: "file:///".to_owned(), path, bytes, range: None }
    }

    /// A whole local file as it lies on the disk.
    pub fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // A file that has gone is reported when it is read.
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        Self::local(&path, bytes)
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
    use super::FileSlice;

    #[test]
    fn cuts_cover_the_file_without_overlap() {
        let slice = FileSlice { store: "file:///".into(), path: "a".into(), bytes: 1003, range: None };
        let pieces = slice.cut(100);
        assert_eq!(pieces.len(), 11);
        assert_eq!(pieces[0].range.unwrap().0, 0);
        assert_eq!(pieces[10].range.unwrap().1, 1003);
        assert!(pieces.windows(2).all(|w| w[0].range.unwrap().1 == w[1].range.unwrap().0));
        assert!(slice.cut(2000)[0].range.is_none());
    }
}
