//! Between DataFusion's streams and the domain crates', which know Arrow only.

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};

/// The domain crates' stream of rows.
pub type BatchStream = BoxStream<'static, Result<RecordBatch, ArrowError>>;

/// A DataFusion stream for a domain crate.
pub fn to_domain(stream: SendableRecordBatchStream) -> BatchStream {
    stream.map_err(ArrowError::from).boxed()
}

/// A domain crate's stream for DataFusion.
pub fn from_domain<S>(schema: SchemaRef, stream: S) -> SendableRecordBatchStream
where
    S: Stream<Item = Result<RecordBatch, ArrowError>> + Send + 'static,
{
    Box::pin(RecordBatchStreamAdapter::new(schema, stream.map_err(error_from_domain)))
}

/// A domain crate's error for DataFusion, unwrapped, so that the message is the crate's own.
pub fn error_from_domain(error: ArrowError) -> DataFusionError {
    match error {
        ArrowError::ExternalError(source) => DataFusionError::External(source),
        other => DataFusionError::ArrowError(Box::new(other), None),
    }
}
