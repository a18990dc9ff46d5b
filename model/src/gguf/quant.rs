//! Block formats and how they become f32. Layouts: `ggml-org/ggml`, `src/ggml-common.h` and
//! `src/ggml-quants.c`.

use half::{bf16, f16};

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the names are those of the format
pub enum TensorKind {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE.
    F16,
    /// 16-bit floating point, the upper half of an f32.
    BF16,
    /// 32 signed bytes times one f16.
    Q8_0,
    /// 32 4-bit values less 8, times one f16.
    Q4_0,
    /// 32 4-bit values times one f16 plus another.
    Q4_1,
    /// 32 5-bit values less 16, times one f16.
    Q5_0,
    /// 32 5-bit values times one f16 plus another.
    Q5_1,
    /// 256 4-bit values in 8 groups with 6-bit scales and minima.
    Q4_K,
    /// 256 6-bit values in 16 groups with 8-bit scales.
    Q6_K,
}

impl TensorKind {
    /// The kind with this number in the file format (`enum ggml_type`).
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            14 => Self::Q6_K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// The kind's number in the file format.
    pub fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Values in one block; the first dimension is a multiple of it.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q6_K => 210,
        }
    }

    /// Turns whole blocks into f32: as many as both `bytes` and `out` hold.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.block_values())) {
            match self {
                Self::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => out[0] = half(block, 0),
                Self::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q8_0 => q8_0(block, out),
                Self::Q4_0 => q4(&block[2..], out, |q| (f32::from(q) - 8.0) * half(block, 0)),
                Self::Q4_1 => q4(&block[4..], out, |q| f32::from(q) * half(block, 0) + half(block, 2)),
                Self::Q5_0 => q5(&block[2..], out, |q| (f32::from(q) - 16.0) * half(block, 0)),
                Self::Q5_1 => q5(&block[4..], out, |q| f32::from(q) * half(block, 0) + half(block, 2)),
                Self::Q4_K => q4_k(block, out),
                Self::Q6_K => q6_k(block, out),
            }
        }
    }
}

/// The f16 at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * scale;
    }
}

/// 16 bytes: the low nibbles are values 0..16, the high ones 16..32.
fn q4(nibbles: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    for (i, &byte) in nibbles[..16].iter().enumerate() {
        out[i] = value(byte & 15);
        out[i + 16] = value(byte >> 4);
    }
}

/// 4 bytes of fifth bits, then nibbles as in [`q4`].
fn q5(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let fifth = |i: usize| ((high >> i & 1) << 4) as u8;
    for (i, &byte) in bytes[4..20].iter().enumerate() {
        out[i] = value(byte & 15 | fifth(i));
        out[i + 16] = value(byte >> 4 | fifth(i + 16));
    }
}

/// Scale and minimum of group `group` out of the 12 packed bytes.
fn q4_k_scale(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, least) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        )
    };
    (scale.into(), least.into())
}

/// `d`, `dmin`, 12 bytes of scales, 128 bytes: 4 runs of 32 bytes, low nibbles one group, high
/// nibbles the next.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, d_min) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    let runs = block[16..144].chunks_exact(32);
    for (run, (bytes, out)) in runs.zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        let (scale, least) = q4_k_scale(packed, 2 * run);
        for (out, &byte) in low.iter_mut().zip(bytes) {
            *out = d * scale * f32::from(byte & 15) - d_min * least;
        }
        let (scale, least) = q4_k_scale(packed, 2 * run + 1);
        for (out, &byte) in high.iter_mut().zip(bytes) {
            *out = d * scale * f32::from(byte >> 4) - d_min * least;
        }
    }
}

