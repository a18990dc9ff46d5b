//! SmolLM's forward and backward pass, written out over the [`kernels`](crate::kernels).
//!
//! Parameters and gradients are flat vectors; [`ParameterLayout`] says what lies where.

mod layout;
mod pass;
mod workspace;

pub use layout::{LayerLayout, ParameterLayout, TensorSlot};
pub use workspace::{Keep, Workspace};

use crate::config::{ConfigError, ModelConfig};
use crate::kernels::{Backend, RopeTable, Write};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

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
        f.debug_struct("Network").field("config", &self.config).finish_non_exhaustive()
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
        Ok(Self { config, layout, rope, backend: Box::new(backend) })
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
        let batch = Batch { sequences: 1, context: tokens.len(), tokens, targets: tokens, scales: &scales };
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
        let &Batch { sequences, context, tokens, targets, scales } = batch;
        let wanted = sequences.checked_mul(context);
        if tokens.is_empty()
            || [tokens.len(), targets.len(), scales.len()].iter().any(|&len| Some(len) != wanted)
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
            return Err(BatchError::Context { tokens: context, context_tokens: self.config.context_tokens });
        }
        let vocab_size = self.config.vocab_size;
        for list in [tokens, targets] {
            if let Some(place) = list.iter().position(|&token| token as usize >= vocab_size) {
                return Err(BatchError::Token { token: list[place], place, vocab_size });
            }
        }
        Ok(())
    }
}

fn weighted_sum(losses: &[f32], scales: &[f32]) -> f64 {
    // A token left out must not turn the sum into NaN.
    let kept = losses.iter().zip(scales).filter(|(_, scale)| **scale != 0.0);
    kept.map(|(&loss, &scale)| f64::from(loss) * f64::from(scale)).sum()
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
