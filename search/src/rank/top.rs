//! The best pages of a query seen so far, over the shards.

use tantivy::DocId;

use crate::bm25::{SUM_BITS, Scale};
use crate::page_ids::PageIds;
use crate::query::ScoredQuery;
use crate::shard_reader::ShardReader;

/// Pages are counted by the leading bits of their sums.
const BUCKETS: usize = 1_024;
const BUCKET_SHIFT: u32 = SUM_BITS - BUCKETS.ilog2();

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

/// Collects pages that may be among the best `k`. How many score how much is counted as they come,
/// so that the floor rises with every page; they are sorted out at the end alone, or when many have
/// come.
pub(crate) struct TopPages {
    k: usize,
    rows: Vec<FoundPage>,
    /// Rows at which they are sorted out.
    full: usize,
    /// No page that scores less can be among the best `k`.
    floor: f32,
    /// No smaller sum rounds to `floor`; above 0.
    least: u32,
    scale: Scale,
    /// Pages by sum.
    buckets: Box<[u32; BUCKETS]>,
    /// The bucket that holds the k-th best page; the first while there are fewer.
    level: usize,
    /// Pages in that bucket and above.
    counted: usize,
}

impl TopPages {
    pub(crate) fn new(k: usize, query: &ScoredQuery) -> Self {
        Self {
            k,
            rows: Vec::with_capacity(k.saturating_mul(2).min(16_384)),
            full: k.saturating_mul(4).saturating_add(1_024),
            floor: f32::NEG_INFINITY,
            least: 1,
            scale: query.scale,
            buckets: Box::new([0; BUCKETS]),
            level: 0,
            counted: 0,
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
        self.buckets[(sum >> BUCKET_SHIFT) as usize % BUCKETS] += 1;
        self.counted += 1;
        let beyond = |top: &Self| top.counted - top.buckets[top.level] as usize;
        if beyond(self) >= self.k {
            while beyond(self) >= self.k {
                self.counted = beyond(self);
                self.level += 1;
            }
            self.raise((self.level as u32) << BUCKET_SHIFT);
        }
    }

    /// To the score of the sum `least`, which at least `k` pages reach.
    fn raise(&mut self, least: u32) {
        let floor = self.scale.score_of(least);
        if floor > self.floor {
            self.floor = floor;
            // Smaller sums may round to the same score, by half of what an f32 leaves out.
            self.least = least.saturating_sub(1 << (SUM_BITS - f32::MANTISSA_DIGITS)).max(1);
        }
    }

    /// Drops the pages that the floor has left behind.
    fn drop_lost(&mut self) {
        let floor = self.floor;
        self.rows.retain(|row| row.score >= floor);
    }

    /// The best pages with their ids.
    pub(crate) fn finish(mut self, shards: &[ShardReader], common_id_bytes: usize) -> Found {
        self.drop_lost();
        let id = |row: &FoundPage| shards[row.shard as usize].id_bytes(row.page);
        let ids: Vec<&[u8]> = self.rows.iter().map(id).collect();
        // The ids lie scattered over memory. Touched in one tight loop, they are fetched side by side
        // and not one after the other.
        std::hint::black_box(ids.iter().fold(0, |sum: u8, id| sum ^ id.first().unwrap_or(&0)));
        let mut order = sort_keys(&self.rows, &ids, common_id_bytes);
        order.sort_unstable();
        let number = |key: &u128| *key as u32 as usize;
        for tied in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|tied| tied.len() > 1) {
            tied.sort_unstable_by_key(|key| ids[number(key)]);
        }
        order.truncate(self.k);
        Found {
            pages: order.iter().map(|key| self.rows[number(key)]).collect(),
            ids: PageIds::from_bytes(order.iter().map(|key| ids[number(key)])),
        }
    }
}

/// For each page its score, the greatest first, then the bytes with which its id goes on after what all
/// ids begin with, then its number. In almost all pairs of pages that is enough to order them.
fn sort_keys(rows: &[FoundPage], ids: &[&[u8]], common_id_bytes: usize) -> Vec<u128> {
    let key = |((number, row), id): ((u64, &FoundPage), &&[u8])| {
        let rest = id.get(common_id_bytes..).unwrap_or_default();
        let next = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut next = [0; 8];
            next[..rest.len()].copy_from_slice(rest);
            next
        });
        // Scores are above 0, where the bits of an f32 have its order.
        let score = u128::from(!row.score.to_bits());
        score << 96 | u128::from(u64::from_be_bytes(next)) << 32 | u128::from(number)
    };
    (0..).zip(rows).zip(ids).map(key).collect()
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
        let score = self.top.scale.score_of(sum);
        if score >= self.top.floor && admit.is_none_or(|admit| admit(page)) {
            self.top.rows.push(FoundPage { score, shard: self.shard, page });
            self.top.count(sum);
            if self.top.rows.len() >= self.top.full {
                self.make_room();
            }
        }
    }

    /// Drops what cannot be among the best, of equal scores at the end all but those of this shard
    /// with the smallest ids.
    #[cold]
    fn make_room(&mut self) {
        let top = &mut *self.top;
        top.drop_lost();
        if top.rows.len() > top.k + top.full / 2 {
            let by_score = |a: &FoundPage, b: &FoundPage| b.score.total_cmp(&a.score);
            let (above, kth, _) = top.rows.select_nth_unstable_by(top.k - 1, by_score);
            let last = kth.score;
            let places = top.k - above.iter().filter(|row| row.score > last).count();
            let mut tied: Vec<(u64, FoundPage)> = Vec::new();
            top.rows.retain(|row| {
                let here = row.score == last && row.shard == self.shard;
                if here {
                    tied.push((self.reader.id_ord(row.page), *row));
                }
                row.score >= last && !here
            });
            if tied.len() > places {
                tied.select_nth_unstable_by_key(places - 1, |(id_ord, _)| *id_ord);
            }
            top.rows.extend(tied.into_iter().take(places).map(|(_, row)| row));
        }
        top.full = top.full.max(2 * top.rows.len());
    }
}
