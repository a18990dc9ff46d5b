//! The writer: version 3, little-endian, alignment 32.

use std::io::{self, Write};

use half::f16;

use super::{TensorKind, Value, k_quants};

const ALIGNMENT: usize = 32;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorData<'a> {
    /// Its name.
    pub name: &'a str,
    /// Dimensions, fastest first.
    pub dims: &'a [u64],
    /// How to store it: any kind but BF16 and Q5_1.
    pub kind: TensorKind,
    /// The values, as many as the dimensions' product.
    pub values: &'a [f32],
}

/// Why a tensor cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are said in each message
pub enum EncodeError {
    /// The kind can be read but not written.
    #[error("{kind:?} cannot be written; use F32, F16, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K or Q6_K")]
    Kind { kind: TensorKind },
    /// The number of values is no whole number of blocks.
    #[error("{count} values are no whole number of blocks of {block} for {kind:?}")]
    Blocks { kind: TensorKind, count: usize, block: usize },
}

/// Encodes values in blocks of `kind` (rounding to nearest).
///
/// The recipes are those of `quantize_row_*_ref` in `ggml-org/ggml`, `src/ggml-quants.c`.
pub fn encode(kind: TensorKind, values: &[f32]) -> Result<Vec<u8>, EncodeError> {
    let block = kind.block_values();
    let count = values.len();
    if !count.is_multiple_of(block) {
        return Err(EncodeError::Blocks { kind, count, block });
    }
    let mut out = Vec::with_capacity(count / block * kind.block_bytes());
    for values in values.chunks_exact(block) {
        match kind {
            TensorKind::F32 => out.extend(values[0].to_le_bytes()),
            TensorKind::F16 => out.extend(f16::from_f32(values[0]).to_le_bytes()),
            TensorKind::Q8_0 => {
                let scale = values.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
                out.extend(f16::from_f32(scale).to_le_bytes());
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                out.extend(values.iter().map(|v| (v * inverse).round() as i8 as u8));
            }
            TensorKind::Q4_0 => {
                // The value of largest magnitude becomes -8, the only end with that magnitude.
                let scale = peak(values) / -8.0;
                let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                out.extend(f16::from_f32(scale).to_le_bytes());
                nibbles(&mut out, values, |v| v * inverse + 8.5);
            }
            TensorKind::Q4_1 => {
                let least = values.iter().copied().fold(f32::INFINITY, f32::min);
                let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let scale = (most - least) / 15.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                out.extend(f16::from_f32(scale).to_le_bytes());
                out.extend(f16::from_f32(least).to_le_bytes());
                nibbles(&mut out, values, |v| (v - least) * inverse + 0.5);
            }
            TensorKind::Q5_0 => {
                let scale = peak(values) / -16.0;
                let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                let level = |v: f32| ((v * inverse + 16.5) as u8).min(31);
                let fifths = values.iter().enumerate().map(|(i, &v)| u32::from(level(v) >> 4) << i);
                out.extend(f16::from_f32(scale).to_le_bytes());
                out.extend(fifths.fold(0u32, |bits, bit| bits | bit).to_le_bytes());
                let (low, high) = values.split_at(16);
                out.extend(low.iter().zip(high).map(|(&l, &h)| level(l) & 15 | (level(h) & 15) << 4));
            }
            TensorKind::Q4_K => k_quants::q4_k(values, &mut out),
            TensorKind::Q6_K => k_quants::q6_k(values, &mut out),
            TensorKind::BF16 | TensorKind::Q5_1 => return Err(EncodeError::Kind { kind }),
        }
    }
    Ok(out)
}

/// The value of largest magnitude.
fn peak(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |peak: f32, &v| if v.abs() > peak.abs() { v } else { peak })
}

/// Values 0..16 in the low nibbles, 16..32 in the high ones.
fn nibbles(out: &mut Vec<u8>, values: &[f32], level: impl Fn(f32) -> f32) {
    let level = |v: f32| (level(v) as u8).min(15);
    let (low, high) = values.split_at(16);
    out.extend(low.iter().zip(high).map(|(&l, &h)| level(l) | level(h) << 4));
}

