//! Activation buffers, kept between steps so that a step allocates nothing large.

use crate::config::ModelConfig;
use half::bf16;
use half::slice::HalfFloatSliceExt;

/// What the layers remember between the forward and the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every layer's activations, for training.
    Activations,
    /// Every layer's activations, rounded to bfloat16.
    Bfloat16,
    /// Every layer's input, from which the backward pass computes the rest again.
    Inputs,
    /// Nothing: all layers share one set of buffers, for scoring.
    Nothing,
}

/// Activations of one layer; all are `[tokens, width]`.
#[derive(Debug, Default)]
pub(super) struct LayerCache {
    pub input: Vec<f32>,
    pub normed: Vec<f32>,
    pub inverse_rms: Vec<f32>,
    pub qkv: Vec<f32>,
    pub attention: Vec<f32>,
    pub log_sums: Vec<f32>,
    pub middle: Vec<f32>,
    pub mlp_normed: Vec<f32>,
    pub mlp_inverse_rms: Vec<f32>,
    pub gate_up: Vec<f32>,
    pub activated: Vec<f32>,
}

impl LayerCache {
    /// What a layer leaves that is not computed from its other values by a row kernel.
    fn kept(&mut self) -> [&mut Vec<f32>; 5] {
        [&mut self.input, &mut self.qkv, &mut self.attention, &mut self.middle, &mut self.gate_up]
    }
}

/// What is kept of a layer whose [`LayerCache`] others use too.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The layer's input, where the rest is computed again.
    input: Vec<f32>,
    /// [`LayerCache::kept`], rounded.
    rounded: [Vec<bf16>; 5],
    log_sums: Vec<f32>,
}

/// Buffers of one network for batches of any size; they grow to the largest seen.
///
/// Memory while training, in bytes a token: `4 · layers × (6 · hidden + 2 · kv_width + 3 · intermediate)` with all
/// activations, `2 · layers × (4 · hidden + 2 · kv_width + 2 · intermediate)` in bfloat16, `4 · layers × hidden`
/// with inputs alone; and in the last two cases one layer in full.
#[derive(Debug)]
pub struct Workspace {
    pub(super) keep: Keep,
    pub(super) layers: Vec<LayerCache>,
    pub(super) stored: Vec<Stored>,
    pub(super) hidden: Vec<f32>,
    pub(super) normed: Vec<f32>,
    pub(super) inverse_rms: Vec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) losses: Vec<f32>,
    pub(super) grad: Vec<f32>,
    pub(super) grad_narrow: Vec<f32>,
    pub(super) grad_wide: Vec<f32>,
}

impl Workspace {
    /// Empty buffers for `config`.
    #[must_use]
    pub fn new(config: &ModelConfig, keep: Keep) -> Self {
        let (sets, stored) = match keep {
            Keep::Activations => (config.layers, 0),
            Keep::Bfloat16 | Keep::Inputs => (1, config.layers),
            Keep::Nothing => (1, 0),
        };
        Self {
            keep,
            layers: (0..sets).map(|_| LayerCache::default()).collect(),
            stored: (0..stored).map(|_| Stored::default()).collect(),
            hidden: Vec::new(),
            normed: Vec::new(),
            inverse_rms: Vec::new(),
            logits: Vec::new(),
            losses: Vec::new(),
            grad: Vec::new(),
            grad_narrow: Vec::new(),
            grad_wide: Vec::new(),
        }
    }

    /// Loss of every token of the last pass, in nats.
    #[must_use]
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// Bytes of all buffers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let cached = self.layers.iter().flat_map(|c| {
            let wide = [&c.qkv, &c.attention, &c.middle, &c.mlp_normed, &c.gate_up, &c.activated];
            wide.into_iter().chain([&c.input, &c.normed, &c.inverse_rms, &c.log_sums, &c.mlp_inverse_rms])
        });
        let shared = [&self.hidden, &self.normed, &self.inverse_rms, &self.logits, &self.losses];
        let gradients = [&self.grad, &self.grad_narrow, &self.grad_wide];
        let stored = self.stored.iter().flat_map(|stored| [&stored.input, &stored.log_sums]);
        let whole: usize = cached.chain(shared).chain(gradients).chain(stored).map(Vec::capacity).sum();
        let rounded = self.stored.iter().flat_map(|stored| &stored.rounded);
        4 * whole + 2 * rounded.map(Vec::capacity).sum::<usize>()
    }

    /// Puts away what the backward pass needs of layer `index`, where the next layer takes its buffers.
    pub(super) fn store(&mut self, index: usize) {
        let (Some(stored), Some(cache)) = (self.stored.get_mut(index), self.layers.first_mut()) else {
            return;
        };
        match self.keep {
            Keep::Inputs => {
                stored.input.clear();
                stored.input.extend_from_slice(&cache.input);
            }
            Keep::Bfloat16 => {
                stored.log_sums.clear();
                stored.log_sums.extend_from_slice(&cache.log_sums);
                for (rounded, values) in stored.rounded.iter_mut().zip(cache.kept()) {
                    rounded.resize(values.len(), bf16::ZERO);
                    rounded.convert_from_f32_slice(values);
                }
            }
            Keep::Activations | Keep::Nothing => {}
        }
    }

    /// Takes back what [`Workspace::store`] put away.
    pub(super) fn restore(&mut self, index: usize) {
        let (Some(stored), Some(cache)) = (self.stored.get_mut(index), self.layers.first_mut()) else {
            return;
        };
        match self.keep {
            Keep::Inputs => cache.input.copy_from_slice(&stored.input),
            Keep::Bfloat16 => {
                cache.log_sums.copy_from_slice(&stored.log_sums);
                for (rounded, values) in stored.rounded.iter().zip(cache.kept()) {
                    rounded.convert_to_f32_slice(values);
                }
            }
            Keep::Activations | Keep::Nothing => {}
        }
    }

    /// Gives every buffer its length for `tokens` tokens.
    pub(super) fn fit(&mut self, config: &ModelConfig, tokens: usize) {
        let hidden = tokens * config.hidden_size;
        let inner = tokens * config.intermediate_size;
        for layer in &mut self.layers {
            layer.input.resize(hidden, 0.0);
            layer.normed.resize(hidden, 0.0);
            layer.inverse_rms.resize(tokens, 0.0);
            layer.qkv.resize(tokens * config.qkv_width(), 0.0);
            layer.attention.resize(hidden, 0.0);
            layer.log_sums.resize(tokens * config.heads, 0.0);
            layer.middle.resize(hidden, 0.0);
            layer.mlp_normed.resize(hidden, 0.0);
            layer.mlp_inverse_rms.resize(tokens, 0.0);
            layer.gate_up.resize(2 * inner, 0.0);
            layer.activated.resize(inner, 0.0);
        }
        self.hidden.resize(hidden, 0.0);
        self.normed.resize(hidden, 0.0);
        self.inverse_rms.resize(tokens, 0.0);
        self.losses.resize(tokens, 0.0);
    }

    /// Gives the gradient buffers their length for `tokens` tokens.
    pub(super) fn fit_gradients(&mut self, config: &ModelConfig, tokens: usize) {
        self.grad.clear();
        self.grad.resize(tokens * config.hidden_size, 0.0);
        self.grad_narrow.resize(tokens * config.hidden_size, 0.0);
        let wide = config.intermediate_size.max(config.qkv_width());
        self.grad_wide.resize(tokens * wide, 0.0);
    }
}
