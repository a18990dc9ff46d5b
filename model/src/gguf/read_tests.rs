//! Good files, one crafted file per fault, and random damage.

use std::io::Write;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::super::{TensorData, write_gguf};
use super::*;
use crate::testing::cases;

/// A small valid file with every kind of value.
fn sample() -> Vec<u8> {
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("a.u8", Value::U8(1)),
        ("a.i8", Value::I8(-1)),
        ("a.u16", Value::U16(2)),
        ("a.i16", Value::I16(-2)),
        ("a.u32", Value::U32(3)),
        ("a.i32", Value::I32(-3)),
        ("a.u64", Value::U64(4)),
        ("a.i64", Value::I64(-4)),
        ("a.f32", Value::F32(0.5)),
        ("a.f64", Value::F64(0.25)),
        ("a.bool", Value::Bool(true)),
        ("a.words", Value::strings(["x", "", "é"])),
        ("a.numbers", Value::Array(ValueKind::I32, vec![Value::I32(7), Value::I32(-7)])),
    ];
    let tensors = [
        TensorData { name: "plain", dims: &[32, 2], kind: TensorKind::F32, values: &values },
        TensorData { name: "small", dims: &[3], kind: TensorKind::F16, values: &values[..3] },
        TensorData { name: "blocks", dims: &[64], kind: TensorKind::Q8_0, values: &values },
    ];
    let mut bytes = Vec::new();
    write_gguf(&mut bytes, &metadata, &tensors).unwrap();
    bytes
}

fn open(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    GgufFile::open(file.path())
}

