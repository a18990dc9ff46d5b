//! `embed`: a vector for every text, by an ONNX encoder.

use std::sync::Arc;

use async_trait::async_trait;
use classifiers::{Backbone, EmbedOptions, Pooling, embed_stream, embedded_schema};
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::backbone::{BACKBONE_MEMORY_BYTES, EncoderConfig};
use super::columns::{require, schema_of};
use super::loaded::Loaded;
use super::{External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "embed",
    summary: "Adds a vector to every row: its text as an ONNX encoder sees it.",
    version: 2,
    inputs: &[InputRole { role: "rows", about: "any table with a text and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<EmbedConfig>,
    build: super::build_from::<EmbedConfig>,
};

/// Adds the column `embedding`, a list of 32-bit floats, to every row.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbedConfig {
    /// The encoder.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
    /// How much of a text the encoder reads, in tokens; MiniLM was trained on 128
    /// (sentence-transformers/all-MiniLM-L6-v2), which tell a page's topic.
    pub max_tokens: usize,
    /// How the states of a text's tokens become one vector.
    pub pooling: Pooling,
    /// The column with the text.
    pub text_column: String,
    /// The column with the row's id.
    pub id_column: String,
    /// Loaded once, by the first task that needs it.
    #[serde(skip)]
    loaded: Loaded<Backbone>,
}

impl Default for EmbedConfig {
    fn default() -> Self {
        Self {
            encoder: EncoderConfig::default(),
            max_tokens: 128,
            pooling: Pooling::default(),
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            loaded: Loaded::default(),
        }
    }
}

#[async_trait]
impl Stage for EmbedConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(BACKBONE_MEMORY_BYTES)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        self.encoder.externals(ctx)
    }

    fn release(&self) {
        self.loaded.release();
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.text_column, &self.id_column])?;
        let load = || self.encoder.load(ctx, self.max_tokens, self.pooling);
        let encoder = self.loaded.get_or_load(load).await?;
        let options = EmbedOptions {
            text_column: self.text_column.clone(),
            id_column: self.id_column.clone(),
            ..EmbedOptions::default()
        };
        let schema = embedded_schema(&schema_of(&rows), encoder.hidden(), &options)
            .map_err(|error| ctx.input(error.to_string()))?;
        let (sink, out_schema) = (ctx.ledger.drop_sink(), schema.clone());
        operator::apply(
            ctx.session(),
            rows,
            "embed",
            schema,
            Arc::new(move |stream| {
                let sink = sink.clone();
                let on_reject = Arc::new(move |reject: classifiers::Reject| {
                    sink(reject.id, reject.reason, reject.detail)
                });
                let embedded = embed_stream(encoder.clone(), &options, on_reject, to_domain(stream));
                Ok(from_domain(out_schema.clone(), embedded))
            }),
        )
        .map_err(|error| ctx.plan_error(&error))
    }
}
