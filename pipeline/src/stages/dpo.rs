//! `dpo`: direct preference optimisation: a model learns which of two answers is better.

use std::ops::ControlFlow;
use std::path::Path;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::prelude::ident;
use model::dpo::{
    DpoLine, DpoOptions, DpoReport, PreferenceColumns, PreferenceSummary, PreferenceWriter, dpo,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::fine_tuning::{self, ExampleSink, encode, finished, start};
use super::{Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind, blocking};
use crate::engine::Plan;
use crate::runner::context::StageContext;
use crate::runner::curve::Curve;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "dpo",
    summary: "Aligns a model on pairs of a better and a worse answer.",
    version: 1,
    inputs: fine_tuning::INPUTS,
    output: OutputKind::Folder,
    schema: super::schema_of::<DpoConfig>,
    build: super::build_from::<DpoConfig>,
};

/// Aligns a model (Rafailov et al. 2023, arXiv 2305.18290); the defaults are SmolLM-Instruct's. Leaves
/// `final/`, the newest checkpoints, `loss.jsonl` with rewards, margins and accuracies, and `reference/`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DpoConfig {
    /// How the model is trained.
    pub training: DpoOptions,
    /// Which columns hold the preferences.
    pub columns: PreferenceColumns,
}

impl ExampleSink for PreferenceWriter {
    type Summary = PreferenceSummary;

    fn push(&mut self, batch: &RecordBatch) -> Result<(), String> {
        Self::push(self, batch).map_err(|error| chain(&error))
    }

    fn finish(self) -> Result<PreferenceSummary, String> {
        Self::finish(self).map_err(|error| chain(&error))
    }
}

impl DpoConfig {
    /// The rows; rated answers to one prompt follow each other.
    fn rows(&self, ctx: &StageContext, inputs: &Inputs) -> Result<Plan, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        let has = |name: &str| rows.schema().has_column_with_unqualified_name(name);
        let PreferenceColumns { prompt, response, rating, .. } = &self.columns;
        if ![prompt, response, rating].into_iter().all(|name| has(name)) {
            return Ok(rows);
        }
        let order = [prompt, rating, response].map(|name| ident(name).sort(true, false)).to_vec();
        rows.frame().sort(order).map(Plan::from).map_err(|error| ctx.plan_error(&error))
    }
}

#[async_trait]
impl Stage for DpoConfig {
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
        let (columns, options) = (self.columns.clone(), self.training.clone());
        let create = move |folder: &Path| {
            let (length, prompt) = (options.length_tokens, options.prompt_tokens);
            PreferenceWriter::create(folder, &encoder, chat, columns, length, prompt)
                .map_err(|error| chain(&error))
        };
        let (pairs, summary) = encode(ctx, self.rows(ctx, inputs)?, out, create).await?;
        let mut options = self.training.clone();
        if options.threads == 0 {
            options.threads = ctx.env.threads;
        }
        ctx.progress.set_total(options.steps(&pairs));
        let (ctx, out) = (ctx.clone(), out.to_owned());
        let stage = ctx.stage.clone();
        let train = move || {
            let (mut last, mut losses): (Option<DpoLine>, _) = (None, Curve::default());
            let mut progress = |report: DpoReport| {
                match report {
                    DpoReport::Reference { done, answers } => {
                        ctx.progress.set_note(format!("reference {done} of {answers}"));
                    }
                    DpoReport::Step(report) => {
                        let seen = last.as_ref().map_or(0, |line| line.step);
                        ctx.progress.add_rows(report.line.step.saturating_sub(seen));
                        let DpoLine { loss, margin, .. } = report.line;
                        losses.push(loss);
                        ctx.progress.set_note(format!("loss {loss:.3} {losses}, margin {margin:.3}"));
                        last = Some(report.line);
                    }
                }
                if ctx.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let done = dpo(&options, &start.model, &pairs, &out, &mut progress)
                .map_err(|error| ctx.input(chain(&error)))?;
            finished(&ctx, &done, summary.rows, [("preferences", json!(summary)), ("last_step", json!(last))])
        };
        blocking(&stage, train).await
    }
}
