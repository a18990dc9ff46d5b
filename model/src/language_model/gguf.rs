//! Weights out of a GGUF file, and what the two worlds call a tensor.

use super::read::check_finite;
use super::{LanguageModel, ModelFileError};
use crate::config::ModelConfig;
use crate::gguf::GgufFile;
use crate::infer::{LlamaConfig, LoadModelError};
use crate::kernels::Cpu;
use crate::network::{Network, TensorSlot};
use std::path::Path;

/// Loads a GGUF file's weights, whatever their kind, as `f32`.
pub(super) fn load(path: &Path) -> Result<LanguageModel, ModelFileError> {
    let file = GgufFile::open(path).map_err(LoadModelError::from)?;
    let llama = LlamaConfig::from_gguf(&file)?;
    if llama.head_dim * llama.heads != llama.hidden || llama.rope_dim != llama.head_dim {
        let problem = format!(
            "{} heads of {} dimensions, {} of them rotated, in a width of {}",
            llama.heads, llama.head_dim, llama.rope_dim, llama.hidden
        );
        return Err(ModelFileError::Shape { path: path.to_path_buf(), problem });
    }
    let config = ModelConfig {
        vocab_size: llama.vocab_size,
        hidden_size: llama.hidden,
        intermediate_size: llama.intermediate,
        layers: llama.layers,
        heads: llama.heads,
        kv_heads: llama.kv_heads,
        context_tokens: llama.context_tokens,
        rope_theta: llama.rope_base,
        // The file holds it in 32 bits; the shortest number that rounds to those is what was meant.
        rms_norm_eps: llama.norm_epsilon.to_string().parse().unwrap_or(f64::from(llama.norm_epsilon)),
        tied_embeddings: !file.tensors().contains_key("output.weight"),
    };
    let network = Network::new(config, Cpu)?;
    let mut parameters = vec![0f32; network.layout().total];
    for slot in network.layout().tensors() {
        let name = gguf_name(&slot.name);
        let tensor = file.require_tensor(&name).map_err(LoadModelError::from)?;
        if tensor.info.dims != gguf_dims(slot) {
            return Err(ModelFileError::Tensor {
                path: path.to_path_buf(),
                name,
                problem: format!(
                    "has dimensions {:?} where {:?} are needed",
                    tensor.info.dims,
                    gguf_dims(slot)
                ),
            });
        }
        let values = tensor.to_f32();
        check_finite(&values).map_err(|problem| ModelFileError::Tensor {
            path: path.to_path_buf(),
            name: name.clone(),
            problem,
        })?;
        let out = &mut parameters[slot.range.clone()];
        match gguf_order(network.config(), slot) {
            None => out.copy_from_slice(&values),
            Some(order) => {
                let width = slot.shape[1];
                for (row, source) in values.chunks_exact(width).zip(order) {
                    out[source * width..][..width].copy_from_slice(row);
                }
            }
        }
    }
    Ok(LanguageModel { network, parameters })
}

/// What llama.cpp calls a tensor of `transformers`.
///
/// Source: ggml-org/llama.cpp `gguf-py/gguf/tensor_mapping.py` and `constants.py` (LLAMA).
pub(crate) fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    const PARTS: [(&str, &str); 9] = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let name = name.replace("model.layers.", "blk.");
    PARTS.iter().fold(name, |name, (from, to)| name.replace(from, to))
}

/// A tensor's dimensions as GGUF has them, fastest first.
pub(crate) fn gguf_dims(slot: &TensorSlot) -> Vec<u64> {
    slot.shape.iter().rev().map(|&dim| dim as u64).collect()
}

/// Which of our rows stands at each place of the GGUF tensor, where the order differs: llama.cpp rotates
/// neighbouring dimensions of a query or key head where `transformers` rotates the first half against the second.
///
/// Source: ggml-org/llama.cpp `convert_hf_to_gguf.py` (`LlamaModel.permute`).
pub(crate) fn gguf_order(config: &ModelConfig, slot: &TensorSlot) -> Option<Vec<usize>> {
    if !(slot.name.ends_with("q_proj.weight") || slot.name.ends_with("k_proj.weight")) {
        return None;
    }
    let (dim, half) = (config.head_dim(), config.head_dim() / 2);
    let source = |row: usize| row / dim * dim + row % dim % 2 * half + row % dim / 2;
    Some((0..slot.shape[0]).map(source).collect())
}
