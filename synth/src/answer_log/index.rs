//! Which answers the log holds, and where.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format::{Content, Meta, Version};
use super::runs::{self, Run, ShortId, Slot};
use crate::chat::{RequestId, RequestKey};

/// What the answers of a log cost, those included that later ones took the place of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Answers received.
    pub answers: u64,
    /// Requests sent for them, failed ones included.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Sum of the squares of the answers' tokens, from which their spread follows.
    pub completion_tokens_squared: f64,
}

impl Totals {
    pub(super) fn add(&mut self, meta: &Meta) {
        self.answers += 1;
        self.requests += u64::from(meta.attempts);
        self.prompt_tokens += u64::from(meta.prompt_tokens);
        self.completion_tokens += u64::from(meta.completion_tokens);
        self.completion_tokens_squared += f64::from(meta.completion_tokens).powi(2);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        self.requests += other.requests;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.completion_tokens_squared += other.completion_tokens_squared;
    }
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the segment in [`Shared::segments`](super::Shared).
    pub(super) segment: u32,
    pub(super) offset: u32,
}

fn short(id: &RequestId) -> ShortId {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(first)
}

/// Ids are hashes already.
#[derive(Default)]
struct NoHasher(u64);

impl Hasher for NoHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only for completeness: a `u64` comes by the method below.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type ShortMap<V> = HashMap<ShortId, V, BuildHasherDefault<NoHasher>>;

/// What an offered record is to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is now the answer to its request.
    Taken,
    /// A better answer is there.
    Worse,
    /// An equal one is there: a copy that an interrupted compaction left.
    Copy,
}

/// Which answers there are. The newest lie in memory, the others in [`runs`]: 6 MB, and 1.6 bytes an answer.
///
/// What is looked up may have to be read from a file; all errors are those of reading it.
pub(super) struct Index {
    /// Where the runs lie.
    dir: PathBuf,
    /// Slots from which on a run is made of those in memory.
    max_recent: usize,
    recent: ShortMap<Slot>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    /// What has gone bad since the log was opened.
    gone: HashSet<ShortId>,
    answers: usize,
    has_legacy: bool,
    totals: Totals,
}

impl Index {
    /// An empty index, whose runs lie in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            max_recent: 1 << 17,
            recent: ShortMap::default(),
            runs: Vec::new(),
            gone: HashSet::new(),
            answers: 0,
            has_legacy: false,
            totals: Totals::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.answers
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    fn slot(&self, id: ShortId) -> io::Result<Option<Slot>> {
        if let Some(slot) = self.recent.get(&id) {
            return Ok(Some(*slot));
        }
        if self.gone.contains(&id) {
            return Ok(None);
        }
        for run in self.runs.iter().rev() {
            let slot = run.find(id)?;
            if slot.is_some() {
                return Ok(slot);
            }
        }
        Ok(None)
    }

    /// Where the answer to a request is, if there is one that is good for it, and under which id.
    pub(super) fn find(&self, key: &RequestKey) -> io::Result<Option<(RequestId, Place)>> {
        // One that was cut is good only for requests that want no longer one.
        if let Some(slot) = self.slot(short(&key.id))?
            && slot.worth >= key.max_new_tokens
        {
            return Ok(Some((key.id, slot.place)));
        }
        if !self.has_legacy {
            return Ok(None);
        }
        Ok(self.slot(short(&key.legacy_id))?.map(|slot| (key.legacy_id, slot.place)))
    }

    /// What an answer would be to the index.
    pub(super) fn weigh(&self, id: &RequestId, meta: &Meta) -> io::Result<Offer> {
        Ok(offer(self.slot(short(id))?, meta))
    }

    /// Takes a record in, if it is better than what is there.
    pub(super) fn offer(&mut self, id: &RequestId, meta: &Meta, place: Place) -> io::Result<Offer> {
        let id = short(id);
        let held = self.slot(id)?;
        let offer = offer(held, meta);
        if offer != Offer::Copy {
            self.totals.add(meta);
        }
        if offer == Offer::Taken {
            self.answers += usize::from(held.is_none());
            self.recent.insert(id, Slot { id, place, worth: meta.worth() });
        }
        Ok(offer)
    }

    /// Takes in what a scan found.
    pub(super) fn load(&mut self, content: &Content, place: Place, version: Version) -> io::Result<()> {
        self.has_legacy |= version == Version::V1;
        match content {
            Content::Answer { id, meta } => {
                self.offer(id, meta, place)?;
                if let Some(spill) = self.spill() {
                    self.spilled(spill.write()?);
                }
            }
            Content::Dropped(totals) => self.totals.merge(totals),
        }
        Ok(())
    }

