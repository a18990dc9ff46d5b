//! A trained model as a GGUF file, for llama.cpp and for [`crate::infer`].

use super::{ExportError, ExportOptions, ModelUse, chat_template, end_token};
use crate::config::ModelConfig;
use crate::files::{failed, publish, temporary_name};
use crate::gguf::{TensorData, TensorKind, Value, ValueKind, write_gguf};
use crate::infer::{Model, ModelOptions};
use crate::language_model::{LanguageModel, ModelFileError, gguf_dims, gguf_name, gguf_order};
use crate::network::TensorSlot;
use crate::tokenizer::{Merge, TOKENIZER_FILE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Number format of a GGUF file's matrices. Norms are kept in 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(non_camel_case_types)] // the names are those of llama.cpp
pub enum GgufFormat {
    /// 32 bits: exactly the trained numbers.
    #[serde(rename = "f32")]
    F32,
    /// 16 bits.
    #[serde(rename = "f16")]
    F16,
    /// 8 bits and a scale for 32 weights.
    #[default]
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4 bits and a scale for 32 weights.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 weights.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// 4 bits in blocks of 256 with finer scales, 6 where it matters most; 5 and 8 bits for matrices whose width
    /// is no multiple of 256, which is most of SmolLM-135M and 360M.
    #[serde(rename = "q4_k_m")]
    Q4_K_M,
}

impl GgufFormat {
    /// The name that settings and files have.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_K_M => "q4_k_m",
        }
    }

    /// Number of the format in `general.file_type` (ggml-org/llama.cpp `include/llama.h`, `llama_ftype`).
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q4_K_M => 15,
        }
    }

    /// How a tensor is stored. Where all else has 4 bits the output layer (and so a tied embedding) keeps 8, as
    /// llama.cpp does for widths that are no multiple of 256 (`src/llama-quant.cpp`).
    fn kind(self, slot: &TensorSlot, config: &ModelConfig) -> TensorKind {
        let output = slot.name == "lm_head.weight"
            || (config.tied_embeddings && slot.name == "model.embed_tokens.weight");
        match self {
            _ if slot.shape.len() == 1 => TensorKind::F32,
            Self::Q4_K_M => mixed(slot, config, output),
            Self::F32 => TensorKind::F32,
            Self::F16 => TensorKind::F16,
            Self::Q8_0 => TensorKind::Q8_0,
            Self::Q4_0 | Self::Q4_1 if output => TensorKind::Q8_0,
            Self::Q4_0 => TensorKind::Q4_0,
            Self::Q4_1 => TensorKind::Q4_1,
        }
    }
}

/// The kinds of `Q4_K_M`: six bits for the output layer, and in some layers for values and down projections.
///
/// Source: ggml-org/llama.cpp `src/llama-quant.cpp` (`llama_tensor_get_type`).
fn mixed(slot: &TensorSlot, config: &ModelConfig, output: bool) -> TensorKind {
    let layer = slot.name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let (layer, layers): (usize, _) = (layer.unwrap_or(0), config.layers);
    let more_bits = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
    let matters = slot.name.ends_with("v_proj.weight") || slot.name.ends_with("down_proj.weight");
    match (output || (matters && more_bits), slot.shape[1].is_multiple_of(256)) {
        (true, true) => TensorKind::Q6_K,
        (true, false) => TensorKind::Q8_0,
        (false, true) => TensorKind::Q4_K,
        (false, false) => TensorKind::Q5_0,
    }
}

/// `tokenizer.ggml.token_type` of plain, special and unused tokens (ggml-org/llama.cpp `include/llama.h`).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// The trained model in `model_dir` with the tokenizer in `tokenizer_dir` as the inference engine reads it: taken over
/// in 32 bits, by way of a GGUF file in the folder for temporary files, which is gone when this returns.
///
/// # Errors
/// [`ExportError`] if the two cannot be read, or do not belong together.
pub fn inference_model(
    model_use: ModelUse,
    model_dir: &Path,
    tokenizer_dir: &Path,
) -> Result<Model, ExportError> {
    let temporary = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(failed("create folder in", &temporary))?;
    let file = folder.path().join("model.gguf");
    let options = ExportOptions { model_use, ..ExportOptions::default() };
    export_gguf(&options, GgufFormat::F32, model_dir, tokenizer_dir, &file)?;
    // A mapped file stays readable after its name is gone.
    Ok(Model::load(&file, &ModelOptions::default()).map_err(ModelFileError::from)?)
}

