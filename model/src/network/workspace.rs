//! Activation buffers, kept between steps so that a step allocates nothing large.

use crate::config::ModelConfig;

/// What the layers remember between the forward and the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every layer's activations, for training.
    Activations,
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

/// Buffers of one network for batches of any size; they grow to the largest seen.
///
/// Memory while training, in `f32`s a token: `layers × (6 · hidden + 2 · kv_width + 3 · intermediate)`.
#[derive(Debug)]
pub struct Workspace {
    pub(super) layers: Vec<LayerCache>,
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
        let sets = match keep {
            Keep::Activations => config.layers,
            Keep::Nothing => 1,
        };
        Self {
            layers: (0..sets).map(|_| LayerCache::default()).collect(),
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
