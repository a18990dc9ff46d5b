//! The bytes of a segment. All numbers are little-endian.
//!
//! ```text
//! header  magic "CSMTHLOG" (8) | version u32 | 0 u32
//! record  marker F5 C1 FE A7 (4) | payload length u32 | checksum (16) | request key (32) | payload
//! ```
//! The checksum is the first half of blake3 over length, key and payload. The payload is the answer as
//! JSON. The marker's bytes F5, C1 and FE never stand in UTF-8, so that no payload holds a marker.

use crate::chat::{ChatAnswer, RequestKey};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a record before its payload.
pub const RECORD_HEAD_BYTES: usize = 56;
/// Longest payload, in bytes. A length beyond it is damage.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

pub(super) const MARKER: [u8; 4] = [0xF5, 0xC1, 0xFE, 0xA7];
const MAGIC: [u8; 8] = *b"CSMTHLOG";
const VERSION: u32 = 1;

pub(super) fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Checks the first bytes of a segment, as many as there are up to [`HEADER_BYTES`]; the error says what
/// the file is instead.
pub(super) fn check_header(bytes: &[u8]) -> Result<(), String> {
    let expected = header();
    let magic_bytes = bytes.len().min(8);
    if bytes[..magic_bytes] != expected[..magic_bytes] {
        return Err(format!("it begins with {:02x?} instead of {:02x?}", &bytes[..magic_bytes], MAGIC));
    }
    if bytes.len() == HEADER_BYTES && bytes != expected {
        return Err(format!("its format is {:02x?}, this version writes {VERSION}", &bytes[8..]));
    }
    Ok(())
}

/// A whole record; the error says why the answer fits into none.
pub(super) fn encode(key: &RequestKey, answer: &ChatAnswer) -> Result<Vec<u8>, String> {
    let payload = serde_json::to_vec(answer).map_err(|error| error.to_string())?;
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(format!("it has {} bytes, {MAX_PAYLOAD_BYTES} is the most", payload.len()));
    }
    let length = (payload.len() as u32).to_le_bytes();
    let mut record = Vec::with_capacity(RECORD_HEAD_BYTES + payload.len());
    record.extend_from_slice(&MARKER);
    record.extend_from_slice(&length);
    record.extend_from_slice(&checksum(&length, &key.0, &payload));
    record.extend_from_slice(&key.0);
    record.extend_from_slice(&payload);
    Ok(record)
}

/// Length of the payload that a record's head announces, or none if it is no head.
pub(super) fn payload_bytes(head: &[u8]) -> Option<usize> {
    let length = head.strip_prefix(&MARKER)?.first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    (length <= MAX_PAYLOAD_BYTES).then_some(length)
}

/// The key of a whole record, or none if the record is damaged.
pub(super) fn checked_key(record: &[u8]) -> Option<RequestKey> {
    let (head, payload) = record.split_at_checked(RECORD_HEAD_BYTES)?;
    let key: &[u8; 32] = head.last_chunk()?;
    (payload_bytes(head)? == payload.len() && head[8..24] == checksum(&head[4..8], key, payload))
        .then_some(RequestKey(*key))
}

/// Key and answer of a whole record, or none if the record is damaged.
pub(super) fn decode(record: &[u8]) -> Option<(RequestKey, ChatAnswer)> {
    let key = checked_key(record)?;
    Some((key, serde_json::from_slice(&record[RECORD_HEAD_BYTES..]).ok()?))
}

fn checksum(length: &[u8], key: &[u8; 32], payload: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(length).update(key).update(payload);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}
