//! One shard, or a run of a shard that keeps several, opened for searching.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::columnar::{Column, StrColumn};
use tantivy::directory::OwnedBytes;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::IndexRecordOption;
use tantivy::{BitSet, DocId, Index, SegmentReader, TERMINATED, Term};

use crate::bm25::Saturation;
use crate::error::{IndexError, SearchError};
use crate::ids::{IDS_FILE, IdTable};
use crate::layout::{self, ANALYZER, FORMAT_VERSION, SHARD_FILE, ShardPlace, ShardRecord};
use crate::query::Postings;
use crate::run;
use crate::schema::{Fields, ID, INT_SCORE, LANGUAGE, LANGUAGE_SCORE, TOKEN_COUNT, URL};

/// A segment that holds pages. Its files are memory-mapped.
pub(crate) struct ShardReader {
    pub(crate) folder: PathBuf,
    pub(crate) segment: SegmentReader,
    inverted: Arc<InvertedIndexReader>,
    /// The length of each page, as one of Tantivy's 256 steps.
    pub(crate) lengths: OwnedBytes,
    ids: StrColumn,
    id_table: IdTable,
    digests: BTreeMap<String, String>,
    urls: Option<StrColumn>,
    pub(crate) languages: Option<StrColumn>,
    pub(crate) language_scores: Option<Column<f64>>,
    pub(crate) token_counts: Option<Column<i64>>,
    pub(crate) int_scores: Option<Column<i64>>,
    /// Pages that an earlier index holds too: there they are found, here they do not count.
    hidden: Option<Hidden>,
}

/// The hidden pages of a shard.
struct Hidden {
    /// In ascending order.
    pages: Vec<DocId>,
    set: BitSet,
    /// Terms of their texts.
    text_terms: u64,
    text_bytes: u64,
}

