//! The part of the index that does not lie in memory: sorted runs of slots, in files without a name that are
//! gone with the process. Opening a log makes them anew from its records, so a crash cannot leave a wrong one.
//!
//! Runs are merged as in a log-structured merge tree (O'Neil et al. 1996): [`FAN_IN`] of one level become one
//! of the next. Of a run, memory holds the first id of every block and a Bloom filter: 1.6 bytes a slot.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use fastbloom::BloomFilter;
use itertools::Itertools;

use super::index::Place;

/// Runs of one level that become one of the next.
const FAN_IN: usize = 8;
/// Slots that are read at once: 5 KiB.
const BLOCK_SLOTS: u64 = 256;
const SLOT_BYTES: usize = 20;
/// Bits of a run's filter, one for each slot in it: of ids that a run lacks, one in 120 is looked for in its
/// file.
const FILTER_BITS: usize = 10;

/// The first 64 bits of an id. Among 39 million answers, two share them with a chance of 1 in 25,000; the
/// later of the two would then be asked again by each run, since reading compares the whole id.
pub(super) type ShortId = u64;

/// What the index knows of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) id: ShortId,
    pub(super) place: Place,
    /// See [`Meta::worth`](super::format::Meta::worth).
    pub(super) worth: u32,
}

impl Slot {
    fn to_bytes(self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        for (four, field) in
            bytes[8..].chunks_exact_mut(4).zip([self.place.segment, self.place.offset, self.worth])
        {
            four.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; SLOT_BYTES]) -> Self {
        let words = bytes.as_chunks().0;
        let word = |at: usize| u32::from_le_bytes(words[at]);
        Self {
            id: u64::from(word(0)) | u64::from(word(1)) << 32,
            place: Place { segment: word(2), offset: word(3) },
            worth: word(4),
        }
    }
}

/// Slots in the order of their ids, each id once.
pub(super) struct Run {
    file: File,
    slots: u64,
    level: u32,
    /// The first id of each block.
    firsts: Vec<ShortId>,
    filter: BloomFilter,
}

impl Run {
    /// A run of the slots that a sorted `slots` gives, `at_most` so many.
    fn write(
        dir: &Path,
        level: u32,
        at_most: u64,
        slots: impl IntoIterator<Item = io::Result<Slot>>,
    ) -> io::Result<Self> {
        // Whoever only looks at a log may not be allowed to write beside it.
        let file = tempfile::tempfile_in(dir).or_else(|_| tempfile::tempfile())?;
        let bits = (at_most as usize * FILTER_BITS).max(1);
        let mut run = Self {
            file,
            slots: 0,
            level,
            firsts: Vec::with_capacity(at_most.div_ceil(BLOCK_SLOTS) as usize),
            filter: BloomFilter::with_num_bits(bits).seed(&0).expected_items(at_most as usize),
        };
        let mut out = BufWriter::with_capacity(1 << 16, &run.file);
        for slot in slots {
            let slot = slot?;
            if run.slots.is_multiple_of(BLOCK_SLOTS) {
                run.firsts.push(slot.id);
            }
            run.filter.insert_hash(slot.id);
            out.write_all(&slot.to_bytes())?;
            run.slots += 1;
        }
        out.flush()?;
        drop(out);
        Ok(run)
    }

    pub(super) fn find(&self, id: ShortId) -> io::Result<Option<Slot>> {
        let block = self.firsts.partition_point(|first| *first <= id);
        if block == 0 || !self.filter.contains_hash(id) {
            return Ok(None);
        }
        let slots = self.block(block as u64 - 1)?;
        Ok(slots.binary_search_by_key(&id, |slot| slot.id).ok().map(|at| slots[at]))
    }

    fn block(&self, block: u64) -> io::Result<Vec<Slot>> {
        let first = block * BLOCK_SLOTS;
        let slots = BLOCK_SLOTS.min(self.slots - first) as usize;
        let mut bytes = vec![0; slots * SLOT_BYTES];
        self.file.read_exact_at(&mut bytes, first * SLOT_BYTES as u64)?;
        Ok(bytes.as_chunks().0.iter().map(Slot::from_bytes).collect())
    }

    fn iter(&self) -> impl Iterator<Item = io::Result<Slot>> {
        (0..self.firsts.len() as u64).map(|block| self.block(block)).flatten_ok()
    }
}

/// The runs `runs`, oldest first, with one more of the sorted `newest`: merged where enough are of one level.
/// Of slots of one id the newer counts.
pub(super) fn push(dir: &Path, runs: &[Arc<Run>], newest: &[Slot]) -> io::Result<Vec<Arc<Run>>> {
    let mut runs = runs.to_vec();
    let newest = Run::write(dir, 0, newest.len() as u64, newest.iter().copied().map(Ok))?;
    let mut level = newest.level;
    runs.push(Arc::new(newest));
    loop {
        let of_level = runs.iter().rev().take_while(|run| run.level == level).count();
        if of_level < FAN_IN {
            return Ok(runs);
        }
        let merged = runs.split_off(runs.len() - of_level);
        level += 1;
        runs.push(Arc::new(merge(dir, level, &merged)?));
    }
}

fn merge(dir: &Path, level: u32, runs: &[Arc<Run>]) -> io::Result<Run> {
    // An error comes first, so that it ends the merge.
    let order = |(slot, age): &(io::Result<Slot>, usize)| (slot.as_ref().map_or(0, |slot| slot.id), *age);
    let at_most = runs.iter().map(|run| run.slots).sum();
    let merged = runs
        .iter()
        .rev()
        .enumerate()
        .map(|(age, run)| run.iter().map(move |slot| (slot, age)))
        .kmerge_by(|a, b| order(a) < order(b))
        .map(|(slot, _)| slot)
        .dedup_by(|a, b| matches!((a, b), (Ok(a), Ok(b)) if a.id == b.id));
    Run::write(dir, level, at_most, merged)
}
