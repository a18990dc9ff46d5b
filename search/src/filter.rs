//! Which pages may be found at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tantivy::{BitSet, DocId};

use crate::error::SearchError;
use crate::schema::{INT_SCORE, LANGUAGE, LANGUAGE_SCORE, TOKEN_COUNT};
use crate::searcher::Searcher;
use crate::shard_reader::ShardReader;

/// Filters of pages. They act before ranking: a page that fails one is never counted among the best,
/// but stays in the statistics of the score. A page without the value that a filter asks for fails
/// it; where no page of the index has the value, that is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PageFilters {
    /// Languages as in the column `language` (FineWeb: `en`), whatever the case; empty lets all pass,
    /// those without a language too.
    pub languages: Vec<String>,
    /// Least language score, 0–1 (column `language_score`). FineWeb keeps pages from 0.65 on.
    pub min_language_score: Option<f64>,
    /// Least length, in tokens (column `token_count`).
    pub min_tokens: Option<u64>,
    /// Greatest length, in tokens (column `token_count`).
    pub max_tokens: Option<u64>,
    /// Least educational score, 0–5 (column `int_score`, which a `score` stage adds). FineWeb-Edu
    /// keeps pages from 3 on.
    pub min_edu_score: Option<i64>,
}

impl PageFilters {
    /// The columns that the filters read.
    pub(crate) fn columns(&self) -> Vec<&'static str> {
        let asked = [
            (LANGUAGE, !self.languages.is_empty()),
            (LANGUAGE_SCORE, self.min_language_score.is_some()),
            (TOKEN_COUNT, self.min_tokens.is_some() || self.max_tokens.is_some()),
            (INT_SCORE, self.min_edu_score.is_some()),
        ];
        asked.into_iter().filter(|(_, asked)| *asked).map(|(column, _)| column).collect()
    }
}

/// The pages of every shard that filters let pass: a bit a page, made once for all queries.
pub(crate) struct Admitted(Vec<Option<BitSet>>);

impl Admitted {
    /// Reads the filters' columns of every shard.
    pub(crate) fn new(searcher: &Searcher, filters: &PageFilters) -> Result<Self, SearchError> {
        for column in filters.columns() {
            let has = |shard: &ShardReader| match column {
                LANGUAGE => shard.languages.is_some(),
                LANGUAGE_SCORE => shard.language_scores.is_some(),
                TOKEN_COUNT => shard.token_counts.is_some(),
                _ => shard.int_scores.is_some(),
            };
            let shards = searcher.shards();
            if !shards.is_empty() && !shards.iter().any(has) {
                return Err(SearchError::NoSuchColumn { column });
            }
        }
        let of_shard = |shard| match filters.columns().is_empty() {
            true => Ok(None),
            false => pages_that_pass(shard, filters).map(Some),
        };
        searcher.shards().iter().map(of_shard).collect::<Result<_, _>>().map(Self)
    }

    /// Whether every page of the shard passes.
    pub(crate) fn all_of(&self, shard: usize) -> bool {
        self.0[shard].is_none()
    }

    pub(crate) fn contains(&self, shard: usize, page: DocId) -> bool {
        self.0[shard].as_ref().is_none_or(|pages| pages.contains(page))
    }
}

fn pages_that_pass(shard: &ShardReader, filters: &PageFilters) -> Result<BitSet, SearchError> {
    let languages = language_ords(shard, &filters.languages).map_err(SearchError::io(&shard.folder))?;
    let at_least = |value: Option<i64>, least: Option<i64>| {
        least.is_none_or(|least| value.is_some_and(|value| value >= least))
    };
    let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    let passes = |page: DocId| {
        let language = shard.languages.as_ref().and_then(|column| column.ords().first(page));
        let language_score = shard.language_scores.as_ref().and_then(|column| column.first(page));
        let tokens = shard.token_counts.as_ref().and_then(|column| column.first(page));
        let edu_score = shard.int_scores.as_ref().and_then(|column| column.first(page));
        (filters.languages.is_empty() || language.is_some_and(|ord| languages.contains(&ord)))
            && filters
                .min_language_score
                .is_none_or(|least| language_score.is_some_and(|score| score >= least))
            && at_least(tokens, filters.min_tokens.map(signed))
            && at_least(tokens.map(|tokens| -tokens), filters.max_tokens.map(|most| -signed(most)))
            && at_least(edu_score, filters.min_edu_score)
    };
    let mut pages = BitSet::with_max_value(shard.max_page());
    for page in (0..shard.max_page()).filter(|&page| passes(page)) {
        pages.insert(page);
    }
    Ok(pages)
}

/// The places of the languages among those of the shard.
fn language_ords(shard: &ShardReader, languages: &[String]) -> std::io::Result<Vec<u64>> {
    let Some(column) = &shard.languages else {
        return Ok(Vec::new());
    };
    let mut ords = Vec::new();
    for language in languages {
        ords.extend(column.dictionary().term_ord(language.to_lowercase())?);
    }
    Ok(ords)
}
