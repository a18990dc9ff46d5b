//! The best pages of one shard, exactly.
//!
//! Tantivy's block-max pruning finds candidates fast, but two things about it are approximate when
//! statistics come from several shards: it sums the term scores in an order that depends on the
//! postings, and its block bounds were computed with the shard's own average page length. So it is
//! asked with a threshold that is a little too low (see [`bound_slack`]), and what it finds is
//! scored again in a fixed order. What comes out depends on the pages alone.

use tantivy::DocId;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::Postings;
use tantivy::schema::IndexRecordOption;
use tantivy::{DocSet, TERMINATED};

use crate::query::ScoredQuery;
use crate::searcher::Shard;

/// BM25's k1 and b, as compiled into Tantivy (and Manticore's defaults).
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// How far two sums of the same f32 terms may differ, relatively, besides the share per term.
const SUM_SLACK: f32 = 1e-5;
const SUM_SLACK_PER_TERM: f32 = 2.4e-7;

/// How much a page's quantised length may fall below its true one, relatively: the length table
/// steps by at most 1/8.
const LENGTH_STEP: f32 = 1.0 / 8.0;

/// A page of a shard with its exact score.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) page: DocId,
    /// Place of the page's id among the sorted ids of the shard: orders equal scores.
    pub(crate) id_ord: u64,
}

/// By how much, as a factor, a page may score above the bound that the shard's postings promise.
///
/// Block bounds keep the (length, frequency) pair that is best for the shard's average length
/// `shard_average`. With another average the best pair can be another one. As the length
/// normalisation changes by at most the ratio of the averages, no score exceeds the bound by more
/// than that ratio. The bound of a whole list assumes length = frequency, which quantised lengths
/// can undercut by [`LENGTH_STEP`].
pub(crate) fn bound_slack(shard_average: f32, average: f32) -> f32 {
    let ratio = shard_average / average;
    let longest = K1 * B / average;
    let quantised = (1.0 + longest) / (1.0 + longest * (1.0 - LENGTH_STEP));
    ratio.max(1.0 / ratio) * quantised
}

/// The `k` best pages of the shard among those `admit` lets pass, best first, equal scores by id.
/// Pages scoring below `floor` may be left out.
pub(crate) fn best_of_shard(
    shard: &Shard,
    query: &ScoredQuery,
    k: usize,
    floor: f32,
    admit: &dyn Fn(DocId) -> bool,
) -> tantivy::Result<Vec<Candidate>> {
    let mut best = Best::new(shard, query, k, floor);
    let mut failure = None;
    let threshold = best.threshold();
    let Some(reader) = &shard.reader else {
        return Ok(Vec::new());
    };
    query.weight.for_each_pruning(threshold, reader, &mut |page, score| {
        if failure.is_none()
            && best.may_reach(score)
            && admit(page)
            && let Err(error) = best.push(page, score)
        {
            failure = Some(error);
        }
        match failure {
            Some(_) => f32::MAX,
            None => best.threshold(),
        }
    })?;
    match failure {
        Some(error) => Err(error),
        None => best.finish(),
    }
}

/// Collects candidates by their rough score and thins them out now and then.
struct Best<'a> {
    shard: &'a Shard,
    query: &'a ScoredQuery,
    k: usize,
    /// No page below this can be among the best `k` (give or take `slack`).
    floor: f32,
    slack: f32,
    rough: Vec<(f32, DocId)>,
}

impl<'a> Best<'a> {
    fn new(shard: &'a Shard, query: &'a ScoredQuery, k: usize, floor: f32) -> Self {
        Self {
            shard,
            query,
            k,
            floor,
            slack: SUM_SLACK + SUM_SLACK_PER_TERM * query.terms.len() as f32,
            rough: Vec::new(),
        }
    }

    fn capacity(&self) -> usize {
        2 * self.k + 64
    }

    fn may_reach(&self, score: f32) -> bool {
        score >= self.floor * (1.0 - self.slack)
    }

    /// What Tantivy may prune at.
    fn threshold(&self) -> f32 {
        match self.floor > 0.0 {
            true => self.floor * (1.0 - self.slack) / self.shard.bound_slack,
            false => f32::MIN,
        }
    }

    fn push(&mut self, page: DocId, score: f32) -> tantivy::Result<()> {
        self.rough.push((score, page));
        match self.rough.len() >= self.capacity() {
            true => self.thin_out(),
            false => Ok(()),
        }
    }

