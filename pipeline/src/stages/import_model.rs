//! `import_model`: a model that was trained elsewhere.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use model::export::{ExportOptions, export};
use model::pretrain::FINAL_FOLDER;
use model::tokenizer::tokenizer_of_gguf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{External, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind, file_external};
use crate::durable;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "import_model",
    summary: "Takes in a model that was trained elsewhere, with its tokenizer.",
    version: 1,
    inputs: &[],
    output: OutputKind::Folder,
    schema: super::schema_of::<ImportModelConfig>,
    build: super::build_from::<ImportModelConfig>,
};

/// Takes in a model with the shape of Llama: SmolLM, SmolLM2, Llama. The stage then serves as `model` and as
/// `tokenizer` of `sft`, `dpo`, `evaluate` and `export`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportModelConfig {
    /// A folder as `transformers` saves it (config.json, model.safetensors, in one file or several), the
    /// `model/` folder of an `export` stage, or a GGUF file.
    pub path: PathBuf,
    /// The folder with tokenizer.json, tokenizer_config.json and special_tokens_map.json; `path` itself when
    /// left out, of a GGUF file the tokenizer that is in it.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
}

impl ImportModelConfig {
    fn tokenizer_folder(&self) -> &Path {
        self.tokenizer.as_deref().unwrap_or(&self.path)
    }

    /// The files that the model and its tokenizer are made of, sorted.
    fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for place in [self.path.as_path(), self.tokenizer_folder()] {
            if place.is_file() {
                files.push(place.to_owned());
                continue;
            }
            for entry in std::fs::read_dir(place)? {
                let path = entry?.path();
                let is_part = path.extension().is_some_and(|kind| kind == "json" || kind == "safetensors");
                if is_part {
                    files.push(path);
                }
            }
        }
        files.sort();
        files.dedup();
        Ok(files)
    }
}

#[async_trait]
impl Stage for ImportModelConfig {
    fn config(&self) -> Json {
        // Of the files, the content counts, not where they are.
        Json::Null
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(1 << 30)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let files = self.files().map_err(|error| {
            ctx.input(format!("cannot read the model {}: {error}", self.path.display()))
                .help("`path` names a folder with config.json and model.safetensors, or a GGUF file")
        })?;
        let (ctx, stage) = (ctx.clone(), ctx.stage.clone());
        let digest = move || {
            let named = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                file_external(&ctx, path).map(|external| External { name, ..external })
            };
            files.iter().map(named).collect()
        };
        super::blocking(&stage, digest).await
    }

    async fn run(&self, ctx: &StageContext, _inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let (config, ctx, out, stage) = (self.clone(), ctx.clone(), out.to_owned(), ctx.stage.clone());
        let take_in = move || {
            let folder = out.join(FINAL_FOLDER);
            // What a killed call left is made again.
            durable::remove_folder(&folder).map_err(|error| ctx.write_error(&error))?;
            let from_gguf = config.tokenizer.is_none() && config.path.is_file();
            if from_gguf {
                tokenizer_of_gguf(&config.path, &out).map_err(|error| {
                    ctx.input(chain(&error)).help("name the folder of the model's tokenizer: `tokenizer = …`")
                })?;
            }
            let tokenizer = if from_gguf { &out } else { config.tokenizer_folder() };
            export(&ExportOptions::default(), &config.path, tokenizer, &folder).map_err(|error| {
                ctx.input(chain(&error)).help("`path` and `tokenizer` name the model and its tokenizer")
            })?;
            for name in model::export::TOKENIZER_FILES.iter().filter(|_| !from_gguf) {
                let bytes = std::fs::read(tokenizer.join(name)).map_err(|error| ctx.failed(&error))?;
                durable::write_file(&out.join(name), &bytes).map_err(|error| ctx.write_error(&error))?;
            }
            Ok(Outcome { rows_out: 1, ..Outcome::default() })
        };
        super::blocking(&stage, take_in).await
    }
}
