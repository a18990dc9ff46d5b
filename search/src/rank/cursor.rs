//! A place in the postings of one term.

use tantivy::postings::BlockSegmentPostings;
use tantivy::{DocId, TERMINATED};

use super::window::{WINDOW_PAGES, Window};
use crate::bm25::TermScores;
use crate::query::Postings;
use crate::shard_reader::ShardReader;

/// A term's postings, read a block (128 pages) at a time.
pub(super) struct Cursor<'a> {
    postings: BlockSegmentPostings,
    /// Place in the block; its end only where the postings end.
    at: usize,
    lengths: &'a [u8],
    scores: &'a TermScores,
    bound: u32,
    /// Postings in a window, on average.
    pub(super) in_window: usize,
}

impl<'a> Cursor<'a> {
    /// At the first page with the term.
    pub(super) fn open(
        shard: &'a ShardReader,
        postings: &Postings,
        scores: &'a TermScores,
    ) -> std::io::Result<Self> {
        let pages = (shard.max_page() as usize).max(WINDOW_PAGES);
        let in_window = postings.place.doc_freq as usize * WINDOW_PAGES / pages;
        let bound = scores.bound(postings.most);
        let postings = shard.postings(&postings.place)?;
        Ok(Self { postings, at: 0, lengths: &shard.lengths, scores, bound, in_window })
    }

    /// What the term adds to any page at most.
    pub(super) fn bound(&self) -> u32 {
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
    pub(super) fn score(&self) -> u32 {
        let length = self.lengths.get(self.page() as usize).copied().unwrap_or_default();
        self.scores.score(self.postings.freq(self.at), length)
    }

    /// Adds what the term adds to every page from the cursor on to the window that begins with the
    /// page `first`, and goes to its end.
    pub(super) fn add_to(&mut self, window: &mut Window, first: DocId) {
        let end = first.saturating_add(WINDOW_PAGES as DocId).min(TERMINATED);
        loop {
            let docs = self.postings.docs().get(self.at..).unwrap_or_default();
            let Some(&last) = docs.last() else {
                return;
            };
            let inside = if last < end { docs.len() } else { docs.partition_point(|&page| page < end) };
            let frequencies = &self.postings.freqs()[self.at..][..inside];
            window.add(first, &docs[..inside], frequencies, self.lengths, self.scores);
            self.at += inside;
            if inside < docs.len() {
                return;
            }
            self.next_block();
        }
    }
}
