//! Conversations into rows of about equal length.

use super::SftOptions;
use crate::examples::Examples;
use crate::shards::Permutation;
use std::ops::Range;

/// Which conversations each pack of a run holds.
///
/// Places count conversations through all epochs; each epoch has its own seeded order. A pack takes the next
/// places while they fit (next fit): rows are computed without padding, so a row that is not full costs
/// nothing. Memory: 8 bytes a pack.
#[derive(Debug)]
pub(super) struct Packs {
    /// First place of each pack, then the number of places.
    starts: Vec<u64>,
    orders: Vec<Permutation>,
    examples: u64,
    batch_packs: u64,
}

impl Packs {
    pub(super) fn new(options: &SftOptions, examples: &Examples) -> Self {
        let count = examples.len() as u64;
        let orders = (0..options.epochs)
            // Epochs far apart in the keys: neighbouring seeds share no order.
            .map(|epoch| Permutation::new(count, options.seed ^ epoch << 32))
            .collect();
        let mut packs =
            Self { starts: vec![0], orders, examples: count, batch_packs: options.batch_packs.max(1) as u64 };
        let (places, mut filled) = (count * options.epochs, 0);
        for place in 0..places {
            let tokens = inputs(examples, packs.example(place), options.length_tokens);
            if filled > 0 && filled + tokens > options.length_tokens {
                packs.starts.push(place);
                filled = 0;
            }
            filled += tokens;
        }
        packs.starts.push(places);
        packs
    }

    /// The conversation at a place.
    pub(super) fn example(&self, place: u64) -> usize {
        self.orders[(place / self.examples) as usize].at(place % self.examples) as usize
    }

    /// Updates of the whole run.
    pub(super) fn steps(&self) -> u64 {
        (self.starts.len() as u64 - 1).div_ceil(self.batch_packs)
    }

    /// The places in each pack of the update after `done` earlier ones.
    pub(super) fn of_step(&self, done: u64) -> impl Iterator<Item = Range<u64>> {
        let first = (done * self.batch_packs) as usize;
        let last = (first + self.batch_packs as usize).min(self.starts.len() - 1);
        self.starts[first..=last].windows(2).map(|pair| pair[0]..pair[1])
    }
}

/// Tokens that a conversation puts in: all but its last, which is only predicted.
pub(super) fn inputs(examples: &Examples, number: usize, length_tokens: usize) -> usize {
    examples.tokens(number).saturating_sub(1).min(length_tokens)
}