impl ShardReader {
    /// The segments of a shard, in the order of their pages; none if it holds no page.
    pub(crate) fn open(place: &ShardPlace, fields: &Fields) -> Result<Vec<Self>, SearchError> {
        let folder = place.finished();
        let path = folder.join(SHARD_FILE);
        let record = layout::read_record::<ShardRecord>(&path).map_err(damaged)?.ok_or_else(|| {
            SearchError::Damaged { path: path.clone(), problem: "the shard is missing".to_owned() }
        })?;
        check_format(&path, record.format_version, &record.analyzer)?;
        check_files(&folder, &record)?;
        if record.pages == 0 {
            return Ok(Vec::new());
        }
        let open = |(folder, prefix): (PathBuf, String)| {
            let id_table = IdTable::open(&folder).map_err(|error| SearchError::Damaged {
                path: folder.join(IDS_FILE),
                problem: error.to_string(),
            })?;
            let own = |(name, digest): (&String, &String)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), digest.clone()))
            };
            let digests = record.digests.iter().filter_map(own).collect();
            Self::open_segment(&folder, fields, id_table, digests).map_err(SearchError::tantivy(&folder))
        };
        record.segments(&folder).into_iter().map(open).collect()
    }

    fn open_segment(
        folder: &Path,
        fields: &Fields,
        id_table: IdTable,
        digests: BTreeMap<String, String>,
    ) -> tantivy::Result<Self> {
        let index = Index::open_in_dir(folder)?;
        let segments = index.searchable_segments()?;
        let missing = |what: &str| tantivy::TantivyError::InternalError(format!("the shard holds no {what}"));
        let segment = SegmentReader::open(segments.first().ok_or_else(|| missing("segment"))?)?;
        let columns = segment.fast_fields();
        let lengths = segment.fieldnorms_readers().get_inner_file().open_read(fields.text);
        Ok(Self {
            folder: folder.to_owned(),
            lengths: lengths.ok_or_else(|| missing("page lengths"))?.read_bytes()?,
            inverted: segment.inverted_index(fields.text)?,
            ids: columns.str(ID)?.ok_or_else(|| missing("page ids"))?,
            // A column that no page has a value in is there and empty.
            urls: columns.str(URL)?.filter(|column| column.num_terms() > 0),
            languages: columns.str(LANGUAGE)?.filter(|column| column.num_terms() > 0),
            language_scores: columns.column_opt::<f64>(LANGUAGE_SCORE)?.filter(|c| c.values.num_vals() > 0),
            token_counts: columns.column_opt::<i64>(TOKEN_COUNT)?.filter(|c| c.values.num_vals() > 0),
            int_scores: columns.column_opt::<i64>(INT_SCORE)?.filter(|c| c.values.num_vals() > 0),
            hidden: None,
            id_table,
            digests,
            segment,
        })
    }

    /// Pages in the shard's files, hidden ones among them.
    pub(crate) fn max_page(&self) -> DocId {
        self.segment.max_doc()
    }

    pub(crate) fn ids(&self) -> &StrColumn {
        &self.ids
    }

    /// Place of a page's id among the sorted ids of the shard: orders equal scores.
    pub(crate) fn id_ord(&self, page: DocId) -> u64 {
        self.ids.ords().first(page).unwrap_or_default()
    }

    /// The first and the last of the sorted ids.
    pub(crate) fn first_and_last_id(&self) -> std::io::Result<[Vec<u8>; 2]> {
        let mut ids = [Vec::new(), Vec::new()];
        let last = (self.ids.num_terms() as u64).saturating_sub(1);
        for (ord, id) in [0, last].into_iter().zip(&mut ids) {
            self.ids.ord_to_bytes(ord, id)?;
        }
        Ok(ids)
    }

    /// The bytes of a page's id, see [`IdTable::bytes_of`].
    #[inline]
    pub(crate) fn id_bytes(&self, page: DocId) -> &[u8] {
        self.id_table.bytes_of(page)
    }

    /// The URL of a page.
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

    /// Hides the pages whose id has one of the given places among the sorted ids.
    pub(crate) fn hide(&mut self, id_ords: &BitSet) -> Result<(), SearchError> {
        let pages: Vec<DocId> =
            (0..self.max_page()).filter(|&page| id_ords.contains(self.id_ord(page) as u32)).collect();
        let lengths = run::read_lengths(&self.folder).map_err(damaged)?;
        let mut hidden =
            Hidden { set: BitSet::with_max_value(self.max_page()), text_terms: 0, text_bytes: 0, pages };
        for &page in &hidden.pages {
            hidden.set.insert(page);
            let length = lengths.get(page as usize).ok_or_else(|| SearchError::Damaged {
                path: self.folder.join(layout::LENGTHS_FILE),
                problem: format!("it has no length of page {page}"),
            })?;
            hidden.text_terms += u64::from(length.terms);
            hidden.text_bytes += u64::from(length.text_bytes);
        }
        self.hidden = Some(hidden);
        Ok(())
    }

    pub(crate) fn hides_pages(&self) -> bool {
        self.hidden.is_some()
    }

    pub(crate) fn is_hidden(&self, page: DocId) -> bool {
        self.hidden.as_ref().is_some_and(|hidden| hidden.set.contains(page))
    }

    /// Pages hidden, the terms and the bytes of their texts.
    pub(crate) fn hidden(&self) -> (u64, u64, u64) {
        let sizes = |hidden: &Hidden| (hidden.pages.len() as u64, hidden.text_terms, hidden.text_bytes);
        self.hidden.as_ref().map(sizes).unwrap_or_default()
    }

    /// The term's postings, if a page has it. Reads them once through.
    pub(crate) fn find(&self, term: &Term, saturation: &Saturation) -> std::io::Result<Option<Postings>> {
        let Some(place) = self.inverted.get_term_info(term)? else {
            return Ok(None);
        };
        let mut postings = self.postings(&place)?;
        let mut most = 0.0_f32;
        while !postings.docs().is_empty() {
            for (&page, &frequency) in postings.docs().iter().zip(postings.freqs()) {
                let length = self.lengths.get(page as usize).copied().unwrap_or_default();
                most = most.max(saturation.factor(frequency, length));
            }
            postings.advance();
        }
        Ok(Some(Postings { place, most }))
    }

    /// A term's postings with frequencies.
    pub(crate) fn postings(&self, term: &TermInfo) -> std::io::Result<BlockSegmentPostings> {
        self.inverted.read_block_postings_from_terminfo(term, IndexRecordOption::WithFreqs)
    }

    /// Pages with the term, hidden ones not counted.
    pub(crate) fn pages_with(&self, term: &TermInfo) -> std::io::Result<u64> {
        let all = u64::from(term.doc_freq);
        let Some(hidden) = &self.hidden else {
            return Ok(all);
        };
        let mut postings = self.inverted.read_block_postings_from_terminfo(term, IndexRecordOption::Basic)?;
        let mut hidden_with = 0;
        for &page in &hidden.pages {
            let at = postings.seek(page);
            match postings.docs().get(at).copied().unwrap_or(TERMINATED) {
                TERMINATED => break,
                found => hidden_with += u64::from(found == page),
            }
        }
        Ok(all - hidden_with)
    }

    /// Compares every byte of the shard's files with their checksums.
    pub(crate) fn verify(&self) -> Result<(), SearchError> {
        for path in layout::files_of(&self.folder).map_err(damaged)? {
            let name = path.file_name().unwrap_or_default();
            // The records carry no checksum; that they could be read is the check.
            if path.extension().is_some_and(|extension| extension == "json") {
                continue;
            }
            let intact = match self.digests.get(&*name.to_string_lossy()) {
                Some(digest) => digests::of_file(&path).map_err(SearchError::io(&path))? == *digest,
                None => {
                    let directory = self.segment.index().directory();
                    let checked = directory.validate_checksum(Path::new(name));
                    checked.map_err(|error| SearchError::tantivy(&path)(error.into()))?
                }
            };
            if !intact {
                let problem = "its content does not match its checksum".to_owned();
                return Err(SearchError::Damaged { path, problem });
            }
        }
        Ok(())
    }
}

pub(crate) fn check_format(path: &Path, version: u32, analyzer: &str) -> Result<(), SearchError> {
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

pub(crate) fn damaged(error: IndexError) -> SearchError {
    match error {
        IndexError::Io { path, source } => SearchError::Io { path, source },
        IndexError::Record { path, source } => SearchError::Damaged { path, problem: source.to_string() },
        other => SearchError::Damaged { path: PathBuf::new(), problem: other.to_string() },
    }
}
