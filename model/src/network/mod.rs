//! SmolLM's forward and backward pass, written out over the [`kernels`](crate::kernels).
//!
//! Parameters and gradients are flat vectors; [`ParameterLayout`] says what lies where.

mod continuations;
mod layout;
mod pass;
mod workspace;

pub use continuations::Continuations;
pub use layout::{LayerLayout, ParameterLayout, TensorSlot};
pub use workspace::{Keep, Workspace};

use crate::config::{ConfigError, ModelConfig};
#[cfg(doc)]
use crate::kernels::AttentionShape;
use crate::kernels::{Backend, RopeTable, Write};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Token sequences, one after another, with what is to be predicted after each token.
///
/// A sequence is what attends to itself: a whole row of the training data, or one of the documents packed
/// into it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// First token of each sequence, then the number of tokens (see [`AttentionShape::bounds`]);
    /// [`even_bounds`] gives those of equally long sequences.
    pub bounds: &'a [usize],
    /// Input tokens.
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
        "the batch has {tokens} tokens, {targets} targets and {scales} scales; there must be equally many, and not 0"
    )]
    Shape {
        /// Number of tokens.
        tokens: usize,
        /// Number of targets.
        targets: usize,
        /// Number of scales.
        scales: usize,
    },
    /// The sequences' bounds do not ascend from 0 to the number of tokens.
    #[error(
        "the sequence bounds of a batch of {tokens} tokens do not ascend from 0 to {tokens} (at place {place})"
    )]
    Bounds {
        /// Number of tokens.
        tokens: usize,
        /// Index of the first wrong bound.
        place: usize,
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
        self.head(params, batch.targets, batch.scales, Some(grads), workspace);
        self.backward(params, batch, grads, workspace);
        Ok(weighted_sum(&workspace.losses, batch.scales))
    }

    /// As [`Network::accumulate_gradients`], with factors that depend on the losses: `weigh` is given every
    /// token's loss (nats) and returns the tokens' factors. `batch.scales` are not read. The output layer is
    /// computed twice, all else once.
    ///
    /// # Errors
    /// [`BatchError`] if the batch does not fit the model.
    pub fn accumulate_weighed_gradients(
        &self,
        params: &[f32],
        batch: &Batch<'_>,
        weigh: impl FnOnce(&[f32]) -> Vec<f32>,
        grads: &mut [f32],
        workspace: &mut Workspace,
    ) -> Result<f64, BatchError> {
        self.check(batch)?;
        self.forward(params, batch, workspace);
        self.head(params, batch.targets, batch.scales, None, workspace);
        let scales = weigh(&workspace.losses);
        let batch = Batch { scales: &scales, ..*batch };
        self.check(&batch)?;
        workspace.fit_gradients(&self.config, batch.tokens.len());
        self.head(params, batch.targets, batch.scales, Some(grads), workspace);
        self.backward(params, &batch, grads, workspace);
        Ok(weighted_sum(&workspace.losses, &scales))
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
        self.head(params, batch.targets, batch.scales, None, workspace);
        Ok(weighted_sum(&workspace.losses, batch.scales))
    }

    /// Logits `[tokens, vocab]` after every token of one sequence.
    ///
    /// # Errors
    /// [`BatchError`] if the sequence does not fit the model.
    pub fn logits(&self, params: &[f32], tokens: &[u32]) -> Result<Vec<f32>, BatchError> {
        let scales = vec![0.0; tokens.len()];
        let batch = Batch { bounds: &[0, tokens.len()], tokens, targets: tokens, scales: &scales };
        self.check(&batch)?;
        let mut workspace = Workspace::new(&self.config, Keep::Nothing);
        self.forward(params, &batch, &mut workspace);
        let mut logits = vec![0.0; tokens.len() * self.config.vocab_size];
        self.project(
            &params[self.layout.head.clone()],
            &workspace.normed,
            &mut logits,
            self.config.hidden_size,
            Write::Replace,
        );
        Ok(logits)
    }

    fn check(&self, batch: &Batch<'_>) -> Result<(), BatchError> {
        let &Batch { bounds, tokens, targets, scales } = batch;
        if tokens.is_empty() || [targets.len(), scales.len()].iter().any(|&len| len != tokens.len()) {
            return Err(BatchError::Shape {
                tokens: tokens.len(),
                targets: targets.len(),
                scales: scales.len(),
            });
        }
        let ends = (bounds.first() == Some(&0), bounds.last() == Some(&tokens.len()));
        let descent = bounds.windows(2).position(|pair| pair[0] >= pair[1]).map(|place| place + 1);
        let wrong = match ends {
            (false, _) => Some(0),
            (true, false) => descent.or(Some(bounds.len() - 1)),
            (true, true) => descent,
        };
        if let Some(place) = wrong {
            return Err(BatchError::Bounds { tokens: tokens.len(), place });
        }
        self.check_tokens(bounds, [tokens, targets])
    }

    /// Sequences within the model's context, tokens in its vocabulary.
    fn check_tokens(&self, bounds: &[usize], lists: [&[u32]; 2]) -> Result<(), BatchError> {
        let longest = bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        if longest > self.config.context_tokens {
            return Err(BatchError::Context { tokens: longest, context_tokens: self.config.context_tokens });
        }
        let vocab_size = self.config.vocab_size;
        for list in lists {
            if let Some(place) = list.iter().position(|&token| token as usize >= vocab_size) {
                return Err(BatchError::Token { token: list[place], place, vocab_size });
            }
        }
        Ok(())
    }
}

/// The bounds of `sequences` sequences of `context` tokens each.
#[must_use]
pub fn even_bounds(sequences: usize, context: usize) -> Vec<usize> {
    (0..=sequences).map(|sequence| sequence * context).collect()
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
