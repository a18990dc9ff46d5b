//! The two-step query for a batch of topics: which pages each gets, in which order.

use std::collections::BTreeSet;

use rayon::prelude::*;
use rustc_hash::FxHashSet;
use tantivy::DocId;

use crate::answer::{Answer, Hits};
use crate::error::SearchError;
use crate::filter::Admitted;
use crate::host::HostLimit;
use crate::query::{Matching, ScoredQuery, Topic, WeightedTerms, topic_terms};
use crate::rank::{Found, FoundPage, TopPages};
use crate::retrieve::RetrieveOptions;
use crate::searcher::Searcher;

/// Answers a batch of topics, in their order. Each shard is searched for all topics of the batch
/// before the next one, so that its postings are read from disk once a batch; the topics are worked
/// on side by side in the current rayon pool.
pub(crate) fn answer(
    searcher: &Searcher,
    admitted: &Admitted,
    options: &RetrieveOptions,
    topics: &[Topic],
) -> Result<Vec<Answer>, SearchError> {
    let mut searches: Vec<TopicSearch> =
        topics.iter().map(|topic| TopicSearch::new(searcher, options, topic)).collect();
    for matching in [Matching::All, Matching::Any] {
        run_step(searcher, admitted, matching, &mut searches)?;
    }
    Ok(searches.into_iter().map(TopicSearch::finish).collect())
}

/// How far a query is widened, as multiples of `max_matches`, for topics whose best pages are all of hosts
/// that have enough.
const WIDEST: usize = 64;
const WIDER: usize = 4;

/// One of the two queries, for every topic that still wants pages.
fn run_step(
    searcher: &Searcher,
    admitted: &Admitted,
    matching: Matching,
    searches: &mut [TopicSearch],
) -> Result<(), SearchError> {
    let mut open: Vec<(WeightedTerms, &mut TopicSearch)> =
        searches.iter_mut().filter_map(|search| Some((search.terms(matching)?, search))).collect();
    let terms: BTreeSet<&str> = open.iter().flat_map(|(terms, _)| terms.keys().map(String::as_str)).collect();
    // Here for the whole batch, remembered for the queries below.
    searcher.look_up(&terms)?;
    let mut steps = Vec::new();
    for (terms, search) in &mut open {
        if let Some(query) = searcher.scored(terms, matching)? {
            let ranked = search.ranked_at_most();
            steps.push(Step { query, matching, search, ranked, looked_at: 0, picked: Vec::new() });
        }
    }
    let mut narrow: Vec<&mut Step> = steps.iter_mut().collect();
    while !narrow.is_empty() {
        let mut tops: Vec<(TopPages, &mut Step)> =
            narrow.drain(..).map(|step| (TopPages::new(step.ranked, &step.query), step)).collect();
        for shard in 0..searcher.shards().len() {
            tops.par_iter_mut().try_for_each(|(top, step)| {
                searcher.search_shard(shard, &step.query, top, admitted, &step.search.taken)
            })?;
        }
        let finished: Result<Vec<(bool, &mut Step)>, SearchError> = tops
            .into_par_iter()
            .map(|(top, step)| {
                Ok((step.take_from(top.finish(searcher.shards(), searcher.common_id_bytes))?, step))
            })
            .collect();
        narrow = finished?.into_iter().filter_map(|(again, step)| again.then_some(step)).collect();
    }
    for Step { search, picked, .. } in steps {
        search.taken.extend(picked);
    }
    Ok(())
}

/// A query of a topic at work.
struct Step<'a, 'b> {
    query: ScoredQuery,
    matching: Matching,
    search: &'b mut TopicSearch<'a>,
    /// Pages that it ranks.
    ranked: usize,
    /// Of its ranking, pages that have been looked at.
    looked_at: usize,
    /// Pages that the topic took: the same query, when it is asked for more, must still find them.
    picked: Vec<(usize, DocId)>,
}

impl Step<'_, '_> {
    /// Takes what the topic wants of a ranking; whether a longer one may have more for it.
    fn take_from(&mut self, found: Found) -> Result<bool, SearchError> {
        for (page, id) in found.pages.iter().zip(found.ids.iter()).skip(self.looked_at) {
            if self.search.take(*page, id, self.matching)? {
                self.picked.push((page.shard as usize, page.page));
            }
        }
        let exhausted = found.pages.len() < self.ranked;
        self.looked_at = found.pages.len();
        let widest = WIDEST * self.search.options.max_matches as usize;
        self.ranked *= WIDER;
        let limited = self.search.options.max_pages_per_host.is_some();
        Ok(limited && !exhausted && self.search.missing() > 0 && self.ranked <= widest)
    }
}

/// A topic with the pages picked for it so far.
struct TopicSearch<'a> {
    searcher: &'a Searcher,
    options: &'a RetrieveOptions,
    topic: &'a Topic,
    terms: usize,
    hits: Hits,
    /// Pages of the first query, which the second must not find again.
    taken: FxHashSet<(usize, DocId)>,
    hosts: HostLimit,
}

impl<'a> TopicSearch<'a> {
    fn new(searcher: &'a Searcher, options: &'a RetrieveOptions, topic: &'a Topic) -> Self {
        Self {
            searcher,
            options,
            topic,
            terms: topic_terms(topic, Matching::All).len(),
            hits: Hits::default(),
            taken: FxHashSet::default(),
            hosts: HostLimit::new(options.max_pages_per_host),
        }
    }

    fn missing(&self) -> usize {
        self.options.pages_per_topic as usize - self.hits.len()
    }

    /// The terms of a query; `None` if the topic needs no such query.
    fn terms(&self, matching: Matching) -> Option<WeightedTerms> {
        // With one term both queries find the same pages.
        let needed = self.missing() > 0 && (matching == Matching::All || self.terms > 1);
        needed.then(|| topic_terms(self.topic, matching))
    }

    /// Pages the next query has to rank: those missing, more if a host limit may drop some.
    fn ranked_at_most(&self) -> usize {
        match self.options.max_pages_per_host {
            None => self.missing(),
            Some(_) => self.options.max_matches as usize,
        }
    }

    /// Takes a page, if the topic wants it.
    fn take(&mut self, found: FoundPage, id: &str, matching: Matching) -> Result<bool, SearchError> {
        if self.missing() == 0 {
            return Ok(false);
        }
        let shard = found.shard as usize;
        if !self.hosts.admits(|| self.searcher.shards()[shard].url(found.page))? {
            return Ok(false);
        }
        self.hits.push(id, found.score, matching);
        Ok(true)
    }

    fn finish(self) -> Answer {
        Answer::new(self.topic, self.terms, self.hits)
    }
}
