//! The two-step query for one topic: which pages it gets, in which order.

use std::collections::{HashMap, HashSet};

use tantivy::DocId;

use crate::error::SearchError;
use crate::query::{Matching, Topic, topic_terms};
use crate::retrieve::{RetrieveOptions, TopicReport};
use crate::searcher::{Found, Searcher};

/// A topic's hits in rank order.
pub(crate) struct Answer {
    pub(crate) report: TopicReport,
    pub(crate) hits: Vec<(Found, Matching)>,
}

/// The two-step query.
pub(crate) fn answer(
    searcher: &Searcher,
    options: &RetrieveOptions,
    topic: &Topic,
) -> Result<Answer, SearchError> {
    let wanted = options.pages_per_topic as usize;
    let terms = topic_terms(topic, Matching::All);
    let mut picked = Picked::new(searcher, options);
    let passes = |shard: usize, page: DocId| passes_filters(searcher, options, shard, page);

    let ranked = picked.ranked_at_most();
    for found in searcher.best(&terms, Matching::All, ranked, &passes)? {
        picked.take(found, Matching::All)?;
    }
    let pages_all = picked.hits.len();
    // With one term both queries find the same pages.
    if pages_all < wanted && terms.len() > 1 {
        let ranked = picked.ranked_at_most();
        let taken = std::mem::take(&mut picked.taken);
        let passes = |shard: usize, page: DocId| passes(shard, page) && !taken.contains(&(shard, page));
        let terms = topic_terms(topic, Matching::Any);
        for found in searcher.best(&terms, Matching::Any, ranked, &passes)? {
            picked.take(found, Matching::Any)?;
        }
    }
    Ok(Answer {
        report: TopicReport {
            topic_id: topic.topic_id.clone(),
            terms: terms.len() as u32,
            pages_all: pages_all as u32,
            pages_any: (picked.hits.len() - pages_all) as u32,
        },
        hits: picked.hits,
    })
}

/// The pages picked for a topic so far.
struct Picked<'a> {
    searcher: &'a Searcher,
    options: &'a RetrieveOptions,
    hits: Vec<(Found, Matching)>,
    taken: HashSet<(usize, DocId)>,
    pages_of_host: HashMap<String, u32>,
}

impl<'a> Picked<'a> {
    fn new(searcher: &'a Searcher, options: &'a RetrieveOptions) -> Self {
        Self { searcher, options, hits: Vec::new(), taken: HashSet::new(), pages_of_host: HashMap::new() }
    }

    fn missing(&self) -> usize {
        self.options.pages_per_topic as usize - self.hits.len()
    }

    /// Pages the next query has to rank: those missing, more if a host limit may drop some.
    fn ranked_at_most(&self) -> usize {
        match self.options.max_pages_per_host {
            None => self.missing(),
            Some(_) => self.options.max_matches as usize,
        }
    }

    fn take(&mut self, found: Found, matching: Matching) -> Result<(), SearchError> {
        if self.missing() == 0 {
            return Ok(());
        }
        if let Some(most) = self.options.max_pages_per_host
            && let Some(url) = self.searcher.shard(found.shard).url(found.page)?
            && let Some(host) = host_of(&url)
        {
            let pages = self.pages_of_host.entry(host).or_default();
            if *pages >= most {
                return Ok(());
            }
            *pages += 1;
        }
        self.taken.insert((found.shard, found.page));
        self.hits.push((found, matching));
        Ok(())
    }
}

fn passes_filters(searcher: &Searcher, options: &RetrieveOptions, shard: usize, page: DocId) -> bool {
    let shard = searcher.shard(shard);
    if let Some(least) = options.min_language_score
        && !shard.language_score(page).is_some_and(|score| score >= least)
    {
        return false;
    }
    if options.min_tokens.is_none() && options.max_tokens.is_none() {
        return true;
    }
    let tokens = shard.token_count(page).and_then(|t| u64::try_from(t).ok());
    tokens.is_some_and(|tokens| {
        options.min_tokens.is_none_or(|least| tokens >= least)
            && options.max_tokens.is_none_or(|most| tokens <= most)
    })
}

/// The host of a URL in lower case, without user and port.
fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let cases = [
            ("https://User:pw@Example.COM:8080/a?b", Some("example.com")),
            ("http://example.com?x=http://other.org/", Some("example.com")),
            ("example.com/path", Some("example.com")),
            ("http://[2001:db8::1]:80/", Some("2001:db8::1")),
            ("http:///nothing", None),
            ("", None),
        ];
        for (url, host) in cases {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
