//! What `sft` and `dpo` share: rows become examples on a thread of their own, then the model is trained.

use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use model::chat::ChatFormat;
use model::examples::Examples;
use model::pretrain::FINAL_FOLDER;
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use model::training::{Ending, TrainSummary};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::channel;

use super::{InputCount, InputRole, Inputs, Outcome, blocking};
use crate::durable;
use crate::engine::Plan;
use crate::engine::streams::{execute, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// What both stages read.
pub const INPUTS: &[InputRole] = &[
    InputRole { role: "rows", about: "the table with the examples", count: InputCount::One },
    InputRole {
        role: "model",
        about: "a `pretrain`, `import_model`, `sft` or `dpo` stage",
        count: InputCount::One,
    },
    InputRole { role: "tokenizer", about: "the model's tokenizer", count: InputCount::One },
];

/// Where the examples lie in the stage's folder: a killed call's are made again, which is the smaller part.
const EXAMPLES_FOLDER: &str = "examples";

/// A model and its tokenizer.
pub struct Start {
    /// The model's folder.
    pub model: PathBuf,
    /// The tokenizer.
    pub encoder: Encoder,
}

/// Opens what is trained.
///
/// # Errors
/// The tokenizer cannot be read.
pub fn start(ctx: &StageContext, inputs: &Inputs) -> Result<Start, StageError> {
    let encoder = Encoder::load(&inputs.folder(ctx, "tokenizer")?.join(TOKENIZER_FILE));
    let encoder = encoder.map_err(|error| ctx.input(chain(&error)))?;
    Ok(Start { model: inputs.folder(ctx, "model")?.join(FINAL_FOLDER), encoder })
}

impl Start {
    /// The tokenizer's chat template, or ChatML.
    ///
    /// # Errors
    /// The template cannot be used.
    pub fn chat(&self, ctx: &StageContext) -> Result<ChatFormat, StageError> {
        ChatFormat::load(&self.encoder).map_err(|error| ctx.input(chain(&error)))
    }
}

/// What a training leaves, unless the user stopped it.
///
/// # Errors
/// It was stopped.
pub fn finished(
    ctx: &StageContext,
    done: &TrainSummary,
    rows_in: u64,
    own_metrics: [(&str, Json); 2],
) -> Result<Outcome, StageError> {
    if done.ending == Ending::Stopped {
        return Err(StageError::stopped(&ctx.stage));
    }
    let shared = [("parameters", json!(done.parameters)), ("tokens", json!(done.tokens))];
    let metrics = shared.into_iter().chain(own_metrics).map(|(name, value)| (name.to_owned(), value));
    Ok(Outcome { rows_in: Some(rows_in), rows_out: done.step, metrics: metrics.collect() })
}

/// Encodes rows batch by batch.
pub trait ExampleSink: Send + 'static {
    /// What became of the rows.
    type Summary: Send + 'static;

    /// Adds a batch.
    ///
    /// # Errors
    /// A sentence that names the column or file.
    fn push(&mut self, batch: &RecordBatch) -> Result<(), String>;

    /// Ends the examples.
    ///
    /// # Errors
    /// A sentence that names the file.
    fn finish(self) -> Result<Self::Summary, String>;
}

/// The rows as examples in the stage's folder.
///
/// # Errors
/// The rows hold no examples, or cannot be read.
pub async fn encode<S: ExampleSink>(
    ctx: &StageContext,
    rows: Plan,
    out: &Path,
    create: impl FnOnce(&Path) -> Result<S, String> + Send + 'static,
) -> Result<(Examples, S::Summary), StageError> {
    let mut rows = to_domain(execute(rows).await.map_err(|error| ctx.plan_error(&error))?);
    let (sender, mut receiver) = channel::<RecordBatch>(2);
    let folder = out.join(EXAMPLES_FOLDER);
    let failed = ctx.clone();
    let written = blocking(&ctx.stage, {
        let folder = folder.clone();
        move || {
            durable::remove_folder(&folder).map_err(|error| failed.write_error(&error))?;
            let mut sink = create(&folder).map_err(|message| failed.input(message))?;
            while let Some(batch) = receiver.blocking_recv() {
                sink.push(&batch).map_err(|message| failed.input(message))?;
            }
            sink.finish().map_err(|message| failed.input(message))
        }
    });
    let sent = async {
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| ctx.failed(&error))?;
            if sender.send(batch).await.is_err() {
                break;
            }
        }
        drop(sender);
        Ok(())
    };
    let (sent, summary) = futures::join!(sent, written);
    // The writer's own error says more than that it went away.
    let summary = summary?;
    sent?;
    let examples = Examples::open(&folder).map_err(|error| ctx.failed(&error))?;
    Ok((examples, summary))
}
