//! Where each parameter lies in the flat parameter vector, and what `transformers` calls it.

use crate::config::{ConfigError, ModelConfig};
use std::ops::Range;

/// Ranges of one layer's parameters.
///
/// Projections that read the same input lie next to each other, so that one product serves them all.
#[derive(Clone, Debug)]
pub struct LayerLayout {
    /// RMSNorm before attention, `[hidden]`.
    pub attention_norm: Range<usize>,
    /// Query, key and value projections, `[qkv_width, hidden]`.
    pub qkv: Range<usize>,
    /// Attention's output projection, `[hidden, hidden]`.
    pub output: Range<usize>,
    /// RMSNorm before the feed-forward layer, `[hidden]`.
    pub mlp_norm: Range<usize>,
    /// Gate and up projections, `[2 · intermediate, hidden]`.
    pub gate_up: Range<usize>,
    /// Down projection, `[hidden, intermediate]`.
    pub down: Range<usize>,
}

/// One tensor as `transformers`' `LlamaForCausalLM` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Place in the flat vector.
    pub range: Range<usize>,
}

/// Places of all parameters in one flat vector.
#[derive(Clone, Debug)]
pub struct ParameterLayout {
    /// Embedding table, `[vocab, hidden]`.
    pub embedding: Range<usize>,
    /// The layers in order.
    pub layers: Vec<LayerLayout>,
    /// Last RMSNorm, `[hidden]`.
    pub final_norm: Range<usize>,
    /// Output layer, `[vocab, hidden]`: the embedding table itself where the two are tied.
    pub head: Range<usize>,
    /// Length of the flat vector.
    pub total: usize,
    tensors: Vec<TensorSlot>,
}

impl ParameterLayout {
    /// Lays out the parameters of `config`.
    ///
    /// # Errors
    /// [`ConfigError`] if the shape is inconsistent.
    pub fn new(config: &ModelConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let mut builder = Builder::default();
        let (hidden, inner, dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
        let embedding = builder.take(&[("model.embed_tokens.weight", config.vocab_size)], Some(hidden));
        let layers = (0..config.layers)
            .map(|layer| {
                builder.prefix = format!("model.layers.{layer}.");
                LayerLayout {
                    attention_norm: builder.take(&[("input_layernorm.weight", hidden)], None),
                    qkv: builder.take(
                        &[
                            ("self_attn.q_proj.weight", config.heads * dim),
                            ("self_attn.k_proj.weight", config.kv_heads * dim),
                            ("self_attn.v_proj.weight", config.kv_heads * dim),
                        ],
                        Some(hidden),
                    ),
                    output: builder.take(&[("self_attn.o_proj.weight", hidden)], Some(hidden)),
                    mlp_norm: builder.take(&[("post_attention_layernorm.weight", hidden)], None),
                    gate_up: builder.take(
                        &[("mlp.gate_proj.weight", inner), ("mlp.up_proj.weight", inner)],
                        Some(hidden),
                    ),
                    down: builder.take(&[("mlp.down_proj.weight", hidden)], Some(inner)),
                }
            })
            .collect();
        builder.prefix.clear();
        let final_norm = builder.take(&[("model.norm.weight", hidden)], None);
        let head = match config.tied_embeddings {
            true => embedding.clone(),
            false => builder.take(&[("lm_head.weight", config.vocab_size)], Some(hidden)),
        };
        Ok(Self { embedding, layers, final_norm, head, total: builder.total, tensors: builder.tensors })
    }

    /// Every tensor with its `transformers` name, in the order of the flat vector.
    #[must_use]
    pub fn tensors(&self) -> &[TensorSlot] {
        &self.tensors
    }
}

#[derive(Default)]
struct Builder {
    prefix: String,
    total: usize,
    tensors: Vec<TensorSlot>,
}

impl Builder {
    /// Adds neighbouring tensors of `rows` rows each and returns the range they fill together.
    fn take(&mut self, parts: &[(&str, usize)], columns: Option<usize>) -> Range<usize> {
        let start = self.total;
        for (name, rows) in parts {
            let range = self.total..self.total + rows * columns.unwrap_or(1);
            self.total = range.end;
            self.tensors.push(TensorSlot {
                name: format!("{}{name}", self.prefix),
                shape: std::iter::once(*rows).chain(columns).collect(),
                range,
            });
        }
        start..self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn tensors_cover_the_vector_without_gaps() {
        let config = ModelConfig::preset(Preset::M135);
        let layout = ParameterLayout::new(&config).unwrap();
        assert_eq!(layout.total, config.parameters().unwrap());
        let mut end = 0;
        for tensor in layout.tensors() {
            assert_eq!(tensor.range.start, end);
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.range.len());
            end = tensor.range.end;
        }
        assert_eq!(end, layout.total);
        let k = layout.tensors().iter().find(|t| t.name == "model.layers.29.self_attn.k_proj.weight");
        assert_eq!(k.unwrap().shape, [192, 576]);
    }
}
