//! Topics and free text as weighted terms.
//!
//! The recipe is that of the published search [cosmo: huggingface/cosmopedia
//! `fulltext_search/search_sharded.py`]: query 1 wants every term of top category, subcategory and
//! subtopic, with the subtopic's terms weighted twofold; query 2 wants any of the terms, all
//! weighted alike. A term that is said twice counts twice.

use std::collections::BTreeMap;

use tantivy::Term;
use tantivy::query::{
    Bm25StatisticsProvider, Bm25Weight, BooleanQuery, BoostQuery, EmptyQuery, EnableScoring, Occur, Query,
    TermQuery, Weight,
};
use tantivy::schema::{Field, IndexRecordOption};

use crate::analyzer::{analyze, clean_query};

/// Weight of a subtopic's term in query 1 [cosmo: huggingface/cosmopedia
/// `fulltext_search/search_sharded.py`].
const SUBTOPIC_WEIGHT: f32 = 2.0;

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
pub(crate) enum Matching {
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

/// What BM25 knows about the whole index: sums over all shards.
pub(crate) struct Statistics {
    pub(crate) pages: u64,
    pub(crate) text_terms: u64,
    /// Pages that hold each term of the query.
    pub(crate) pages_with: BTreeMap<String, u64>,
}

impl Bm25StatisticsProvider for Statistics {
    fn total_num_tokens(&self, _field: Field) -> tantivy::Result<u64> {
        Ok(self.text_terms)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.pages)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let text = term.value().as_str().map(str::to_owned).unwrap_or_default();
        Ok(self.pages_with.get(&text).copied().unwrap_or_default())
    }
}

/// A query ready to be run on every shard.
pub(crate) struct ScoredQuery {
    /// Finds and roughly scores (the order of its sums depends on the postings).
    pub(crate) weight: Box<dyn Weight>,
    /// Scores exactly: terms in sorted order.
    pub(crate) terms: Vec<(Term, Bm25Weight)>,
}

impl ScoredQuery {
    /// `None` if no page can match. `blank` is any searcher of the same schema.
    pub(crate) fn new(
        terms: &WeightedTerms,
        matching: Matching,
        field: Field,
        statistics: &Statistics,
        blank: &tantivy::Searcher,
    ) -> tantivy::Result<Option<Self>> {
        let average = statistics.text_terms as f32 / statistics.pages as f32;
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        let mut scored = Vec::new();
        for (text, &boost) in terms {
            let pages_with = statistics.pages_with.get(text).copied().unwrap_or_default();
            if pages_with == 0 {
                match matching {
                    Matching::All => return Ok(None),
                    Matching::Any => continue,
                }
            }
            let term = Term::from_field_text(field, text);
            let weight = Bm25Weight::for_one_term_without_explain(pages_with, statistics.pages, average);
            scored.push((term.clone(), weight.boost_by(boost)));
            let query = TermQuery::new(term, IndexRecordOption::WithFreqs);
            clauses.push((Occur::Should, Box::new(BoostQuery::new(Box::new(query), boost))));
        }
        if scored.is_empty() {
            return Ok(None);
        }
        if clauses.len() == 1 {
            // Tantivy turns a lone optional clause into a required one, which it does not prune;
            // beside a clause that never matches it stays optional.
            clauses.push((Occur::Should, Box::new(EmptyQuery)));
        } else if matching == Matching::All {
            for (occur, _) in &mut clauses {
                *occur = Occur::Must;
            }
        }
        let scoring = EnableScoring::enabled_from_statistics_provider(statistics, blank);
        let weight = BooleanQuery::new(clauses).weight(scoring)?;
        Ok(Some(Self { weight, terms: scored }))
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
