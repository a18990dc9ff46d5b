//! Two ways to fit a linear regression: closed-form ridge, and AdamW.
//!
//! Both work on standardised dimensions (mean 0, deviation 1 over the training
//! pages; features of the text a little wider), because a vector of length 1 has values near 0.05, for which the
//! published learning rate would be far too small; the scaling is folded into
//! the weights at the end. All sums are f64 in one order: the same pages give
//! the same bits.

mod batches;

pub use batches::Sampling;

use crate::metrics::{CLASSES, Evaluation, class};
use batches::Batches;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How strongly each page counts, by its annotated whole score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeighting {
    /// Every page counts the same, as published.
    Uniform,
    /// Pages of rare scores count more: by one over the square root of their
    /// share.
    SquareRoot,
    /// Each score counts the same in sum (at most 10 times a page of the
    /// commonest score).
    Balanced,
}

/// A page of a rare score counts at most this many times one of the commonest.
const LARGEST_CLASS_WEIGHT: f64 = 10.0;

/// The AdamW fit. Defaults as huggingface/cosmopedia,
/// `classification/train_edu_bert.py`, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamwOptions {
    /// Learning rate at the start; it falls linearly to 0.
    pub learning_rate: f64,
    /// Decoupled weight decay a step, times the learning rate.
    pub weight_decay: f64,
    /// Passes over the training pages.
    pub epochs: usize,
    /// Pages a step.
    pub batch_pages: usize,
    /// Steps from one evaluation to the next, at most; a short run is
    /// evaluated at least 40 times.
    pub evaluate_every_steps: usize,
    /// Steps at the least, for sets too small for the published number of
    /// passes (ours; 450,000 pages take 35,000).
    pub minimum_steps: usize,
    /// Evaluations without a better macro-F1 after which the fit stops (ours).
    pub patience_evaluations: usize,
    /// Share of the training pages kept apart to decide when to stop (ours).
    pub validation_share: f64,
}

impl AdamwOptions {
    /// The published recipe and nothing else: 20 passes, evaluated every 1,000 steps and at the end, no
    /// early end.
    #[must_use]
    pub fn published() -> Self {
        Self { minimum_steps: 0, patience_evaluations: usize::MAX, ..Self::default() }
    }
}

impl Default for AdamwOptions {
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            weight_decay: 0.0,
            epochs: 20,
            batch_pages: 256,
            evaluate_every_steps: 1_000,
            minimum_steps: 4_000,
            patience_evaluations: 20,
            validation_share: 0.1,
        }
    }
}

/// How much more a feature of the text may weigh than a dimension of the vector, before a fit holds it back
/// alike: there are few of the first, and each says something by itself. Of 1, 3, 10 and 30 the last two did
/// best on our annotated files.
const FEATURE_EMPHASIS: f64 = 10.0;

/// Pages to fit: a vector, features behind it, and a clipped score each.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    pub(crate) vector: &'a [f32],
    /// How many values at the vector's end are features of the text.
    pub(crate) features: usize,
    pub(crate) score: f32,
}

/// A fitted regression on vectors as they are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    pub(crate) weights: Vec<f64>,
    pub(crate) bias: f64,
}

impl Linear {
    pub(crate) fn predict(&self, vector: &[f32]) -> f32 {
        let product = |(weight, value): (&f64, &f32)| weight * f64::from(*value);
        (self.bias + self.weights.iter().zip(vector).map(product).sum::<f64>()) as f32
    }

    /// Predicted and annotated scores, page by page.
    pub(crate) fn pairs(&self, pages: &[Page]) -> Vec<(f32, f32)> {
        pages.iter().map(|page| (self.predict(page.vector), page.score)).collect()
    }

    pub(crate) fn evaluate(&self, pages: &[Page]) -> Evaluation {
        Evaluation::new(&self.pairs(pages))
    }
}

/// The scaling of each dimension.
struct Standard {
    mean: Vec<f64>,
    /// One over the deviation, more for features; 0 for a dimension that never changes.
    scale: Vec<f64>,
}

