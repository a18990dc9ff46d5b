//! How far figures vary from fold to fold.

use crate::Evaluation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A figure over the folds of a cross-validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (over n − 1); 0 for one fold.
    pub deviation: f64,
}

impl Spread {
    /// Of the folds' values; zeros when there is none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, deviation: (squares / (count - 1.0).max(1.0)).sqrt() }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.3} ± {:.3}", self.mean, self.deviation)
    }
}

/// Figures at one threshold over the folds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThresholdSpread {
    /// The whole score from which a page is kept, 1 to 5.
    pub threshold: u8,
    /// Precision.
    pub precision: Spread,
    /// Recall.
    pub recall: Spread,
    /// F1.
    pub f1: Spread,
}

/// Every figure of an evaluation over the folds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoldFigures {
    /// Folds, those of all repeats together.
    pub folds: usize,
    /// Macro-F1 over the whole scores.
    pub macro_f1: Spread,
    /// Share of pages with the right whole score.
    pub accuracy: Spread,
    /// Mean distance of the clipped prediction from the annotated score.
    pub mean_absolute_error: Spread,
    /// Figures at each threshold, 1 to 5.
    pub thresholds: Vec<ThresholdSpread>,
}

impl FoldFigures {
    /// Of the evaluations of all folds.
    #[must_use]
    pub fn of(folds: &[Evaluation]) -> Self {
        let over =
            |figure: &dyn Fn(&Evaluation) -> f64| Spread::of(&folds.iter().map(figure).collect::<Vec<f64>>());
        let at = |threshold: u8| ThresholdSpread {
            threshold,
            precision: over(&|fold| fold.at(threshold).map_or(0.0, |row| row.precision)),
            recall: over(&|fold| fold.at(threshold).map_or(0.0, |row| row.recall)),
            f1: over(&|fold| fold.f1_at(threshold)),
        };
        Self {
            folds: folds.len(),
            macro_f1: over(&|fold| fold.macro_f1),
            accuracy: over(&|fold| fold.accuracy),
            mean_absolute_error: over(&|fold| fold.mean_absolute_error),
            thresholds: (1..=5).map(at).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_two_folds_worked_by_hand() {
        let right = Evaluation::new(&[(3.0, 3.0), (0.0, 0.0)]);
        let half = Evaluation::new(&[(3.0, 3.0), (0.0, 4.0)]);
        let figures = FoldFigures::of(&[right, half]);
        assert_eq!((figures.folds, figures.thresholds.len()), (2, 5));
        assert_eq!(figures.accuracy.mean, 0.75);
        assert!((figures.accuracy.deviation - 0.125_f64.sqrt()).abs() < 1e-12);
        let at = figures.thresholds[2];
        assert_eq!((at.threshold, at.precision.mean, at.recall.mean), (3, 1.0, 0.75));
        assert_eq!(figures.mean_absolute_error.to_string(), "1.000 ± 1.414");
        assert_eq!(Spread::of(&[0.5]).to_string(), "0.500 ± 0.000");
        assert_eq!(Spread::of(&[]).mean, 0.0);
    }
}
