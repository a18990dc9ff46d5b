//! BM25 with k1 = 1.2 and b = 0.75, the constants of Tantivy and Manticore, in whole numbers.
//!
//! What a term adds to a page depends on its frequency there and on the page's length, which Tantivy
//! keeps as one of 256 steps. So a query looks it up in a small table instead of dividing. Scores are
//! counted in units so small that the most a page can get is some 2^30 of them: sums of whole numbers
//! do not depend on the order in which the terms are met, and any order that is fast gives the same
//! bits. The unit is a function of the query's weights, hence of the statistics of all shards.

use std::sync::Arc;

use tantivy::fieldnorm::FieldNormReader;

const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Frequencies that the tables hold, of all terms and of a term of a query; greater ones are computed.
const FREQUENCIES: usize = 16;
const TERM_FREQUENCIES: usize = 4;

/// Length steps of Tantivy.
const LENGTHS: usize = 256;

/// Bits of the greatest sum.
pub(crate) const SUM_BITS: u32 = 30;

/// The part of the formula that all terms share: frequency against page length.
pub(crate) struct Saturation {
    /// `k1 (1 - b + b length / average)`, by length step.
    norms: [f32; 256],
    /// By frequency, from 1, and length step.
    factors: [[f32; LENGTHS]; FREQUENCIES],
}

impl Saturation {
    /// For pages of so many terms on average.
    pub(crate) fn new(average_terms: f32) -> Self {
        let norms = std::array::from_fn(|step| {
            let length = FieldNormReader::id_to_fieldnorm(step as u8) as f32;
            K1 * (1.0 - B + B * length / average_terms)
        });
        let row = |frequency| std::array::from_fn(|length| factor(norms[length], frequency as u32 + 1));
        Self { norms, factors: std::array::from_fn(row) }
    }

    /// What of a term's weight a page gets, 0–1, that has the term `frequency` times (from 1) and the
    /// length step `length`.
    #[inline(always)]
    pub(crate) fn factor(&self, frequency: u32, length: u8) -> f32 {
        match self.factors.get((frequency as usize).wrapping_sub(1)) {
            Some(row) => row[usize::from(length)],
            None => factor(self.norms[usize::from(length)], frequency),
        }
    }
}

fn factor(norm: f32, frequency: u32) -> f32 {
    let frequency = frequency as f32;
    frequency / (frequency + norm)
}

/// The weight of a term that `pages_with` of `pages` have; no page gets more from it.
pub(crate) fn weight(pages_with: u64, pages: u64, boost: f32) -> f32 {
    let with = pages_with as f32;
    let idf = (1.0 + (pages.saturating_sub(pages_with) as f32 + 0.5) / (with + 0.5)).ln();
    idf * (1.0 + K1) * boost
}

/// The unit of a query's scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Units in 1, a power of two.
    units: f32,
}

impl Scale {
    /// For terms of the given weights: the smallest unit with which their sum stays below 2^30, with room
    /// for each term's least score of one unit.
    pub(crate) fn new(weights: impl Iterator<Item = f32>) -> Self {
        let (mut most, mut terms) = (0.0, 0.0);
        for weight in weights {
            most += f64::from(weight);
            terms += 1.0;
        }
        let limit = f64::from(1_u32 << SUM_BITS);
        let mut units = 1.0;
        while most * f64::from(2.0 * units) + terms < limit && units < 1e18 {
            units *= 2.0;
        }
        while most * f64::from(units) + terms >= limit && units > 1e-18 {
            units /= 2.0;
        }
        Self { units }
    }

    /// At least one unit, so that a page with a term is told from one without.
    #[inline]
    fn sum_of(self, score: f32) -> u32 {
        // Through i32, which processors convert to faster.
        ((score * self.units) as i32).max(1) as u32
    }

    /// The score of a sum.
    #[inline]
    pub(crate) fn score_of(self, sum: u32) -> f32 {
        sum as f32 / self.units
    }
}

