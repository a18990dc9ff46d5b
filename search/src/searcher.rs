//! An opened index, and the search over all its shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::columnar::{Column, StrColumn};
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::InvertedIndexReader;
use tantivy::schema::Field;
use tantivy::{DocId, Index, IndexBuilder, ReloadPolicy, SegmentReader, Term};

use crate::error::{IndexError, SearchError};
use crate::layout::{
    self, ANALYZER, FORMAT_VERSION, INDEX_FILE, IndexRecord, IndexSummary, SHARD_FILE, ShardPlace,
    ShardRecord,
};
use crate::query::{Matching, ScoredQuery, Statistics, WeightedTerms, text_terms};
use crate::schema::{Fields, ID, LANGUAGE_SCORE, TOKEN_COUNT, URL};
use crate::topk::{self, Candidate};

/// An opened index. Cheap to share between threads behind an `Arc`; files are memory-mapped.
pub struct Searcher {
    folder: PathBuf,
    shards: Vec<Shard>,
    summary: IndexSummary,
    text: Field,
    /// A searcher of an empty index: Tantivy wants one to read the schema from.
    blank: tantivy::Searcher,
}

/// One page found by [`Searcher::search_text`].
#[derive(Clone, Debug, PartialEq)]
pub struct SearchHit {
    /// Id of the page.
    pub doc_id: String,
    /// BM25 score.
    pub score: f32,
}

