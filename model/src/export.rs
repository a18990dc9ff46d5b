//! Handing a trained model on: a folder that `AutoModelForCausalLM` and `AutoTokenizer` of `transformers` load, a GGUF
//! file, or an ONNX graph.

mod gguf;
mod onnx;

pub use gguf::{GgufFormat, export_gguf, inference_model};
pub use onnx::{ONNX_DATA_FILE, ONNX_FILE, export_onnx};

use crate::chat::CHAT_ML;
use crate::files::{FileError, failed, write_folder, write_whole};
use crate::language_model::{
    CONFIG_FILE, LanguageModel, ModelFileError, Precision, WEIGHTS_FILE, config_json, write_tensors,
};
use crate::tokenizer::{Encoder, SPECIAL_TOKENS, TOKENIZER_FILE, TokenizerError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a model is exported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExportOptions {
    /// Number format of the weights: `float32` (exact) or `bfloat16` (half the size).
    pub precision: Precision,
    /// What the model is for: `base` or `chat`.
    pub model_use: ModelUse,
}

/// What an exported model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelUse {
    /// To go on from a text; `<|endoftext|>` ends it.
    #[default]
    Base,
    /// To answer: `<|im_end|>` ends a turn, and the tokenizer brings a chat template (its own, or ChatML).
    Chat,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model folder could not be read, or the export not written.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// The tokenizer could not be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A file of the tokenizer is malformed.
    #[error("tokenizer {}: {problem}; export the model with the tokenizer it was trained with", path.display())]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Model and tokenizer do not belong together.
    #[error("the tokenizer in {} has {tokenizer} entries, the model {model}; export the model with the tokenizer it was trained with", path.display())]
    Vocabulary {
        /// The tokenizer's folder.
        path: PathBuf,
        /// Entries of the tokenizer.
        tokenizer: usize,
        /// Entries of the model.
        model: usize,
    },
}

/// Files of a tokenizer folder.
pub const TOKENIZER_FILES: [&str; 3] = [TOKENIZER_FILE, TOKENIZER_CONFIG, "special_tokens_map.json"];
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The token that ends an answer.
fn end_token(model_use: ModelUse) -> &'static str {
    match model_use {
        ModelUse::Base => SPECIAL_TOKENS[0],
        ModelUse::Chat => "<|im_end|>",
    }
}

