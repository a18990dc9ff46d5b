//! The wire format of protocol buffers (protobuf.dev/programming-guides/encoding), as far as changing an
//! ONNX file takes: what is not touched is copied byte for byte, fields of later versions too.

/// One field of a message, as it stands in it.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Value<'a>,
    /// Tag and value.
    pub(super) raw: &'a [u8],
}

#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A string, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
    /// A number of 4 or 8 bytes; nothing here needs one.
    Fixed,
}

impl<'a> Field<'a> {
    /// The value where it is bytes; a malformed file may have other types.
    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Number(_) | Value::Fixed => None,
        }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

/// All fields of a message, in order; an error says at which byte it cannot be read.
pub(super) fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, String> {
    let mut all = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let at = message.len() - rest.len();
        let (field, after) = field(rest).ok_or_else(|| format!("no field that can be read at byte {at}"))?;
        all.push(field);
        rest = after;
    }
    Ok(all)
}

fn field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let (value, after) = match tag & 7 {
        0 => varint(rest).map(|(number, after)| (Value::Number(number), after))?,
        1 => rest.split_at_checked(8).map(|(_, after)| (Value::Fixed, after))?,
        2 => {
            let (length, rest) = varint(rest)?;
            let (content, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(content), after)
        }
        5 => rest.split_at_checked(4).map(|(_, after)| (Value::Fixed, after))?,
        // Groups, which ONNX does not use.
        _ => return None,
    };
    let raw = bytes.get(..bytes.len() - after.len())?;
    Some((Field { number: tag >> 3, value, raw }, after))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7F).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte < 0x80 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

/// A message being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn number(mut self, field: u64, number: u64) -> Self {
        self.varint(field << 3);
        self.varint(number);
        self
    }

    pub(super) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub(super) fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    /// A field as it stood in another message.
    pub(super) fn copied(mut self, field: &Field) -> Self {
        self.0.extend_from_slice(field.raw);
        self
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            // The lowest seven bits, and a mark that more follow.
            self.0.push((number & 0x7F) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_specification() {
        // protobuf.dev: { a: 150 } is 08 96 01, { b: "testing" } is 12 07 74 65 73 74 69 6e 67.
        let written = Message::default().number(1, 150).text(2, "testing").into_bytes();
        assert_eq!(written, b"\x08\x96\x01\x12\x07testing");
        let read = fields(&written).unwrap();
        assert!(matches!(read[0].value, Value::Number(150)));
        assert_eq!((read[1].number, read[1].text()), (2, Some("testing")));
        assert!(fields(&written[..8]).is_err_and(|error| error.contains("byte 3")));
        assert!(fields(b"\x0b").is_err());
        assert!(fields(&[0xFF; 11]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_copied_stays_as_it_was(
            numbers in prop::collection::vec((1_u64..1 << 20, any::<u64>()), 0..8),
            bytes in prop::collection::vec((1_u64..1 << 20, prop::collection::vec(any::<u8>(), 0..300)), 0..4),
            junk in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut written = Message::default();
            for (field, number) in numbers {
                written = written.number(field, number);
            }
            for (field, bytes) in bytes {
                written = written.bytes(field, &bytes);
            }
            let written = written.into_bytes();
            let copy = fields(&written).unwrap().iter().fold(Message::default(), |copy, field| copy.copied(field));
            prop_assert_eq!(copy.into_bytes(), written);
            // Any bytes are read or refused.
            if let Ok(read) = fields(&junk) {
                prop_assert_eq!(read.iter().map(|field| field.raw.len()).sum::<usize>(), junk.len());
            }
        }
    }
}
