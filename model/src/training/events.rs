//! TensorBoard event files: the loss record once more, as TensorBoard reads it.
//!
//! A file is records of `length (u64), masked CRC32C of the length (u32), bytes, masked CRC32C of the bytes`
//! (tensorflow/tensorflow `tensorflow/core/lib/io/record_writer.cc`), each an `Event` in protocol buffers
//! (`tensorflow/core/util/event.proto`). The time of an event is its step, in seconds: a run's bytes must not
//! depend on the clock. `tests/parity/tensorboard_events.py` reads one with TensorBoard's own reader.

use serde_json::Value;

/// Name of the event file in a run's folder.
pub const EVENT_FILE: &str = "events.out.tfevents.0.corpusmith";

/// The record every file begins with.
pub(super) fn file_start() -> Vec<u8> {
    let mut event = time(0.0);
    bytes_field(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// One record for the numbers of a line of the loss record, by their names.
pub(super) fn line(line: &Value) -> Vec<u8> {
    let Some(fields) = line.as_object() else { return Vec::new() };
    let step = fields.get("step").and_then(Value::as_u64).unwrap_or(0);
    let mut summary = Vec::new();
    for (name, number) in fields.iter().filter_map(|(name, value)| Some((name, value.as_f64()?))) {
        if name == "step" {
            continue;
        }
        let mut value = Vec::new();
        bytes_field(&mut value, 1, name.as_bytes());
        value.push(2 << 3 | 5);
        value.extend_from_slice(&(number as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &value);
    }
    let mut event = time(step as f64);
    event.push(2 << 3);
    varint(&mut event, step);
    bytes_field(&mut event, 5, &summary);
    record(&event)
}

/// An event's first field.
fn time(seconds: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend_from_slice(&seconds.to_le_bytes());
    event
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), event, &masked(event)].concat()
}

/// A CRC as it stands in files of records, whose own bytes are summed up again somewhere else.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), bit by bit: a line has a hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_line_becomes_its_numbers() {
        let bytes = line(&serde_json::json!({"step": 300, "loss": 2.5, "note": "text"}));
        let mut event = vec![9];
        event.extend(300f64.to_le_bytes());
        event.extend([16, 0xac, 2]);
        let value = [&[10, 4][..], b"loss", &[21], &2.5f32.to_le_bytes()].concat();
        event.extend([42, value.len() as u8 + 2, 10, value.len() as u8]);
        event.extend(&value);
        assert_eq!(bytes[..8], (event.len() as u64).to_le_bytes());
        assert_eq!(bytes[12..12 + event.len()], event);
        assert_eq!(bytes.len(), event.len() + 16);
        // tensorflow writes these bytes for the version record's frame: length 24 and its checksum.
        assert_eq!(file_start()[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }
}
