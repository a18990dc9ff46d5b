//! Digests of all runs of a text's pieces.

use std::collections::VecDeque;

use super::Key;

/// The digest of the last pieces, found from the one before in constant time: the polynomial whose
/// coefficients are the pieces' own digests, modulo 2^61 − 1, at two points (Karp and Rabin 1987).
pub struct RollingHash {
    run: usize,
    pieces: VecDeque<Option<[u64; 2]>>,
    filled: usize,
    sums: [u64; 2],
    /// The points to the power of `run`.
    powers: [u64; 2],
}

const MERSENNE: u64 = (1 << 61) - 1;
/// Any two numbers below the modulus: the first digits of the square roots of 2 and 3.
const POINTS: [u64; 2] = [1_414_213_562_373_095_048, 1_732_050_807_568_877_293];

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let (low, high) = (product as u64 & MERSENNE, (product >> 61) as u64);
    (low + high) % MERSENNE
}

impl RollingHash {
    /// Runs of `run` pieces.
    pub fn new(run: usize) -> Self {
        let powers = POINTS.map(|point| (0..run).fold(1, |power, _| multiply(power, point)));
        Self { run, pieces: VecDeque::with_capacity(run + 1), filled: 0, sums: [0; 2], powers }
    }

    /// The digest of the last `run` pieces, unless there are fewer or all are blank.
    pub fn push(&mut self, piece: Option<Key>) -> Option<Key> {
        let lanes = piece.map(|key| {
            let number = u128::from_be_bytes(key);
            [(number >> 64) as u64 % MERSENNE, number as u64 % MERSENNE]
        });
        self.pieces.push_back(lanes);
        self.filled += usize::from(lanes.is_some());
        let oldest = if self.pieces.len() > self.run { self.pieces.pop_front().flatten() } else { None };
        self.filled -= usize::from(oldest.is_some());
        for lane in 0..2 {
            let (new, old) = (lanes.map_or(0, |lanes| lanes[lane]), oldest.map_or(0, |lanes| lanes[lane]));
            let gone = multiply(old, self.powers[lane]);
            let sum = multiply(self.sums[lane], POINTS[lane]) + new + (MERSENNE - gone);
            self.sums[lane] = sum % MERSENNE;
        }
        let full = self.pieces.len() == self.run && self.filled > 0;
        let [high, low] = self.sums.map(u128::from);
        full.then(|| (high << 64 | low).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::key_of;
    use super::*;

    proptest! {
        /// What is found in constant time is what the last pieces give from scratch.
        #[test]
        fn equal_runs_have_equal_digests_and_others_differ(
            words in proptest::collection::vec(0_u8..3, 1..60), run in 1_usize..6
        ) {
            let piece = |word: u8| (word > 0).then(|| key_of(&[word]));
            let mut rolling = RollingHash::new(run);
            let all: Vec<Option<Key>> = words.iter().map(|&word| rolling.push(piece(word))).collect();
            for (end, digest) in all.iter().enumerate() {
                let window = (end + 1).checked_sub(run).map(|start| &words[start..=end]);
                let filled = window.filter(|window| window.iter().any(|&word| word > 0));
                prop_assert_eq!(digest.is_some(), filled.is_some());
                for (other_end, other) in all[..end].iter().enumerate() {
                    if let (Some(digest), Some(other)) = (digest, other) {
                        let other_window = &words[other_end + 1 - run..=other_end];
                        prop_assert_eq!(digest == other, filled == Some(other_window));
                    }
                }
            }
        }
    }
}
