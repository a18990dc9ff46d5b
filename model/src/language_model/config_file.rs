//! `config.json`.

use super::{ModelFileError, Precision};
use crate::config::ModelConfig;
use crate::files::failed;
use serde::Deserialize;
use std::path::Path;

/// The fields of `config.json` that matter here. `transformers` 4 writes `rope_theta` and `rope_scaling`, 5 puts
/// both into `rope_parameters`; both read what [`config_json`] writes.
#[derive(Deserialize)]
struct LlamaConfig {
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<RopeParameters>,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// `transformers`' default.
fn silu() -> String {
    "silu".to_owned()
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
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": precision,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    format!("{json:#}\n")
}

/// The shape in the `config.json` at `path`.
pub(super) fn read(path: &Path) -> Result<ModelConfig, ModelFileError> {
    let shape = |problem: String| ModelFileError::Shape { path: path.to_path_buf(), problem };
    let bytes = std::fs::read(path).map_err(failed("read", path))?;
    let llama: LlamaConfig = serde_json::from_slice(&bytes).map_err(|error| shape(error.to_string()))?;
    let rope = llama.rope_parameters.as_ref();
    let rope_type = rope.and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
    for (strange, problem) in [
        (
            !llama.architectures.iter().any(|name| name == "LlamaForCausalLM"),
            format!("architectures {:?}", llama.architectures),
        ),
        (llama.rope_scaling.is_some(), "rope_scaling is set".to_owned()),
        (rope_type != "default", format!("rope_type is {rope_type}")),
        (llama.hidden_act != "silu", format!("hidden_act is {}", llama.hidden_act)),
        (llama.attention_bias || llama.mlp_bias, "it has biases".to_owned()),
        (
            llama.head_dim.is_some_and(|head_dim| {
                head_dim.checked_mul(llama.num_attention_heads) != Some(llama.hidden_size)
            }),
            format!("head_dim {:?} is not hidden_size / num_attention_heads", llama.head_dim),
        ),
    ] {
        if strange {
            return Err(shape(problem));
        }
    }
    let config = ModelConfig {
        vocab_size: llama.vocab_size,
        hidden_size: llama.hidden_size,
        intermediate_size: llama.intermediate_size,
        layers: llama.num_hidden_layers,
        heads: llama.num_attention_heads,
        kv_heads: llama.num_key_value_heads.unwrap_or(llama.num_attention_heads),
        context_tokens: llama.max_position_embeddings,
        // `transformers`' default.
        rope_theta: rope.and_then(|rope| rope.rope_theta).or(llama.rope_theta).unwrap_or(10_000.0),
        rms_norm_eps: llama.rms_norm_eps,
        tied_embeddings: llama.tie_word_embeddings,
    };
    config.check()?;
    Ok(config)
}