impl Standard {
    fn of(pages: &[Page]) -> Self {
        let hidden = pages.first().map_or(0, |page| page.vector.len());
        let count = pages.len().max(1) as f64;
        let mut mean = vec![0.0; hidden];
        let mut square = vec![0.0; hidden];
        for page in pages {
            for (at, &value) in page.vector.iter().enumerate() {
                mean[at] += f64::from(value) / count;
            }
        }
        for page in pages {
            for (at, &value) in page.vector.iter().enumerate() {
                square[at] += (f64::from(value) - mean[at]).powi(2) / count;
            }
        }
        let first_feature = hidden - pages.first().map_or(0, |page| page.features).min(hidden);
        let scale = |(at, &variance): (usize, &f64)| {
            let emphasis = if at < first_feature { 1.0 } else { FEATURE_EMPHASIS.sqrt() };
            if variance > 1e-12 { emphasis * variance.sqrt().recip() } else { 0.0 }
        };
        let scale: Vec<f64> = square.iter().enumerate().map(scale).collect();
        Self { mean, scale }
    }

    /// Writes a vector's standardised values into `row`.
    fn fill(&self, row: &mut [f64], vector: &[f32]) {
        for (at, (out, &value)) in row.iter_mut().zip(vector).enumerate() {
            *out = (f64::from(value) - self.mean[at]) * self.scale[at];
        }
    }

    /// The same regression on vectors as they are.
    fn unfold(&self, weights: &[f64], bias: f64) -> Linear {
        let weights: Vec<f64> = weights.iter().zip(&self.scale).map(|(w, s)| w * s).collect();
        let shift: f64 = weights.iter().zip(&self.mean).map(|(w, m)| w * m).sum();
        Linear { weights, bias: bias - shift }
    }
}

/// A weight for each page; their mean is 1.
fn page_weights(pages: &[Page], weighting: ClassWeighting) -> Vec<f64> {
    let mut counts = [0_usize; CLASSES];
    for page in pages {
        counts[class(page.score)] += 1;
    }
    let most = counts.iter().max().copied().unwrap_or(0) as f64;
    let weight = |page: &Page| {
        let ratio = most / counts[class(page.score)] as f64;
        match weighting {
            ClassWeighting::Uniform => 1.0,
            ClassWeighting::SquareRoot => ratio.sqrt().min(LARGEST_CLASS_WEIGHT),
            ClassWeighting::Balanced => ratio.min(LARGEST_CLASS_WEIGHT),
        }
    };
    let mut weights: Vec<f64> = pages.iter().map(weight).collect();
    let mean = weights.iter().sum::<f64>() / pages.len().max(1) as f64;
    for weight in &mut weights {
        *weight /= mean;
    }
    weights
}

/// Weighted ridge regression at several strengths, one fit each:
/// least `mean(page weight × (score − prediction)²) + λ·|weights|²`.
pub(crate) fn ridge(pages: &[Page], weighting: ClassWeighting, lambdas: &[f64]) -> Vec<Linear> {
    let standard = Standard::of(pages);
    let page_weights = page_weights(pages, weighting);
    let hidden = standard.mean.len();
    let count = pages.len().max(1) as f64;
    let mut row = vec![0.0; hidden];
    let (mut row_mean, mut score_mean) = (vec![0.0; hidden], 0.0);
    for (page, weight) in pages.iter().zip(&page_weights) {
        standard.fill(&mut row, page.vector);
        score_mean += weight * f64::from(page.score) / count;
        for (total, value) in row_mean.iter_mut().zip(&row) {
            *total += weight * value / count;
        }
    }
    let mut gram = vec![0.0; hidden * hidden];
    let mut right = vec![0.0; hidden];
    for (page, weight) in pages.iter().zip(&page_weights) {
        standard.fill(&mut row, page.vector);
        for (value, mean) in row.iter_mut().zip(&row_mean) {
            *value -= mean;
        }
        for (i, &left) in row.iter().enumerate() {
            let left = left * weight / count;
            right[i] += left * (f64::from(page.score) - score_mean);
            for (sum, value) in gram[i * hidden..=i * hidden + i].iter_mut().zip(&row) {
                *sum += left * value;
            }
        }
    }
    let fit = |lambda: &f64| {
        let weights = solve_positive(&gram, &right, lambda.max(1e-9));
        let at_mean: f64 = weights.iter().zip(&row_mean).map(|(w, m)| w * m).sum();
        standard.unfold(&weights, score_mean - at_mean)
    };
    lambdas.iter().map(fit).collect()
}

