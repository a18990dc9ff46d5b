//! Which answers the log holds, and where: the part of it that lies in memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format::{Content, Meta, Version};
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

/// The first 64 bits of an id. Among 39 million answers, two share them with a chance of 1 in 25,000; the
/// later of the two would then be asked again by each run, since reading compares the whole id.
type ShortId = u64;

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

/// 16 bytes an answer and the map's own (17 to 39 bytes in all, by how full the map is).
#[derive(Default)]
pub(super) struct Index {
    places: ShortMap<Place>,
    /// `max_new_tokens` of the answers that were cut by it: these are good only for requests that want no
    /// longer ones.
    cut: ShortMap<u32>,
    has_legacy: bool,
    totals: Totals,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Where the answer to a request is, if there is one that is good for it, and under which id.
    pub(super) fn find(&self, key: &RequestKey) -> Option<(RequestId, Place)> {
        let id = short(&key.id);
        let long_enough = self.cut.get(&id).is_none_or(|max| *max >= key.max_new_tokens);
        if long_enough && let Some(place) = self.places.get(&id) {
            return Some((key.id, *place));
        }
        if self.has_legacy
            && let Some(place) = self.places.get(&short(&key.legacy_id))
        {
            return Some((key.legacy_id, *place));
        }
        None
    }

    /// What an answer would be to the index.
    pub(super) fn weigh(&self, id: &RequestId, meta: &Meta) -> Offer {
        let id = short(id);
        if !self.places.contains_key(&id) {
            return Offer::Taken;
        }
        let held = self.cut.get(&id).map_or(u64::MAX, |max| u64::from(*max));
        match meta.worth().cmp(&held) {
            std::cmp::Ordering::Greater => Offer::Taken,
            std::cmp::Ordering::Equal => Offer::Copy,
            std::cmp::Ordering::Less => Offer::Worse,
        }
    }

    /// Takes a record in, if it is better than what is there.
    pub(super) fn offer(&mut self, id: &RequestId, meta: &Meta, place: Place) -> Offer {
        let offer = self.weigh(id, meta);
        if offer != Offer::Copy {
            self.totals.add(meta);
        }
        if offer == Offer::Taken {
            let id = short(id);
            self.places.insert(id, place);
            if meta.cut {
                self.cut.insert(id, meta.max_new_tokens);
            } else {
                self.cut.remove(&id);
            }
        }
        offer
    }

    /// Takes in what a scan found.
    pub(super) fn load(&mut self, content: &Content, place: Place, version: Version) {
        self.has_legacy |= version == Version::V1;
        match content {
            Content::Answer { id, meta } => {
                self.offer(id, meta, place);
            }
            Content::Dropped(totals) => self.totals.merge(totals),
        }
    }

    /// Whether the record at this place is the answer to its request.
    pub(super) fn is_live(&self, id: &RequestId, place: Place) -> bool {
        self.places.get(&short(id)) == Some(&place)
    }

    pub(super) fn remove(&mut self, id: &RequestId) {
        let id = short(id);
        self.places.remove(&id);
        self.cut.remove(&id);
    }
}
