//! A place in the postings of one term.

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::BlockSegmentPostings;
use tantivy::query::Bm25Weight;
use tantivy::schema::IndexRecordOption;
use tantivy::{DocId, TERMINATED};

use super::{bound, fixed};
use crate::query::ScoredTerm;
use crate::shard_reader::ShardReader;

/// A term's postings, read a block (128 pages) at a time.
pub(super) struct Cursor<'a> {
    postings: BlockSegmentPostings,
    /// Place in the block; its end only where the postings end.
    at: usize,
    lengths: &'a FieldNormReader,
    weight: &'a Bm25Weight,
    bound: i64,
}

impl<'a> Cursor<'a> {
    /// At the first page with the term; `None` if there is none.
    pub(super) fn open(shard: &'a ShardReader, term: &'a ScoredTerm) -> std::io::Result<Option<Self>> {
        let postings = shard.inverted.read_block_postings(&term.term, IndexRecordOption::WithFreqs)?;
        Ok(postings.map(|postings| Self {
            postings,
            at: 0,
            lengths: &shard.lengths,
            weight: &term.weight,
            bound: bound(&term.weight),
        }))
    }

    /// What the term adds to any page at most.
    pub(super) fn bound(&self) -> i64 {
        self.bound
    }

    /// Pages of the shard with the term.
    pub(super) fn pages(&self) -> u32 {
        self.postings.doc_freq()
    }

    /// The page the cursor stands on; `TERMINATED` after the last.
    #[inline]
    pub(super) fn page(&self) -> DocId {
        self.postings.docs().get(self.at).copied().unwrap_or(TERMINATED)
    }

    /// Goes to the first page from `page` on.
    #[inline]
    pub(super) fn seek(&mut self, page: DocId) -> DocId {
        if self.page() < page {
            self.at = self.postings.seek(page);
        }
        self.page()
    }

    /// Goes to the next page; must not stand after the last.
    #[inline]
    pub(super) fn advance(&mut self) -> DocId {
        self.at += 1;
        if self.at >= self.postings.block_len() {
            self.next_block();
        }
        self.page()
    }

    fn next_block(&mut self) {
        self.postings.advance();
        self.at = 0;
    }

    /// What the term adds to the page the cursor stands on.
    #[inline]
    pub(super) fn score(&self) -> i64 {
        let length = self.lengths.fieldnorm_id(self.page());
        fixed(self.weight.score(length, self.postings.freq(self.at)))
    }

    /// Hands every page below `end` to `add` with what the term adds to it, and goes to `end`.
    #[inline]
    pub(super) fn for_each_below(&mut self, end: DocId, mut add: impl FnMut(DocId, i64)) {
        loop {
            let (docs, freqs) = (self.postings.docs(), self.postings.freqs());
            let rest = docs.len();
            for (&page, &frequency) in docs.iter().zip(freqs).skip(self.at) {
                if page >= end {
                    return;
                }
                add(page, fixed(self.weight.score(self.lengths.fieldnorm_id(page), frequency)));
                self.at += 1;
            }
            if rest == 0 {
                return;
            }
            self.next_block();
        }
    }
}