/// One shard, opened. The parts are `None` in a shard without pages.
pub(crate) struct Shard {
    pub(crate) folder: PathBuf,
    pub(crate) reader: Option<SegmentReader>,
    pub(crate) inverted: Option<Arc<InvertedIndexReader>>,
    pub(crate) lengths: Option<FieldNormReader>,
    /// See [`topk::bound_slack`].
    pub(crate) bound_slack: f32,
    ids: Option<StrColumn>,
    urls: Option<StrColumn>,
    language_scores: Option<Column<f64>>,
    token_counts: Option<Column<i64>>,
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
    /// [`SearchError`] if there is no finished index, if it has another format, or if a file is
    /// missing or has another size than when it was built.
    pub fn open(dir: &Path) -> Result<Self, SearchError> {
        let path = dir.join(INDEX_FILE);
        let record = layout::read_record::<IndexRecord>(&path)
            .map_err(damaged)?
            .ok_or_else(|| SearchError::NotAnIndex { path: dir.to_owned() })?;
        check_format(&path, record.format_version, &record.analyzer)?;
        let summary = record.summary;
        let fields = Fields::new();
        let shards = (0..summary.shards)
            .map(|shard| {
                let place = ShardPlace::new(dir, shard, summary.shards);
                Shard::open(place.finished(), &fields, &summary)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let blank = blank_searcher(&fields).map_err(SearchError::tantivy(dir))?;
        Ok(Self { folder: dir.to_owned(), shards, summary, text: fields.text, blank })
    }

    /// What the index holds.
    pub fn summary(&self) -> &IndexSummary {
        &self.summary
    }

    /// The `k` pages that match any term of `query` best, best first, equal scores by id. A query
    /// without terms (stop words and operators only) finds nothing. Blocks the calling thread.
    ///
    /// # Errors
    /// [`SearchError`] if a shard cannot be read.
    pub fn search_text(&self, query: &str, k: usize) -> Result<Vec<SearchHit>, SearchError> {
        let found = self.best(&text_terms(query), Matching::Any, k, &|_, _| true)?;
        Ok(found.into_iter().map(|found| SearchHit { doc_id: found.id, score: found.score }).collect())
    }

    /// The `k` best pages over all shards among those `admit(shard, page)` lets pass.
    pub(crate) fn best(
        &self,
        terms: &WeightedTerms,
        matching: Matching,
        k: usize,
        admit: &dyn Fn(usize, DocId) -> bool,
    ) -> Result<Vec<Found>, SearchError> {
        let k = k.min(usize::try_from(self.summary.pages).unwrap_or(usize::MAX));
        if k == 0 || terms.is_empty() {
            return Ok(Vec::new());
        }
        let statistics = self.statistics(terms)?;
        let query = ScoredQuery::new(terms, matching, self.text, &statistics, &self.blank)
            .map_err(SearchError::tantivy(&self.folder))?;
        let Some(query) = query else {
            return Ok(Vec::new());
        };
        let mut floor = f32::NEG_INFINITY;
        let mut candidates: Vec<(usize, Candidate)> = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let admit = |page| admit(number, page);
            let best = topk::best_of_shard(shard, &query, k, floor, &admit)
                .map_err(SearchError::tantivy(&shard.folder))?;
            candidates.extend(best.into_iter().map(|candidate| (number, candidate)));
            if candidates.len() >= k {
                let (_, (_, kth), _) =
                    candidates.select_nth_unstable_by(k - 1, |(_, a), (_, b)| b.score.total_cmp(&a.score));
                floor = kth.score;
                candidates.retain(|(_, candidate)| candidate.score >= floor);
            }
        }
        let mut found = self.with_ids(candidates)?;
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        found.truncate(k);
        Ok(found)
    }

    /// The filter columns and the URL of a page.
    pub(crate) fn shard(&self, shard: usize) -> &Shard {
        &self.shards[shard]
    }

    fn statistics(&self, terms: &WeightedTerms) -> Result<Statistics, SearchError> {
        let mut statistics = Statistics {
            pages: self.summary.pages,
            text_terms: self.summary.text_terms,
            pages_with: terms.keys().map(|term| (term.clone(), 0)).collect(),
        };
        for shard in &self.shards {
            let Some(inverted) = &shard.inverted else {
                continue;
            };
            for (text, pages_with) in &mut statistics.pages_with {
                let found = inverted
                    .doc_freq(&Term::from_field_text(self.text, text))
                    .map_err(SearchError::io(&shard.folder))?;
                *pages_with += u64::from(found);
            }
        }
        Ok(statistics)
    }

    /// Looks the ids up, shard by shard in dictionary order.
    fn with_ids(&self, mut candidates: Vec<(usize, Candidate)>) -> Result<Vec<Found>, SearchError> {
        candidates.sort_unstable_by_key(|(shard, candidate)| (*shard, candidate.id_ord));
        let mut found = Vec::with_capacity(candidates.len());
        for of_shard in candidates.chunk_by(|a, b| a.0 == b.0) {
            let number = of_shard[0].0;
            let shard = &self.shards[number];
            let Some(ids) = &shard.ids else {
                continue;
            };
            let ords: Vec<u64> = of_shard.iter().map(|(_, c)| c.id_ord).collect();
            let mut of_shard = of_shard.iter();
            ids.dictionary()
                .sorted_ords_to_term_cb(&ords, |id| {
                    if let Some((_, candidate)) = of_shard.next() {
                        found.push(Found {
                            score: candidate.score,
                            id: String::from_utf8_lossy(id).into_owned(),
                            shard: number,
                            page: candidate.page,
                        });
                    }
                })
                .map_err(SearchError::io(&shard.folder))?;
        }
        Ok(found)
    }
}

impl Shard {
    fn open(folder: PathBuf, fields: &Fields, summary: &IndexSummary) -> Result<Self, SearchError> {
        let path = folder.join(SHARD_FILE);
        let record = layout::read_record::<ShardRecord>(&path).map_err(damaged)?.ok_or_else(|| {
            SearchError::Damaged { path: path.clone(), problem: "the shard is missing".to_owned() }
        })?;
        check_format(&path, record.format_version, &record.analyzer)?;
        check_files(&folder, &record)?;
        if record.pages == 0 {
            return Ok(Self {
                folder,
                reader: None,
                inverted: None,
                lengths: None,
                bound_slack: 1.0,
                ids: None,
                urls: None,
                language_scores: None,
                token_counts: None,
            });
        }
        Self::open_segment(&folder, fields, summary).map_err(SearchError::tantivy(&folder))
    }

