//! Topics and free text as weighted terms.
//!
//! The recipe is that of the published search [cosmo: huggingface/cosmopedia
//! `fulltext_search/search_sharded.py`]: query 1 wants every term of top category, subcategory and
//! subtopic, with the subtopic's terms weighted twofold; query 2 wants any of the terms, all
//! weighted alike. A term that is said twice counts twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use tantivy::postings::TermInfo;

use crate::analyzer::{analyze, clean_query};
use crate::bm25::{self, Saturation, Scale, TermScores};

/// Weight of a subtopic's term in query 1 [cosmo: huggingface/cosmopedia
/// `fulltext_search/search_sharded.py`].
pub(crate) const SUBTOPIC_WEIGHT: f32 = 2.0;

/// A topic to find pages for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Id of the topic.
    pub topic_id: String,
    /// Top category; empty where the row has none.
    pub top_category: String,
    /// Subcategory; empty where the row has none.
    pub subcategory: String,
    /// Subtopic; empty where the row has none.
    pub subtopic: String,
}

/// Which pages a query matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// Pages with every term.
    All,
    /// Pages with at least one term.
    Any,
}

/// Terms with their weights, sorted, so that sums over them have one order.
pub(crate) type WeightedTerms = BTreeMap<String, f32>;

/// The terms of a topic for query 1 ([`Matching::All`]) or query 2 ([`Matching::Any`]).
pub(crate) fn topic_terms(topic: &Topic, matching: Matching) -> WeightedTerms {
    let subtopic_weight = match matching {
        Matching::All => SUBTOPIC_WEIGHT,
        Matching::Any => 1.0,
    };
    let mut terms = WeightedTerms::new();
    for (text, weight) in
        [(&topic.top_category, 1.0), (&topic.subcategory, 1.0), (&topic.subtopic, subtopic_weight)]
    {
        add_terms(&mut terms, text, weight);
    }
    terms
}

/// The terms of a free query, all weighted alike.
pub(crate) fn text_terms(query: &str) -> WeightedTerms {
    let mut terms = WeightedTerms::new();
    add_terms(&mut terms, query, 1.0);
    terms
}

fn add_terms(terms: &mut WeightedTerms, text: &str, weight: f32) {
    for term in analyze(&clean_query(text)) {
        *terms.entry(term).or_default() += weight;
    }
}

/// Where a term stands in the shards.
pub(crate) struct TermPlaces {
    /// Pages with the term over all shards, hidden ones not counted.
    pub(crate) pages: u64,
    /// The postings of each shard that has the term.
    pub(crate) postings: Vec<Option<Postings>>,
}

/// The postings of a term in one shard.
pub(crate) struct Postings {
    pub(crate) place: TermInfo,
    /// The greatest factor of a page, see [`Saturation::factor`].
    pub(crate) most: f32,
}

/// A term with what it adds to pages.
pub(crate) struct ScoredTerm {
    pub(crate) places: Arc<TermPlaces>,
    pub(crate) scores: TermScores,
}

/// A query ready to be run on every shard.
pub(crate) struct ScoredQuery {
    pub(crate) matching: Matching,
    pub(crate) terms: Vec<ScoredTerm>,
    pub(crate) scale: Scale,
}

impl ScoredQuery {
    /// Of terms, each with its boost, in an index of `pages` pages; `None` if no page can match.
    pub(crate) fn new(
        mut terms: Vec<(Arc<TermPlaces>, f32)>,
        matching: Matching,
        pages: u64,
        saturation: &Arc<Saturation>,
    ) -> Option<Self> {
        if matching == Matching::All && terms.iter().any(|(places, _)| places.pages == 0) {
            return None;
        }
        terms.retain(|(places, _)| places.pages > 0);
        let weight = |(places, boost): &(Arc<TermPlaces>, f32)| bm25::weight(places.pages, pages, *boost);
        let scale = Scale::new(terms.iter().map(weight));
        let scored = |term: (Arc<TermPlaces>, f32)| ScoredTerm {
            scores: TermScores::new(weight(&term), saturation, scale),
            places: term.0,
        };
        let terms: Vec<ScoredTerm> = terms.into_iter().map(scored).collect();
        (!terms.is_empty()).then_some(Self { matching, terms, scale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic {
            topic_id: "t".into(),
            top_category: "SCIENCE".into(),
            subcategory: "Life Sciences / Biology".into(),
            subtopic: "The Biology of (Cells)".into(),
        }
    }

    #[test]
    fn subtopic_terms_weigh_double_in_query_one_only() {
        let all: Vec<_> = topic_terms(&topic(), Matching::All).into_iter().collect();
        let expected = [("biolog", 3.0), ("cell", 2.0), ("life", 1.0), ("scienc", 2.0)];
        assert_eq!(all, expected.map(|(t, w)| (t.to_owned(), w)));
        let any: Vec<_> = topic_terms(&topic(), Matching::Any).into_iter().collect();
        let expected = [("biolog", 2.0), ("cell", 1.0), ("life", 1.0), ("scienc", 2.0)];
        assert_eq!(any, expected.map(|(t, w)| (t.to_owned(), w)));
    }

    #[test]
    fn operators_and_stop_words_leave_nothing() {
        assert!(text_terms("the ( of ) ~ \"and\" / |").is_empty());
    }
}