/// 128 bytes of low nibbles, 64 of upper bit pairs, 16 scales, `d`; two halves of 128 values.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half(block, 208);
    for (side, out) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[64 * side..][..64];
        let high = &block[128 + 32 * side..][..32];
        let scales = &block[192 + 8 * side..][..8];
        for (i, out) in out.iter_mut().enumerate() {
            let (quarter, l) = (i / 32, i % 32);
            let nibble = low[l + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
            let pair = high[l] >> (2 * quarter) & 3;
            let scale = f32::from(scales[i / 16] as i8);
            *out = d * scale * (f32::from(nibble | pair << 4) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: TensorKind, block: &[u8]) -> Vec<f32> {
        assert_eq!(block.len(), kind.block_bytes());
        let mut out = vec![f32::NAN; kind.block_values()];
        kind.dequantize(block, &mut out);
        out
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
    }

    #[test]
    fn plain_kinds() {
        assert_eq!(decode(TensorKind::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(decode(TensorKind::F16, &bytes_of(&[-0.25])), [-0.25]);
        assert_eq!(decode(TensorKind::BF16, &[0x80, 0xbf]), [-1.0]);
    }

    #[test]
    fn q8_0_block() {
        let mut block = bytes_of(&[0.5]);
        block.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let expected: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 0.5).collect();
        assert_eq!(decode(TensorKind::Q8_0, &block), expected);
    }

    #[test]
    fn q4_blocks() {
        // Byte i holds i in the low nibble and 15 - i in the high one.
        let nibbles = (0..16u8).map(|i| i | (15 - i) << 4);
        let q: Vec<f32> = (0..16).chain((0..16).rev()).map(|i| i as f32).collect();
        let mut block = bytes_of(&[2.0]);
        block.extend(nibbles.clone());
        let expected: Vec<f32> = q.iter().map(|q| (q - 8.0) * 2.0).collect();
        assert_eq!(decode(TensorKind::Q4_0, &block), expected);
        let mut block = bytes_of(&[0.5, -3.0]);
        block.extend(nibbles);
        let expected: Vec<f32> = q.iter().map(|q| q * 0.5 - 3.0).collect();
        assert_eq!(decode(TensorKind::Q4_1, &block), expected);
    }

    #[test]
    fn q5_blocks() {
        // The fifth bit is set for values 0 and 17 only.
        let high = (1u32 | 1 << 17).to_le_bytes();
        let nibbles = (0..16u8).map(|i| i | i << 4);
        let q: Vec<f32> =
            (0..32u8).map(|i| f32::from(i % 16 + if i == 0 || i == 17 { 16 } else { 0 })).collect();
        let mut block = bytes_of(&[0.25]);
        block.extend(high);
        block.extend(nibbles.clone());
        let expected: Vec<f32> = q.iter().map(|q| (q - 16.0) * 0.25).collect();
        assert_eq!(decode(TensorKind::Q5_0, &block), expected);
        let mut block = bytes_of(&[0.25, 1.0]);
        block.extend(high);
        block.extend(nibbles);
        let expected: Vec<f32> = q.iter().map(|q| q * 0.25 + 1.0).collect();
        assert_eq!(decode(TensorKind::Q5_1, &block), expected);
    }

    #[test]
    fn q4_k_block() {
        // Scales 1..=8 with minima 9..=16, but group 5 has scale 33 and minimum 50: both need
        // the two upper bits that are kept with groups 1 and 5 - 4.
        let scales = [1u8, 2, 3, 4, 5, 33, 7, 8];
        let minima = [9u8, 10, 11, 12, 13, 50, 15, 16];
        let mut packed = [0u8; 12];
        for group in 0..4 {
            packed[group] = scales[group] | scales[group + 4] >> 4 << 6;
            packed[group + 4] = minima[group] | minima[group + 4] >> 4 << 6;
            packed[group + 8] = scales[group + 4] & 15 | (minima[group + 4] & 15) << 4;
        }
        let mut block = bytes_of(&[0.5, 0.25]);
        block.extend(packed);
        block.extend((0..128u8).map(|i| (i % 16) | (15 - i % 16) << 4));
        let expected: Vec<f32> = (0..256)
            .map(|i| {
                let (group, q) = (i / 32, i % 16);
                let q = if group % 2 == 0 { q } else { 15 - q };
                0.5 * f32::from(scales[group]) * q as f32 - 0.25 * f32::from(minima[group])
            })
            .collect();
        assert_eq!(decode(TensorKind::Q4_K, &block), expected);
    }

    #[test]
    fn q6_k_block() {
        // Written value by value from the format's description, the other way round.
        let q: Vec<u8> = (0..256).map(|i| (i * 7 % 64) as u8).collect();
        let scales: Vec<i8> = (0..16).map(|i| i - 8).collect();
        let mut block = vec![0u8; 210];
        for (i, &q) in q.iter().enumerate() {
            let (side, i) = (i / 128, i % 128);
            let (quarter, l) = (i / 32, i % 32);
            block[64 * side + l + 32 * (quarter % 2)] |= (q & 15) << (4 * (quarter / 2));
            block[128 + 32 * side + l] |= (q >> 4) << (2 * quarter);
        }
        for (i, &scale) in scales.iter().enumerate() {
            block[192 + i] = scale as u8;
        }
        block[208..].copy_from_slice(&bytes_of(&[0.125]));
        let expected: Vec<f32> =
            (0..256).map(|i| 0.125 * f32::from(scales[i / 16]) * (f32::from(q[i]) - 32.0)).collect();
        assert_eq!(decode(TensorKind::Q6_K, &block), expected);
    }

    #[test]
    fn numbers_round_trip() {
        let known = (0..64).filter_map(|n| TensorKind::from_number(n).map(|k| (n, k)));
        let mut count = 0;
        for (number, kind) in known {
            assert_eq!(kind.number(), number);
            count += 1;
        }
        assert_eq!(count, 10);
    }
}