    fn open_segment(folder: &Path, fields: &Fields, summary: &IndexSummary) -> tantivy::Result<Self> {
        let index = Index::open_in_dir(folder)?;
        let segments = index.searchable_segments()?;
        let segment = segments
            .first()
            .ok_or_else(|| tantivy::TantivyError::InternalError("the shard holds no segment".to_owned()))?;
        let reader = SegmentReader::open(segment)?;
        let inverted = reader.inverted_index(fields.text)?;
        let shard_average = inverted.total_num_tokens() as f32 / reader.max_doc() as f32;
        let average = summary.text_terms as f32 / summary.pages as f32;
        let columns = reader.fast_fields();
        Ok(Self {
            folder: folder.to_owned(),
            lengths: Some(reader.get_fieldnorms_reader(fields.text)?),
            bound_slack: match shard_average > 0.0 {
                true => topk::bound_slack(shard_average, average),
                // No page of the shard has a term: nothing to find, nothing to bound.
                false => 1.0,
            },
            ids: columns.str(ID)?,
            urls: columns.str(URL)?,
            language_scores: columns.column_opt(LANGUAGE_SCORE)?,
            token_counts: columns.column_opt(TOKEN_COUNT)?,
            inverted: Some(inverted),
            reader: Some(reader),
        })
    }

    pub(crate) fn id_ord(&self, page: DocId) -> u64 {
        let ord = self.ids.as_ref().and_then(|ids| ids.ords().first(page));
        ord.unwrap_or_default()
    }

    pub(crate) fn language_score(&self, page: DocId) -> Option<f64> {
        self.language_scores.as_ref()?.first(page)
    }

    pub(crate) fn token_count(&self, page: DocId) -> Option<i64> {
        self.token_counts.as_ref()?.first(page)
    }

    pub(crate) fn url(&self, page: DocId) -> Result<Option<String>, SearchError> {
        let Some(urls) = &self.urls else {
            return Ok(None);
        };
        let Some(ord) = urls.ords().first(page) else {
            return Ok(None);
        };
        let mut url = String::new();
        let known = urls.ord_to_str(ord, &mut url).map_err(SearchError::io(&self.folder))?;
        Ok(known.then_some(url))
    }
}

/// Reads every byte of the index in `dir` and compares it with its checksums.
///
/// # Errors
/// [`SearchError::Damaged`] names the first file that is not as it was written.
pub fn verify_index(dir: &Path) -> Result<(), SearchError> {
    let searcher = Searcher::open(dir)?;
    for shard in &searcher.shards {
        let Some(reader) = &shard.reader else {
            continue;
        };
        for path in layout::files_of(&shard.folder).map_err(damaged)? {
            // The two records carry no checksum; that they could be read is the check.
            if path.extension().is_some_and(|extension| extension == "json") {
                continue;
            }
            let name = Path::new(path.file_name().unwrap_or_default());
            let intact = reader
                .index()
                .directory()
                .validate_checksum(name)
                .map_err(|error| SearchError::tantivy(&path)(error.into()))?;
            if !intact {
                let problem = "its content does not match its checksum".to_owned();
                return Err(SearchError::Damaged { path, problem });
            }
        }
    }
    Ok(())
}

fn blank_searcher(fields: &Fields) -> tantivy::Result<tantivy::Searcher> {
    let index = IndexBuilder::new().schema(fields.schema.clone()).create_in_ram()?;
    let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
    Ok(reader.searcher())
}

fn check_format(path: &Path, version: u32, analyzer: &str) -> Result<(), SearchError> {
    let found = format!("format {version}, analysis {analyzer}");
    let wanted = format!("format {FORMAT_VERSION}, analysis {ANALYZER}");
    match found == wanted {
        true => Ok(()),
        false => Err(SearchError::Format { path: path.to_owned(), found, wanted }),
    }
}

fn check_files(folder: &Path, record: &ShardRecord) -> Result<(), SearchError> {
    for (name, &bytes) in &record.files {
        let path = folder.join(name);
        let problem = match path.metadata() {
            Ok(file) if file.len() == bytes => continue,
            Ok(file) => format!("it has {} bytes, not {bytes}", file.len()),
            Err(error) => error.to_string(),
        };
        return Err(SearchError::Damaged { path, problem });
    }
    Ok(())
}

fn damaged(error: IndexError) -> SearchError {
    match error {
        IndexError::Io { path, source } => SearchError::Io { path, source },
        IndexError::Record { path, source } => SearchError::Damaged { path, problem: source.to_string() },
        other => SearchError::Damaged { path: PathBuf::new(), problem: other.to_string() },
    }
}
