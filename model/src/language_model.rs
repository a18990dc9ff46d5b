//! A trained model in a folder: `config.json` and `model.safetensors`, as `transformers` writes them.

use crate::config::{ConfigError, ModelConfig};
use crate::files::{FileError, failed};
use crate::kernels::Cpu;
use crate::network::{Network, ParameterLayout};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Name of the weight file in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";
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
    #[error("model shape {}: {problem}; only LlamaForCausalLM with tied embeddings is read", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The shape is inconsistent.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// Loads a folder with `config.json` and `model.safetensors` (a checkpoint, `final/`, or an export).
    ///
    /// # Errors
    /// [`ModelFileError`] if a file is missing or malformed, or the two do not fit together.
    pub fn load(folder: &Path) -> Result<Self, ModelFileError> {
        let network = Network::new(read_config(&folder.join(CONFIG_FILE))?, Cpu)?;
        let parameters = read_tensors(&folder.join(WEIGHTS_FILE), network.layout(), "")?;
        Ok(Self { network, parameters })
    }
}

/// The fields of `config.json` that matter here; `transformers` 4 and 5 read what [`config_json`] writes.
#[derive(Deserialize)]
struct LlamaConfig {
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
}

/// `config.json` of a model of shape `config`.
pub(crate) fn config_json(config: &ModelConfig, precision: Precision) -> String {
    let precision = match precision {
        Precision::Float32 => "float32",
        Precision::Bfloat16 => "bfloat16",
    };
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "head_dim": config.head_dim(),
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 1.0 / (config.hidden_size as f64).sqrt(),
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_tokens,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": null,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": true,
        "torch_dtype": precision,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    format!("{json:#}\n")
}

fn read_config(path: &Path) -> Result<ModelConfig, ModelFileError> {
    let shape = |problem: String| ModelFileError::Shape { path: path.to_path_buf(), problem };
    let bytes = std::fs::read(path).map_err(failed("read", path))?;
    let llama: LlamaConfig = serde_json::from_slice(&bytes).map_err(|error| shape(error.to_string()))?;
    if !llama.architectures.iter().any(|name| name == "LlamaForCausalLM")
        || !llama.tie_word_embeddings
        || llama.rope_scaling.is_some()
    {
        return Err(shape(format!(
            "architectures {:?}, tie_word_embeddings {}",
            llama.architectures, llama.tie_word_embeddings
        )));
    }
    let config = ModelConfig {
        vocab_size: llama.vocab_size,
        hidden_size: llama.hidden_size,
        intermediate_size: llama.intermediate_size,
        layers: llama.num_hidden_layers,
        heads: llama.num_attention_heads,
        kv_heads: llama.num_key_value_heads,
        context_tokens: llama.max_position_embeddings,
        rope_theta: llama.rope_theta,
        rms_norm_eps: llama.rms_norm_eps,
    };
    config.check()?;
    Ok(config)
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

/// Reads what [`write_tensors`] wrote under `prefix` (or any `transformers` file, in f32, bf16 or f16).
pub(crate) fn read_tensors(
    path: &Path,
    layout: &ParameterLayout,
    prefix: &str,
) -> Result<Vec<f32>, ModelFileError> {
    let file = File::open(path).map_err(failed("open", path))?;
    // SAFETY: weight files are written once and renamed into place; nothing changes them afterwards.
    let map = unsafe { Mmap::map(&file) }.map_err(failed("map", path))?;
    let tensors = SafeTensors::deserialize(&map)
        .map_err(|source| ModelFileError::Format { path: path.to_path_buf(), source })?;
    let mut values = vec![0f32; layout.total];
    for slot in layout.tensors() {
        let name = format!("{prefix}{}", slot.name);
        let wrong = |problem: String| ModelFileError::Tensor {
            path: path.to_path_buf(),
            name: name.clone(),
            problem,
        };
        let view = tensors.tensor(&name).map_err(|error| wrong(format!("is missing ({error})")))?;
        if view.shape() != slot.shape {
            return Err(wrong(format!(
                "has shape {:?} where the model needs {:?}",
                view.shape(),
                slot.shape
            )));
        }
        let out = &mut values[slot.range.clone()];
        let bytes = view.data();
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match view.dtype() {
            Dtype::F32 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Dtype::BF16 => out
                .iter_mut()
                .zip(pairs())
                .for_each(|(value, bytes)| *value = bf16::from_le_bytes(*bytes).to_f32()),
            Dtype::F16 => out
                .iter_mut()
                .zip(pairs())
                .for_each(|(value, bytes)| *value = f16::from_le_bytes(*bytes).to_f32()),
            other => {
                return Err(wrong(format!("is stored as {other:?}, which is not f32, bf16 or f16")));
            }
        }
    }
    Ok(values)
}
