//! The first eight bytes of SHA-1, of many short messages at once.
//!
//! Shingles are many and short: nearly all fit one block. On processors with AVX-512 sixteen are
//! hashed side by side, one in each 32-bit lane; elsewhere, and for longer ones, by the crate `sha1`.
//! SHA-1 is FIPS 180-4, section 6.1.

use sha1::{Digest, Sha1};

/// The first eight bytes of a digest, little-endian.
pub fn prefix(message: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 20] = Sha1::digest(message).into();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Appends the first eight bytes of each digest, in any order.
pub fn prefixes<'a>(messages: impl Iterator<Item = &'a str>, out: &mut Vec<u64>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        lanes::prefixes(messages, out);
        return;
    }
    out.extend(messages.map(prefix));
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    use std::arch::x86_64::*;

    const LANES: usize = 16;

    /// A block has 64 bytes, of which one marks the end and eight tell the length.
    const MAX_BYTES: usize = 55;

    /// The initial hash value and the constants of the rounds.
    const INITIAL: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    const ROUND: [u32; 4] = [0x5A82_7999, 0x6ED9_EBA1, 0x8F1B_BCDC, 0xCA62_C1D6];

    /// Truth tables of three bits: the first chooses between the others; their sum; their majority.
    const CHOICE: i32 = 0xCA;
    const PARITY: i32 = 0x96;
    const MAJORITY: i32 = 0xE8;

    pub(super) fn prefixes<'a>(messages: impl Iterator<Item = &'a str>, out: &mut Vec<u64>) {
        let (mut batch, mut filled) = ([""; LANES], 0);
        for message in messages {
            if message.len() > MAX_BYTES {
                out.push(super::prefix(message));
                continue;
            }
            batch[filled] = message;
            filled += 1;
            if filled == LANES {
                // SAFETY: the caller has found the features.
                out.extend(unsafe { hash(&batch) });
                filled = 0;
            }
        }
        if filled > 0 {
            // SAFETY: as above. The lanes behind the last message hold old ones.
            out.extend(&unsafe { hash(&batch) }[..filled]);
        }
    }

    /// Each message has [`MAX_BYTES`] at most.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn hash(messages: &[&str; LANES]) -> [u64; LANES] {
        let mut w = transpose(messages.map(|message| block(message.as_bytes())));
        let mut state = INITIAL.map(|word| _mm512_set1_epi32(word.cast_signed()));
        for t in 0..20 {
            let [_, b, c, d, _] = state;
            round(&mut state, &mut w, t, _mm512_ternarylogic_epi32::<CHOICE>(b, c, d));
        }
        for t in 20..40 {
            let [_, b, c, d, _] = state;
            round(&mut state, &mut w, t, _mm512_ternarylogic_epi32::<PARITY>(b, c, d));
        }
        for t in 40..60 {
            let [_, b, c, d, _] = state;
            round(&mut state, &mut w, t, _mm512_ternarylogic_epi32::<MAJORITY>(b, c, d));
        }
        for t in 60..80 {
            let [_, b, c, d, _] = state;
            round(&mut state, &mut w, t, _mm512_ternarylogic_epi32::<PARITY>(b, c, d));
        }
        let word = |index: usize| -> [u32; LANES] {
            let sum = _mm512_add_epi32(state[index], _mm512_set1_epi32(INITIAL[index].cast_signed()));
            let mut words = [0; LANES];
            // SAFETY: the array has the sixteen words that are stored.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), sum) };
            words
        };
        let (first, second) = (word(0), word(1));
        std::array::from_fn(|lane| {
            u64::from(first[lane].swap_bytes()) | u64::from(second[lane].swap_bytes()) << 32
        })
    }

    /// A message as its only block, the words in the processor's order.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn block(message: &[u8]) -> __m512i {
        // SAFETY: bytes outside the mask are not touched.
        let bytes = unsafe { _mm512_maskz_loadu_epi8((1 << message.len()) - 1, message.as_ptr().cast()) };
        let ended = _mm512_mask_set1_epi8(bytes, 1 << message.len(), 0x80_u8.cast_signed());
        let swap = _mm512_set4_epi32(0x0C0D_0E0F, 0x0809_0A0B, 0x0405_0607, 0x0001_0203);
        let words = _mm512_shuffle_epi8(ended, swap);
        _mm512_mask_set1_epi32(words, 1 << 15, 8 * message.len() as i32)
    }

    /// One round: the schedule's word `t`, kept in a ring of sixteen, goes into the state.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn round(state: &mut [__m512i; 5], w: &mut [__m512i; 16], t: usize, f: __m512i) {
        let at = |back: usize| (t + 16 - back) % 16;
        if t >= 16 {
            let mixed = _mm512_ternarylogic_epi32::<PARITY>(w[at(3)], w[at(8)], w[at(14)]);
            w[at(0)] = _mm512_rol_epi32::<1>(_mm512_xor_si512(mixed, w[at(0)]));
        }
        let [a, b, c, d, e] = *state;
        let constant = _mm512_set1_epi32(ROUND[t / 20].cast_signed());
        let sum = _mm512_add_epi32(_mm512_add_epi32(e, constant), _mm512_add_epi32(f, w[at(0)]));
        *state = [_mm512_add_epi32(_mm512_rol_epi32::<5>(a), sum), a, _mm512_rol_epi32::<30>(b), c, d];
    }

    /// Sixteen rows of sixteen words turned into columns, by doubling: pairs of words, of pairs, and
    /// of quarters of a register.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
        let (mut pairs, mut quads, mut columns) = (rows, rows, rows);
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        for i in (0..LANES).step_by(4) {
            quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
            quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
            quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
            quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
        }
        // The even and the odd quarters of two registers.
        for i in 0..4 {
            let even = _mm512_shuffle_i32x4::<0x88>(quads[i], quads[i + 4]);
            let odd = _mm512_shuffle_i32x4::<0xDD>(quads[i], quads[i + 4]);
            let later_even = _mm512_shuffle_i32x4::<0x88>(quads[i + 8], quads[i + 12]);
            let later_odd = _mm512_shuffle_i32x4::<0xDD>(quads[i + 8], quads[i + 12]);
            columns[i] = _mm512_shuffle_i32x4::<0x88>(even, later_even);
            columns[i + 4] = _mm512_shuffle_i32x4::<0x88>(odd, later_odd);
            columns[i + 8] = _mm512_shuffle_i32x4::<0xDD>(even, later_even);
            columns[i + 12] = _mm512_shuffle_i32x4::<0xDD>(odd, later_odd);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// FIPS 180-2, appendix A.1.
    #[test]
    fn the_prefix_is_the_digests_first_bytes() {
        assert_eq!(prefix("abc").to_le_bytes(), [0xA9, 0x99, 0x3E, 0x36, 0x47, 0x06, 0x81, 0x6A]);
    }

    proptest! {
        /// Around the longest message of a block, and however many lanes the last batch fills.
        #[test]
        fn side_by_side_the_digests_are_the_same(messages in prop::collection::vec("[a-zé ]{0,60}", 0..40)) {
            let mut got = Vec::new();
            prefixes(messages.iter().map(String::as_str), &mut got);
            let mut want: Vec<u64> = messages.iter().map(|message| prefix(message)).collect();
            got.sort_unstable();
            want.sort_unstable();
            prop_assert_eq!(got, want);
        }
    }
}
