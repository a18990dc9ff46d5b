//! Groups of rows, of which one is kept: found by a sort.

use crate::durable::WriteError;
use crate::engine::external_sort::{ExternalSorter, Sorted, Spill};

/// Where a kept row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// 0 for the rows at hand, n for the nth of those that came earlier.
    pub source: u32,
    /// The row's number there.
    pub row: u32,
}

/// A row that is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The row.
    pub row: u32,
    /// The row that is kept in its place.
    pub kept: Place,
}

/// In a group, rows that came earlier stand before the rows at hand.
const EARLIER: u8 = 0;
const AT_HAND: u8 = 1;

/// Collects the rows of groups, in any order.
pub struct Groups {
    /// Group, then `EARLIER`, source, row; or group, then `AT_HAND`, rank, row.
    sorter: ExternalSorter,
    group_bytes: usize,
    record: Vec<u8>,
}

impl Groups {
    /// Groups whose names have all `group_bytes` bytes.
    pub fn new(sorter: ExternalSorter, group_bytes: usize) -> Self {
        Self { sorter, group_bytes, record: Vec::new() }
    }

    /// Adds a row; of a group, the one of the least rank is kept, the first of equals. It may be added
    /// more than once with the same rank.
    ///
    /// # Errors
    /// The disk is full or not writable.
    pub fn add(&mut self, group: &[u8], rank: &[u8], row: u32) -> Result<(), WriteError> {
        self.push(&[group, &[AT_HAND], rank, &row.to_be_bytes()])
    }

    /// Adds a row that is kept already: all rows of its group are dropped.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_earlier(&mut self, group: &[u8], place: Place) -> Result<(), WriteError> {
        self.push(&[group, &[EARLIER], &place.source.to_be_bytes(), &place.row.to_be_bytes()])
    }

    fn push(&mut self, parts: &[&[u8]]) -> Result<(), WriteError> {
        self.record.clear();
        parts.iter().for_each(|part| self.record.extend_from_slice(part));
        self.sorter.push(&self.record)
    }

    /// The rows to drop.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn finish(self, spill: &Spill) -> Result<Decisions, WriteError> {
        let mut by_row = spill.sorter(2);
        let mut members = self.sorter.finish()?;
        let (mut group, mut kept, mut last_row) = (Vec::new(), Place { source: 0, row: 0 }, None);
        let (mut count, mut groups) = (0, 0);
        while let Some(record) = members.next_record()? {
            let (name, rest) = record.split_at(self.group_bytes.min(record.len()));
            let (Some(&class), Some(&row)) = (rest.first(), rest.last_chunk::<4>()) else { continue };
            let row = u32::from_be_bytes(row);
            let is_first = groups == 0 || name != group;
            if is_first {
                groups += 1;
                group.clear();
                group.extend_from_slice(name);
                let source = rest.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
                kept = match class {
                    EARLIER => Place { source: source.unwrap_or(0), row },
                    _ => Place { source: 0, row },
                };
                last_row = (class == AT_HAND).then_some(row);
            } else if class == AT_HAND && last_row != Some(row) {
                last_row = Some(row);
                count += 1;
                by_row.push(&Decision { row, kept }.to_record())?;
            }
        }
        tracing::info!(groups, dropped = count, "grouped");
        Ok(Decisions { sorted: by_row.finish()?, next: None })
    }
}

impl Decision {
    fn to_record(self) -> [u8; 12] {
        let mut record = [0; 12];
        record[..4].copy_from_slice(&self.row.to_be_bytes());
        record[4..8].copy_from_slice(&self.kept.source.to_be_bytes());
        record[8..].copy_from_slice(&self.kept.row.to_be_bytes());
        record
    }

    fn from_record(record: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(record.get(at..at + 4)?.try_into().ok()?));
        Some(Self { row: number(0)?, kept: Place { source: number(4)?, row: number(8)? } })
    }
}

/// The rows to drop, ascending.
pub struct Decisions {
    sorted: Sorted,
    next: Option<Decision>,
}

impl Decisions {
    /// Takes those before a row.
    ///
    /// # Errors
    /// What was spilled cannot be read.
    pub fn before(&mut self, end: u32) -> Result<Vec<Decision>, WriteError> {
        let mut taken = Vec::new();
        loop {
            let next = match self.next.take() {
                Some(decision) => Some(decision),
                None => self.sorted.next_record()?.and_then(Decision::from_record),
            };
            match next {
                Some(decision) if decision.row < end => taken.push(decision),
                later => {
                    self.next = later;
                    return Ok(taken);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(row: u32) -> Place {
        Place { source: 0, row }
    }

    #[test]
    fn the_least_rank_is_kept_then_the_first_and_an_earlier_row_before_all() {
        let spill = Spill { folder: std::env::temp_dir(), memory_bytes: 100 };
        let mut groups = Groups::new(spill.sorter(1), 1);
        for (group, rank, row) in
            [(b"a", 2, 0), (b"a", 1, 3), (b"a", 1, 2), (b"b", 1, 1), (b"c", 1, 4), (b"c", 1, 5)]
        {
            groups.add(group, &[rank], row).unwrap();
        }
        // A row may stand in its group twice.
        groups.add(b"c", &[1], 5).unwrap();
        for row in [9, 8] {
            groups.add_earlier(b"c", Place { source: 2, row }).unwrap();
        }
        let mut decisions = groups.finish(&spill).unwrap();
        let earlier = Place { source: 2, row: 8 };
        assert_eq!(decisions.before(3).unwrap(), [Decision { row: 0, kept: here(2) }]);
        let rest = [(3, here(2)), (4, earlier), (5, earlier)].map(|(row, kept)| Decision { row, kept });
        assert_eq!(decisions.before(100).unwrap(), rest);
        assert_eq!(decisions.before(u32::MAX).unwrap(), []);
    }
}
