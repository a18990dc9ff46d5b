//! `sft`: supervised fine-tuning: a chat model from conversations.

use std::ops::ControlFlow;
use std::path::Path;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use model::sft::{ConversationColumns, ConversationSummary, ConversationWriter, SftOptions, SftReport, sft};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::fine_tuning::{self, ExampleSink, encode, finished, start};
use super::{Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind, blocking};
use crate::runner::context::StageContext;
use crate::runner::curve::Curve;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "sft",
    summary: "Fine-tunes a model on conversations, the loss on the assistant's tokens alone.",
    version: 1,
    inputs: fine_tuning::INPUTS,
    output: OutputKind::Folder,
    schema: super::schema_of::<SftConfig>,
    build: super::build_from::<SftConfig>,
};

/// Fine-tunes a model; the defaults are SmolLM-Instruct's. Leaves `final/`, the newest checkpoints and
/// `loss.jsonl`, as `pretrain` does.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// How the model is trained.
    pub training: SftOptions,
    /// Which columns hold the conversations; found by their names when left out.
    pub columns: ConversationColumns,
}

impl ExampleSink for ConversationWriter {
    type Summary = ConversationSummary;

    fn push(&mut self, batch: &RecordBatch) -> Result<(), String> {
        Self::push(self, batch).map_err(|error| chain(&error))
    }

    fn finish(self) -> Result<ConversationSummary, String> {
        Self::finish(self).map_err(|error| chain(&error))
    }
}

#[async_trait]
impl Stage for SftConfig {
    fn config(&self) -> Json {
        super::without_threads(super::config_json(self))
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(512 << 20)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let start = start(ctx, inputs)?;
        let (chat, encoder) = (start.chat(ctx)?, start.encoder.clone());
        let (columns, length_tokens) = (self.columns.clone(), self.training.length_tokens);
        let create = move |folder: &Path| {
            ConversationWriter::create(folder, &encoder, chat, columns, length_tokens)
                .map_err(|error| chain(&error))
        };
        let (examples, summary) = encode(ctx, inputs.table(ctx, "rows")?, out, create).await?;
        let mut options = self.training.clone();
        if options.threads == 0 {
            options.threads = ctx.env.threads;
        }
        ctx.progress.set_total(options.steps(&examples));
        let (ctx, out) = (ctx.clone(), out.to_owned());
        let stage = ctx.stage.clone();
        let train = move || {
            let (mut seen, mut last, mut losses) = (0, None, Curve::default());
            let mut progress = |report: SftReport| {
                ctx.progress.add_rows(report.line.step.saturating_sub(seen));
                losses.push(report.line.loss);
                ctx.progress.set_note(format!("loss {:.3} {losses}", report.line.loss));
                seen = report.line.step;
                last = Some(report.line.loss);
                if ctx.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let done = sft(&options, &start.model, &examples, &out, &mut progress)
                .map_err(|error| ctx.input(chain(&error)))?;
            finished(
                &ctx,
                &done,
                summary.rows,
                [("conversations", json!(summary)), ("final_loss", json!(last))],
            )
        };
        blocking(&stage, train).await
    }
}
