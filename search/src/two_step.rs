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
use crate::rank::{FoundPage, TopPages};
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
            steps.push(Step { top: TopPages::new(search.ranked_at_most(), &query), query, search });
        }
    }
    for shard in 0..searcher.shards().len() {
        steps.par_iter_mut().try_for_each(|step| step.search(searcher, admitted, shard))?;
    }
    steps.into_par_iter().try_for_each(|step| {
        let found = step.top.finish(searcher.shards(), searcher.common_id_bytes);
        let mut pages = found.pages.iter().zip(found.ids.iter());
        pages.try_for_each(|(page, id)| step.search.take(*page, id, matching))
    })
}

/// A query of a topic at work.
struct Step<'a, 'b> {
    top: TopPages,
    query: ScoredQuery,
    search: &'b mut TopicSearch<'a>,
}

impl Step<'_, '_> {
    fn search(&mut self, searcher: &Searcher, admitted: &Admitted, shard: usize) -> Result<(), SearchError> {
        searcher.search_shard(shard, &self.query, &mut self.top, admitted, &self.search.taken)
    }
}

/// A topic with the pages picked for it so far.
struct TopicSearch<'a> {
    searcher: &'a Searcher,
    options: &'a RetrieveOptions,
    topic: &'a Topic,
    terms: usize,
    hits: Hits,
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

    fn take(&mut self, found: FoundPage, id: &str, matching: Matching) -> Result<(), SearchError> {
        if self.missing() == 0 {
            return Ok(());
        }
        let shard = found.shard as usize;
        if !self.hosts.admits(|| self.searcher.shards()[shard].url(found.page))? {
            return Ok(());
        }
        // Query 2 must not find it again.
        if matching == Matching::All {
            self.taken.insert((shard, found.page));
        }
        self.hits.push(id, found.score, matching);
        Ok(())
    }

    fn finish(self) -> Answer {
        Answer::new(self.topic, self.terms, self.hits)
    }
}
