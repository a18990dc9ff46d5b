//! `clean`: the clean-up of generated texts.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::cleanup::{CleanOptions, clean_stream, cleaned_schema};

use super::{InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "clean",
    summary: "Cleans generated texts: formula openings, refusals, repetition, copies of the seed.",
    version: 1,
    inputs: &[InputRole { role: "generated", about: "a `generate` stage", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<CleanConfig>,
    build: super::build_from::<CleanConfig>,
};

/// Cleans generated texts [huggingface/cosmopedia]. A row, as HuggingFaceTB/smollm-corpus
/// `cosmopedia-v2`: `prompt, text, token_length, audience, format, seed_data`, and `id, topic_id,
/// completion_unfiltered`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CleanConfig(CleanOptions);

#[async_trait]
impl Stage for CleanConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "generated")?;
        let (options, sink) = (self.0.clone(), ctx.ledger.drop_sink());
        operator::apply(
            ctx.session(),
            rows,
            "clean",
            cleaned_schema(),
            Arc::new(move |stream| {
                let sink = sink.clone();
                let on_reject =
                    Arc::new(move |reject: synth::Reject| sink(reject.id, reject.reason, reject.detail));
                let kept = clean_stream(&options, to_domain(stream), on_reject);
                Ok(from_domain(cleaned_schema(), kept))
            }),
        )
        .map_err(|error| ctx.plan_error(&error))
    }
}
