//! Between DataFusion's streams and the domain crates', which know Arrow only.

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::DataFrame;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};

use super::Session;

/// The domain crates' stream of rows.
pub type BatchStream = BoxStream<'static, Result<RecordBatch, ArrowError>>;

/// Runs a plan.
///
/// Here and below the future is boxed once for all: that DataFusion's futures are `Send` takes the compiler
/// seconds to find out, and it finds out anew in each function that awaits one.
pub fn execute(
    plan: impl Into<DataFrame>,
) -> BoxFuture<'static, Result<SendableRecordBatchStream, DataFusionError>> {
    Box::pin(plan.into().execute_stream())
}

/// All rows of a plan, which are few.
pub fn collect(plan: impl Into<DataFrame>) -> BoxFuture<'static, Result<Vec<RecordBatch>, DataFusionError>> {
    Box::pin(plan.into().collect())
}

/// The number of a plan's rows.
pub fn count(plan: impl Into<DataFrame>) -> BoxFuture<'static, Result<usize, DataFusionError>> {
    Box::pin(plan.into().count())
}

/// The rows that answer a query, which are few.
pub fn query<'a>(
    session: &'a Session,
    sql: &'a str,
) -> BoxFuture<'a, Result<Vec<RecordBatch>, DataFusionError>> {
    Box::pin(async move { collect(session.sql(sql).await?).await })
}

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
