//! A model's settings, from GGUF metadata.

use crate::gguf::{GgufFile, Value};

use super::LoadModelError;
use super::kernels::LANES;

/// The shape of a Llama-like model. Keys: `ggml-org/ggml`, `docs/gguf.md`, section LLM.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward network.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, each shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Leading dimensions of a head that are rotated.
    pub rope_dim: usize,
    /// Base of the rotation's frequencies.
    pub rope_base: f64,
    /// ε of the norms.
    pub norm_epsilon: f32,
    /// Tokens that the model was trained to look back over.
    pub context_tokens: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
}

impl LlamaConfig {
    /// Reads and checks the settings.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, LoadModelError> {
        let architecture = file.require_str("general.architecture")?;
        if architecture != "llama" {
            return Err(LoadModelError::Architecture {
                path: file.path().into(),
                found: architecture.into(),
            });
        }
        let refuse = |key: &str, value: String, allowed: String| LoadModelError::Setting {
            path: file.path().into(),
            key: format!("llama.{key}"),
            value,
            allowed,
        };
        let within = |key: &str, value: u64, most: u64| match (1..=most).contains(&value) {
            true => Ok(value as usize),
            false => Err(refuse(key, value.to_string(), format!("1 to {most}"))),
        };
        let number = |key: &str, most: u64| within(key, file.require_u64(&format!("llama.{key}"))?, most);
        let number_or = |key: &str, default: usize, most: u64| match file
            .metadata()
            .contains_key(&format!("llama.{key}"))
        {
            true => number(key, most),
            false => within(key, default as u64, most),
        };
        let layers = number("block_count", 1_024)?;
        let hidden = number("embedding_length", 65_536)?;
        let intermediate = number("feed_forward_length", 1 << 20)?;
        let heads = number("attention.head_count", 1_024)?;
        let kv_heads = number_or("attention.head_count_kv", heads, 1_024)?;
        let head_dim = number_or("attention.key_length", hidden / heads, 256)?;
        let value_dim = number_or("attention.value_length", head_dim, 256)?;
        let rope_dim = number_or("rope.dimension_count", head_dim, 256)?;
        let context_tokens = number("context_length", 1 << 24)?;
        let vocab_size = file.require_tensor("token_embd.weight")?.info.dims[..].get(1).copied().unwrap_or(0);
        let vocab_size = within("vocab_size", vocab_size, 1 << 22)?;
        if !head_dim.is_multiple_of(LANES) || value_dim != head_dim {
            let allowed = format!("a multiple of {LANES}, equal to the value length");
            return Err(refuse("attention.key_length", head_dim.to_string(), allowed));
        }
        if !heads.is_multiple_of(kv_heads) {
            let allowed = format!("a divisor of the {heads} query heads");
            return Err(refuse("attention.head_count_kv", kv_heads.to_string(), allowed));
        }
        if !rope_dim.is_multiple_of(2) || rope_dim > head_dim {
            let allowed = format!("even and at most {head_dim}");
            return Err(refuse("rope.dimension_count", rope_dim.to_string(), allowed));
        }
        let norm_epsilon = file.require_f64("llama.attention.layer_norm_rms_epsilon")?;
        if !(norm_epsilon > 0.0 && norm_epsilon < 1.0) {
            let (value, allowed) = (norm_epsilon.to_string(), "between 0 and 1".into());
            return Err(refuse("attention.layer_norm_rms_epsilon", value, allowed));
        }
        let rope_base = match file.metadata().contains_key("llama.rope.freq_base") {
            true => file.require_f64("llama.rope.freq_base")?,
            false => 10_000.0,
        };
        if !(rope_base > 1.0 && rope_base.is_finite()) {
            let (value, allowed) = (rope_base.to_string(), "more than 1".into());
            return Err(refuse("rope.freq_base", value, allowed));
        }
        let scaling = file.metadata().get("llama.rope.scaling.type");
        if let Some(scaling) = scaling.and_then(Value::as_str).filter(|&s| s != "none") {
            return Err(refuse("rope.scaling.type", scaling.into(), "none".into()));
        }
        Ok(Self {
            layers,
            hidden,
            intermediate,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            rope_base,
            norm_epsilon: norm_epsilon as f32,
            context_tokens,
            vocab_size,
        })
    }
}
