//! AdamW with the gradient's norm clipped.

use crate::kernels::{AdamStep, Backend};
use serde::{Deserialize, Serialize};

/// The optimizer's constants.
///
/// Source of the defaults: huggingface/smollm `text/pretraining/smollm1/`; weight decay applies to every
/// parameter, as huggingface/nanotron does unless told otherwise (`weight_decay_exclude_named_params`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerOptions {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, as a share of the weight times the learning rate.
    pub weight_decay: f64,
    /// Longest gradient (Euclidean norm over all parameters); longer ones are scaled down.
    pub clip: f64,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01, clip: 1.0 }
    }
}

impl OptimizerOptions {
    /// The constants of huggingface/transformers `src/transformers/training_args.py` (`TrainingArguments`),
    /// which fine-tuning recipes leave as they are.
    #[must_use]
    pub fn transformers() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, clip: 1.0 }
    }
}

/// The moments of every parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
    /// Updates made.
    pub updates: u64,
}

impl AdamW {
    /// Zero moments for `parameters` parameters.
    #[must_use]
    pub fn new(parameters: usize) -> Self {
        Self { m: vec![0.0; parameters], v: vec![0.0; parameters], updates: 0 }
    }

    /// Updates `params` by `grads` at learning rate `lr`, where `grad_norm` is the gradient's norm.
    pub fn update(
        &mut self,
        backend: &dyn Backend,
        options: &OptimizerOptions,
        lr: f64,
        params: &mut [f32],
        grads: &[f32],
        grad_norm: f64,
    ) {
        self.updates += 1;
        let power = |beta: f64| 1.0 - beta.powi(self.updates.min(i32::MAX as u64) as i32);
        let step = AdamStep {
            lr: lr as f32,
            beta1: options.beta1 as f32,
            beta2: options.beta2 as f32,
            eps: options.eps as f32,
            weight_decay: options.weight_decay as f32,
            correction1: power(options.beta1) as f32,
            correction2_root: power(options.beta2).sqrt() as f32,
            gradient_scale: (options.clip / (grad_norm + 1e-6)).min(1.0) as f32,
        };
        backend.adamw(&step, params, grads, &mut self.m, &mut self.v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Cpu;

    #[test]
    fn updates_are_those_of_torch_adamw() {
        // torch.optim.AdamW([1.0, -2.0], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01),
        // gradients [0.3, -0.4] then [0.1, 0.2]; norms are below the clip.
        let options = OptimizerOptions::default();
        let mut adam = AdamW::new(2);
        let mut params = vec![1.0f32, -2.0];
        for grads in [[0.3f32, -0.4], [0.1, 0.2]] {
            let norm = Cpu.sum_of_squares(&grads).sqrt();
            adam.update(&Cpu, &options, 0.1, &mut params, &grads, norm);
        }
        for (got, want) in params.iter().zip(TORCH_AFTER_TWO) {
            assert!((got - want).abs() < 1e-6, "{params:?}");
        }
    }

    #[test]
    fn long_gradients_are_scaled_to_the_clip() {
        let options = OptimizerOptions::default();
        let (mut long, mut short) = (AdamW::new(1), AdamW::new(1));
        let (mut a, mut b) = (vec![0.0f32], vec![0.0f32]);
        long.update(&Cpu, &options, 0.1, &mut a, &[8.0], 8.0);
        short.update(&Cpu, &options, 0.1, &mut b, &[1.0], 0.5);
        assert!((long.m[0] - short.m[0]).abs() < 1e-6);
    }

    const TORCH_AFTER_TWO: [f32; 2] = [0.8101048, -1.8692651];
}
