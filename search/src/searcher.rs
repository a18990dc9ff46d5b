//! Opened indexes, and the search over all their shards.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use tantivy::columnar::StrColumn;
use tantivy::schema::Field;
use tantivy::{BitSet, DocId, Term};

use crate::dedupe;
use crate::error::SearchError;
use crate::filter::{Admitted, PageFilters};
use crate::host::HostLimit;
use crate::layout::{self, INDEX_FILE, IndexRecord, IndexSummary, ShardPlace};
use crate::query::{Matching, ScoredQuery, Statistics, WeightedTerms, text_terms};
use crate::rank::{self, Candidate};
use crate::schema::Fields;
use crate::shard_reader::{ShardReader, check_format, damaged};

/// Terms whose page counts are remembered: topics of one category share many.
const REMEMBERED_TERMS: usize = 1 << 18;

/// One or several opened indexes. Cheap to share between threads behind an `Arc`; files are
/// memory-mapped.
pub struct Searcher {
    /// The shards that hold pages, those of the first index first.
    shards: Vec<ShardReader>,
    summary: IndexSummary,
    text: Field,
    /// Pages with each term, over all shards.
    pages_with: Mutex<HashMap<String, u64>>,
}

/// One page found by a search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchHit {
    /// Id of the page.
    pub doc_id: String,
    /// BM25 score.
    pub score: f32,
}

/// A page found, with where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) score: f32,
    pub(crate) id: String,
    pub(crate) shard: usize,
    pub(crate) page: DocId,
}

impl Searcher {
    /// Opens the index in the folder `dir`.
    ///
    /// # Errors
    /// See [`Searcher::open_all`].
    pub fn open(dir: &Path) -> Result<Self, SearchError> {
        Self::open_all(&[dir])
    }

    /// Opens several indexes as one, an index of a dump each: a new dump is a new index, and none is
    /// built again.
    ///
    /// Every answer is bit for bit that of one index built from the pages of the first folder, then
    /// those of the second, and so on: statistics are summed over all of them, and a page id that
    /// stands in several counts once, in the first folder that has it. The shards of the indexes may
    /// differ in number. Where there are several, opening reads all their page ids once.
    ///
    /// # Errors
    /// [`SearchError`] if a folder holds no finished index, if it has another format, or if a file
    /// is missing or has another size than when it was built.
    pub fn open_all<P: AsRef<Path>>(dirs: &[P]) -> Result<Self, SearchError> {
        let fields = Fields::new();
        let mut summary = IndexSummary::default();
        let mut shards = Vec::new();
        let mut places = Vec::new();
        for dir in dirs {
            let dir = dir.as_ref();
            let index = read_summary(dir)?;
            for shard in 0..index.shards {
                let place = ShardPlace::new(dir, shard, index.shards);
                if let Some(reader) = ShardReader::open(&place, &fields)? {
                    shards.push(reader);
                    places.push(place);
                }
            }
            add_summary(&mut summary, &index);
        }
        if dirs.len() > 1 {
            hide_repeats(&mut shards, &places)?;
            for shard in &shards {
                let (pages, text_terms, text_bytes) = shard.hidden();
                summary.pages -= pages;
                summary.text_terms -= text_terms;
                summary.text_bytes -= text_bytes;
                if pages > 0 {
                    *summary.skipped_pages.entry("in_earlier_index".to_owned()).or_default() += pages;
                }
            }
        }
        Ok(Self { shards, summary, text: fields.text, pages_with: Mutex::default() })
    }

    /// What the indexes hold together, pages in several of them counted once.
    pub fn summary(&self) -> &IndexSummary {
        &self.summary
    }

    /// The `k` pages that match any term of `query` best, best first, equal scores by id. A query
    /// without terms (stop words and operators only) finds nothing. Blocks the calling thread.
    ///
    /// # Errors
    /// [`SearchError`] if a shard cannot be read.
    pub fn search_text(&self, query: &str, k: usize) -> Result<Vec<SearchHit>, SearchError> {
        self.search_filtered(query, k, &PageFilters::default(), None)
    }

