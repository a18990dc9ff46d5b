//! Names of requests in batch files: at most 64 of `A–Z a–z 0–9 - _`, which every service takes.

use crate::chat::{RequestId, RequestKey};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Digits of an id: 256 bits, six a digit.
const ID_DIGITS: usize = 43;

/// The name of a request: its id in base64 (RFC 4648 §5, without padding), and its longest answer.
pub fn custom_id(key: &RequestKey) -> String {
    let mut text = String::with_capacity(ID_DIGITS + 12);
    let (mut bits, mut count) = (0u32, 0);
    for byte in key.id.0 {
        bits = bits << 8 | u32::from(byte);
        count += 8;
        while count >= 6 {
            count -= 6;
            text.push(char::from(DIGITS[(bits >> count & 63) as usize]));
        }
    }
    text.push(char::from(DIGITS[(bits << (6 - count) & 63) as usize]));
    format!("{text}-{}", key.max_new_tokens)
}

/// The key that a name stands for, or none if it is no name of ours.
pub fn key_of(custom_id: &str) -> Option<RequestKey> {
    let (digits, rest) = custom_id.split_at_checked(ID_DIGITS)?;
    let max_new_tokens = rest.strip_prefix('-')?.parse().ok()?;
    let mut bytes = [0; 32];
    let mut places = bytes.iter_mut();
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            *places.next()? = (bits >> count) as u8;
        }
    }
    let id = RequestId(bytes);
    // The log of an import is asked by this id alone.
    Some(RequestKey { id, legacy_id: id, max_new_tokens })
}
