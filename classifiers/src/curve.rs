//! What precision and recall become as the threshold on the raw score moves.

use crate::metrics::class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Thresholds of the grid from one whole score to the next.
const STEPS_A_POINT: f32 = 10.0;
/// Points of a plotted curve at most.
const LARGEST_CURVE: usize = 200;

/// Figures of keeping the pages whose raw score is at least a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// The threshold, a raw score.
    pub threshold: f32,
    /// Pages kept.
    pub kept: usize,
    /// Kept pages that should be, over kept pages; 1 when none is kept, as scikit-learn has it.
    pub precision: f64,
    /// Kept pages that should be, over pages that should be; 0 when there is none.
    pub recall: f64,
    /// Harmonic mean of the two; 0 when both are, or none is kept.
    pub f1: f64,
}

/// Precision and recall of "annotated at least so high" by the raw score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrecisionRecall {
    /// Pages annotated at or above this whole score should be kept.
    pub positive_from: u8,
    /// Pages that should be kept.
    pub positives: usize,
    /// Area under the curve as a sum of steps (scikit-learn's `average_precision_score`).
    pub average_precision: f64,
    /// Thresholds from 0 to 5 in steps of 0.1.
    pub grid: Vec<CurvePoint>,
    /// The curve to plot, from the highest threshold to the lowest: every score that occurs, or 200 of
    /// them evenly spread.
    pub curve: Vec<CurvePoint>,
}

impl PrecisionRecall {
    /// The curve of (predicted, annotated) pairs.
    #[must_use]
    pub fn new(pairs: &[(f32, f32)], positive_from: u8) -> Self {
        let mut ranked: Vec<(f32, bool)> = pairs
            .iter()
            .map(|&(predicted, annotated)| (predicted, class(annotated) >= usize::from(positive_from)))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let positives = ranked.iter().filter(|(_, positive)| *positive).count();
        let mut curve = Vec::new();
        let (mut hits, mut average_precision, mut last_recall) = (0, 0.0, 0.0);
        for (at, &(score, positive)) in ranked.iter().enumerate() {
            hits += usize::from(positive);
            // Pages of one score are kept together.
            if ranked.get(at + 1).is_some_and(|next| next.0 == score) {
                continue;
            }
            let point = point(score, hits, at + 1, positives);
            average_precision += (point.recall - last_recall) * point.precision;
            last_recall = point.recall;
            curve.push(point);
        }
        let grid = (0..=50_u8).map(|tenths| {
            let threshold = f32::from(tenths) / STEPS_A_POINT;
            let kept = ranked.partition_point(|(score, _)| *score >= threshold);
            let hits = ranked[..kept].iter().filter(|(_, positive)| *positive).count();
            point(threshold, hits, kept, positives)
        });
        Self { positive_from, positives, average_precision, grid: grid.collect(), curve: thin(curve) }
    }

    /// The grid's threshold with the highest F1; the lowest of equals.
    #[must_use]
    pub fn best_threshold(&self) -> Option<&CurvePoint> {
        self.grid.iter().rev().max_by(|a, b| a.f1.total_cmp(&b.f1))
    }
}

fn point(threshold: f32, hits: usize, kept: usize, positives: usize) -> CurvePoint {
    let share = |part: usize, whole: usize, empty: f64| {
        if whole == 0 { empty } else { part as f64 / whole as f64 }
    };
    CurvePoint {
        threshold,
        kept,
        precision: share(hits, kept, 1.0),
        recall: share(hits, positives, 0.0),
        f1: share(2 * hits, kept + positives, 0.0),
    }
}

/// At most [`LARGEST_CURVE`] points, the first and the last among them.
fn thin(curve: Vec<CurvePoint>) -> Vec<CurvePoint> {
    if curve.len() <= LARGEST_CURVE {
        return curve;
    }
    let last = curve.len() - 1;
    (0..LARGEST_CURVE).filter_map(|at| curve.get(at * last / (LARGEST_CURVE - 1)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (predicted, annotated), and what scikit-learn finds in them for annotations of 3 or more, printed
    /// by `tests/parity/curve_sklearn.py`.
    #[test]
    fn the_curve_is_that_of_scikit_learn() {
        let found = PrecisionRecall::new(&PAIRS, 3);
        assert!((found.average_precision - AVERAGE_PRECISION).abs() < 1e-9, "{}", found.average_precision);
        // scikit-learn goes from the lowest threshold up.
        let rows = found.curve.iter().rev().map(|p| (p.threshold, p.precision, p.recall));
        for ((threshold, precision, recall), golden) in rows.zip(CURVE) {
            assert!((threshold - golden.0).abs() < 1e-6);
            assert!((precision - golden.1).abs() < 1e-12 && (recall - golden.2).abs() < 1e-12, "{golden:?}");
        }
        assert_eq!(found.curve.len(), CURVE.len());
    }

    include!("curve_golden.rs");

    #[test]
    fn the_grid_keeps_from_each_threshold_up() {
        let found = PrecisionRecall::new(&[(0.25, 0.0), (2.0, 3.0), (2.6, 1.0), (4.9, 5.0)], 3);
        assert_eq!((found.grid.len(), found.positives), (51, 2));
        let at = |tenths: usize| {
            (found.grid[tenths].kept, found.grid[tenths].precision, found.grid[tenths].recall)
        };
        assert_eq!(at(0), (4, 0.5, 1.0));
        assert_eq!(at(20), (3, 2.0 / 3.0, 1.0));
        assert_eq!(at(21), (2, 0.5, 0.5));
        assert_eq!(at(50), (0, 1.0, 0.0));
        let best = found.best_threshold().unwrap();
        assert!((best.threshold - 0.3).abs() < 1e-6 && best.f1 == 0.8, "{best:?}");
    }

    #[test]
    fn no_pages_and_many_pages_are_fine() {
        let none = PrecisionRecall::new(&[], 3);
        assert_eq!((none.average_precision, none.curve.len(), none.grid[0].recall), (0.0, 0, 0.0));
        let many: Vec<(f32, f32)> = (0..5_000_u16).map(|i| (f32::from(i) / 1e3, f32::from(i % 6))).collect();
        let many = PrecisionRecall::new(&many, 3);
        assert_eq!((many.curve.len(), many.curve[199].kept), (LARGEST_CURVE, 5_000));
        assert_eq!(many.curve[0].kept, 1);
    }
}
