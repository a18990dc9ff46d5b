//! Opened indexes, and the search over all their shards.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rayon::prelude::*;
use rustc_hash::FxHashSet;
use tantivy::columnar::StrColumn;
use tantivy::schema::Field;
use tantivy::{BitSet, DocId, Term};

use crate::bm25::Saturation;
use crate::dedupe;
use crate::error::SearchError;
use crate::filter::{Admitted, PageFilters};
use crate::host::HostLimit;
use crate::layout::{self, INDEX_FILE, IndexRecord, IndexSummary, ShardPlace};
use crate::page_ids::PageIds;
use crate::query::{Matching, ScoredQuery, TermPlaces, WeightedTerms, text_terms};
use crate::rank::{Admit, Found, TopPages};
use crate::schema::Fields;
use crate::shard_reader::{ShardReader, check_format, damaged};

/// Places of terms in shards that are remembered: topics of one category share many terms. About 48
/// bytes each.
const REMEMBERED_PLACES: usize = 1 << 19;

/// One or several opened indexes. Cheap to share between threads behind an `Arc`; files are
/// memory-mapped.
pub struct Searcher {
    /// The segments of the shards, those of the first index first.
    shards: Vec<ShardReader>,
    summary: IndexSummary,
    text: Field,
    saturation: Arc<Saturation>,
    /// Bytes that all page ids begin with.
    pub(crate) common_id_bytes: usize,
    /// Terms looked up so far.
    places: RwLock<HashMap<String, Arc<TermPlaces>>>,
}

/// One page found by a search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchHit {
    /// Id of the page.
    pub doc_id: String,
    /// BM25 score.
    pub score: f32,
}

