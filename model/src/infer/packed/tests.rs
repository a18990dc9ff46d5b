use super::*;
use crate::gguf::{TensorInfo, encode};

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let next = |i: u64| {
        let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed << 17);
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(next).collect()
}

/// Packs random weights of a kind; also gives them as f32.
fn matrix(kind: TensorKind, inputs: usize, outputs: usize) -> (PackedMatrix, Vec<f32>) {
    let bytes = encode(kind, &numbers(inputs * outputs, kind.number().into())).unwrap();
    let info = TensorInfo {
        dims: vec![inputs as u64, outputs as u64],
        kind,
        start_byte: 0,
        size_bytes: bytes.len() as u64,
    };
    let tensor = Tensor { info: &info, bytes: &bytes };
    (PackedMatrix::new(tensor), tensor.to_f32())
}

const KINDS: [TensorKind; 5] =
    [TensorKind::F32, TensorKind::F16, TensorKind::Q8_0, TensorKind::Q4_0, TensorKind::Q4_1];

/// Products of 26 rows with a matrix of 40 outputs and one of 64; `check(product, activations,
/// weights)` for each.
fn products(kind: TensorKind, check: impl Fn(f32, &[f32], &[f32])) {
    let (inputs, rows) = (224, 26);
    let (first, first_values) = matrix(kind, inputs, 40);
    let (second, second_values) = matrix(kind, inputs, 64);
    let x = numbers(rows * inputs, 9);
    let mut room = Activations::default();
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; 7];
        let stride = multiply(isa, &x, &mut room, &[&first, &second], &mut out);
        assert_eq!(stride, 64 + 64);
        for (x, out) in x.chunks(inputs).zip(out.chunks(stride)) {
            for (&out, weights) in out.iter().zip(first_values.chunks(inputs)) {
                check(out, x, weights);
            }
            for (&out, weights) in out[64..].iter().zip(second_values.chunks(inputs)) {
                check(out, x, weights);
            }
        }
    }
}

#[test]
fn products_of_floats_are_chains() {
    for kind in [TensorKind::F32, TensorKind::F16] {
        products(kind, |got, x, weights| {
            let chain = x.iter().zip(weights).fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum));
            assert_eq!(got.to_bits(), chain.to_bits(), "{kind:?}");
        });
    }
}

#[test]
fn products_of_blocks_err_by_the_rounding_of_the_activations() {
    for kind in [TensorKind::Q8_0, TensorKind::Q4_0, TensorKind::Q4_1] {
        products(kind, |got, x, weights| {
            let exact: f64 = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let sizes: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
            // Activations below 1 are rounded to steps of 1/32767, here and there to half of one.
            let error = (f64::from(got) - exact).abs();
            assert!(error < 0.55 / 32_767.0 * sizes, "{kind:?}: {got} {exact}");
        });
    }
}

#[test]
fn rows_come_back() {
    for kind in KINDS {
        let (packed, values) = matrix(kind, 64, 70);
        let mut out = vec![0.0; 64];
        for row in [0, 1, 31, 32, 69] {
            packed.row(row, &mut out);
            assert_eq!(out, values[row * 64..][..64], "{kind:?} {row}");
        }
    }
}

#[test]
fn infinite_values_fall_back_to_f32() {
    let (packed, _) = matrix(TensorKind::F16, 32, 3);
    assert!(matches!(packed.storage, Storage::F16(_)));
    let bytes = [f16::INFINITY; 32].map(f16::to_le_bytes).concat();
    let info = TensorInfo { dims: vec![32, 1], kind: TensorKind::F16, start_byte: 0, size_bytes: 64 };
    assert!(matches!(PackedMatrix::new(Tensor { info: &info, bytes: &bytes }).storage, Storage::F32(_)));

    let mut bytes = encode(TensorKind::Q4_0, &[1.0; 32]).unwrap();
    bytes[..2].copy_from_slice(&f16::from_f32(60_000.0).to_le_bytes());
    let info = TensorInfo { dims: vec![32, 1], kind: TensorKind::Q4_0, start_byte: 0, size_bytes: 18 };
    let tensor = Tensor { info: &info, bytes: &bytes };
    let packed = PackedMatrix::new(tensor);
    let mut out = vec![0.0; 32];
    packed.row(0, &mut out);
    assert_eq!(out, tensor.to_f32());
}

#[test]
fn halves_are_exact() {
    for bits in 0..=u16::MAX {
        let expected = f16::from_bits(bits);
        if expected.is_finite() {
            let got = finite_half(bits);
            assert_eq!(got.to_bits(), expected.to_f32().to_bits());
        }
    }
}