/// What one term of a query adds to pages.
pub(crate) struct TermScores {
    weight: f32,
    scale: Scale,
    saturation: Arc<Saturation>,
    /// By frequency, from 1, and length step.
    scores: Vec<[u32; LENGTHS]>,
}

impl TermScores {
    pub(crate) fn new(weight: f32, saturation: &Arc<Saturation>, scale: Scale) -> Self {
        let score = |factor: f32| scale.sum_of(weight * factor);
        let scores = saturation.factors[..TERM_FREQUENCIES].iter().map(|row| row.map(score)).collect();
        Self { weight, scale, saturation: saturation.clone(), scores }
    }

    /// What a page gets at most whose factor is at most `most`, see [`Saturation::factor`].
    pub(crate) fn bound(&self, most: f32) -> u32 {
        self.scale.sum_of(self.weight * most)
    }

    /// What a page gets that has the term `frequency` times (from 1) and the length step `length`.
    pub(crate) fn score(&self, frequency: u32, length: u8) -> u32 {
        self.scale.sum_of(self.weight * self.saturation.factor(frequency, length))
    }

    #[cold]
    #[inline(never)]
    fn rare_score(&self, frequency: u32, length: u8) -> u32 {
        self.score(frequency, length)
    }

    /// Adds to the sum of every page, at its place modulo their number counted from `first`, what the term
    /// adds: the page at each place of `pages` has it so many times as `frequencies` says.
    // Not inlined: alone, the loop keeps everything in registers.
    #[inline(never)]
    pub(crate) fn add<const N: usize>(
        &self,
        sums: &mut [u32; N],
        first: u32,
        pages: &[u32],
        frequencies: &[u32],
        lengths: &[u8],
    ) {
        let Some(scores) = self.scores.first_chunk::<TERM_FREQUENCIES>() else {
            return;
        };
        for (&page, &frequency) in pages.iter().zip(frequencies) {
            let length = lengths.get(page as usize).copied().unwrap_or_default();
            let score = match scores.get((frequency as usize).wrapping_sub(1)) {
                Some(row) => row[usize::from(length)],
                None => self.rare_score(frequency, length),
            };
            sums[page.wrapping_sub(first) as usize % N] += score;
        }
    }
}

#[cfg(test)]
mod tests {
    use tantivy::query::Bm25Weight;

    use super::*;

    #[test]
    fn a_term_adds_what_tantivy_says_and_never_more_than_its_bound() {
        for (pages_with, average) in [(1, 3.0), (7, 12.0), (400, 812.5), (1_000, 90.0)] {
            let peer = Bm25Weight::for_one_term_without_explain(pages_with, 1_000, average);
            let weight = weight(pages_with, 1_000, 1.0);
            let scale = Scale::new([weight].into_iter());
            let ours = TermScores::new(weight, &Arc::new(Saturation::new(average)), scale);
            for length in 0..=255 {
                for frequency in [1, 2, 8, 9, 50, 1_000_000, u32::MAX] {
                    let sum = ours.score(frequency, length);
                    let (score, wanted) = (scale.score_of(sum), peer.score(length, frequency));
                    let unit = scale.score_of(1);
                    assert!((score - wanted).abs() <= unit + 1e-7 * wanted, "{length} {frequency}");
                    assert!(sum > 0 && sum <= ours.bound(1.0), "{length} {frequency}");
                }
            }
        }
    }

    #[test]
    fn the_unit_is_as_small_as_fits() {
        for count in [1, 3, 100, 10_000, 1_000_000] {
            let weights = || (0..count).map(|n| weight(1 + n, 1 << 30, 1.0 + n as f32 / 7.0));
            let scale = Scale::new(weights());
            let most: u64 = weights().map(|weight| u64::from(scale.sum_of(weight))).sum();
            assert!((1 << (SUM_BITS - 2)..1 << SUM_BITS).contains(&most), "{count} terms: {most}");
        }
        // A term that every page has, weighing next to nothing.
        let scale = Scale::new([weight(1 << 30, 1 << 30, 1.0)].into_iter());
        assert!(scale.sum_of(weight(1 << 30, 1 << 30, 1.0)) < 1 << SUM_BITS);
    }
}
