//! The best pages seen so far.

use tantivy::DocId;

use super::to_score;
use crate::shard_reader::ShardReader;

/// A page of a shard with its score.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) page: DocId,
}

/// Collects pages and cuts them back to the best `k` whenever twice as many have come: cheaper than
/// a heap where `k` is large.
pub(super) struct Best<'a> {
    shard: &'a ShardReader,
    k: usize,
    /// No page that scores less can be among the best `k`.
    floor: f32,
    rows: Vec<Candidate>,
}

impl<'a> Best<'a> {
    pub(super) fn new(shard: &'a ShardReader, k: usize, floor: f32) -> Self {
        Self { shard, k, floor, rows: Vec::new() }
    }

    pub(super) fn floor(&self) -> f32 {
        self.floor
    }

    #[inline]
    pub(super) fn may_enter(&self, sum: i64) -> bool {
        to_score(sum) >= self.floor
    }

    #[inline]
    pub(super) fn push(&mut self, page: DocId, sum: i64) {
        self.rows.push(Candidate { score: to_score(sum), page });
        if self.rows.len() >= 2 * self.k + 64 {
            self.cut();
        }
    }

    /// Keeps the best `k`; of equal scores at the cut those with the smallest ids.
    fn cut(&mut self) {
        if self.rows.len() <= self.k {
            return;
        }
        let (_, kth, _) = self.rows.select_nth_unstable_by(self.k - 1, |a, b| b.score.total_cmp(&a.score));
        let floor = kth.score;
        self.floor = floor;
        let mut tied: Vec<(u64, Candidate)> = Vec::new();
        self.rows.retain(|row| {
            if row.score == floor {
                tied.push((self.shard.id_ord(row.page), *row));
            }
            row.score > floor
        });
        let places = self.k - self.rows.len();
        if tied.len() > places {
            tied.select_nth_unstable_by_key(places - 1, |(id_ord, _)| *id_ord);
            tied.truncate(places);
        }
        self.rows.extend(tied.into_iter().map(|(_, row)| row));
    }

    pub(super) fn finish(mut self) -> Vec<Candidate> {
        self.cut();
        self.rows
    }
}
