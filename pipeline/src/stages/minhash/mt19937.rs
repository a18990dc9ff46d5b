//! The random integers of `numpy.random.RandomState`, from which datatrove draws the parameters
//! of its permutations.

const STATE_WORDS: usize = 624;
const SHIFT_WORDS: usize = 397;

/// The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998).
pub struct Mt19937 {
    state: [u32; STATE_WORDS],
    position: usize,
}

impl Mt19937 {
    /// The generator in the state that `RandomState(seed)` begins with.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; STATE_WORDS];
        for i in 1..STATE_WORDS {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, position: STATE_WORDS }
    }

    fn refill(&mut self) {
        for i in 0..STATE_WORDS {
            let next = self.state[(i + 1) % STATE_WORDS];
            let mixed = (self.state[i] & 0x8000_0000) | (next & 0x7fff_ffff);
            let twist = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT_WORDS) % STATE_WORDS] ^ (mixed >> 1) ^ twist;
        }
        self.position = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.position == STATE_WORDS {
            self.refill();
        }
        let mut word = self.state[self.position];
        self.position += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `randint(low, high, dtype=uint64)`: `low <= x < high`. Numpy draws bits under the smallest
    /// mask that covers the range until one falls inside, the high half of each draw first.
    pub fn randint(&mut self, low: u64, high: u64) -> u64 {
        let range = high.saturating_sub(1).saturating_sub(low);
        let mask = u64::MAX.checked_shr(range.leading_zeros()).unwrap_or(0);
        loop {
            let bits = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
            let value = bits & mask;
            if value <= range {
                return low + value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mt19937;

    /// Values from numpy 2.4.6: `RandomState(seed).randint(low, 2**61 - 1, dtype=uint64, size=112)`
    /// with low 1, then again with low 0.
    #[test]
    fn integers_are_numpys() {
        const PRIME: u64 = (1 << 61) - 1;
        for (seed, a_first, a_last, b_first, b_last) in [
            (
                1,
                [775_169_054_918_279_404, 1_758_426_461_858_698_313, 2_109_959_069_025_162],
                223_865_076_026_037_746,
                [1_062_448_801_025_099_917, 1_324_811_268_927_594_100],
                1_097_409_548_522_419_201,
            ),
            (
                0,
                [900_450_186_894_289_456, 1_663_700_137_427_455_169, 1_895_649_597_198_586_620],
                1_778_425_994_450_018_244,
                [1_373_900_170_940_344_459, 875_057_310_196_279_894],
                886_307_586_694_282_554,
            ),
            (
                u32::MAX,
                [1_800_993_050_274_709_795, 689_591_756_664_908_872, 720_074_238_920_031_809],
                1_802_021_346_452_794_583,
                [170_188_868_942_024_698, 1_947_238_803_594_231_927],
                580_489_220_341_456_171,
            ),
        ] {
            let mut random = Mt19937::new(seed);
            let a: Vec<u64> = (0..112).map(|_| random.randint(1, PRIME)).collect();
            let b: Vec<u64> = (0..112).map(|_| random.randint(0, PRIME)).collect();
            assert_eq!((&a[..3], a[111]), (&a_first[..], a_last), "seed {seed}");
            assert_eq!((&b[..2], b[111]), (&b_first[..], b_last), "seed {seed}");
        }
    }
}