/// The tokenizer's settings.
fn tokenizer_config(tokenizer_dir: &Path) -> Result<serde_json::Value, ExportError> {
    let path = tokenizer_dir.join(TOKENIZER_CONFIG);
    let bytes = std::fs::read(&path).map_err(failed("read", &path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ExportError::TokenizerFile { path, problem: error.to_string() })
}

/// The tokenizer's own chat template, or ChatML.
fn chat_template(tokenizer_dir: &Path) -> Result<String, ExportError> {
    let config = tokenizer_config(tokenizer_dir)?;
    Ok(crate::chat::template_of(&config).unwrap_or(CHAT_ML).to_owned())
}

/// Exports the model in `model_dir` (a checkpoint or `final/`) with the tokenizer in `tokenizer_dir` to the new
/// folder `out_dir`: weights, `config.json`, `generation_config.json` and the tokenizer's files.
///
/// # Errors
/// [`ExportError`]; `out_dir` then does not appear.
pub fn export(
    options: &ExportOptions,
    model_dir: &Path,
    tokenizer_dir: &Path,
    out_dir: &Path,
) -> Result<(), ExportError> {
    let model = LanguageModel::load(model_dir)?;
    let encoder = Encoder::load(&tokenizer_dir.join(TOKENIZER_FILE))?;
    let config = model.network.config();
    if encoder.vocab_size() > config.vocab_size {
        return Err(ExportError::Vocabulary {
            path: tokenizer_dir.to_path_buf(),
            tokenizer: encoder.vocab_size(),
            model: config.vocab_size,
        });
    }
    let end = encoder.encode_with_special_tokens(end_token(options.model_use))?;
    let [end] = end[..] else {
        return Err(ExportError::TokenizerFile {
            path: tokenizer_dir.join(TOKENIZER_FILE),
            problem: format!("{} is no token of it", end_token(options.model_use)),
        });
    };
    let generation = serde_json::json!({ "_from_model_config": true, "bos_token_id": 0, "eos_token_id": end, "pad_token_id": end });
    write_folder(out_dir, |folder| {
        write_tensors(
            &folder.join(WEIGHTS_FILE),
            model.network.layout(),
            &[("", &model.parameters)],
            options.precision,
        )?;
        write_whole(&folder.join(CONFIG_FILE), config_json(config, options.precision).as_bytes())?;
        write_whole(&folder.join("generation_config.json"), format!("{generation:#}\n").as_bytes())?;
        for name in TOKENIZER_FILES {
            let source = tokenizer_dir.join(name);
            std::fs::copy(&source, folder.join(name)).map_err(failed("copy", &source))?;
        }
        if options.model_use == ModelUse::Chat {
            let mut settings = tokenizer_config(tokenizer_dir)?;
            settings["chat_template"] = chat_template(tokenizer_dir)?.into();
            settings["eos_token"] = end_token(options.model_use).into();
            settings["pad_token"] = end_token(options.model_use).into();
            write_whole(&folder.join(TOKENIZER_CONFIG), format!("{settings:#}\n").as_bytes())?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ModelConfig, Preset};
    use crate::testing;
    use crate::tokenizer::{TokenizerOptions, train};

    fn model_folder(folder: &Path, vocab_size: usize) -> Vec<f32> {
        let config = ModelConfig { vocab_size, layers: 2, ..ModelConfig::preset(Preset::Sample) };
        testing::model_folder(folder, config)
    }

    #[test]
    fn float32_is_exact_and_bfloat16_is_rounded_and_half_the_size() {
        let root = tempfile::tempdir().unwrap();
        let (model, tokenizer) = (root.path().join("model"), root.path().join("tokenizer"));
        let parameters = model_folder(&model, 320);
        let options = TokenizerOptions { vocab_size: 300, min_frequency: 1, ..Default::default() };
        let encoder = train(
            &options,
            ["several different words that can be joined to longer and longer tokens"],
            &tokenizer,
        )
        .unwrap();
        assert_eq!(encoder.vocab_size(), 300);
        let load = |precision, name| {
            let out = root.path().join(name);
            let options = ExportOptions { precision, ..Default::default() };
            export(&options, &model, &tokenizer, &out).unwrap();
            let size = std::fs::metadata(out.join(WEIGHTS_FILE)).unwrap().len();
            Encoder::load(&out.join(TOKENIZER_FILE)).unwrap();
            (LanguageModel::load(&out).unwrap().parameters, size)
        };
        let (exact, exact_bytes) = load(Precision::Float32, "f32");
        assert_eq!(exact, parameters);
        let (rounded, rounded_bytes) = load(Precision::Bfloat16, "bf16");
        assert!(rounded.iter().zip(&parameters).all(|(a, b)| (a - b).abs() <= b.abs() / 256.0));
        assert!((exact_bytes as f64 / rounded_bytes as f64 - 2.0).abs() < 0.01);

        let small = root.path().join("small");
        model_folder(&small, 299);
        let error =
            export(&ExportOptions::default(), &small, &tokenizer, &root.path().join("x")).unwrap_err();
        assert!(error.to_string().contains("300 entries, the model 299"), "{error}");
        assert!(!root.path().join("x").exists());
    }

    #[test]
    fn a_chat_model_brings_its_template_and_its_end() {
        let root = tempfile::tempdir().unwrap();
        let (model, tokenizer) = (root.path().join("model"), root.path().join("tokenizer"));
        model_folder(&model, 320);
        train(&TokenizerOptions { vocab_size: 300, ..Default::default() }, ["words"], &tokenizer).unwrap();
        let out = root.path().join("out");
        let options = ExportOptions { model_use: ModelUse::Chat, ..Default::default() };
        export(&options, &model, &tokenizer, &out).unwrap();
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap()
        };
        assert_eq!(read(TOKENIZER_CONFIG)["chat_template"], CHAT_ML);
        assert_eq!(read(TOKENIZER_CONFIG)["eos_token"], "<|im_end|>");
        assert_eq!(read("generation_config.json")["eos_token_id"], 2);
        let encoder = Encoder::load(&out.join(TOKENIZER_FILE)).unwrap();
        assert!(crate::chat::ChatFormat::load(&encoder).unwrap().origin().ends_with(TOKENIZER_CONFIG));
    }

    #[test]
    fn broken_model_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        model_folder(&folder, 300);
        let message = || LanguageModel::load(&folder).unwrap_err().to_string();
        let weights = std::fs::read(folder.join(WEIGHTS_FILE)).unwrap();
        std::fs::write(folder.join(WEIGHTS_FILE), &weights[..weights.len() - 4]).unwrap();
        assert!(message().contains("no whole safetensors file"));
        std::fs::write(folder.join(WEIGHTS_FILE), &weights).unwrap();
        let config = std::fs::read_to_string(folder.join(CONFIG_FILE)).unwrap();
        std::fs::write(
            folder.join(CONFIG_FILE),
            config.replace("\"vocab_size\": 300", "\"vocab_size\": 301"),
        )
        .unwrap();
        assert!(
            message()
                .contains("model.embed_tokens.weight has shape [300, 192] where the model needs [301, 192]")
        );
        std::fs::write(folder.join(CONFIG_FILE), config.replace("\"vocab_size\": 300", "\"vocab_size\": 0"))
            .unwrap();
        assert!(message().contains("vocab_size = 0"));
        std::fs::write(folder.join(CONFIG_FILE), "{").unwrap();
        assert!(message().contains("config.json"));
    }
}
