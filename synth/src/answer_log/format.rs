//! The bytes of a segment. All numbers are little-endian.
//!
//! ```text
//! header   magic "CSMTHLOG" (8) | version u32 | 0 u32
//! record   marker F5 C1 FE A7 (4) | payload length u32 | checksum (16) | request id (32) | payload
//! payload  version 1: the answer as JSON
//!          version 2: max_new_tokens u32 | prompt tokens u32 | answer tokens u32 | attempts u32 |
//!                     1 if the answer was cut by its length, else 0: u32 | the answer as JSON
//! ```
//! The checksum is the first half of blake3 over length, id and payload. The marker's bytes F5, C1 and FE
//! never stand in UTF-8, so that no answer's text is taken for a record.
//!
//! In segments of version 1 the id covers `max_new_tokens` too ([`RequestKey::legacy_id`]). They are read,
//! and never appended to.
//!
//! A record whose id is all zeros is no answer: its JSON says what the records cost that compaction dropped.

use serde::Deserialize;

use super::Totals;
use crate::chat::{ChatAnswer, FinishReason, RequestId, RequestKey};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a record before its payload.
pub const RECORD_HEAD_BYTES: usize = 56;
/// Longest payload, in bytes. A length beyond it is damage.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

pub(super) const MARKER: [u8; 4] = [0xF5, 0xC1, 0xFE, 0xA7];
const MAGIC: [u8; 8] = *b"CSMTHLOG";
const META_BYTES: usize = 20;
const DROPPED_ID: RequestId = RequestId([0; 32]);

/// The format of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The first, whose ids cover `max_new_tokens`.
    V1,
    /// The one that is written.
    V2,
}

/// What a record says before its JSON is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Longest answer that was asked for; 0 in version 1, where the id covers it.
    pub(super) max_new_tokens: u32,
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    pub(super) attempts: u32,
    pub(super) cut: bool,
}

impl Meta {
    pub(super) fn new(key: &RequestKey, answer: &ChatAnswer) -> Self {
        Self {
            max_new_tokens: key.max_new_tokens,
            prompt_tokens: answer.prompt_tokens,
            completion_tokens: answer.completion_tokens,
            attempts: answer.attempts,
            cut: answer.finish_reason == FinishReason::Length,
        }
    }

    /// Of two answers to a request the one of greater worth counts: one that came to its end before one
    /// that was cut, and the later cut before the earlier.
    pub(super) fn worth(&self) -> u32 {
        if self.cut { self.max_new_tokens } else { u32::MAX }
    }

    fn to_bytes(self) -> [u8; META_BYTES] {
        let fields = [
            self.max_new_tokens,
            self.prompt_tokens,
            self.completion_tokens,
            self.attempts,
            u32::from(self.cut),
        ];
        let mut bytes = [0; META_BYTES];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; META_BYTES]) -> Self {
        let fields = bytes.as_chunks().0;
        let field = |index: usize| u32::from_le_bytes(fields[index]);
        Self {
            max_new_tokens: field(0),
            prompt_tokens: field(1),
            completion_tokens: field(2),
            attempts: field(3),
            cut: field(4) != 0,
        }
    }
}

pub(super) fn header(version: Version) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = match version {
        Version::V1 => 1,
        Version::V2 => 2,
    };
    header
}

/// The version in the first bytes of a segment, as many as there are up to [`HEADER_BYTES`] (of a shorter
/// file, the one that is written); the error says what the file is instead.
pub(super) fn check_header(bytes: &[u8]) -> Result<Version, String> {
    let magic_bytes = bytes.len().min(8);
    if bytes[..magic_bytes] != MAGIC[..magic_bytes] {
        return Err(format!("it begins with {:02x?} instead of {:02x?}", &bytes[..magic_bytes], MAGIC));
    }
    if bytes.len() < HEADER_BYTES {
        return Ok(Version::V2);
    }
    [Version::V1, Version::V2]
        .into_iter()
        .find(|version| bytes == header(*version))
        .ok_or_else(|| format!("its format is {:02x?}, this version writes 2", &bytes[8..]))
}

