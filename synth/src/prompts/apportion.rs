//! Dealing by shares: every prefix of the sequence holds the shares to less than one item.

/// A sequence over `0..weights.len()` in which item `i` stands `weights[i] / Σ weights` of the time.
///
/// This is the quota method of apportionment (Balinski and Young, 1975): after any number `n` of
/// items, the count of each lies strictly within one of `n · share`, and no earlier choice is ever
/// revised. So shares hold for 64 prompts as for 10,000, without knowing the total beforehand.
#[derive(Clone, Debug)]
pub struct Quota {
    shares: Vec<f64>,
    counts: Vec<u64>,
    dealt: u64,
}

impl Quota {
    /// A sequence by weights, which need not sum to one; `None` when no weight is above zero or
    /// one is negative or not a number.
    #[must_use]
    pub fn new(weights: &[f64]) -> Option<Self> {
        let total: f64 = weights.iter().sum();
        let valid = weights.iter().all(|w| w.is_finite() && *w >= 0.0) && total.is_finite() && total > 0.0;
        valid.then(|| Self {
            shares: weights.iter().map(|w| w / total).collect(),
            counts: vec![0; weights.len()],
            dealt: 0,
        })
    }

    /// The next item: of those below their upper quota, the one that is due first.
    pub fn deal(&mut self) -> usize {
        self.dealt += 1;
        let due = |i: usize| (self.counts[i] + 1) as f64 / self.shares[i];
        // The margin keeps rounding from making an item that is exactly at its quota eligible.
        let eligible = |i: &usize| (self.counts[*i] as f64) < self.shares[*i] * self.dealt as f64 - 1e-9;
        let chosen =
            (0..self.shares.len()).filter(eligible).min_by(|a, b| due(*a).total_cmp(&due(*b))).unwrap_or(0);
        self.counts[chosen] += 1;
        chosen
    }
}

/// `total` items over weights by largest remainder; ties go to the earlier weight. The parts sum to
/// `total`, unless no weight is above zero (then all are 0).
#[must_use]
pub fn largest_remainder(total: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().filter(|w| w.is_finite() && **w > 0.0).sum();
    if sum <= 0.0 {
        return vec![0; weights.len()];
    }
    let exact: Vec<f64> = weights.iter().map(|w| total as f64 * w.max(0.0) / sum).collect();
    let mut parts: Vec<u64> = exact.iter().map(|e| e.floor() as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0.0).collect();
    let remainder = |i: usize| exact[i] - exact[i].floor();
    order.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)).then(a.cmp(b)));
    let missing = total.saturating_sub(parts.iter().sum());
    for i in order.iter().cycle().take(missing as usize) {
        parts[*i] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forty_thirty_thirty_is_exact_at_every_tenth() {
        let mut quota = Quota::new(&[0.4, 0.3, 0.3]).unwrap();
        let mut counts = [0u64; 3];
        for n in 1..=10_000u64 {
            counts[quota.deal()] += 1;
            if n % 10 == 0 {
                assert_eq!(counts, [n * 4 / 10, n * 3 / 10, n * 3 / 10]);
            }
        }
    }

    #[test]
    fn weights_without_a_sum_are_refused() {
        for weights in [&[][..], &[0.0], &[-1.0, 2.0], &[f64::NAN], &[f64::INFINITY]] {
            assert!(Quota::new(weights).is_none(), "{weights:?}");
        }
    }

    #[test]
    fn remainders_go_to_the_largest_and_the_sum_is_kept() {
        assert_eq!(largest_remainder(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(largest_remainder(64, &[0.4, 0.3, 0.3]), [26, 19, 19]);
        assert_eq!(largest_remainder(5, &[0.0, 2.0]), [0, 5]);
        assert_eq!(largest_remainder(5, &[0.0]), [0]);
    }

    proptest! {
        #[test]
        fn every_prefix_is_within_one(weights in proptest::collection::vec(0.0f64..1.0, 1..12), n in 1u64..400) {
            prop_assume!(weights.iter().sum::<f64>() > 0.01);
            let total: f64 = weights.iter().sum();
            let mut quota = Quota::new(&weights).unwrap();
            let mut counts = vec![0u64; weights.len()];
            for dealt in 1..=n {
                counts[quota.deal()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    prop_assert!((*count as f64 - dealt as f64 * weight / total).abs() < 1.0 + 1e-6);
                }
            }
            prop_assert_eq!(largest_remainder(n, &weights).iter().sum::<u64>(), n);
        }
    }
}