/// Pages found by a search, best first, equal scores by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Ids of the pages.
    pub doc_ids: PageIds,
    /// BM25 score of each.
    pub scores: Vec<f32>,
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
                for reader in ShardReader::open(&place, &fields)? {
                    shards.push(reader);
                    places.push(place.clone());
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
        let average = summary.text_terms as f32 / summary.pages as f32;
        Ok(Self {
            common_id_bytes: common_bytes(&shards)?,
            shards,
            summary,
            text: fields.text,
            saturation: Arc::new(Saturation::new(average)),
            places: RwLock::default(),
        })
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
        let Ranking { doc_ids, scores } = self.rank_text(query, k)?;
        let hits = doc_ids.iter().zip(scores);
        Ok(hits.map(|(doc_id, score)| SearchHit { doc_id: doc_id.to_owned(), score }).collect())
    }

    /// As [`Searcher::search_text`], with the ids in one piece: faster where `k` is large.
    ///
    /// # Errors
    /// [`SearchError`] if a shard cannot be read.
    pub fn rank_text(&self, query: &str, k: usize) -> Result<Ranking, SearchError> {
        let admitted = Admitted::new(self, &PageFilters::default())?;
        let found = self.best(&text_terms(query), Matching::Any, k, &admitted)?;
        Ok(Ranking { scores: found.pages.iter().map(|page| page.score).collect(), doc_ids: found.ids })
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
        let mut hosts = HostLimit::new(max_pages_per_host);
        // A host may crowd out others, so that more pages than `k` must be ranked to find `k`.
        let mut ranked = match max_pages_per_host {
            None => k,
            Some(_) => k.saturating_mul(4),
        };
        loop {
            let found = self.best(&terms, Matching::Any, ranked, &admitted)?;
            let all = found.pages.len() < ranked;
            let mut hits = Vec::new();
            for (found, doc_id) in found.pages.iter().zip(found.ids.iter()) {
                let shard = &self.shards[found.shard as usize];
                if hits.len() < k && hosts.admits(|| shard.url(found.page))? {
                    hits.push(SearchHit { doc_id: doc_id.to_owned(), score: found.score });
                }
            }
            if hits.len() == k || all {
                return Ok(hits);
            }
            ranked = ranked.saturating_mul(4);
            hosts = HostLimit::new(max_pages_per_host);
        }
    }

    /// The `k` best pages over all shards among those admitted.
    fn best(
        &self,
        terms: &WeightedTerms,
        matching: Matching,
        k: usize,
        admitted: &Admitted,
    ) -> Result<Found, SearchError> {
        let Some(query) = self.scored(terms, matching)? else {
            return Ok(Found::default());
        };
        let mut top = TopPages::new(k, &query);
        for shard in 0..self.shards.len() {
            self.search_shard(shard, &query, &mut top, admitted, &FxHashSet::default())?;
        }
        Ok(top.finish(&self.shards, self.common_id_bytes))
    }

    /// Adds the best pages of a shard, but those in `taken`, to those of the shards before.
    pub(crate) fn search_shard(
        &self,
        shard: usize,
        query: &ScoredQuery,
        top: &mut TopPages,
        admitted: &Admitted,
        taken: &FxHashSet<(usize, DocId)>,
    ) -> Result<(), SearchError> {
        let reader = &self.shards[shard];
        let passes = |page| {
            !reader.is_hidden(page) && admitted.contains(shard, page) && !taken.contains(&(shard, page))
        };
        let all_pass = !reader.hides_pages() && admitted.all_of(shard) && taken.is_empty();
        let admit: Admit = if all_pass { None } else { Some(&passes) };
        top.search(reader, shard, query, admit).map_err(SearchError::io(&reader.folder))
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
        let mut placed = Vec::with_capacity(terms.len());
        for (term, &boost) in terms {
            placed.push((self.places(term)?, boost));
        }
        Ok(ScoredQuery::new(placed, matching, self.summary.pages, &self.saturation))
    }

    /// Looks up terms that are about to be asked for. Shard by shard, so that the dictionary of each is
    /// walked once for all of them.
    pub(crate) fn look_up(&self, terms: &BTreeSet<&str>) -> Result<(), SearchError> {
        let unknown: Vec<&str> = {
            let known = self.known();
            terms.iter().filter(|term| !known.contains_key(**term)).copied().collect()
        };
        let mut found: Vec<TermPlaces> =
            unknown.iter().map(|_| TermPlaces { pages: 0, postings: Vec::new() }).collect();
        for shard in &self.shards {
            for (term, places) in unknown.iter().zip(&mut found) {
                self.look_up_in(shard, term, places).map_err(SearchError::io(&shard.folder))?;
            }
        }
        let most = REMEMBERED_PLACES / self.shards.len().max(1);
        let mut known = self.places.write().unwrap_or_else(PoisonError::into_inner);
        for (term, places) in unknown.into_iter().zip(found) {
            if known.len() < most {
                known.insert(term.to_owned(), Arc::new(places));
            }
        }
        Ok(())
    }

    fn look_up_in(&self, shard: &ShardReader, term: &str, places: &mut TermPlaces) -> std::io::Result<()> {
        let postings = shard.find(&Term::from_field_text(self.text, term), &self.saturation)?;
        if let Some(postings) = &postings {
            places.pages += shard.pages_with(&postings.place)?;
        }
        places.postings.push(postings);
        Ok(())
    }

    fn places(&self, term: &str) -> Result<Arc<TermPlaces>, SearchError> {
        if let Some(places) = self.known().get(term) {
            return Ok(places.clone());
        }
        self.look_up(&BTreeSet::from([term]))?;
        if let Some(places) = self.known().get(term) {
            return Ok(places.clone());
        }
        // No more is remembered.
        let mut places = TermPlaces { pages: 0, postings: Vec::new() };
        for shard in &self.shards {
            self.look_up_in(shard, term, &mut places).map_err(SearchError::io(&shard.folder))?;
        }
        Ok(Arc::new(places))
    }

    fn known(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<TermPlaces>>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
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

/// How many bytes all page ids of all shards begin with: what the first and the last of each do.
fn common_bytes(shards: &[ShardReader]) -> Result<usize, SearchError> {
    let mut ends = Vec::new();
    for shard in shards {
        ends.extend(shard.first_and_last_id().map_err(SearchError::io(&shard.folder))?);
    }
    let common = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    Ok(ends.iter().map(|id| common(id, &ends[0])).min().unwrap_or_default())
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
