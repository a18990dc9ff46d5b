//! The best pages of a query seen so far, over the shards.

use tantivy::DocId;

use super::order::order;
use crate::bm25::{SUM_BITS, Scale};
use crate::page_ids::PageIds;
use crate::query::ScoredQuery;
use crate::shard_reader::ShardReader;

/// Pages are counted by the leading bits of their sums.
pub(super) const BUCKETS: usize = 1_024;
pub(super) const BUCKET_SHIFT: u32 = SUM_BITS - BUCKETS.ilog2();

/// So much smaller a sum may round to the same f32: what that leaves out.
const ROUNDING: u32 = 1 << (SUM_BITS - f32::MANTISSA_DIGITS);

/// Tells which pages may be found; none tells that all may.
pub(crate) type Admit<'a> = Option<&'a dyn Fn(DocId) -> bool>;

/// Pages found, best first, equal scores by id.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) pages: Vec<FoundPage>,
    /// Their ids, in the same order.
    pub(crate) ids: PageIds,
}

/// A page found, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundPage {
    pub(crate) score: f32,
    pub(crate) shard: u32,
    pub(crate) page: DocId,
}

/// A page that may be among the best.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) sum: u32,
    pub(super) shard: u32,
    pub(super) page: DocId,
}

/// Collects pages that may be among the best `k`. How many score how much is counted as they come,
/// so that the floor rises with every page; they are sorted out at the end alone, or when many have
/// come.
pub(crate) struct TopPages {
    k: usize,
    rows: Vec<Row>,
    /// Rows at which they are sorted out.
    full: usize,
    /// No page with a smaller sum can be among the best `k`; above 0.
    least: u32,
    scale: Scale,
    /// Pages by sum.
    buckets: Box<[u32; BUCKETS]>,
    /// The greatest bucket that `k` pages are in or above; the first while there are fewer.
    level: usize,
    /// Pages in the buckets above it.
    above: usize,
}

impl TopPages {
    pub(crate) fn new(k: usize, query: &ScoredQuery) -> Self {
        Self {
            k,
            rows: Vec::with_capacity(k.saturating_mul(2).min(16_384)),
            full: k.saturating_mul(4).saturating_add(1_024),
            least: 1,
            scale: query.scale,
            buckets: Box::new([0; BUCKETS]),
            level: 0,
            above: 0,
        }
    }

    pub(super) fn wants_nothing(&self) -> bool {
        self.k == 0
    }

    pub(super) fn of_shard<'a>(&'a mut self, reader: &'a ShardReader, shard: usize) -> ShardTop<'a> {
        ShardTop { top: self, reader, shard: shard as u32 }
    }

    #[inline(always)]
    fn count(&mut self, sum: u32) {
        let bucket = (sum >> BUCKET_SHIFT) as usize % BUCKETS;
        self.buckets[bucket] += 1;
        self.above += usize::from(bucket > self.level);
        if self.above >= self.k {
            self.raise_level();
        }
    }

    #[inline(never)]
    fn raise_level(&mut self) {
        while self.above >= self.k {
            self.level += 1;
            self.above -= self.buckets[self.level] as usize;
        }
        self.raise((self.level as u32) << BUCKET_SHIFT);
    }

    /// At least `k` pages have the sum `reached` or a greater one.
    fn raise(&mut self, reached: u32) {
        self.least = self.least.max(reached.saturating_sub(ROUNDING));
    }

    /// Drops the pages that the floor has left behind.
    fn drop_lost(&mut self) {
        // Which stay is a matter of chance, hence without a branch for it.
        let mut kept = 0;
        for number in 0..self.rows.len() {
            let row = self.rows[number];
            self.rows[kept] = row;
            kept += usize::from(row.sum >= self.least);
        }
        self.rows.truncate(kept);
    }

    /// The best pages with their ids.
    pub(crate) fn finish(mut self, shards: &[ShardReader], common_id_bytes: usize) -> Found {
        self.drop_lost();
        let id = |row: &Row| shards[row.shard as usize].id_bytes(row.page);
        let ids: Vec<&[u8]> = self.rows.iter().map(id).collect();
        // The ids lie scattered over memory. Touched in one tight loop, at both ends, they are fetched side
        // by side and not one after the other.
        let ends = |id: &&[u8]| id.first().unwrap_or(&0) ^ id.last().unwrap_or(&0);
        std::hint::black_box(ids.iter().fold(0, |touched, id| touched ^ ends(id)));
        let mut order = order(&self.rows, &ids, common_id_bytes);
        order.truncate(self.k);
        let found = |&number: &u32| {
            let Row { sum, shard, page } = self.rows[number as usize];
            FoundPage { score: self.scale.score_of(sum), shard, page }
        };
        Found {
            pages: order.iter().map(found).collect(),
            ids: PageIds::from_bytes(order.iter().map(|&number| ids[number as usize])),
        }
    }
}

/// The best pages so far, while a shard is searched.
pub(super) struct ShardTop<'a> {
    top: &'a mut TopPages,
    reader: &'a ShardReader,
    shard: u32,
}

impl ShardTop<'_> {
    /// The least sum with which a page can be among the best; above 0.
    #[inline(always)]
    pub(super) fn least(&self) -> u32 {
        self.top.least
    }

    /// Takes the page if it may be among the best.
    #[inline(always)]
    pub(super) fn offer(&mut self, page: DocId, sum: u32, admit: Admit) {
        if sum >= self.top.least && admit.is_none_or(|admit| admit(page)) {
            self.top.rows.push(Row { sum, shard: self.shard, page });
            self.top.count(sum);
            if self.top.rows.len() >= self.top.full {
                self.make_room();
            }
        }
    }

    /// Drops what cannot be among the best, of equal scores at the end all but those of this shard
    /// with the smallest ids.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self) {
        let top = &mut *self.top;
        top.drop_lost();
        if top.rows.len() > top.full / 2 {
            let score = |row: &Row| row.sum as f32;
            let by_score = |a: &Row, b: &Row| score(b).total_cmp(&score(a));
            let (better, kth, _) = top.rows.select_nth_unstable_by(top.k - 1, by_score);
            let (last, reached) = (score(kth), kth.sum);
            let places = top.k - better.iter().filter(|row| score(row) > last).count();
            let mut tied: Vec<(u64, Row)> = Vec::new();
            top.rows.retain(|row| {
                let here = score(row) == last && row.shard == self.shard;
                if here {
                    tied.push((self.reader.id_ord(row.page), *row));
                }
                score(row) >= last && !here
            });
            if tied.len() > places {
                tied.select_nth_unstable_by_key(places - 1, |(id_ord, _)| *id_ord);
            }
            top.rows.extend(tied.into_iter().take(places).map(|(_, row)| row));
            top.raise(reached.saturating_sub(ROUNDING));
        }
        top.full = top.full.max(2 * top.rows.len());
    }
}
