//! `export`: a trained model as `transformers` loads it.

use std::path::Path;

use async_trait::async_trait;
use model::export::{ExportOptions, export};
use model::pretrain::FINAL_FOLDER;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{InputCount, InputRole, Inputs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::durable;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "export",
    summary: "Exports a model and its tokenizer as safetensors that transformers loads.",
    version: 1,
    inputs: &[
        InputRole { role: "model", about: "a `pretrain` stage", count: InputCount::One },
        InputRole { role: "tokenizer", about: "the model's tokenizer", count: InputCount::One },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<ExportConfig>,
    build: super::build_from::<ExportConfig>,
};

/// Exports a model: `model/` with model.safetensors, config.json, generation_config.json and the
/// tokenizer's files.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ExportConfig(ExportOptions);

#[async_trait]
impl Stage for ExportConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let model = inputs.folder(ctx, "model")?.join(FINAL_FOLDER);
        let tokenizer = inputs.folder(ctx, "tokenizer")?.to_owned();
        let (options, ctx, out) = (self.0.clone(), ctx.clone(), out.join("model"));
        let write = move || {
            // What a killed call left is made again.
            durable::remove_folder(&out).map_err(|error| ctx.write_error(&error))?;
            export(&options, &model, &tokenizer, &out).map_err(|error| ctx.failed(&error))?;
            let bytes: u64 = std::fs::read_dir(&out)
                .map_err(|error| ctx.failed(&error))?
                .flatten()
                .filter_map(|entry| entry.metadata().ok())
                .map(|metadata| metadata.len())
                .sum();
            Ok(Outcome { rows_in: None, rows_out: 1, metrics: [("bytes".to_owned(), json!(bytes))].into() })
        };
        super::blocking(KIND.name, write).await
    }
}
