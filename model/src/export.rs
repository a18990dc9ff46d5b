//! Handing a trained model to `transformers`: one folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

use crate::files::{FileError, failed, write_folder, write_whole};
use crate::language_model::{
    CONFIG_FILE, LanguageModel, ModelFileError, Precision, WEIGHTS_FILE, config_json, write_tensors,
};
use crate::tokenizer::{Encoder, TOKENIZER_FILE, TokenizerError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a model is exported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExportOptions {
    /// Number format of the weights: `float32` (exact) or `bfloat16` (half the size).
    pub precision: Precision,
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
const TOKENIZER_FILES: [&str; 3] = [TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json"];

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
    let generation = serde_json::json!({ "_from_model_config": true, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0 });
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
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ModelConfig, Preset};
    use crate::kernels::Cpu;
    use crate::network::Network;
    use crate::tokenizer::{TokenizerOptions, train};

    fn model_folder(folder: &Path, vocab_size: usize) -> Vec<f32> {
        let config = ModelConfig { vocab_size, layers: 2, ..ModelConfig::preset(Preset::Sample) };
        let network = Network::new(config, Cpu).unwrap();
        let parameters = network.initial_parameters(3);
        std::fs::create_dir_all(folder).unwrap();
        write_tensors(&folder.join(WEIGHTS_FILE), network.layout(), &[("", &parameters)], Precision::Float32)
            .unwrap();
        write_whole(&folder.join(CONFIG_FILE), config_json(network.config(), Precision::Float32).as_bytes())
            .unwrap();
        parameters
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
            export(&ExportOptions { precision }, &model, &tokenizer, &out).unwrap();
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