/// Writes a GGUF file. `tensors` keep their order. An [`EncodeError`] comes back as an
/// `InvalidInput` error, as does a tensor whose values do not fill its dimensions.
pub fn write_gguf(
    out: &mut impl Write,
    metadata: &[(&str, Value)],
    tensors: &[TensorData<'_>],
) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        head.extend((value.kind() as u32).to_le_bytes());
        put(&mut head, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        let (name, kind) = (tensor.name, tensor.kind);
        if tensor.dims.iter().product::<u64>() != tensor.values.len() as u64 {
            return Err(invalid(format!(
                "tensor `{name}`: {} values do not fill {:?}",
                tensor.values.len(),
                tensor.dims
            )));
        }
        let (row, block) = (tensor.dims.first().map_or(0, |&dim| dim as usize), kind.block_values());
        if !row.is_multiple_of(block) {
            // A block must not reach from one row into the next.
            return Err(invalid(format!(
                "tensor `{name}`: {}",
                EncodeError::Blocks { kind, count: row, block }
            )));
        }
        text(&mut head, name);
        head.extend((tensor.dims.len() as u32).to_le_bytes());
        for dim in tensor.dims {
            head.extend(dim.to_le_bytes());
        }
        head.extend(kind.number().to_le_bytes());
        head.extend(offset.to_le_bytes());
        let bytes = tensor.values.len() / kind.block_values() * kind.block_bytes();
        offset += bytes.next_multiple_of(ALIGNMENT) as u64;
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&head)?;
    for tensor in tensors {
        let mut bytes = encode(tensor.kind, tensor.values)
            .map_err(|error| invalid(format!("tensor `{}`: {error}", tensor.name)))?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => text(out, v),
        Value::Array(kind, items) => {
            out.extend((*kind as u32).to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put(out, item));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of a round trip through `kind`.
    fn error_of(kind: TensorKind, values: &[f32]) -> f32 {
        let bytes = encode(kind, values).unwrap();
        let mut back = vec![0.0; values.len()];
        kind.dequantize(&bytes, &mut back);
        let errors = values.iter().zip(&back).map(|(a, b)| (a - b).abs());
        errors.fold(0.0, f32::max)
    }

    #[test]
    fn round_trips_stay_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 20.0) / 10.0).collect();
        assert_eq!(error_of(TensorKind::F32, &values), 0.0);
        assert!(error_of(TensorKind::F16, &values) < 2e-3);
        assert!(error_of(TensorKind::Q8_0, &values) < 4.3 / 127.0 / 2.0 + 2e-3);
        assert!(error_of(TensorKind::Q4_0, &values) < 4.3 / 8.0);
        assert!(error_of(TensorKind::Q4_1, &values) < 6.4 / 15.0 / 2.0 + 5e-3);
        assert!(error_of(TensorKind::Q5_0, &values) < 4.3 / 16.0);
    }

    #[test]
    fn k_formats_adapt_to_groups_of_different_size() {
        // 8 groups of 32 between ±1 and ±128, some of them shifted, one zero, one constant.
        let values: Vec<f32> = (0..512)
            .map(|i| {
                let (group, wave) = (i / 32 % 8, ((i * 37 % 61) as f32 - 30.0) / 30.0);
                match group {
                    3 => 0.0,
                    5 => -2.5,
                    group => wave * 2f32.powi(group) - if group % 2 == 1 { 4.0 } else { 0.0 },
                }
            })
            .collect();
        let root_mean_square = |kind: TensorKind| {
            let bytes = encode(kind, &values).unwrap();
            assert_eq!(bytes.len(), values.len() / kind.block_values() * kind.block_bytes());
            let mut back = vec![f32::NAN; values.len()];
            kind.dequantize(&bytes, &mut back);
            let squares: f32 = values.iter().zip(&back).map(|(a, b)| (a - b) * (a - b)).sum();
            (squares / values.len() as f32).sqrt()
        };
        let size = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        let (q4, q6) = (root_mean_square(TensorKind::Q4_K) / size, root_mean_square(TensorKind::Q6_K) / size);
        // Of evenly spread values, even levels lose one step's share of the range: 1/15 and 1/63.
        assert!(q4 < 1.0 / 15.0 && q6 < 1.0 / 63.0, "{q4} and {q6}");
        assert!(root_mean_square(TensorKind::Q4_K) <= 1.05 * root_mean_square(TensorKind::Q4_1));
        let zero = encode(TensorKind::Q6_K, &[0.0; 256]).unwrap();
        assert_eq!(zero, [0; 210]);
        assert_eq!(error_of(TensorKind::Q4_K, &[0.0; 256]), 0.0);
    }

    #[test]
    fn refuses_what_it_cannot_write() {
        assert!(matches!(encode(TensorKind::Q5_1, &[0.0; 256]), Err(EncodeError::Kind { .. })));
        assert!(matches!(encode(TensorKind::Q8_0, &[0.0; 33]), Err(EncodeError::Blocks { .. })));
        let tensor = TensorData { name: "t", dims: &[3], kind: TensorKind::F32, values: &[1.0, 2.0] };
        let error = write_gguf(&mut Vec::new(), &[], &[tensor]).unwrap_err();
        assert!(error.to_string().contains("do not fill"), "{error}");
    }
}
