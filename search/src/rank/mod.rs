//! The best pages of a query, exactly, shard after shard.
//!
//! Postings are read a block at a time and their scores added up over a window of pages. What the
//! best pages so far score is a floor for the rest: terms whose weights together stay below it cannot
//! bring a page in alone, so their postings are not read through where few pages are left to ask
//! for (MaxScore: Turtle and Flood, "Query evaluation: strategies and optimizations", 1995). The
//! bounds hold for any average page length, hence for statistics of several shards.

mod all;
mod any;
mod cursor;
mod order;
mod top;
mod window;

use crate::query::{Matching, ScoredQuery};
use crate::shard_reader::ShardReader;

use cursor::Cursor;
pub(crate) use top::{Admit, Found, FoundPage, TopPages};

impl TopPages {
    /// Adds the best pages of a shard among those `admit` lets pass (all, if not given). What the shards before hold sets
    /// the floor for this one.
    pub(crate) fn search(
        &mut self,
        reader: &ShardReader,
        shard: usize,
        query: &ScoredQuery,
        admit: Admit,
    ) -> std::io::Result<()> {
        if self.wants_nothing() {
            return Ok(());
        }
        // In the order of what they add at most, the least first.
        let mut terms = Vec::with_capacity(query.terms.len());
        for term in &query.terms {
            match &term.places.postings[shard] {
                Some(postings) => terms.push((term.scores.bound(postings.most), postings, &term.scores)),
                // A term that no page of the shard has.
                None if query.matching == Matching::All => return Ok(()),
                None => {}
            }
        }
        terms.sort_by_key(|(bound, ..)| *bound);
        let mut cursors = Vec::with_capacity(terms.len());
        for (_, postings, scores) in terms {
            cursors.push(Cursor::open(reader, postings, scores)?);
        }
        let mut best = self.of_shard(reader, shard);
        match query.matching {
            Matching::All => all::rank(cursors, &mut best, admit),
            Matching::Any => any::rank(cursors, &mut best, admit),
        }
        Ok(())
    }
}
