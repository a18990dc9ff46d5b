//! The model's weights, from a GGUF file.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::gguf::{GgufFile, Tensor};

use super::kernels::Isa;
use super::packed::PackedMatrix;
use super::{ChatTokenizer, LlamaConfig, LoadModelError};

/// How to load a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// Longest sequence, prompt and answer together, in tokens; the model's own context (8,192
    /// for SmolLM2) where that is shorter. Longer prompts are refused.
    pub max_context_tokens: usize,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { max_context_tokens: 8_192 }
    }
}

pub(crate) struct Layer {
    pub attention_norm: Vec<f32>,
    pub query: PackedMatrix,
    pub key: PackedMatrix,
    pub value: PackedMatrix,
    pub output: PackedMatrix,
    pub feed_norm: Vec<f32>,
    pub gate: PackedMatrix,
    pub up: PackedMatrix,
    pub down: PackedMatrix,
}

/// A Llama-shaped model ready to run, with its tokenizer. It is immutable: share it in an `Arc`.
/// Work is spread over the rayon pool of the calling thread.
pub struct Model {
    pub(crate) config: LlamaConfig,
    pub(crate) tokenizer: ChatTokenizer,
    pub(crate) max_context_tokens: usize,
    pub(crate) isa: Isa,
    pub(crate) embedding: PackedMatrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    /// None: tied to the embedding.
    pub(crate) head: Option<PackedMatrix>,
    /// Cosine and sine of each position's angles, `[max_context_tokens][rope_dim / 2]`.
    pub(crate) rope: Vec<[f32; 2]>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.config).field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a `.gguf` file.
    pub fn load(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self, LoadModelError> {
        Self::from_gguf(&GgufFile::open(path)?, options)
    }

    /// Loads from an open file, which is not needed afterwards.
    pub fn from_gguf(file: &GgufFile, options: &ModelOptions) -> Result<Self, LoadModelError> {
        let config = LlamaConfig::from_gguf(file)?;
        let tokenizer = ChatTokenizer::from_gguf(file, config.vocab_size)?;
        let mut tensors = Tensors { file, seen: BTreeSet::new() };
        let (hidden, wide) = (config.hidden, config.intermediate);
        let (queries, pairs) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let embedding = tensors.matrix("token_embd.weight", hidden, config.vocab_size)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let name = |part: &str| format!("blk.{index}.{part}.weight");
            layers.push(Layer {
                attention_norm: tensors.vector(&name("attn_norm"), hidden)?,
                query: tensors.matrix(&name("attn_q"), hidden, queries)?,
                key: tensors.matrix(&name("attn_k"), hidden, pairs)?,
                value: tensors.matrix(&name("attn_v"), hidden, pairs)?,
                output: tensors.matrix(&name("attn_output"), queries, hidden)?,
                feed_norm: tensors.vector(&name("ffn_norm"), hidden)?,
                gate: tensors.matrix(&name("ffn_gate"), hidden, wide)?,
                up: tensors.matrix(&name("ffn_up"), hidden, wide)?,
                down: tensors.matrix(&name("ffn_down"), wide, hidden)?,
            });
        }
        let output_norm = tensors.vector("output_norm.weight", hidden)?;
        let head = match file.tensors().contains_key("output.weight") {
            true => Some(tensors.matrix("output.weight", hidden, config.vocab_size)?),
            false => None,
        };
        tensors.finish()?;
        let max_context_tokens = options.max_context_tokens.min(config.context_tokens);
        if !(2..=MOST_CONTEXT_TOKENS).contains(&max_context_tokens) {
            return Err(LoadModelError::Setting {
                path: file.path().into(),
                key: "max_context_tokens".into(),
                value: max_context_tokens.to_string(),
                allowed: format!("2 to {MOST_CONTEXT_TOKENS}"),
            });
        }
        Ok(Self {
            rope: rope_table(&config, max_context_tokens),
            config,
            tokenizer,
            max_context_tokens,
            isa: Isa::detect(),
            embedding,
            layers,
            output_norm,
            head,
        })
    }

    /// The model's settings.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &ChatTokenizer {
        &self.tokenizer
    }

    /// Memory that the weights take, in bytes.
    pub fn weight_bytes(&self) -> usize {
        let of_layer = |layer: &Layer| {
            let Layer { query, key, value, output, gate, up, down, attention_norm, feed_norm } = layer;
            let matrices = [query, key, value, output, gate, up, down].map(PackedMatrix::bytes);
            matrices.iter().sum::<usize>() + 4 * (attention_norm.len() + feed_norm.len())
        };
        let head = self.head.as_ref().map_or(0, PackedMatrix::bytes);
        self.layers.iter().map(of_layer).sum::<usize>()
            + (self.embedding.bytes() + head + 4 * self.output_norm.len())
    }

    /// Longest sequence in tokens, prompt and answer together.
    pub fn max_context_tokens(&self) -> usize {
        self.max_context_tokens
    }
}

/// The table of rotations would take 0.25 GiB beyond this.
const MOST_CONTEXT_TOKENS: usize = 1 << 20;

/// Angle of pair i at position p: p / base^(2i / rope_dim), in f64.
fn rope_table(config: &LlamaConfig, positions: usize) -> Vec<[f32; 2]> {
    let mut table = Vec::with_capacity(positions * config.rope_dim / 2);
    for position in 0..positions {
        for pair in 0..config.rope_dim / 2 {
            let power = (2 * pair) as f64 / config.rope_dim as f64;
            let angle = position as f64 / config.rope_base.powf(power);
            table.push([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    table
}

/// Hands out tensors, checks their shapes and remembers which were used.
struct Tensors<'a> {
    file: &'a GgufFile,
    seen: BTreeSet<String>,
}

impl<'a> Tensors<'a> {
    fn take(&mut self, name: &str, dims: &[usize]) -> Result<Tensor<'a>, LoadModelError> {
        let tensor = self.file.require_tensor(name)?;
        let expected: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        if tensor.info.dims != expected {
            return Err(LoadModelError::Shape {
                path: self.file.path().into(),
                name: name.into(),
                expected,
                found: tensor.info.dims.clone(),
            });
        }
        self.seen.insert(name.into());
        Ok(tensor)
    }

    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<PackedMatrix, LoadModelError> {
        Ok(PackedMatrix::new(self.take(name, &[inputs, outputs])?))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, LoadModelError> {
        Ok(self.take(name, &[length])?.to_f32())
    }

    /// Fails when the file holds a tensor (a bias, say) that was not asked for.
    fn finish(self) -> Result<(), LoadModelError> {
        match self.file.tensors().keys().find(|name| !self.seen.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                Err(LoadModelError::UnknownTensor { path: self.file.path().into(), name: name.clone() })
            }
        }
    }
}
