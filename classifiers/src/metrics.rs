//! How well predicted scores agree with the annotated ones.

use serde::{Deserialize, Serialize};

/// Classes of a whole score: 0 to 5.
pub(crate) const CLASSES: usize = 6;
/// The highest score.
pub(crate) const HIGHEST_SCORE: f32 = 5.0;

/// The whole score, `round(clip(score, 0, 5))`, halves to the even side as
/// Python's `round` does (huggingface/cosmopedia, `classification/run_edu_bert.py`).
#[must_use]
pub fn int_score(score: f32) -> i64 {
    // The clip makes the cast exact; NaN, which no checked head gives, would be 0.
    score.clamp(0.0, HIGHEST_SCORE).round_ties_even() as i64
}

/// The class of a score as an index.
pub(crate) fn class(score: f32) -> usize {
    usize::try_from(int_score(score)).unwrap_or(0)
}

/// Figures of "score ≥ threshold" taken as a yes or no.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdFigures {
    /// The whole score from which a page is kept, 1 to 5.
    pub threshold: u8,
    /// Pages annotated at or above the threshold.
    pub positives: usize,
    /// Kept pages that should be, over kept pages; 0 when none is kept.
    pub precision: f64,
    /// Kept pages that should be, over pages that should be; 0 when there is none.
    pub recall: f64,
    /// Harmonic mean of the two; 0 when both are.
    pub f1: f64,
}

/// Predictions against annotations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Pages compared.
    pub pages: usize,
    /// Mean distance of the clipped prediction from the annotated score.
    pub mean_absolute_error: f64,
    /// Share of pages with the right whole score.
    pub accuracy: f64,
    /// Mean F1 over the whole scores that occur among annotations or
    /// predictions (scikit-learn's `average="macro"`).
    pub macro_f1: f64,
    /// Pages by annotated (row) and predicted (column) whole score.
    pub confusion: [[usize; CLASSES]; CLASSES],
    /// Figures at each threshold, 1 to 5.
    pub thresholds: Vec<ThresholdFigures>,
}

impl Evaluation {
    /// Compares predictions with annotated scores, pair by pair.
    #[must_use]
    pub fn new(pairs: &[(f32, f32)]) -> Self {
        let mut confusion = [[0_usize; CLASSES]; CLASSES];
        let mut distance = 0.0_f64;
        for &(predicted, annotated) in pairs {
            let clip = |score: f32| f64::from(score.clamp(0.0, HIGHEST_SCORE));
            distance += (clip(predicted) - clip(annotated)).abs();
            confusion[class(annotated)][class(predicted)] += 1;
        }
        let right: usize = (0..CLASSES).map(|class| confusion[class][class]).sum();
        Self {
            pages: pairs.len(),
            mean_absolute_error: distance / pairs.len().max(1) as f64,
            accuracy: share(right, pairs.len()),
            macro_f1: macro_f1(&confusion),
            confusion,
            thresholds: (1..CLASSES).map(|at| figures_at(&confusion, at)).collect(),
        }
    }

    /// The figures at one threshold, 1 to 5.
    #[must_use]
    pub fn at(&self, threshold: u8) -> Option<&ThresholdFigures> {
        self.thresholds.iter().find(|row| row.threshold == threshold)
    }

    /// F1 at one threshold; 0 for a threshold out of range.
    #[must_use]
    pub fn f1_at(&self, threshold: u8) -> f64 {
        self.at(threshold).map_or(0.0, |row| row.f1)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

fn macro_f1(confusion: &[[usize; CLASSES]; CLASSES]) -> f64 {
    let (mut sum, mut present) = (0.0, 0_usize);
    for (class, row) in confusion.iter().enumerate() {
        let annotated: usize = row.iter().sum();
        let predicted: usize = confusion.iter().map(|row| row[class]).sum();
        if annotated + predicted > 0 {
            present += 1;
            sum += share(2 * row[class], annotated + predicted);
        }
    }
    sum / present.max(1) as f64
}

fn figures_at(confusion: &[[usize; CLASSES]; CLASSES], threshold: usize) -> ThresholdFigures {
    let (mut hits, mut kept, mut positives) = (0, 0, 0);
    for (annotated, row) in confusion.iter().enumerate() {
        for (predicted, &pages) in row.iter().enumerate() {
            let (is_positive, is_kept) = (annotated >= threshold, predicted >= threshold);
            positives += if is_positive { pages } else { 0 };
            kept += if is_kept { pages } else { 0 };
            hits += if is_positive && is_kept { pages } else { 0 };
        }
    }
    ThresholdFigures {
        threshold: u8::try_from(threshold).unwrap_or(u8::MAX),
        positives,
        precision: share(hits, kept),
        recall: share(hits, positives),
        f1: share(2 * hits, kept + positives),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_scores_are_rounded_as_python_does() {
        let scores = [-3.0, 0.5, 1.5, 2.5, 2.51, 4.4999, 9.0];
        assert_eq!(scores.map(int_score), [0, 0, 2, 2, 3, 4, 5]);
    }

    #[test]
    fn figures_of_six_pages_worked_by_hand() {
        // (predicted, annotated)
        let pairs = [(0.2, 0.0), (3.4, 4.0), (2.6, 1.0), (1.0, 3.0), (3.0, 3.0), (0.0, 0.0)];
        let figures = Evaluation::new(&pairs);
        let at = figures.at(3).unwrap();
        assert_eq!((at.positives, at.precision, at.recall), (3, 2.0 / 3.0, 2.0 / 3.0));
        assert!((at.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(figures.confusion[3], [0, 1, 0, 1, 0, 0]);
        assert_eq!(figures.accuracy, 0.5);
        assert!((figures.mean_absolute_error - (0.2 + 0.6 + 1.6 + 2.0) / 6.0).abs() < 1e-6);
        // F1 by class: 0 → 1; 1 → 0; 3 → 2·1/(2+3); 4 → 0. Classes 2 and 5 do not occur.
        assert!((figures.macro_f1 - (1.0 + 0.4) / 4.0).abs() < 1e-12);
        assert_eq!(figures.f1_at(5), 0.0);
    }

    #[test]
    fn no_pages_give_zeros_not_nan() {
        let figures = Evaluation::new(&[]);
        assert_eq!((figures.macro_f1, figures.accuracy, figures.f1_at(3)), (0.0, 0.0, 0.0));
    }
}
