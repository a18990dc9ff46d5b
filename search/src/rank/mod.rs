//! The best pages of one shard, exactly.
//!
//! BM25 scores of a page's terms are summed in fixed point, so a sum does not depend on the order
//! in which the terms are met, and any order that is fast gives the same bits. A term's weight
//! bounds what it can add to any page; pages that cannot reach the best `k` by these bounds are
//! skipped (MaxScore: Turtle and Flood, "Query evaluation: strategies and optimizations", 1995).
//! The bounds hold for any average page length, hence for statistics of several shards.

mod all;
mod any;
mod best;
mod cursor;

use tantivy::DocId;
use tantivy::query::Bm25Weight;

use crate::query::{Matching, ScoredQuery};
use crate::shard_reader::ShardReader;

use best::Best;
pub(crate) use best::Candidate;
use cursor::Cursor;

/// Units of the fixed point in 1. An f32 score from 2^-16 on is represented exactly, smaller ones
/// to 2^-40; the sum of a query has room up to 2^23.
const UNITS: f64 = (1_u64 << 40) as f64;

/// A term's score in fixed point.
fn fixed(score: f32) -> i64 {
    (f64::from(score) * UNITS) as i64
}

/// A sum of term scores as a score.
fn to_score(sum: i64) -> f32 {
    (sum as f64 / UNITS) as f32
}

/// No page gets more than this from a term: its weight, which frequency and length only lower.
fn bound(weight: &Bm25Weight) -> i64 {
    // The frequency term approaches 1 in the shortest page with the greatest frequency.
    fixed(weight.score(0, u32::MAX))
}

/// The `k` best pages of the shard among those `admit` lets pass, equal scores by id. Pages scoring
/// below `floor` may be left out.
pub(crate) fn best_of_shard(
    shard: &ShardReader,
    query: &ScoredQuery,
    k: usize,
    floor: f32,
    admit: &dyn Fn(DocId) -> bool,
) -> std::io::Result<Vec<Candidate>> {
    let mut best = Best::new(shard, k, floor);
    let mut cursors = Vec::with_capacity(query.terms.len());
    for term in &query.terms {
        match Cursor::open(shard, term)? {
            Some(cursor) => cursors.push(cursor),
            // A term that no page of the shard has.
            None if query.matching == Matching::All => return Ok(Vec::new()),
            None => {}
        }
    }
    match query.matching {
        Matching::All => all::rank(cursors, &mut best, admit),
        Matching::Any => any::rank(cursors, &mut best, admit),
    }
    Ok(best.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_point_keeps_every_score_that_matters() {
        for score in [1.0_f32, 17.3, 0.000_123, 812.062_5, f32::from_bits(0x3800_0001)] {
            assert_eq!(to_score(fixed(score)), score);
        }
        assert_eq!(fixed(1e-20), 0);
    }

    #[test]
    fn a_weight_bounds_every_frequency_and_length() {
        let weight = Bm25Weight::for_one_term_without_explain(7, 1_000, 12.0);
        let bound = bound(&weight);
        for length in 0..=255 {
            for frequency in [1, 2, 50, 1_000_000, u32::MAX] {
                assert!(fixed(weight.score(length, frequency)) <= bound, "{length} {frequency}");
            }
        }
    }
}