/// Solves `(A + λI)·x = b` by Cholesky; `lower` is A's lower triangle, row by
/// row, A positive semi-definite and λ > 0.
fn solve_positive(lower: &[f64], right: &[f64], lambda: f64) -> Vec<f64> {
    let size = right.len();
    let mut factor = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..=row {
            let known: f64 = (0..column).map(|k| factor[row * size + k] * factor[column * size + k]).sum();
            let rest = lower[row * size + column] - known;
            factor[row * size + column] = if row == column {
                // Rounding may reach below λ, the least value it can have.
                (rest + lambda).max(lambda).sqrt()
            } else {
                rest / factor[column * size + column]
            };
        }
    }
    let mut solution = right.to_vec();
    for row in 0..size {
        let known: f64 = (0..row).map(|k| factor[row * size + k] * solution[k]).sum();
        solution[row] = (solution[row] - known) / factor[row * size + row];
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|k| factor[k * size + row] * solution[k]).sum();
        solution[row] = (solution[row] - known) / factor[row * size + row];
    }
    solution
}

/// AdamW on the squared error; stops early, and gives the weights, by the
/// macro-F1 on `validation` (ties: by the smaller mean absolute error). With no
/// validation pages it takes every step and gives the last weights.
pub(crate) fn adamw(
    pages: &[Page],
    validation: &[Page],
    weighting: ClassWeighting,
    sampling: Sampling,
    options: &AdamwOptions,
    seed: u64,
) -> Linear {
    // The defaults of huggingface/transformers' trainer, which the published recipe keeps.
    const BETA: (f64, f64) = (0.9, 0.999);
    const EPSILON: f64 = 1e-8;
    let standard = Standard::of(pages);
    let page_weights = page_weights(pages, weighting);
    let hidden = standard.mean.len();
    let batch_pages = options.batch_pages.clamp(1, pages.len().max(1));
    let published_steps = options.epochs * pages.len().div_ceil(batch_pages);
    let steps = published_steps.max(options.minimum_steps).max(1);
    let every = options.evaluate_every_steps.min(steps.div_ceil(40)).max(1);

    let mut weights = vec![0.0; hidden];
    let mut row = vec![0.0; hidden];
    let score_sum: f64 = pages.iter().map(|page| f64::from(page.score)).sum();
    let mut bias = score_sum / pages.len().max(1) as f64;
    let (mut first, mut second) = (vec![0.0; hidden + 1], vec![0.0; hidden + 1]);
    let mut gradient = vec![0.0; hidden + 1];
    let mut best = (standard.unfold(&weights, bias), f64::MIN, f64::MAX);
    let mut worse_evaluations = 0;
    let mut batches = Batches::new(pages, batch_pages, sampling, seed);
    for step in 1..=steps {
        gradient.fill(0.0);
        for &index in batches.next() {
            let page = &pages[index];
            standard.fill(&mut row, page.vector);
            let product: f64 = row.iter().zip(&weights).map(|(value, weight)| value * weight).sum();
            let error =
                2.0 * page_weights[index] * (bias + product - f64::from(page.score)) / batch_pages as f64;
            for (sum, value) in gradient.iter_mut().zip(&row) {
                *sum += error * value;
            }
            gradient[hidden] += error;
        }
        let left = 1.0 - (step - 1) as f64 / steps as f64;
        let rate = options.learning_rate * left;
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let correct = (1.0 - BETA.0.powi(exponent), 1.0 - BETA.1.powi(exponent));
        for (at, &slope) in gradient.iter().enumerate() {
            first[at] = BETA.0 * first[at] + (1.0 - BETA.0) * slope;
            second[at] = BETA.1 * second[at] + (1.0 - BETA.1) * slope * slope;
            let move_by = first[at] / correct.0 / ((second[at] / correct.1).sqrt() + EPSILON);
            // The bias is not decayed: it would pull every score towards 0.
            match weights.get_mut(at) {
                Some(weight) => *weight -= rate * (move_by + options.weight_decay * *weight),
                None => bias -= rate * move_by,
            }
        }
        if validation.is_empty() {
            continue;
        }
        if step % every == 0 || step == steps {
            let now = standard.unfold(&weights, bias);
            let figures = now.evaluate(validation);
            let (f1, distance) = (figures.macro_f1, figures.mean_absolute_error);
            if f1 > best.1 || (f1 == best.1 && distance < best.2) {
                best = (now, f1, distance);
                worse_evaluations = 0;
            } else {
                worse_evaluations += 1;
                if worse_evaluations >= options.patience_evaluations {
                    break;
                }
            }
        }
    }
    if validation.is_empty() {
        return standard.unfold(&weights, bias);
    }
    best.0
}

#[cfg(test)]
pub(crate) mod tests;
