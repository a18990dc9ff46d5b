//! The forward and the backward pass.

use super::continuations::SharedAttention;
use super::workspace::{Keep, LayerCache, Workspace};
use super::{Batch, LayerLayout, Network};
use crate::kernels::{AttentionShape, Layout, MatMul, Rotation, Write};

/// Values of logits held at a time by the output layer, at least.
const HEAD_VALUES: usize = 1 << 20;

/// Fewest rows of one output-layer chunk. Each chunk reads the whole output layer and its gradient from memory
/// (200 MB for a vocabulary of 49,152 at 576 channels), which more rows share.
const HEAD_ROWS: usize = 512;

impl Network {
    fn attention_shape<'a>(&self, bounds: &'a [usize]) -> AttentionShape<'a> {
        AttentionShape {
            bounds,
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim(),
        }
    }

    /// `out = x · weightᵀ`, weight rows of `depth`.
    pub(super) fn project(&self, weight: &[f32], x: &[f32], out: &mut [f32], depth: usize, write: Write) {
        let shape = MatMul {
            rows: x.len() / depth,
            cols: weight.len() / depth,
            depth,
            left: Layout::Plain,
            right: Layout::Transposed,
            write,
        };
        self.backend.matmul(&shape, x, weight, out);
    }

    /// Takes the gradient `grad_y` of `y = x · weightᵀ` back: to `x` (overwritten) and the weight (added).
    fn project_backward(
        &self,
        weight: &[f32],
        x: &[f32],
        grad_y: &[f32],
        grad_x: &mut [f32],
        grad_weight: &mut [f32],
        depth: usize,
    ) {
        let rows = x.len() / depth;
        let width = weight.len() / depth;
        let to_weight = MatMul {
            rows: width,
            cols: depth,
            depth: rows,
            left: Layout::Transposed,
            right: Layout::Plain,
            write: Write::Add,
        };
        self.backend.matmul(&to_weight, grad_y, x, grad_weight);
        let to_input = MatMul {
            rows,
            cols: depth,
            depth: width,
            left: Layout::Plain,
            right: Layout::Plain,
            write: Write::Replace,
        };
        self.backend.matmul(&to_input, grad_y, weight, grad_x);
    }

    /// From a layer's input to the middle of its residual stream; attention as `shape` says, or `shared`.
    fn layer_attention(
        &self,
        params: &[f32],
        layer: &LayerLayout,
        shape: &AttentionShape<'_>,
        shared: Option<&mut SharedAttention<'_>>,
        cache: &mut LayerCache,
    ) {
        let (backend, hidden) = (&self.backend, self.config.hidden_size);
        self.norm_input(params, layer, cache);
        self.project(&params[layer.qkv.clone()], &cache.normed, &mut cache.qkv, hidden, Write::Replace);
        match shared {
            Some(shared) => shared.attend(self, &cache.qkv, &mut cache.attention),
            None => {
                backend.rope(shape, &self.rope, Rotation::Forward, &mut cache.qkv);
                backend.attention(shape, &cache.qkv, &mut cache.attention, &mut cache.log_sums);
            }
        }
        cache.middle.copy_from_slice(&cache.input);
        self.project(&params[layer.output.clone()], &cache.attention, &mut cache.middle, hidden, Write::Add);
    }

    /// From the middle of a layer's residual stream to what its last projection reads.
    fn layer_mlp(&self, params: &[f32], layer: &LayerLayout, cache: &mut LayerCache) {
        self.norm_middle(params, layer, cache);
        self.project(
            &params[layer.gate_up.clone()],
            &cache.mlp_normed,
            &mut cache.gate_up,
            self.config.hidden_size,
            Write::Replace,
        );
        self.backend.swiglu(self.config.intermediate_size, &cache.gate_up, &mut cache.activated);
    }

    fn norm_input(&self, params: &[f32], layer: &LayerLayout, cache: &mut LayerCache) {
        let (weight, eps) = (&params[layer.attention_norm.clone()], self.config.rms_norm_eps as f32);
        self.backend.rms_norm(&cache.input, weight, eps, &mut cache.normed, &mut cache.inverse_rms);
    }

    fn norm_middle(&self, params: &[f32], layer: &LayerLayout, cache: &mut LayerCache) {
        let (weight, eps) = (&params[layer.mlp_norm.clone()], self.config.rms_norm_eps as f32);
        let (out, inverse_rms) = (&mut cache.mlp_normed, &mut cache.mlp_inverse_rms);
        self.backend.rms_norm(&cache.middle, weight, eps, out, inverse_rms);
    }

    /// Fills a shared cache with layer `index` as the forward pass left it.
    fn revive(&self, params: &[f32], index: usize, shape: &AttentionShape<'_>, workspace: &mut Workspace) {
        let layer = &self.layout.layers[index];
        workspace.restore(index);
        let cache = &mut workspace.layers[0];
        match workspace.keep {
            Keep::Inputs => {
                self.layer_attention(params, layer, shape, None, cache);
                self.layer_mlp(params, layer, cache);
            }
            Keep::Bfloat16 => {
                self.norm_input(params, layer, cache);
                self.norm_middle(params, layer, cache);
                self.backend.swiglu(self.config.intermediate_size, &cache.gate_up, &mut cache.activated);
            }
            Keep::Activations | Keep::Nothing => {}
        }
    }

    pub(super) fn forward(&self, params: &[f32], batch: &Batch<'_>, workspace: &mut Workspace) {
        self.forward_with(params, batch.tokens, None, batch.bounds, workspace);
    }

    /// The forward pass over `tokens`, in sequences with these `bounds` or as `shared` says.
    pub(super) fn forward_with(
        &self,
        params: &[f32],
        tokens: &[u32],
        mut shared: Option<&mut SharedAttention<'_>>,
        bounds: &[usize],
        workspace: &mut Workspace,
    ) {
        let (backend, eps) = (&self.backend, self.config.rms_norm_eps as f32);
        let shape = self.attention_shape(bounds);
        workspace.fit(&self.config, tokens.len());
        backend.embed(&params[self.layout.embedding.clone()], tokens, &mut workspace.hidden);
        let sets = workspace.layers.len();
        for (index, layer) in self.layout.layers.iter().enumerate() {
            let cache = &mut workspace.layers[index % sets];
            cache.input.copy_from_slice(&workspace.hidden);
            self.layer_attention(params, layer, &shape, shared.as_deref_mut(), cache);
            self.layer_mlp(params, layer, cache);
            workspace.hidden.copy_from_slice(&cache.middle);
            self.project(
                &params[layer.down.clone()],
                &cache.activated,
                &mut workspace.hidden,
                self.config.intermediate_size,
                Write::Add,
            );
            workspace.store(index);
        }
        backend.rms_norm(
            &workspace.hidden,
            &params[self.layout.final_norm.clone()],
            eps,
            &mut workspace.normed,
            &mut workspace.inverse_rms,
        );
    }

    /// The output layer and its loss by chunks of rows, so that all logits never exist at once.
    /// With `grads`, also its backward pass into `workspace.grad_narrow` and the output layer's gradient.
    pub(super) fn head(
        &self,
        params: &[f32],
        targets: &[u32],
        scales: &[f32],
        mut grads: Option<&mut [f32]>,
        workspace: &mut Workspace,
    ) {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let weight = &params[self.layout.head.clone()];
        let chunk = (HEAD_VALUES / vocab).max(HEAD_ROWS);
        for start in (0..targets.len()).step_by(chunk) {
            let rows = start..(start + chunk).min(targets.len());
            let values = rows.start * hidden..rows.end * hidden;
            let normed = &workspace.normed[values.clone()];
            workspace.logits.resize(rows.len() * vocab, 0.0);
            self.project(weight, normed, &mut workspace.logits, hidden, Write::Replace);
            self.backend.cross_entropy(
                &mut workspace.logits,
                &targets[rows.clone()],
                &scales[rows.clone()],
                &mut workspace.losses[rows],
            );
            if let Some(grads) = grads.as_deref_mut() {
                self.project_backward(
                    weight,
                    normed,
                    &workspace.logits,
                    &mut workspace.grad_narrow[values],
                    &mut grads[self.layout.head.clone()],
                    hidden,
                );
            }
        }
    }

    pub(super) fn backward(
        &self,
        params: &[f32],
        batch: &Batch<'_>,
        grads: &mut [f32],
        workspace: &mut Workspace,
    ) {
        let (backend, hidden, inner) =
            (&self.backend, self.config.hidden_size, self.config.intermediate_size);
        let tokens = batch.tokens.len();
        let shape = self.attention_shape(batch.bounds);
        let norm = self.layout.final_norm.clone();
        backend.rms_norm_backward(
            &workspace.grad_narrow,
            &workspace.hidden,
            &params[norm.clone()],
            &workspace.inverse_rms,
            &mut workspace.grad,
            &mut grads[norm],
        );
        let sets = workspace.layers.len();
        for (index, layer) in self.layout.layers.iter().enumerate().rev() {
            self.revive(params, index, &shape, workspace);
            let Workspace { layers, grad, grad_narrow, grad_wide, .. } = &mut *workspace;
            let cache = &mut layers[index % sets];
            let wide = &mut grad_wide[..tokens * inner];
            let down = layer.down.clone();
            self.project_backward(
                &params[down.clone()],
                &cache.activated,
                grad,
                wide,
                &mut grads[down],
                inner,
            );
            backend.swiglu_backward(inner, &mut cache.gate_up, wide);
            let gate_up = layer.gate_up.clone();
            self.project_backward(
                &params[gate_up.clone()],
                &cache.mlp_normed,
                &cache.gate_up,
                grad_narrow,
                &mut grads[gate_up],
                hidden,
            );
            let norm = layer.mlp_norm.clone();
            backend.rms_norm_backward(
                grad_narrow,
                &cache.middle,
                &params[norm.clone()],
                &cache.mlp_inverse_rms,
                grad,
                &mut grads[norm],
            );

            let output = layer.output.clone();
            self.project_backward(
                &params[output.clone()],
                &cache.attention,
                grad,
                grad_narrow,
                &mut grads[output],
                hidden,
            );
            let wide = &mut grad_wide[..tokens * shape.qkv_width()];
            backend.attention_backward(
                &shape,
                &cache.qkv,
                &cache.attention,
                &cache.log_sums,
                grad_narrow,
                wide,
            );
            backend.rope(&shape, &self.rope, Rotation::Backward, wide);
            let qkv = layer.qkv.clone();
            self.project_backward(
                &params[qkv.clone()],
                &cache.normed,
                wide,
                grad_narrow,
                &mut grads[qkv],
                hidden,
            );
            let norm = layer.attention_norm.clone();
            backend.rms_norm_backward(
                grad_narrow,
                &cache.input,
                &params[norm.clone()],
                &cache.inverse_rms,
                grad,
                &mut grads[norm],
            );
        }
        backend.embed_backward(&workspace.grad, batch.tokens, &mut grads[self.layout.embedding.clone()]);
    }
}
