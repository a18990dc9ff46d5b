//! Small JSON records that show whether they are whole: their last field, `digest`, is blake3 over all
//! bytes before it. A bit that flips in a number leaves valid JSON; the digest notices.

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

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_suffix(AFTER.as_bytes())?;
    let (rest, digest) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(BEFORE.as_bytes())?, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_record_is_json_and_no_bit_of_it_may_change() {
        let sealed = seal("{\n  \"rows\": 12\n}");
        let json: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(json["rows"], 12);
        assert_eq!(check(&sealed), Seal::Whole);
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
        assert_eq!(check(b""), Seal::Missing);
    }
}
