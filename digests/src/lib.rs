//! What tells whether files are as they were written: their BLAKE3, and for small JSON records one of their
//! own. A record's last field, `digest`, is blake3 over all bytes before it: a bit that flips in a number
//! leaves valid JSON; the digest notices.

use std::fs::File;
use std::io;
use std::path::Path;

/// What stands before and after the digest.
const BEFORE: &str = ",\n  \"digest\": \"";
const AFTER: &str = "\"\n}\n";
/// Hex digits of a digest.
const DIGITS: usize = 64;

/// What a record's digest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// The bytes are those that were written.
    Whole,
    /// They are others.
    Broken,
    /// There is no digest: an older version wrote the record, or its end is damaged.
    Missing,
}

/// blake3 of a file's content, in hex. Reads in pieces.
///
/// # Errors
/// The file cannot be read.
pub fn of_file(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Adds the digest to a JSON object that has fields.
pub fn seal(json: &str) -> Vec<u8> {
    let fields = json.trim_end();
    let fields = fields.strip_suffix('}').unwrap_or(fields).trim_end();
    let digest = blake3::hash(fields.as_bytes()).to_hex();
    format!("{fields}{BEFORE}{digest}{AFTER}").into_bytes()
}

/// Compares a record with its digest.
pub fn check(bytes: &[u8]) -> Seal {
    let Some((fields, digest)) = split(bytes) else {
        return Seal::Missing;
    };
    if blake3::hash(fields).to_hex().as_bytes() == digest { Seal::Whole } else { Seal::Broken }
}

/// The record as it was before [`seal`], for readers that know no field `digest`; one that has no digest stays
/// as it is. Does not compare the digest.
pub fn unseal(bytes: &[u8]) -> Vec<u8> {
    let Some((fields, _)) = split(bytes) else {
        return bytes.to_vec();
    };
    [fields, b"\n}"].concat()
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_suffix(AFTER.as_bytes())?;
    let (rest, digest) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(BEFORE.as_bytes())?, digest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(of_file(&path).is_err());
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(of_file(&path).unwrap(), blake3::hash(&bytes).to_hex().as_str());
    }

    #[test]
    fn a_sealed_record_is_json_and_no_bit_of_it_may_change() {
        let sealed = seal("{\n  \"rows\": 12\n}");
        let json: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(json["rows"], 12);
        assert_eq!(check(&sealed), Seal::Whole);
        assert_eq!(unseal(&sealed), b"{\n  \"rows\": 12\n}");
        for bit in 0..sealed.len() * 8 {
            let mut other = sealed.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&other), Seal::Whole, "bit {bit}");
        }
        for bytes in 0..sealed.len() {
            assert_ne!(check(&sealed[..bytes]), Seal::Whole, "cut to {bytes} bytes");
        }
    }

    #[test]
    fn a_record_of_an_older_version_has_none() {
        assert_eq!(check(b"{\"rows\": 12}"), Seal::Missing);
        assert_eq!(unseal(b"{\"rows\": 12}"), b"{\"rows\": 12}");
        assert_eq!(check(b""), Seal::Missing);
    }
}