    /// Whether the record at this place is the answer to its request.
    pub(super) fn is_live(&self, id: &RequestId, place: Place) -> io::Result<bool> {
        Ok(self.slot(short(id))?.is_some_and(|slot| slot.place == place))
    }

    pub(super) fn remove(&mut self, id: &RequestId) -> io::Result<()> {
        let id = short(id);
        self.answers -= usize::from(self.slot(id)?.is_some());
        self.recent.remove(&id);
        self.gone.insert(id);
        Ok(())
    }

    /// What to do when memory holds enough: [`Spill::write`] it without holding on to the index, and hand it to
    /// [`spilled`](Self::spilled). Nothing may be offered in between.
    pub(super) fn spill(&self) -> Option<Spill> {
        (self.recent.len() >= self.max_recent).then(|| Spill {
            dir: self.dir.clone(),
            runs: self.runs.clone(),
            recent: self.recent.values().copied().collect(),
        })
    }

    /// Lets go of what was written.
    pub(super) fn spilled(&mut self, runs: Vec<Arc<Run>>) {
        // An answer that came after its request's was found bad counts, and is in the newest run now.
        for id in self.recent.keys() {
            self.gone.remove(id);
        }
        self.recent.clear();
        self.runs = runs;
    }
}

/// What an answer is beside the one that is held.
fn offer(held: Option<Slot>, meta: &Meta) -> Offer {
    match held.map(|held| meta.worth().cmp(&held.worth)) {
        None | Some(Ordering::Greater) => Offer::Taken,
        Some(Ordering::Equal) => Offer::Copy,
        Some(Ordering::Less) => Offer::Worse,
    }
}

/// The slots in memory on their way into a run.
pub(super) struct Spill {
    dir: PathBuf,
    runs: Vec<Arc<Run>>,
    recent: Vec<Slot>,
}

impl Spill {
    /// Writes them, and merges runs where there are enough; the runs that there are then.
    pub(super) fn write(mut self) -> io::Result<Vec<Arc<Run>>> {
        self.recent.sort_unstable_by_key(|slot| slot.id);
        runs::push(&self.dir, &self.runs, &self.recent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> RequestId {
        RequestId(*blake3::hash(&[number]).as_bytes())
    }

    fn meta(worth: u8) -> Meta {
        let cut = worth < 3;
        Meta { max_new_tokens: worth.into(), prompt_tokens: 1, completion_tokens: 1, attempts: 1, cut }
    }

    proptest! {
        /// However often it spills and merges, the index says what a map says that holds all.
        #[test]
        fn runs_change_nothing_of_what_the_index_says(
            steps in prop::collection::vec((any::<u8>(), 0..5_u8), 0..600),
            max_recent in 1..9_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut index = Index { max_recent, ..Index::new(dir.path()) };
            let mut all: HashMap<u8, (u32, Place)> = HashMap::new();
            for (number, (request, worth)) in steps.into_iter().enumerate() {
                let place = Place { segment: 1, offset: number as u32 };
                if worth == 4 {
                    index.remove(&id(request)).unwrap();
                    all.remove(&request);
                    continue;
                }
                let meta = meta(worth);
                index.load(&Content::Answer { id: id(request), meta }, place, Version::V2).unwrap();
                let held = all.entry(request).or_insert((meta.worth(), place));
                if meta.worth() > held.0 {
                    *held = (meta.worth(), place);
                }
                prop_assert_eq!(index.recent.len() < max_recent, true);
            }
            prop_assert_eq!(index.len(), all.len());
            for request in 0..=u8::MAX {
                for max_new_tokens in [0, 2, 9] {
                    let key = RequestKey { id: id(request), legacy_id: id(request), max_new_tokens };
                    let held = all.get(&request).filter(|held| held.0 >= max_new_tokens);
                    let found = index.find(&key).unwrap().map(|(_, place)| place);
                    prop_assert_eq!(found, held.map(|held| held.1));
                }
            }
        }
    }

    #[test]
    fn eight_runs_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index { max_recent: 1, ..Index::new(dir.path()) };
        let mut runs = Vec::new();
        for number in 0..64 {
            let place = Place { segment: 0, offset: number.into() };
            index.load(&Content::Answer { id: id(number), meta: meta(3) }, place, Version::V2).unwrap();
            runs.push(index.runs.len());
        }
        assert_eq!(runs[..9], [1, 2, 3, 4, 5, 6, 7, 1, 2]);
        assert_eq!((runs[62], runs[63]), (14, 1));
    }
}
