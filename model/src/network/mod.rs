//! SmolLM's forward and backward pass, written out over the [`kernels`](crate::kernels).
//!
//! Parameters and gradients are flat vectors; [`ParameterLayout`] says what lies where.

mod layout;
mod workspace;

pub use layout::{LayerLayout, ParameterLayout, TensorSlot};
pub use workspace::{Keep, Workspace};

use crate::config::{ConfigError, ModelConfig};
use crate::kernels::{AttentionShape, Backend, Layout, MatMul, RopeTable, Rotation, Write};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use workspace::LayerCache;

/// Values of logits held at a time by the output layer, at least.
const HEAD_VALUES: usize = 1 << 20;

/// Fewest rows of one output-layer chunk: below this the product is slower than its memory is worth.
const HEAD_ROWS: usize = 256;

/// Equally long token sequences with what is to be predicted after each token.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens in each.
    pub context: usize,
    /// Input tokens, `[sequences, context]`.
    pub tokens: &'a [u32],
    /// Token wanted at each place, same shape.
    pub targets: &'a [u32],
    /// Factor of each token's loss in the objective; 0 leaves a token out.
    pub scales: &'a [f32],
}

/// Why a batch cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A token is not in the vocabulary.
    #[error(
        "token {token} at place {place} is outside the model's vocabulary of {vocab_size}; encode the text with the model's own tokenizer"
    )]
    Token {
        /// The token.
        token: u32,
        /// Its index in the batch.
        place: usize,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// The slices' lengths disagree, or the batch is empty.
    #[error(
        "the batch has {tokens} tokens, {targets} targets and {scales} scales; each must be {sequences} × {context}, and not 0"
    )]
    Shape {
        /// Number of tokens.
        tokens: usize,
        /// Number of targets.
        targets: usize,
        /// Number of scales.
        scales: usize,
        /// Declared sequences.
        sequences: usize,
        /// Declared context.
        context: usize,
    },
    /// A sequence is longer than the model's context.
    #[error(
        "a sequence of {tokens} tokens is longer than the model's context of {context_tokens}; shorten it or raise model.context_tokens"
    )]
    Context {
        /// Length of the sequence.
        tokens: usize,
        /// The model's context.
        context_tokens: usize,
    },
}

/// A model shape with the back end that computes it.
pub struct Network {
    config: ModelConfig,
    layout: ParameterLayout,
    rope: RopeTable,
    backend: Box<dyn Backend>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// A network of shape `config` computed by `backend`.
    ///
    /// # Errors
    /// [`ConfigError`] if the shape is inconsistent.
    pub fn new(config: ModelConfig, backend: impl Backend + 'static) -> Result<Self, ConfigError> {
        let layout = ParameterLayout::new(&config)?;
        let rope = RopeTable::new(config.context_tokens, config.head_dim(), config.rope_theta);
        Ok(Self {
            config,
            layout,
            rope,
            backend: Box::new(backend),
        })
    }