/// What a whole record holds.
pub(super) enum Content {
    /// An answer.
    Answer { id: RequestId, meta: Meta },
    /// The cost of records that are gone.
    Dropped(Totals),
}

/// A whole record of version 2; the error says why the answer fits into none.
pub(super) fn encode(key: &RequestKey, answer: &ChatAnswer) -> Result<Vec<u8>, String> {
    let json = serde_json::to_vec(answer).map_err(|error| error.to_string())?;
    record(key.id, &Meta::new(key, answer).to_bytes(), &json)
}

/// A record that says what dropped records cost.
pub(super) fn encode_dropped(totals: &Totals) -> Result<Vec<u8>, String> {
    let json = serde_json::to_vec(totals).map_err(|error| error.to_string())?;
    record(DROPPED_ID, &[0; META_BYTES], &json)
}

fn record(id: RequestId, meta: &[u8], json: &[u8]) -> Result<Vec<u8>, String> {
    let payload_bytes = meta.len() + json.len();
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(format!("it has {payload_bytes} bytes, {MAX_PAYLOAD_BYTES} is the most"));
    }
    let mut record = Vec::with_capacity(RECORD_HEAD_BYTES + payload_bytes);
    record.extend_from_slice(&MARKER);
    record.extend_from_slice(&(payload_bytes as u32).to_le_bytes());
    record.extend_from_slice(&[0; 16]);
    record.extend_from_slice(&id.0);
    record.extend_from_slice(meta);
    record.extend_from_slice(json);
    let checksum = checksum(&record);
    record[8..24].copy_from_slice(&checksum);
    Ok(record)
}

/// Length of the payload that a record's head announces, or none if it is no head.
pub(super) fn payload_bytes(head: &[u8]) -> Option<usize> {
    let length = head.strip_prefix(&MARKER)?.first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    (length <= MAX_PAYLOAD_BYTES).then_some(length)
}

/// Id and payload of a whole record, or none if the record is damaged.
fn checked(record: &[u8]) -> Option<(RequestId, &[u8])> {
    let (head, payload) = record.split_at_checked(RECORD_HEAD_BYTES)?;
    let id: &[u8; 32] = head.last_chunk()?;
    (payload_bytes(head)? == payload.len() && head[8..24] == checksum(record))
        .then_some((RequestId(*id), payload))
}

/// What a whole record holds, short of the answer itself; none if the record is damaged.
pub(super) fn content(record: &[u8], version: Version) -> Option<Content> {
    let (id, payload) = checked(record)?;
    let meta = match version {
        Version::V1 => first_meta(payload)?,
        Version::V2 => {
            let (meta, json) = payload.split_first_chunk()?;
            if id == DROPPED_ID {
                return Some(Content::Dropped(serde_json::from_slice(json).ok()?));
            }
            Meta::from_bytes(meta)
        }
    };
    Some(Content::Answer { id, meta })
}

/// Id and answer of a whole record, or none if the record is damaged or no answer.
pub(super) fn decode(record: &[u8], version: Version) -> Option<(RequestId, ChatAnswer)> {
    let (id, payload) = checked(record)?;
    let json = match version {
        Version::V1 => payload,
        Version::V2 => payload.get(META_BYTES..)?,
    };
    Some((id, serde_json::from_slice(json).ok()?))
}

/// The meta of a record of version 1, which has it in its JSON alone.
fn first_meta(json: &[u8]) -> Option<Meta> {
    #[derive(Deserialize)]
    struct Figures {
        prompt_tokens: u32,
        completion_tokens: u32,
        attempts: u32,
    }
    let Figures { prompt_tokens, completion_tokens, attempts } = serde_json::from_slice(json).ok()?;
    // Its id covers the length that was asked for, so that whoever finds it wants no longer one.
    Some(Meta { max_new_tokens: 0, prompt_tokens, completion_tokens, attempts, cut: false })
}

/// Over a whole record but for its marker and the checksum itself.
fn checksum(record: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&record[4..8]).update(&record[24..]);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}
