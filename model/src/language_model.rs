//! A trained model in a folder: `config.json` and `model.safetensors`, as `transformers` writes them; or in a GGUF
//! file.

mod config_file;
mod gguf;
mod read;

pub(crate) use config_file::config_json;
pub(crate) use gguf::{gguf_dims, gguf_name, gguf_order};
pub(crate) use read::read_tensors;

use crate::config::ConfigError;
use crate::files::FileError;
use crate::infer::LoadModelError;
use crate::kernels::Cpu;
use crate::network::{Network, ParameterLayout};
use half::bf16;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Name of the weight file in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Name of the table of a model folder whose weights are spread over several files.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// Name of the shape file in a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// Number format of saved weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Precision {
    /// 32 bits: exactly the trained numbers.
    #[default]
    #[serde(rename = "float32")]
    Float32,
    /// 16 bits with 8 of exponent: half the size, rounded to nearest.
    #[serde(rename = "bfloat16")]
    Bfloat16,
}

/// Why a model folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weight file is malformed.
    #[error("weights {}: {source}; the file is no whole safetensors file, copy or train it again", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        #[source]
        source: SafeTensorError,
    },
    /// A tensor is missing or has another shape.
    #[error("weights {}: tensor {name} {problem}; config.json and the weights must come from the same model", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// config.json is malformed or describes another architecture.
    #[error("model shape {}: {problem}; only LlamaForCausalLM without biases or stretched positions is read", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The shape is inconsistent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A GGUF file cannot be read.
    #[error(transparent)]
    Gguf(#[from] LoadModelError),
}

/// A network with its weights.
#[derive(Debug)]
pub struct LanguageModel {
    /// Shape and kernels.
    pub network: Network,
    /// The flat parameter vector.
    pub parameters: Vec<f32>,
}

impl LanguageModel {
    /// Loads a folder with `config.json` and `model.safetensors` (a checkpoint, `final/`, an export, or a model of
    /// `transformers`, whose weights may be spread over several files), or a `.gguf` file.
    ///
    /// # Errors
    /// [`ModelFileError`] if a file is missing or malformed, or the two do not fit together.
    pub fn load(path: &Path) -> Result<Self, ModelFileError> {
        if path.is_file() {
            return gguf::load(path);
        }
        let config = config_file::read(&path.join(CONFIG_FILE))?;
        read::check_size(path, &config)?;
        let network = Network::new(config, Cpu)?;
        let parameters = read::read_folder(path, network.layout())?;
        Ok(Self { network, parameters })
    }
}

/// Writes flat vectors laid out by `layout` as one safetensors file, each under its name prefix.
pub(crate) fn write_tensors(
    path: &Path,
    layout: &ParameterLayout,
    vectors: &[(&str, &[f32])],
    precision: Precision,
) -> Result<(), ModelFileError> {
    let format = |source| ModelFileError::Format { path: path.to_path_buf(), source };
    let rounded: Vec<Vec<bf16>> = match precision {
        Precision::Float32 => Vec::new(),
        Precision::Bfloat16 => {
            vectors.iter().map(|(_, values)| values.iter().map(|&x| bf16::from_f32(x)).collect()).collect()
        }
    };
    let mut tensors = Vec::new();
    for (number, (prefix, values)) in vectors.iter().enumerate() {
        for slot in layout.tensors() {
            let (dtype, bytes): (_, &[u8]) = match precision {
                Precision::Float32 => (Dtype::F32, bytemuck::cast_slice(&values[slot.range.clone()])),
                Precision::Bfloat16 => {
                    (Dtype::BF16, bytemuck::cast_slice(&rounded[number][slot.range.clone()]))
                }
            };
            let view = TensorView::new(dtype, slot.shape.clone(), bytes).map_err(format)?;
            tensors.push((format!("{prefix}{}", slot.name), view));
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(format)
}

#[cfg(test)]
mod tests;