/// A header with these counts, then `rest`.
fn crafted(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    rest.iter().for_each(|part| bytes.extend(*part));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor row.
fn row(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

macro_rules! assert_error {
    ($bytes:expr, $pattern:pat) => {
        let error = open($bytes.as_ref()).unwrap_err();
        assert!(matches!(error, $pattern), "{error}");
    };
}

#[test]
fn reads_what_was_written() {
    let file = open(&sample()).unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(file.require_str("general.architecture").unwrap(), "llama");
    for (key, number) in [("a.u8", 1), ("a.u16", 2), ("a.u32", 3), ("a.u64", 4)] {
        assert_eq!(file.require_u64(key).unwrap(), number);
    }
    assert_eq!(file.require_f64("a.f32").unwrap(), 0.5);
    assert_eq!(file.require_f64("a.f64").unwrap(), 0.25);
    assert_eq!(file.require_strings("a.words").unwrap(), ["x", "", "é"]);
    assert_eq!(file.metadata()["a.i64"], Value::I64(-4));
    assert_eq!(file.metadata()["a.bool"], Value::Bool(true));
    let plain = file.require_tensor("plain").unwrap();
    assert_eq!(plain.info.dims, [32, 2]);
    assert_eq!(plain.to_f32()[63], 63.0);
    assert_eq!(file.require_tensor("small").unwrap().to_f32(), [0.0, 1.0, 2.0]);
    let last = file.require_tensor("blocks").unwrap().to_f32()[63];
    assert!((last - 63.0).abs() < 0.3, "{last}");
}

#[test]
fn says_what_is_missing() {
    let file = open(&sample()).unwrap();
    let error = file.require_u64("b").unwrap_err().to_string();
    assert!(error.contains("lack `b`"), "{error}");
    assert!(matches!(file.require_u64("a.i32"), Err(GgufError::WrongKind { .. })));
    assert!(matches!(file.require_tensor("x"), Err(GgufError::MissingTensor { .. })));
    assert!(matches!(GgufFile::open("/no/such.gguf"), Err(GgufError::Open { .. })));
}

#[test]
fn refuses_bad_headers() {
    assert_error!(b"", GgufError::BadMagic { .. });
    assert_error!(b"GG", GgufError::BadMagic { .. });
    assert_error!(b"PK\x03\x04rest", GgufError::BadMagic { .. });
    assert_error!(b"GGUF\0\0\0\x03", GgufError::UnsupportedVersion { offset: 4, .. });
    assert_error!(b"GGUF\x03\0\0\0\0", GgufError::Truncated { offset: 8, .. });
    assert_error!(crafted(u64::MAX, 0, &[]), GgufError::TooMany { offset: 8, .. });
    assert_error!(crafted(0, 1 << 60, &[]), GgufError::TooMany { offset: 16, .. });
}

#[test]
fn refuses_bad_metadata() {
    let key = text("k");
    let huge = u64::MAX.to_le_bytes();
    let kind = |n: u32| n.to_le_bytes();
    assert_error!(crafted(0, 1, &[&huge]), GgufError::TooMany { offset: 24, .. });
    assert_error!(crafted(0, 1, &[&9u64.to_le_bytes(), b"k"]), GgufError::Truncated { .. });
    assert_error!(crafted(0, 1, &[&1u64.to_le_bytes(), b"\xff", &kind(0), &[1]]), GgufError::BadText { .. });
    assert_error!(crafted(0, 1, &[&key, &kind(13)]), GgufError::UnknownValueKind { kind: 13, .. });
    assert_error!(crafted(0, 1, &[&key, &kind(7), &[2]]), GgufError::BadBool { found: 2, .. });
    assert_error!(crafted(0, 1, &[&key, &kind(8), &(1u64 << 40).to_le_bytes()]), GgufError::TooMany { .. });
    assert_error!(
        crafted(0, 1, &[&key, &kind(9), &kind(9), &1u64.to_le_bytes()]),
        GgufError::UnknownValueKind { kind: 9, .. }
    );
    assert_error!(crafted(0, 1, &[&key, &kind(9), &kind(0), &huge]), GgufError::TooMany { .. });
    assert_error!(
        crafted(0, 1, &[&key, &kind(9), &kind(8), &4_000_000u64.to_le_bytes()]),
        GgufError::Truncated { .. }
    );
    let entry = [&key[..], &kind(0), &[1]].concat();
    assert_error!(crafted(0, 2, &[&entry, &entry]), GgufError::BadName { .. });
    let alignment = |n: u32| [&text("general.alignment")[..], &kind(4), &kind(n)].concat();
    for n in [0, 24, 1 << 20] {
        assert_error!(crafted(0, 1, &[&alignment(n)]), GgufError::BadAlignment { .. });
    }
    assert!(open(&crafted(0, 1, &[&alignment(64)])).is_ok());
}

#[test]
fn refuses_bad_tensors() {
    let one = |row: Vec<u8>| crafted(1, 0, &[&row, &[0; 64]]);
    assert!(open(&one(row("t", &[4], 0, 0))).is_ok());
    assert_error!(one(row("t", &[1; 5], 0, 0)), GgufError::TooMany { .. });
    assert_error!(one(row("t", &[], 0, 0)), GgufError::BadDimensions { .. });
    assert_error!(one(row("t", &[4, 0], 0, 0)), GgufError::BadDimensions { .. });
    assert_error!(one(row("t", &[1 << 40, 1 << 40], 0, 0)), GgufError::BadDimensions { .. });
    assert_error!(one(row("t", &[1 << 62], 0, 0)), GgufError::BadDimensions { .. });
    assert_error!(one(row("t", &[31], 8, 0)), GgufError::BadDimensions { block: 32, .. });
    assert_error!(one(row("t", &[4], 99, 0)), GgufError::UnknownTensorKind { kind: 99, .. });
    assert_error!(one(row("t", &[4], 0, 8)), GgufError::Misaligned { .. });
    assert_error!(one(row("t", &[4], 0, 1 << 50)), GgufError::OutOfFile { .. });
    assert_error!(one(row("t", &[4], 0, u64::MAX - 31)), GgufError::OutOfFile { .. });
    assert_error!(one(row("t", &[4096], 0, 0)), GgufError::OutOfFile { .. });
    assert_error!(one(row("", &[4], 0, 0)), GgufError::BadName { .. });
    let twice = row("t", &[4], 0, 0);
    assert_error!(crafted(2, 0, &[&twice, &twice, &[0; 64]]), GgufError::BadName { .. });
    let error = open(&one(row("t", &[4096], 0, 0))).unwrap_err().to_string();
    assert!(error.contains("byte 24") && error.contains("fetch it again"), "{error}");
}

#[test]
fn every_cut_is_an_error() {
    let bytes = sample();
    for length in 0..bytes.len() - 31 {
        assert!(open(&bytes[..length]).is_err(), "cut at {length}");
    }
}

/// Whatever opens must also decode without a panic.
fn try_all(bytes: &[u8]) {
    if let Ok(file) = open(bytes) {
        for name in file.tensors().keys() {
            file.require_tensor(name).unwrap().to_f32();
        }
    }
}

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        try_all(&bytes);
    }

    #[test]
    fn huge_numbers_never_panic(at in any::<prop::sample::Index>(), number in any::<u64>()) {
        let mut bytes = sample();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        try_all(&bytes);
    }
}