    /// The shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where each parameter lies.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The kernels.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Fresh parameters: norms 1, everything else normal with deviation `1 / √hidden`, and `1 / √(2 · layers)`
    /// of that for the two projections that write to the residual stream.
    ///
    /// Source: huggingface/nanotron `src/nanotron/scaling/parametrization.py` (`StandardParametrizator`),
    /// deviation from huggingface/smollm `text/pretraining/smollm1/`.
    #[must_use]
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        let deviation = 1.0 / (self.config.hidden_size as f64).sqrt();
        let residual = deviation / (2.0 * self.config.layers as f64).sqrt();
        let mut params = vec![1f32; self.layout.total];
        for (stream, tensor) in self.layout.tensors().iter().enumerate() {
            if tensor.shape.len() == 1 {
                continue;
            }
            let writes_residual =
                tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
            let deviation = if writes_residual { residual } else { deviation };
            // One stream a tensor: a layer's numbers do not depend on the sizes of the others.
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream as u64);
            fill_normal(&mut params[tensor.range.clone()], deviation, &mut rng);
        }
        params
    }

    /// Adds the gradient of `Σ scales[t] · loss[t]` to `grads`; returns that sum.
    ///
    /// # Errors
    /// [`BatchError`] if the batch does not fit the model.
    pub fn accumulate_gradients(
        &self,
        params: &[f32],
        batch: &Batch<'_>,
        grads: &mut [f32],
        workspace: &mut Workspace,
    ) -> Result<f64, BatchError> {
        self.check(batch)?;
        self.forward(params, batch, workspace);
        workspace.fit_gradients(&self.config, batch.tokens.len());
        self.head(params, batch, Some(grads), workspace);
        self.backward(params, batch, grads, workspace);
        Ok(weighted_sum(&workspace.losses, batch.scales))
    }

    /// Computes every token's loss (see [`Workspace::losses`]); returns `Σ scales[t] · loss[t]`.
    ///
    /// # Errors
    /// [`BatchError`] if the batch does not fit the model.
    pub fn losses(
        &self,
        params: &[f32],
        batch: &Batch<'_>,
        workspace: &mut Workspace,
    ) -> Result<f64, BatchError> {
        self.check(batch)?;
        self.forward(params, batch, workspace);
        self.head(params, batch, None, workspace);
        Ok(weighted_sum(&workspace.losses, batch.scales))
    }

    /// Logits `[tokens, vocab]` after every token of one sequence.
    ///
    /// # Errors
    /// [`BatchError`] if the sequence does not fit the model.
    pub fn logits(&self, params: &[f32], tokens: &[u32]) -> Result<Vec<f32>, BatchError> {
        let scales = vec![0.0; tokens.len()];
        let batch = Batch {
            sequences: 1,
            context: tokens.len(),
            tokens,
            targets: tokens,
            scales: &scales,
        };
        self.check(&batch)?;
        let mut workspace = Workspace::new(&self.config, Keep::Nothing);
        self.forward(params, &batch, &mut workspace);
        let mut logits = vec![0.0; tokens.len() * self.config.vocab_size];
        self.project(
            &params[self.layout.embedding.clone()],
            &workspace.normed,
            &mut logits,
            self.config.hidden_size,
            Write::Replace,
        );
        Ok(logits)
    }

    fn check(&self, batch: &Batch<'_>) -> Result<(), BatchError> {
        let &Batch {
            sequences,
            context,
            tokens,
            targets,
            scales,
        } = batch;
        let wanted = sequences.checked_mul(context);
        if tokens.is_empty()
            || [tokens.len(), targets.len(), scales.len()]
                .iter()
                .any(|&len| Some(len) != wanted)
        {
            return Err(BatchError::Shape {
                tokens: tokens.len(),
                targets: targets.len(),
                scales: scales.len(),
                sequences,
                context,
            });
        }
        if context > self.config.context_tokens {
            return Err(BatchError::Context {
                tokens: context,
                context_tokens: self.config.context_tokens,
            });
        }
        let vocab_size = self.config.vocab_size;
        for list in [tokens, targets] {
            if let Some(place) = list.iter().position(|&token| token as usize >= vocab_size) {
                return Err(BatchError::Token {
                    token: list[place],
                    place,
                    vocab_size,
                });
            }
        }
        Ok(())
    }

    fn attention_shape(&self, batch: &Batch<'_>) -> AttentionShape {
        AttentionShape {
            sequences: batch.sequences,
            context: batch.context,
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim(),
        }
    }

    /// `out = x · weightᵀ`, weight rows of `depth`.
    fn project(&self, weight: &[f32], x: &[f32], out: &mut [f32], depth: usize, write: Write) {
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

    fn forward(&self, params: &[f32], batch: &Batch<'_>, workspace: &mut Workspace) {
        let (backend, hidden) = (&self.backend, self.config.hidden_size);
        let eps = self.config.rms_norm_eps as f32;
        let shape = self.attention_shape(batch);
        workspace.fit(&self.config, batch.tokens.len());
        backend.embed(
            &params[self.layout.embedding.clone()],
            batch.tokens,
            &mut workspace.hidden,
        );
        let sets = workspace.layers.len();
        for (index, layer) in self.layout.layers.iter().enumerate() {
            let cache: &mut LayerCache = &mut workspace.layers[index % sets];
            cache.input.copy_from_slice(&workspace.hidden);
            backend.rms_norm(
                &cache.input,
                &params[layer.attention_norm.clone()],
                eps,
                &mut cache.normed,
                &mut cache.inverse_rms,
            );
            self.project(
                &params[layer.qkv.clone()],
                &cache.normed,
                &mut cache.qkv,
                hidden,
                Write::Replace,
            );
            backend.rope(&shape, &self.rope, Rotation::Forward, &mut cache.qkv);
            backend.attention(
                &shape,
                &cache.qkv,
                &mut cache.attention,
                &mut cache.log_sums,
            );
            cache.middle.copy_from_slice(&cache.input);
            self.project(
                &params[layer.output.clone()],
                &cache.attention,
                &mut cache.middle,
                hidden,
                Write::Add,
            );
            backend.rms_norm(
                &cache.middle,
                &params[layer.mlp_norm.clone()],
                eps,
                &mut cache.mlp_normed,
                &mut cache.mlp_inverse_rms,
            );
            self.project(
                &params[layer.gate_up.clone()],
                &cache.mlp_normed,
                &mut cache.gate_up,
                hidden,
                Write::Replace,
            );
            backend.swiglu(
                self.config.intermediate_size,
                &cache.gate_up,
                &mut cache.activated,
            );
            workspace.hidden.copy_from_slice(&cache.middle);
            self.project(
                &params[layer.down.clone()],
                &cache.activated,
                &mut workspace.hidden,
                self.config.intermediate_size,
                Write::Add,
            );
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
    /// With `grads`, also its backward pass into `workspace.grad_narrow` and the embedding's gradient.
    fn head(
        &self,
        params: &[f32],
        batch: &Batch<'_>,
        mut grads: Option<&mut [f32]>,
        workspace: &mut Workspace,
    ) {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let embedding = &params[self.layout.embedding.clone()];
        let chunk = (HEAD_VALUES / vocab).max(HEAD_ROWS);
        for start in (0..batch.tokens.len()).step_by(chunk) {
            let rows = start..(start + chunk).min(batch.tokens.len());
            let values = rows.start * hidden..rows.end * hidden;
            let normed = &workspace.normed[values.clone()];
            workspace.logits.resize(rows.len() * vocab, 0.0);
            self.project(
                embedding,
                normed,
                &mut workspace.logits,
                hidden,
                Write::Replace,
            );
            self.backend.cross_entropy(
                &mut workspace.logits,
                &batch.targets[rows.clone()],
                &batch.scales[rows.clone()],
                &mut workspace.losses[rows],
            );
            if let Some(grads) = grads.as_deref_mut() {
                let grad_embedding = &mut grads[self.layout.embedding.clone()];
                self.project_backward(
                    embedding,
                    normed,
                    &workspace.logits,
                    &mut workspace.grad_narrow[values],
                    grad_embedding,
                    hidden,
                );
            }
        }
    }

    fn backward(
        &self,
        params: &[f32],
        batch: &Batch<'_>,
        grads: &mut [f32],
        workspace: &mut Workspace,
    ) {
        let (backend, hidden, inner) = (
            &self.backend,
            self.config.hidden_size,
            self.config.intermediate_size,
        );
        let tokens = batch.tokens.len();
        let shape = self.attention_shape(batch);
        let Workspace {
            layers,
            hidden: last,
            inverse_rms,
            grad,
            grad_narrow,
            grad_wide,
            ..
        } = workspace;
        let norm = self.layout.final_norm.clone();
        backend.rms_norm_backward(
            grad_narrow,
            last,
            &params[norm.clone()],
            inverse_rms,
            grad,
            &mut grads[norm],
        );
        for (layer, cache) in self.layout.layers.iter().zip(layers).rev() {
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
        backend.embed_backward(
            grad,
            batch.tokens,
            &mut grads[self.layout.embedding.clone()],
        );
    }
}

fn weighted_sum(losses: &[f32], scales: &[f32]) -> f64 {
    // A token left out must not turn the sum into NaN.
    let kept = losses
        .iter()
        .zip(scales)
        .filter(|(_, scale)| **scale != 0.0);
    kept.map(|(&loss, &scale)| f64::from(loss) * f64::from(scale))
        .sum()
}

/// Fills `out` with normal numbers by the Box–Muller transform.
fn fill_normal(out: &mut [f32], deviation: f64, rng: &mut ChaCha8Rng) {
    use rand::Rng;
    for pair in out.chunks_mut(2) {
        // 1 − u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        for (value, part) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
            *value = (radius * part) as f32;
        }
    }
}

#[cfg(test)]
mod tests;