    /// As [`Searcher::search_text`], among the pages that pass the filters, and with at most
    /// `max_pages_per_host` pages of one URL host.
    ///
    /// # Errors
    /// [`SearchError`] if a shard cannot be read, or if no page has the column of a filter.
    pub fn search_filtered(
        &self,
        query: &str,
        k: usize,
        filters: &PageFilters,
        max_pages_per_host: Option<u32>,
    ) -> Result<Vec<SearchHit>, SearchError> {
        let admitted = Admitted::new(self, filters)?;
        let terms = text_terms(query);
        let admit = |shard, page| admitted.contains(shard, page);
        let mut hosts = HostLimit::new(max_pages_per_host);
        // A host may crowd out others, so that more pages than `k` must be ranked to find `k`.
        let mut ranked = match max_pages_per_host {
            None => k,
            Some(_) => k.saturating_mul(4),
        };
        loop {
            let found = self.best(&terms, Matching::Any, ranked, &admit)?;
            let all = found.len() < ranked;
            let mut hits = Vec::new();
            for found in found {
                if hits.len() < k && hosts.admits(|| self.shards[found.shard].url(found.page))? {
                    hits.push(SearchHit { doc_id: found.id, score: found.score });
                }
            }
            if hits.len() == k || all {
                return Ok(hits);
            }
            ranked = ranked.saturating_mul(4);
            hosts = HostLimit::new(max_pages_per_host);
        }
    }

    /// The `k` best pages over all shards among those `admit(shard, page)` lets pass.
    fn best(
        &self,
        terms: &WeightedTerms,
        matching: Matching,
        k: usize,
        admit: &(dyn Fn(usize, DocId) -> bool + Sync),
    ) -> Result<Vec<Found>, SearchError> {
        let Some(query) = self.scored(terms, matching)? else {
            return Ok(Vec::new());
        };
        let mut top = TopPages::new(k);
        for shard in 0..self.shards.len() {
            top.search(self, shard, &query, admit)?;
        }
        Ok(top.finish(self))
    }

    pub(crate) fn shards(&self) -> &[ShardReader] {
        &self.shards
    }

    /// The query with the statistics of all shards; `None` if no page can match.
    pub(crate) fn scored(
        &self,
        terms: &WeightedTerms,
        matching: Matching,
    ) -> Result<Option<ScoredQuery>, SearchError> {
        let names: BTreeSet<&str> = terms.keys().map(String::as_str).collect();
        let statistics = Statistics {
            pages: self.summary.pages,
            text_terms: self.summary.text_terms,
            pages_with: self.count_pages(&names)?,
        };
        Ok(ScoredQuery::new(terms, matching, self.text, &statistics))
    }

    /// Pages with each of the terms, over all shards. Shard by shard, so that the dictionary of each
    /// is walked once for all terms.
    pub(crate) fn count_pages(&self, terms: &BTreeSet<&str>) -> Result<HashMap<String, u64>, SearchError> {
        let mut counts = HashMap::new();
        let unknown: Vec<&str> = {
            let known = self.pages_with.lock().unwrap_or_else(PoisonError::into_inner);
            let look_up = |term: &&str| known.get(*term).map(|&pages| (term.to_string(), pages));
            counts.extend(terms.iter().filter_map(look_up));
            terms.iter().filter(|term| !known.contains_key(**term)).copied().collect()
        };
        if unknown.is_empty() {
            return Ok(counts);
        }
        let of_shard = |shard: &ShardReader| -> Result<Vec<u64>, SearchError> {
            let count = |term: &&str| shard.pages_with(&Term::from_field_text(self.text, term));
            unknown.iter().map(count).collect::<Result<_, _>>().map_err(SearchError::io(&shard.folder))
        };
        let mut sums = vec![0; unknown.len()];
        for of_shard in self.shards.iter().map(of_shard) {
            for (sum, pages) in sums.iter_mut().zip(of_shard?) {
                *sum += pages;
            }
        }
        let found = unknown.iter().zip(sums).map(|(term, pages)| (term.to_string(), pages));
        let mut known = self.pages_with.lock().unwrap_or_else(PoisonError::into_inner);
        for (term, pages) in found {
            if known.len() < REMEMBERED_TERMS {
                known.insert(term.clone(), pages);
            }
            counts.insert(term, pages);
        }
        Ok(counts)
    }
}

/// The best pages of one query, gathered shard by shard.
pub(crate) struct TopPages {
    k: usize,
    floor: f32,
    candidates: Vec<(usize, Candidate)>,
}

