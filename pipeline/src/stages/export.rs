//! `export`: a trained model as `transformers` loads it.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use model::export::{ExportOptions, GgufFormat, export, export_gguf, export_onnx};
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
    summary: "Exports a model and its tokenizer: safetensors that transformers loads, GGUF, ONNX.",
    version: 2,
    inputs: &[
        InputRole {
            role: "model",
            about: "a `pretrain`, `import_model`, `sft` or `dpo` stage",
            count: InputCount::One,
        },
        InputRole { role: "tokenizer", about: "the model's tokenizer", count: InputCount::One },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<ExportConfig>,
    build: super::build_from::<ExportConfig>,
};

/// Exports a model: `model/` with model.safetensors, config.json, generation_config.json and the
/// tokenizer's files, `model/onnx/model.onnx` for ONNX Runtime and transformers.js, and
/// `gguf/model-<format>.gguf` for llama.cpp and `pipeline llm serve`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExportConfig {
    /// How it is exported.
    #[serde(flatten)]
    pub options: ExportOptions,
    /// Formats of GGUF files: `f32`, `f16`, `q8_0`, `q4_0`, `q4_1`, `q4_k_m`.
    pub gguf: Vec<GgufFormat>,
    /// Whether an ONNX graph with a cache of keys and values is written, too, in 32 bits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub onnx: bool,
}

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
        let (config, ctx, out) = (self.clone(), ctx.clone(), out.to_owned());
        let write = move || {
            let (folder, gguf) = (out.join("model"), out.join("gguf"));
            // What a killed call left is made again.
            durable::remove_folder(&folder).map_err(|error| ctx.write_error(&error))?;
            export(&config.options, &model, &tokenizer, &folder).map_err(|error| ctx.failed(&error))?;
            let bytes: u64 = std::fs::read_dir(&folder)
                .map_err(|error| ctx.failed(&error))?
                .flatten()
                .filter_map(|entry| entry.metadata().ok())
                .map(|metadata| metadata.len())
                .sum();
            let mut metrics = BTreeMap::from([("bytes".to_owned(), json!(bytes))]);
            if config.onnx {
                let bytes = export_onnx(&model, &folder.join("onnx")).map_err(|error| ctx.failed(&error))?;
                metrics.insert("onnx_bytes".to_owned(), json!(bytes));
            }
            if !config.gguf.is_empty() {
                durable::make_folder(&gguf).map_err(|error| ctx.write_error(&error))?;
            }
            for &format in &config.gguf {
                let name = format.name();
                let path = gguf.join(format!("model-{name}.gguf"));
                let bytes = export_gguf(&config.options, format, &model, &tokenizer, &path);
                let bytes = bytes.map_err(|error| ctx.failed(&error))?;
                metrics.insert(format!("{name}_bytes"), json!(bytes));
            }
            let files = 1 + u64::from(config.onnx) + config.gguf.len() as u64;
            Ok(Outcome { rows_in: None, rows_out: files, metrics })
        };
        super::blocking(KIND.name, write).await
    }
}
