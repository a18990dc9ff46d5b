//! How often each document of a subset is taken, so that the subsets have their shares of the tokens.

use std::collections::BTreeMap;

use crate::durable::WriteError;
use crate::engine::external_sort::{ExternalSorter, Spill};

/// Where a document stands among those of its subset, drawn from its id.
pub type Lot = u64;

/// The documents of a subset, by lot.
pub struct Counted {
    sorter: ExternalSorter,
    /// Documents that may be taken.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
}

impl Counted {
    /// No document yet; lots are sorted in one of `shares` parts of the memory.
    pub fn new(spill: &Spill, shares: usize) -> Self {
        Self { sorter: spill.sorter(shares), documents: 0, tokens: 0 }
    }

    /// Adds a document.
    ///
    /// # Errors
    /// The disk is full or not writable.
    pub fn push(&mut self, lot: Lot, tokens: u64) -> Result<(), WriteError> {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&lot.to_be_bytes());
        record[8..].copy_from_slice(&tokens.to_be_bytes());
        self.documents += 1;
        self.tokens += tokens;
        self.sorter.push(&record)
    }

    /// Takes `wanted` tokens: all documents as often as they fit whole, then some once more, by lot, until
    /// one more would be farther from `wanted` than none.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn take(self, wanted: u64) -> Result<Taken, WriteError> {
        if self.tokens == 0 {
            return Ok(Taken { copies: 0, once_more: None, documents: 0, tokens: 0 });
        }
        let copies = wanted / self.tokens;
        let rest = wanted % self.tokens;
        let (mut once_more, mut documents, mut tokens) = (None, copies * self.documents, 0);
        let mut sorted = self.sorter.finish()?;
        while let Some(record) = sorted.next_record()? {
            let (lot, own) = read(record);
            if tokens + own / 2 >= rest {
                break;
            }
            // Documents of one lot, which is one id, go together.
            once_more = Some(lot);
            documents += 1;
            tokens += own;
        }
        Ok(Taken { copies, once_more, documents, tokens: copies * self.tokens + tokens })
    }
}

fn read(record: &[u8]) -> (Lot, u64) {
    let number = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (number(record.first_chunk()), number(record.last_chunk()))
}

/// What is taken of a subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How often each document is taken at least.
    copies: u64,
    /// Documents up to this lot are taken once more.
    once_more: Option<Lot>,
    /// Documents, each counted as often as it is taken.
    pub documents: u64,
    /// Tokens of these.
    pub tokens: u64,
}

impl Taken {
    /// All documents once.
    pub const ALL: Self = Self { copies: 1, once_more: None, documents: 0, tokens: 0 };

    /// How often a document is taken.
    pub fn copies(&self, lot: Lot) -> u64 {
        self.copies + u64::from(self.once_more.is_some_and(|last| lot <= last))
    }
}

/// What a subset has and may give.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its share of the corpus, in any unit.
    pub weight: f64,
    /// Its tokens.
    pub tokens: u64,
    /// How often a document may be taken.
    pub max_repeats: f64,
}

/// The tokens to take of each subset: `target` of them in all, or as many as the subsets can give.
///
/// # Errors
/// A sentence that names the subset which has too little.
pub fn share_out(
    sources: &BTreeMap<String, Source>,
    target: Option<u64>,
) -> Result<BTreeMap<String, u64>, String> {
    let whole: f64 = sources.values().map(|source| source.weight).sum();
    let most = |source: &Source| source.tokens as f64 * source.max_repeats;
    let weighted = sources.iter().filter(|(_, source)| source.weight > 0.0);
    let target = match target {
        Some(target) => target as f64,
        // The subset that is used up first decides.
        None => weighted.clone().map(|(_, s)| most(s) * whole / s.weight).fold(f64::INFINITY, f64::min),
    };
    for (name, source) in weighted {
        let wanted = target * source.weight / whole;
        // A token is not worth an error.
        if wanted > most(source) + 1.0 {
            let repeats = if source.tokens == 0 { f64::INFINITY } else { wanted / source.tokens as f64 };
            return Err(format!(
                "subset `{name}` has {} tokens, and {wanted:.0} are wanted: each document {repeats:.2} times, \
                 and `max_repeats` is {}",
                source.tokens, source.max_repeats
            ));
        }
    }
    let wanted = |source: &Source| (target * source.weight / whole).round() as u64;
    Ok(sources.iter().map(|(name, source)| (name.clone(), wanted(source))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spill() -> Spill {
        Spill { folder: std::env::temp_dir(), memory_bytes: 4096 }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_within_half_a_document_of_what_is_wanted(
            tokens in prop::collection::vec(1_u64..100, 1..300), times in 0.0..3.0_f64,
        ) {
            let mut counted = Counted::new(&spill(), 1);
            let lot = |at: usize| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            for (at, &own) in tokens.iter().enumerate() {
                counted.push(lot(at), own).unwrap();
            }
            let all: u64 = tokens.iter().sum();
            let wanted = (all as f64 * times) as u64;
            let taken = counted.take(wanted).unwrap();
            let copies: Vec<u64> = (0..tokens.len()).map(|at| taken.copies(lot(at))).collect();
            let sum: u64 = copies.iter().zip(&tokens).map(|(copies, own)| copies * own).sum();
            prop_assert_eq!((sum, copies.iter().sum::<u64>()), (taken.tokens, taken.documents));
            prop_assert!(sum.abs_diff(wanted) <= 50, "{} of {}", sum, wanted);
            // Nobody is taken twice before all are taken once.
            prop_assert!(copies.iter().max().unwrap() - copies.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn the_scarcest_subset_decides_where_no_target_is_given() {
        let source = |weight, tokens, max_repeats| Source { weight, tokens, max_repeats };
        let of = |sources: [(&str, Source); 2], target| {
            share_out(&sources.map(|(name, source)| (name.to_owned(), source)).into(), target)
        };
        let two = [("a", source(0.75, 900, 1.0)), ("b", source(0.25, 100, 1.0))];
        assert_eq!(of(two, None).unwrap(), [("a".to_owned(), 300), ("b".to_owned(), 100)].into());
        let repeated = [("a", source(3.0, 900, 1.0)), ("b", source(1.0, 100, 2.5))];
        assert_eq!(of(repeated, None).unwrap(), [("a".to_owned(), 750), ("b".to_owned(), 250)].into());
        assert_eq!(of(two, Some(40)).unwrap(), [("a".to_owned(), 30), ("b".to_owned(), 10)].into());
        let error = of(two, Some(800)).unwrap_err();
        assert!(error.contains("`b` has 100 tokens") && error.contains("2.00 times"), "{error}");
        let none = [("a", source(1.0, 900, 1.0)), ("b", source(1.0, 0, 9.0))];
        assert!(of(none, Some(2)).is_ok(), "a token is no error");
        assert!(of(none, Some(200)).unwrap_err().contains("`b` has 0 tokens"));
    }
}
