//! The task that pulls rows in, keeps them in flight and sends them out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::ask::{Asker, Outcome, Source};
use super::error::GenerateError;
use super::options::Order;
use super::rows::{AnsweredRow, PromptBatch, RowTexts, assemble, generated_schema};
use super::{BatchStream, OnProgress, Progress};
use crate::{OnReject, Reject};

type Sent = Result<RecordBatch, ArrowError>;

/// A stream that starts its task when first polled and ends it when dropped.
pub(super) fn start(
    asker: Asker,
    input: BatchStream,
    on_reject: OnReject,
    on_progress: OnProgress,
) -> BatchStream {
    stream::once(async move {
        // One batch ready for the consumer; all further rows wait in the driver, which counts them.
        let (out, batches) = mpsc::channel(1);
        let driver = Driver::new(asker, input, on_reject, on_progress);
        let task = AbortOnDropHandle::new(tokio::spawn(driver.run(out).in_current_span()));
        stream::unfold(Some((batches, task)), |state| async move {
            let (mut batches, task) = state?;
            match batches.recv().await {
                Some(batch) => Some((batch, Some((batches, task)))),
                // The driver has ended: with its work done, or in a panic.
                None => task.await.err().map(|error| (Err(task_error(&error)), None)),
            }
        })
    })
    .flatten()
    .boxed()
}

