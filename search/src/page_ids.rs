//! Many page ids in one piece of text.

/// Page ids, one after the other. A thousand ids of their own would cost as much to allocate as their
/// pages to find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageIds {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl PageIds {
    /// Of ids that should be UTF-8; one that is not becomes empty.
    pub(crate) fn from_bytes<'a>(ids: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let mut bytes = Vec::with_capacity(ids.clone().map(<[u8]>::len).sum());
        let mut ends = Vec::with_capacity(ids.size_hint().0);
        for id in ids.clone() {
            bytes.extend_from_slice(id);
            ends.push(bytes.len());
        }
        match String::from_utf8(bytes) {
            Ok(text) => Self { text, ends },
            Err(_) => {
                let mut valid = Self::default();
                ids.for_each(|id| valid.push(std::str::from_utf8(id).unwrap_or_default()));
                valid
            }
        }
    }

    pub(crate) fn push(&mut self, id: &str) {
        self.text.push_str(id);
        self.ends.push(self.text.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The ids in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(&start, &end)| self.text.get(start..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_and_what_is_no_text_is_empty() {
        let ids: [&[u8]; 4] = [b"one", b"", "zwölf".as_bytes(), b"one"];
        let read = |ids: &[&[u8]]| -> Vec<String> {
            let ids = PageIds::from_bytes(ids.iter().copied());
            ids.iter().map(str::to_owned).collect()
        };
        assert_eq!(read(&ids), ["one", "", "zwölf", "one"]);
        assert_eq!(read(&[b"a", b"\xff", b"b"]), ["a", "", "b"]);
        // A character cut in two is text again when the halves meet, but belongs to neither id.
        assert_eq!(read(&[b"a\xc3", b"\xb6b"]), ["", ""]);
    }
}
