//! Prompts in, generated documents out: the operator that keeps a model busy.
//!
//! Rows are asked one by one, `max_in_flight` at once, across the borders of batches: a slow row holds up
//! neither its batch nor the next. Each answer goes into the answer log before its row goes on; a row whose
//! answer is in the log is not asked again. In [`Order::Ordered`] the rows come out in the order they went
//! in, each as soon as those before it are done; up to `max_waiting` finished rows wait for a slow one.
//!
//! **Back-pressure.** Rows that can go out but are not taken count as in flight, so that at most
//! `max_in_flight` rows and one batch out are ahead of the consumer, and at most one batch in is held.
//!
//! **Short answers** (under `min_tokens`) are asked again with another seed, `max_tries` times in all. Every
//! try is logged, so that a resumed run walks the same tries.
//!
//! **What fails a row, and what ends the run.** A row that fails for good is rejected and the run goes on.
//! The stream ends with an error when no other row can fare better (a refused key, a model or address that
//! is not there, a used-up budget, all endpoints down for too long: [`crate::chat::ChatError::stops_run`]),
//! when the answer log cannot be written, and when the first `give_up_after` rows have all failed.
//!
//! The size of the batches that come out depends on timing; the rows and their order do not.

mod ask;
mod driver;
mod error;
mod options;
mod request;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use futures::stream::BoxStream;

use crate::OnReject;
use crate::answer_log::AnswerLog;
use crate::chat::ChatModel;

pub use error::GenerateError;
pub use options::{GenerateOptions, Order, WhenMissing};
pub use request::{Standing, standing};
pub use rows::generated_schema;

/// A stream of record batches.
pub type BatchStream = BoxStream<'static, Result<RecordBatch, ArrowError>>;

/// What a run of [`generate_stream`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows answered.
    pub answers: u64,
    /// Of these, rows whose answer was in the log.
    pub from_log: u64,
    /// Tokens of the answers to these rows.
    pub tokens: u64,
    /// Rows rejected.
    pub rejected: u64,
}

/// Takes the progress after each row that is done.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Asks `model` for a document to each row of `input`.
///
/// `input` needs the columns `options.id_column` and `options.prompt_column` (any kind of string). Each row
/// comes out with its columns as they were and behind them `completion, finish_reason, prompt_tokens,
/// completion_tokens, model, endpoint, attempts, latency_ms` (see [`generated_schema`]). `attempts` counts
/// the requests of all tries of the row.
///
/// Nothing happens until the stream is polled, within a tokio runtime. Dropping it gives up all requests in
/// flight; answers that came are in the log. In [`Order::Ordered`] `on_reject` is called in the order of the
/// rows. Errors are [`GenerateError`]s inside
/// [`ArrowError::ExternalError`], but for those of `input`, which come out as they are after the rows before
/// them.
pub fn generate_stream(
    model: Arc<dyn ChatModel>,
    log: Option<Arc<AnswerLog>>,
    options: &GenerateOptions,
    input: BatchStream,
    on_reject: OnReject,
    on_progress: OnProgress,
) -> BatchStream {
    driver::start(ask::Asker::new(model, log, options.clone()), input, on_reject, on_progress)
}