impl TopPages {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, floor: f32::NEG_INFINITY, candidates: Vec::new() }
    }

    /// Adds the best pages of a shard. What the shards before hold sets the floor for this one.
    pub(crate) fn search(
        &mut self,
        searcher: &Searcher,
        shard: usize,
        query: &ScoredQuery,
        admit: &(dyn Fn(usize, DocId) -> bool + Sync),
    ) -> Result<(), SearchError> {
        if self.k == 0 {
            return Ok(());
        }
        let reader = &searcher.shards[shard];
        let admit = |page| !reader.is_hidden(page) && admit(shard, page);
        let best = rank::best_of_shard(reader, query, self.k, self.floor, &admit)
            .map_err(SearchError::io(&reader.folder))?;
        self.candidates.extend(best.into_iter().map(|candidate| (shard, candidate)));
        if self.candidates.len() >= self.k {
            let by_score =
                |(_, a): &(usize, Candidate), (_, b): &(usize, Candidate)| b.score.total_cmp(&a.score);
            let (_, (_, kth), _) = self.candidates.select_nth_unstable_by(self.k - 1, by_score);
            self.floor = kth.score;
            self.candidates.retain(|(_, candidate)| candidate.score >= self.floor);
        }
        Ok(())
    }

    /// The best pages with their ids, best first, equal scores by id.
    pub(crate) fn finish(self, searcher: &Searcher) -> Vec<Found> {
        // The ids lie scattered over memory. Touched in one tight loop, they are fetched side by side
        // and not one after the other.
        let ids = self.candidates.iter().map(|(shard, found)| searcher.shards[*shard].id_bytes(found.page));
        std::hint::black_box(ids.fold(0, |sum: u8, id| sum ^ id.first().unwrap_or(&0)));
        let mut found: Vec<Found> = self
            .candidates
            .into_iter()
            .map(|(shard, Candidate { score, page })| {
                let id = searcher.shards[shard].id(page).to_owned();
                Found { score, id, shard, page }
            })
            .collect();
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        found.truncate(self.k);
        found
    }
}

/// Reads every byte of the index in `dir` and compares it with its checksums.
///
/// # Errors
/// [`SearchError::Damaged`] names the first file that is not as it was written.
pub fn verify_index(dir: &Path) -> Result<(), SearchError> {
    Searcher::open(dir)?.shards.iter().try_for_each(ShardReader::verify)
}

fn read_summary(dir: &Path) -> Result<IndexSummary, SearchError> {
    let path = dir.join(INDEX_FILE);
    let record = layout::read_record::<IndexRecord>(&path)
        .map_err(damaged)?
        .ok_or_else(|| SearchError::NotAnIndex { path: dir.to_owned() })?;
    check_format(&path, record.format_version, &record.analyzer)?;
    Ok(record.summary)
}

fn add_summary(sum: &mut IndexSummary, index: &IndexSummary) {
    sum.pages += index.pages;
    sum.text_bytes += index.text_bytes;
    sum.text_terms += index.text_terms;
    sum.index_bytes += index.index_bytes;
    sum.shards += index.shards;
    for (reason, pages) in &index.skipped_pages {
        *sum.skipped_pages.entry(reason.clone()).or_default() += pages;
    }
}

/// Hides in each shard the pages that a shard of an earlier index holds.
///
/// A page lies in the shard that its id hashes to, modulo the number of shards. So modulo a common
/// divisor of these numbers the shards fall into groups that share no id, which are compared side by
/// side.
fn hide_repeats(shards: &mut [ShardReader], places: &[ShardPlace]) -> Result<(), SearchError> {
    let divisor = places.iter().fold(0, |divisor, place| gcd(place.shards, divisor)).max(1);
    let group_of = |group: u32| -> Vec<usize> {
        (0..places.len()).filter(|&number| places[number].shard % divisor == group).collect()
    };
    let repeats: Vec<Vec<(usize, Option<BitSet>)>> = (0..divisor)
        .into_par_iter()
        .map(|group| {
            let numbers = group_of(group);
            let ids: Vec<&StrColumn> = numbers.iter().map(|&number| shards[number].ids()).collect();
            let Some(&first) = numbers.first() else {
                return Ok(Vec::new());
            };
            let repeats = dedupe::ids_seen_before(&ids).map_err(SearchError::io(&shards[first].folder))?;
            Ok(numbers.into_iter().zip(repeats).collect())
        })
        .collect::<Result<_, SearchError>>()?;
    for (number, id_ords) in repeats.into_iter().flatten() {
        if let Some(id_ords) = id_ords {
            shards[number].hide(&id_ords)?;
        }
    }
    Ok(())
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