    fn thin_out(&mut self) -> tantivy::Result<()> {
        let by_score = |a: &(f32, DocId), b: &(f32, DocId)| b.0.total_cmp(&a.0);
        let (_, &mut (kth, _), _) = self.rough.select_nth_unstable_by(self.k - 1, by_score);
        self.floor = self.floor.max(kth);
        let least = self.floor * (1.0 - self.slack);
        self.rough.retain(|&(score, _)| score >= least);
        // Many pages score (nearly) alike: only exact scores and ids can tell them apart.
        if self.rough.len() > self.capacity() * 3 / 4 {
            let exact = exact_best(self.shard, self.query, self.k, &mut self.rough)?;
            self.rough = exact.iter().map(|c| (c.score, c.page)).collect();
        }
        Ok(())
    }

    fn finish(mut self) -> tantivy::Result<Vec<Candidate>> {
        if self.rough.len() > self.k {
            self.thin_out()?;
        }
        exact_best(self.shard, self.query, self.k, &mut self.rough)
    }
}

fn exact_best(
    shard: &Shard,
    query: &ScoredQuery,
    k: usize,
    rough: &mut [(f32, DocId)],
) -> tantivy::Result<Vec<Candidate>> {
    rough.sort_unstable_by_key(|&(_, page)| page);
    let pages: Vec<DocId> = rough.iter().map(|&(_, page)| page).collect();
    let scores = exact_scores(shard, query, &pages)?;
    let mut best: Vec<Candidate> = pages
        .into_iter()
        .zip(scores)
        .map(|(page, score)| Candidate { score, page, id_ord: shard.id_ord(page) })
        .collect();
    best.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id_ord.cmp(&b.id_ord)));
    best.truncate(k);
    Ok(best)
}

/// BM25 of each page (ascending): the f32 scores of the terms, summed as f64 in the order of the
/// sorted terms, rounded once.
fn exact_scores(shard: &Shard, query: &ScoredQuery, pages: &[DocId]) -> tantivy::Result<Vec<f32>> {
    let mut sums = vec![0.0_f64; pages.len()];
    let (Some(inverted), Some(lengths)) = (&shard.inverted, &shard.lengths) else {
        return Ok(Vec::new());
    };
    let length_ids = length_ids(lengths, pages);
    for (term, weight) in &query.terms {
        let Some(mut postings) = inverted.read_postings(term, IndexRecordOption::WithFreqs)? else {
            continue;
        };
        let mut at = postings.doc();
        for ((&page, &length_id), sum) in pages.iter().zip(&length_ids).zip(&mut sums) {
            if at < page {
                at = postings.seek(page);
            }
            if at == page {
                *sum += f64::from(weight.score(length_id, postings.term_freq()));
            } else if at == TERMINATED {
                break;
            }
        }
    }
    Ok(sums.into_iter().map(|sum| sum as f32).collect())
}

fn length_ids(lengths: &FieldNormReader, pages: &[DocId]) -> Vec<u8> {
    pages.iter().map(|&page| lengths.fieldnorm_id(page)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tf_factor(length: f32, frequency: f32, average: f32) -> f32 {
        frequency / (frequency + K1 * (1.0 - B + B * length / average))
    }

    /// The step that [`bound_slack`] assumes is that of the real table.
    #[test]
    fn length_table_steps_by_at_most_an_eighth() {
        for id in 0..=254_u8 {
            let this = FieldNormReader::id_to_fieldnorm(id) as f64;
            let last_with_this_id = f64::from(FieldNormReader::id_to_fieldnorm(id + 1)) - 1.0;
            if last_with_this_id > 0.0 {
                let below = 1.0 - this / last_with_this_id;
                assert!(below <= f64::from(LENGTH_STEP), "id {id}: {below}");
            }
        }
    }

    proptest! {
        /// The best pair of a block under one average, scored under another, bounds every other
        /// pair of the block once the slack is granted.
        #[test]
        fn slack_covers_another_average(
            block in prop::collection::vec((1.0_f32..5_000.0, 1.0_f32..200.0), 1..40),
            shard_average in 1.0_f32..2_000.0,
            average in 1.0_f32..2_000.0,
        ) {
            let score = |&(length, frequency): &(f32, f32), average| {
                tf_factor(length.max(frequency), frequency, average)
            };
            let kept = block
                .iter()
                .max_by(|a, b| score(a, shard_average).total_cmp(&score(b, shard_average)))
                .unwrap();
            let bound = score(kept, average) * bound_slack(shard_average, average);
            for pair in &block {
                prop_assert!(score(pair, average) <= bound * (1.0 + 1e-6));
            }
        }
    }
}
