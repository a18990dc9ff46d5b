//! The best pages of a query seen so far, over the shards.

use tantivy::DocId;

use crate::query::ScoredQuery;
use crate::shard_reader::ShardReader;

/// Scores are counted by their leading bits, 128 buckets an octave, eight octaves down from the most
/// that a page can get.
const BUCKETS: usize = 1_024;
const BUCKET_SHIFT: u32 = 16;

/// A page found, with where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) score: f32,
    pub(crate) id: String,
    pub(crate) shard: usize,
    pub(crate) page: DocId,
}

#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    shard: u32,
    page: DocId,
}

/// Collects pages that may be among the best `k`. How many score how much is counted as they come,
/// so that the floor rises with every page; they are sorted out at the end alone, or when many have
/// come.
pub(crate) struct TopPages {
    k: usize,
    rows: Vec<Candidate>,
    /// Rows at which they are sorted out.
    full: usize,
    /// No page that scores less can be among the best `k`.
    floor: f32,
    /// The least sum that may round to `floor`; above 0.
    least: f64,
    /// Pages by score, the highest scores first; the last bucket takes all below.
    buckets: Box<[u32; BUCKETS]>,
    /// Leading bits of the scores of the first bucket.
    highest: u32,
    /// The bucket that holds the k-th best page, if there are so many.
    level: usize,
    /// Pages up to that bucket.
    counted: usize,
}

impl TopPages {
    pub(crate) fn new(k: usize, query: &ScoredQuery) -> Self {
        Self {
            k,
            rows: Vec::new(),
            full: k.saturating_mul(4).saturating_add(1_024),
            floor: f32::NEG_INFINITY,
            least: f64::MIN_POSITIVE,
            buckets: Box::new([0; BUCKETS]),
            highest: (query.bound() as f32).to_bits() >> BUCKET_SHIFT,
            level: BUCKETS - 1,
            counted: 0,
        }
    }

    pub(super) fn wants_nothing(&self) -> bool {
        self.k == 0
    }

    pub(super) fn of_shard<'a>(&'a mut self, reader: &'a ShardReader, shard: usize) -> ShardTop<'a> {
        ShardTop { top: self, reader, shard: shard as u32 }
    }

    #[inline]
    fn count(&mut self, score: f32) {
        let below = self.highest.saturating_sub(score.to_bits() >> BUCKET_SHIFT) as usize;
        self.buckets[below.min(BUCKETS - 1)] += 1;
        self.counted += 1;
        let level = self.level;
        while self.counted - self.buckets[self.level] as usize >= self.k {
            self.counted -= self.buckets[self.level] as usize;
            self.level -= 1;
        }
        if self.level < level {
            self.raise(f32::from_bits((self.highest - self.level as u32) << BUCKET_SHIFT));
        }
    }

    fn raise(&mut self, floor: f32) {
        if floor > self.floor {
            self.floor = floor;
            // Scores are rounded sums: half a step of f32 below may still round up.
            self.least = f64::from(floor.next_down()).max(f64::MIN_POSITIVE);
        }
    }

    /// Drops the pages that are not among the best `k`, those that score the same as the last kept.
    fn keep_best(&mut self) {
        if self.rows.len() > self.k {
            let by_score = |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score);
            let (_, kth, _) = self.rows.select_nth_unstable_by(self.k - 1, by_score);
            let floor = kth.score;
            self.rows.retain(|row| row.score >= floor);
            self.raise(floor);
        }
    }

    /// The best pages with their ids, best first, equal scores by id.
    pub(crate) fn finish(mut self, shards: &[ShardReader]) -> Vec<Found> {
        self.keep_best();
        let id = |row: &Candidate| shards[row.shard as usize].id_bytes(row.page);
        // The ids lie scattered over memory. Touched in one tight loop, they are fetched side by side
        // and not one after the other.
        std::hint::black_box(self.rows.iter().fold(0, |sum: u8, row| sum ^ id(row).first().unwrap_or(&0)));
        // Scores are above 0, where the bits of an f32 have its order.
        let mut order: Vec<u64> = (0_u64..)
            .zip(&self.rows)
            .map(|(number, row)| u64::from(!row.score.to_bits()) << 32 | number)
            .collect();
        order.sort_unstable();
        let row = |key: &u64| self.rows[*key as u32 as usize];
        for tied in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|tied| tied.len() > 1) {
            tied.sort_unstable_by_key(|key| id(&row(key)));
        }
        order.truncate(self.k);
        let found = |key: &u64| {
            let Candidate { score, shard, page } = row(key);
            let shard = shard as usize;
            Found { score, id: shards[shard].id(page).to_owned(), shard, page }
        };
        order.iter().map(found).collect()
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
    pub(super) fn least(&self) -> f64 {
        self.top.least
    }

    #[inline(always)]
    pub(super) fn may_enter(&self, sum: f64) -> bool {
        sum as f32 >= self.top.floor
    }

    #[inline(always)]
    pub(super) fn push(&mut self, page: DocId, sum: f64) {
        let score = sum as f32;
        self.top.rows.push(Candidate { score, shard: self.shard, page });
        self.top.count(score);
        if self.top.rows.len() >= self.top.full {
            self.make_room();
        }
    }

    /// Drops what cannot be among the best, of equal scores at the end all but those of this shard
    /// with the smallest ids.
    #[cold]
    fn make_room(&mut self) {
        let top = &mut *self.top;
        top.keep_best();
        let floor = top.floor;
        let places = top.k.saturating_sub(top.rows.iter().filter(|row| row.score > floor).count());
        let mut tied: Vec<(u64, Candidate)> = Vec::new();
        top.rows.retain(|row| {
            let here = row.score == floor && row.shard == self.shard;
            if here {
                tied.push((self.reader.id_ord(row.page), *row));
            }
            !here
        });
        if tied.len() > places && places > 0 {
            tied.select_nth_unstable_by_key(places - 1, |(id_ord, _)| *id_ord);
        }
        top.rows.extend(tied.into_iter().take(places).map(|(_, row)| row));
        top.full = top.full.max(2 * top.rows.len());
    }
}