/// Writes the model in `model_dir` with the tokenizer in `tokenizer_dir` as the GGUF file `out`; its size (bytes).
///
/// # Errors
/// [`ExportError`]; `out` then does not appear.
pub fn export_gguf(
    options: &ExportOptions,
    format: GgufFormat,
    model_dir: &Path,
    tokenizer_dir: &Path,
    out: &Path,
) -> Result<u64, ExportError> {
    let LanguageModel { network, parameters } = LanguageModel::load(model_dir)?;
    let config = network.config();
    let mut metadata = model_metadata(config, format, model_dir);
    metadata.extend(tokenizer_metadata(options, tokenizer_dir, config.vocab_size)?);
    let slots = network.layout().tensors();
    let names: Vec<String> = slots.iter().map(|slot| gguf_name(&slot.name)).collect();
    let dims: Vec<Vec<u64>> = slots.iter().map(gguf_dims).collect();
    // Query and key projections in llama.cpp's order of rows; all others as they lie.
    let reordered: BTreeMap<usize, Vec<f32>> = slots
        .iter()
        .enumerate()
        .filter_map(|(index, slot)| {
            let (order, values) = (gguf_order(config, slot)?, &parameters[slot.range.clone()]);
            let row = |row: usize| &values[row * slot.shape[1]..][..slot.shape[1]];
            Some((index, order.into_iter().flat_map(row).copied().collect()))
        })
        .collect();
    let tensors: Vec<TensorData<'_>> = (0..slots.len())
        .map(|index| TensorData {
            name: &names[index],
            dims: &dims[index],
            kind: format.kind(&slots[index], config),
            values: reordered.get(&index).map_or(&parameters[slots[index].range.clone()], Vec::as_slice),
        })
        .collect();
    let metadata: Vec<(&str, Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let temporary = temporary_name(out);
    let file = File::create(&temporary).map_err(failed("create", &temporary))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let written = write_gguf(&mut file, &metadata, &tensors)
        .and_then(|()| file.flush())
        .and_then(|()| file.get_ref().sync_all())
        .and_then(|()| file.get_ref().metadata());
    match written {
        Ok(about) => {
            publish(&temporary, out)?;
            Ok(about.len())
        }
        Err(error) => {
            let _ = std::fs::remove_file(&temporary);
            Err(failed("write", &temporary)(error).into())
        }
    }
}

/// Keys: ggml-org/ggml `docs/gguf.md`.
fn model_metadata(config: &ModelConfig, format: GgufFormat, model_dir: &Path) -> Vec<(String, Value)> {
    let name = model_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    [
        ("general.architecture", Value::String("llama".to_owned())),
        ("general.name", Value::String(name)),
        ("general.file_type", Value::U32(format.file_type())),
        ("general.quantization_version", Value::U32(2)),
        ("llama.vocab_size", number(config.vocab_size)),
        ("llama.context_length", number(config.context_tokens)),
        ("llama.embedding_length", number(config.hidden_size)),
        ("llama.block_count", number(config.layers)),
        ("llama.feed_forward_length", number(config.intermediate_size)),
        ("llama.rope.dimension_count", number(config.head_dim())),
        ("llama.rope.freq_base", Value::F32(config.rope_theta as f32)),
        ("llama.attention.head_count", number(config.heads)),
        ("llama.attention.head_count_kv", number(config.kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The parts of a `tokenizer.json` that a GGUF file carries.
#[derive(Deserialize)]
struct TokenizerFile {
    added_tokens: Vec<AddedToken>,
    model: Bpe,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

fn tokenizer_metadata(
    options: &ExportOptions,
    tokenizer_dir: &Path,
    vocab_size: usize,
) -> Result<Vec<(String, Value)>, ExportError> {
    let path = tokenizer_dir.join(TOKENIZER_FILE);
    let bytes = std::fs::read(&path).map_err(failed("read", &path))?;
    let bad = |problem: String| ExportError::TokenizerFile { path: path.clone(), problem };
    let file: TokenizerFile = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    // Entries of the model without a token are never drawn, but they need a name of their own.
    let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![UNUSED; vocab_size];
    let plain = file.model.vocab.into_iter().map(|(token, id)| (token, id, NORMAL));
    let added = file
        .added_tokens
        .into_iter()
        .map(|added| (added.content, added.id, if added.special { CONTROL } else { NORMAL }));
    for (token, id, kind) in plain.chain(added) {
        let place = tokens.get_mut(id as usize).zip(kinds.get_mut(id as usize));
        let Some((slot, slot_kind)) = place else {
            return Err(ExportError::Vocabulary {
                path: tokenizer_dir.to_path_buf(),
                tokenizer: id as usize + 1,
                model: vocab_size,
            });
        };
        (*slot, *slot_kind) = (token, kind);
    }
    let merges = file.model.merges.into_iter().map(|merge| match merge {
        Merge::Pair(left, right) => format!("{left} {right}"),
        Merge::Text(text) => text,
    });
    let end = end_token(options.model_use);
    let end = tokens.iter().position(|token| token == end).ok_or_else(|| bad(format!("it has no {end}")))?;
    let kinds = kinds.into_iter().map(Value::I32).collect();
    let mut metadata = vec![
        ("model", Value::String("gpt2".to_owned())),
        ("pre", Value::String("smollm".to_owned())),
        ("merges", Value::strings(merges)),
        ("token_type", Value::Array(ValueKind::I32, kinds)),
        ("tokens", Value::strings(tokens)),
        ("bos_token_id", Value::U32(0)),
        ("eos_token_id", Value::U32(end as u32)),
        ("unknown_token_id", Value::U32(0)),
        ("padding_token_id", Value::U32(end as u32)),
        ("add_bos_token", Value::Bool(false)),
        ("add_space_prefix", Value::Bool(false)),
    ]
    .into_iter()
    .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
    .collect::<Vec<_>>();
    if options.model_use == ModelUse::Chat {
        let template = chat_template(tokenizer_dir)?;
        metadata.push(("tokenizer.chat_template".to_owned(), Value::String(template)));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
