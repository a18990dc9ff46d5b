//! BM25 with k1 = 1.2 and b = 0.75, the constants of Tantivy and Manticore, summed without error.
//!
//! What a term adds to a page depends on its frequency there and on the page's length, which Tantivy
//! keeps as one of 256 steps. So a query looks it up in a small table instead of dividing. Scores
//! are multiples of one unit, few enough that f64 sums of them are exact: a sum does not depend on
//! the order in which the terms are met, and any order that is fast gives the same bits.

use std::sync::Arc;

use tantivy::fieldnorm::FieldNormReader;

const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Frequencies and length steps that the tables hold; others are computed. A page of 128 steps has
/// some 98,000 words.
const FREQUENCIES: usize = 8;
const LENGTHS: usize = 128;

type Table<T> = Box<[[T; LENGTHS]; FREQUENCIES]>;

/// The part of the formula that all terms share: frequency against page length.
pub(crate) struct Saturation {
    /// `k1 (1 - b + b length / average)`, by length step.
    norms: [f32; 256],
    factors: Table<f32>,
}

impl Saturation {
    /// For pages of so many terms on average.
    pub(crate) fn new(average_terms: f32) -> Self {
        let norms = std::array::from_fn(|step| {
            let length = FieldNormReader::id_to_fieldnorm(step as u8) as f32;
            K1 * (1.0 - B + B * length / average_terms)
        });
        let factor = |frequency: usize, length: usize| factor(norms[length], frequency as u32 + 1);
        let factors = table(factor);
        Self { norms, factors }
    }
}

fn factor(norm: f32, frequency: u32) -> f32 {
    let frequency = frequency as f32;
    frequency / (frequency + norm)
}

fn table<T: Copy + Default>(value: impl Fn(usize, usize) -> T) -> Table<T> {
    let mut table = Box::new([[T::default(); LENGTHS]; FREQUENCIES]);
    for (frequency, row) in table.iter_mut().enumerate() {
        for (length, entry) in row.iter_mut().enumerate() {
            *entry = value(frequency, length);
        }
    }
    table
}

/// The weight of a term that `pages_with` of `pages` have; no page gets more from it.
pub(crate) fn weight(pages_with: u64, pages: u64, boost: f32) -> f32 {
    let with = pages_with as f32;
    let idf = (1.0 + (pages.saturating_sub(pages_with) as f32 + 0.5) / (with + 0.5)).ln();
    idf * (1.0 + K1) * boost
}

/// The multiples that the scores of a query are rounded to: of 2^-40 where all weights together stay
/// below 4,096, else of as little more as keeps sums exact. An f32 from 2^-16 on is such a multiple.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Added to a number and taken away again, this leaves the nearest multiple.
    shift: f64,
    unit: f64,
}

impl Grid {
    pub(crate) fn new(weights: impl Iterator<Item = f32>) -> Self {
        let sum: f64 = weights.map(f64::from).sum();
        let mut grid = Self { shift: 6_144.0, unit: 1.0 / (1_u64 << 40) as f64 };
        while sum.is_finite() && sum > grid.shift / 1.5 {
            grid = Self { shift: 2.0 * grid.shift, unit: 2.0 * grid.unit };
        }
        grid
    }

    /// At least one unit, so that a page with a term is told from one without.
    #[inline]
    fn round(self, score: f32) -> f64 {
        ((f64::from(score) + self.shift) - self.shift).max(self.unit)
    }
}

/// What one term of a query adds to pages.
pub(crate) struct TermScores {
    weight: f32,
    grid: Grid,
    saturation: Arc<Saturation>,
    scores: Table<f64>,
}

impl TermScores {
    pub(crate) fn new(weight: f32, saturation: &Arc<Saturation>, grid: Grid) -> Self {
        let score =
            |frequency: usize, length: usize| grid.round(weight * saturation.factors[frequency][length]);
        Self { weight, grid, saturation: saturation.clone(), scores: table(score) }
    }

    /// What a page gets at most.
    pub(crate) fn bound(&self) -> f64 {
        self.grid.round(self.weight)
    }

    /// What a page gets that has the term `frequency` times (from 1) and the length step `length`.
    #[inline(always)]
    pub(crate) fn score(&self, frequency: u32, length: u8) -> f64 {
        let row = self.scores.get((frequency as usize).wrapping_sub(1));
        match row.and_then(|row| row.get(usize::from(length))) {
            Some(score) => *score,
            None => self.computed(frequency, length),
        }
    }

    #[cold]
    #[inline(never)]
    fn computed(&self, frequency: u32, length: u8) -> f64 {
        self.grid.round(self.weight * factor(self.saturation.norms[usize::from(length)], frequency))
    }
}

#[cfg(test)]
mod tests {
    use tantivy::query::Bm25Weight;

    use super::*;

    fn scores(pages_with: u64, average: f32) -> TermScores {
        let weight = weight(pages_with, 1_000, 1.0);
        TermScores::new(weight, &Arc::new(Saturation::new(average)), Grid::new([weight].into_iter()))
    }

    #[test]
    fn a_term_adds_what_tantivy_says_and_never_more_than_its_bound() {
        for (pages_with, average) in [(1, 3.0), (7, 12.0), (400, 812.5), (1_000, 90.0)] {
            let peer = Bm25Weight::for_one_term_without_explain(pages_with, 1_000, average);
            let ours = scores(pages_with, average);
            for length in 0..=255 {
                for frequency in [1, 2, 8, 9, 50, 1_000_000, u32::MAX] {
                    let score = ours.score(frequency, length);
                    let error = (score - f64::from(peer.score(length, frequency))).abs();
                    assert!(error <= 1.0 / (1_u64 << 40) as f64, "{length} {frequency}");
                    assert!(score > 0.0 && score <= ours.bound(), "{length} {frequency}");
                }
            }
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_order_however_long_the_query() {
        for count in [3, 100, 10_000] {
            let weights: Vec<f32> = (1..=count).map(|n| weight(n, 1 << 30, 1.0 + n as f32 / 7.0)).collect();
            let grid = Grid::new(weights.iter().copied());
            let saturation = Arc::new(Saturation::new(100.0));
            let scores: Vec<f64> = (weights.iter().enumerate())
                .map(|(n, &weight)| TermScores::new(weight, &saturation, grid).score(1 + n as u32, n as u8))
                .collect();
            let forth: f64 = scores.iter().sum();
            let back: f64 = scores.iter().rev().sum();
            assert_eq!(forth.to_bits(), back.to_bits(), "{count} terms");
        }
    }
}