fn external(error: GenerateError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

fn task_error(error: &JoinError) -> ArrowError {
    external(GenerateError::Task { detail: error.to_string() })
}

/// A row on its way: its place in the input and how it ended.
struct Done {
    number: u64,
    source: Arc<PromptBatch>,
    row: usize,
    outcome: Outcome,
}

/// Where the input stands.
enum Input {
    /// More may come.
    Open(BatchStream),
    /// No more rows are taken; the error, if any, is sent after the rows before it.
    Closed(Option<ArrowError>),
}

/// What becomes of the rows in flight when the stream stops.
enum InFlight {
    Finish,
    Abort,
}

struct Driver {
    asker: Arc<Asker>,
    input: Input,
    on_reject: OnReject,
    on_progress: OnProgress,
    progress: Progress,
    input_schema: Option<SchemaRef>,
    schema: Option<SchemaRef>,
    /// The batch whose rows are being started, and its next row.
    current: Option<(Arc<PromptBatch>, usize)>,
    in_flight: JoinSet<Done>,
    next_number: u64,
    /// Done, but behind one that is not (ordered only).
    waiting: BTreeMap<u64, Done>,
    /// Number of the row that goes out next (ordered only).
    head: u64,
    /// Rows that can go out.
    ready: VecDeque<AnsweredRow>,
    /// What ends the stream after the rows that are ready.
    fatal: Option<ArrowError>,
}

impl Driver {
    fn new(asker: Asker, input: BatchStream, on_reject: OnReject, on_progress: OnProgress) -> Self {
        let input = match asker.options.check() {
            Ok(()) => Input::Open(input),
            Err(error) => Input::Closed(Some(external(error))),
        };
        Self {
            asker: Arc::new(asker),
            input,
            on_reject,
            on_progress,
            progress: Progress::default(),
            input_schema: None,
            schema: None,
            current: None,
            in_flight: JoinSet::new(),
            next_number: 0,
            waiting: BTreeMap::new(),
            head: 0,
            ready: VecDeque::new(),
            fatal: None,
        }
    }

    async fn run(mut self, out: mpsc::Sender<Sent>) {
        loop {
            self.start_rows();
            let input_closed = matches!(self.input, Input::Closed(_)) && self.current.is_none();
            let ends = input_closed || self.fatal.is_some();
            if ends && self.in_flight.is_empty() && self.ready.is_empty() {
                break;
            }
            let wants_input = self.may_start() && self.current.is_none();
            let input = match &mut self.input {
                Input::Open(stream) if wants_input => stream.next().left_future(),
                _ => futures::future::pending().right_future(),
            };
            tokio::select! {
                // A consumer that waits is served before more is taken in.
                biased;
                place = out.reserve(), if !self.ready.is_empty() => match place {
                    Ok(place) => place.send(self.take_batch()),
                    // The consumer is gone.
                    Err(_) => return,
                },
                Some(done) = self.in_flight.join_next(), if !self.in_flight.is_empty() => self.take_done(done),
                batch = input => self.take_input(batch),
                () = out.closed() => return,
            }
        }
        let end = match (self.fatal, self.input) {
            (Some(error), _) | (None, Input::Closed(Some(error))) => error,
            _ => return,
        };
        // A consumer that has gone away does not mind.
        let _ = out.send(Err(end)).await;
    }

    fn may_start(&self) -> bool {
        // Rows that nobody takes hold their place, those that wait for a slow row have places of their own.
        self.fatal.is_none()
            && self.in_flight.len() + self.ready.len() < self.asker.max_in_flight()
            && self.waiting.len() <= self.asker.options.max_waiting
    }

    fn start_rows(&mut self) {
        while self.may_start() {
            let Some((batch, row)) = self.current.take() else {
                return;
            };
            if row + 1 < batch.batch.num_rows() {
                self.current = Some((Arc::clone(&batch), row + 1));
            }
            let number = self.next_number;
            self.next_number += 1;
            let reject = match batch.row(row) {
                RowTexts::Whole { id, prompt } => {
                    let (asker, source) = (Arc::clone(&self.asker), Arc::clone(&batch));
                    let (id, prompt) = (id.to_owned(), prompt.to_owned());
                    let asked = async move {
                        let outcome = asker.ask(id, prompt).await;
                        Done { number, source, row, outcome }
                    };
                    self.in_flight.spawn(asked.in_current_span());
                    continue;
                }
                RowTexts::NullId => Reject {
                    id: String::new(),
                    reason: "null_prompt_id".into(),
                    detail: format!("prompt number {number} (from 0) has no id"),
                },
                RowTexts::NullPrompt { id } => Reject {
                    id: id.into(),
                    reason: "null_prompt".into(),
                    detail: format!("prompt number {number} (from 0) is null"),
                },
            };
            self.settle(Done { number, source: batch, row, outcome: Outcome::Rejected(reject) });
        }
    }

    fn take_input(&mut self, batch: Option<Result<RecordBatch, ArrowError>>) {
        let checked = match batch {
            None => {
                self.input = Input::Closed(None);
                return;
            }
            Some(Err(error)) => Err(error),
            Some(Ok(batch)) => self.check_batch(batch).map_err(external),
        };
        match checked {
            Ok(batch) if batch.batch.num_rows() > 0 => self.current = Some((Arc::new(batch), 0)),
            Ok(_) => {}
            Err(error) => self.input = Input::Closed(Some(error)),
        }
    }

    fn check_batch(&mut self, batch: RecordBatch) -> Result<PromptBatch, GenerateError> {
        let found = batch.schema();
        match &self.input_schema {
            None => {
                self.schema = Some(generated_schema(&found)?);
                self.input_schema = Some(found);
            }
            Some(expected) if expected.fields() != found.fields() => {
                return Err(GenerateError::SchemaChanged {
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
            Some(_) => {}
        }
        PromptBatch::new(batch, &self.asker.options)
    }

    fn take_done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(done) => self.settle(done),
            Err(error) => self.stop(task_error(&error), InFlight::Abort),
        }
    }

    /// Counts a row that is done, and lets out what can go.
    fn settle(&mut self, done: Done) {
        match &done.outcome {
            Outcome::Answered { answer, source, .. } => {
                self.progress.answers += 1;
                self.progress.tokens += u64::from(answer.completion_tokens);
                self.progress.from_log += u64::from(*source == Source::Log);
            }
            Outcome::Rejected(_) => self.progress.rejected += 1,
            Outcome::Fatal(_) => {}
        }
        (self.on_progress)(self.progress);
        match done.outcome {
            // A used-up budget leaves requests in flight that are paid for; let them end and be logged. With
            // a refused key or dead servers they end by themselves soon.
            Outcome::Fatal(GenerateError::Stopped { id, error, .. }) => {
                let Progress { answers, rejected, .. } = self.progress;
                let error = GenerateError::Stopped { id, error, answers, rejected };
                return self.stop(external(error), InFlight::Finish);
            }
            Outcome::Fatal(error) => return self.stop(external(error), InFlight::Abort),
            Outcome::Rejected(Reject { ref id, ref detail, .. }) if self.hopeless() => {
                let (id, detail) = (id.clone(), detail.clone());
                let error = GenerateError::NothingAnswered { rows: self.progress.rejected, id, detail };
                self.stop(external(error), InFlight::Abort);
            }
            Outcome::Answered { .. } | Outcome::Rejected(_) => {}
        }
        match self.asker.options.order {
            Order::Unordered => self.let_out(done),
            Order::Ordered => {
                self.waiting.insert(done.number, done);
                while let Some(done) = self.waiting.remove(&self.head) {
                    self.head += 1;
                    self.let_out(done);
                }
            }
        }
    }

    fn hopeless(&self) -> bool {
        self.progress.answers == 0 && self.progress.rejected >= self.asker.options.give_up_after
    }

    fn let_out(&mut self, done: Done) {
        match done.outcome {
            Outcome::Answered { answer, attempts, .. } => {
                self.ready.push_back(AnsweredRow { source: done.source, row: done.row, answer, attempts });
            }
            Outcome::Rejected(reject) => (self.on_reject)(reject),
            // Such a row stops the stream and stays where it is: nothing behind it comes out.
            Outcome::Fatal(_) => {}
        }
    }

    /// Ends the stream with this error, unless one came before; no row is started any more.
    fn stop(&mut self, error: ArrowError, in_flight: InFlight) {
        self.fatal.get_or_insert(error);
        self.current = None;
        if matches!(in_flight, InFlight::Abort) {
            self.in_flight.abort_all();
        }
    }

    fn take_batch(&mut self) -> Sent {
        let rows: Vec<AnsweredRow> =
            self.ready.drain(..self.ready.len().min(self.asker.options.max_batch_rows)).collect();
        match &self.schema {
            Some(schema) => assemble(&rows, schema),
            // No row is ready before the first batch came.
            None => Err(external(GenerateError::Task { detail: "a row without a schema".into() })),
        }
    }
}
