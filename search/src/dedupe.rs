//! Pages that stand twice in a shard: found from the sorted id dictionaries of its runs, so memory
//! stays bounded by two bits a page, whatever the number of ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use tantivy::columnar::StrColumn;
use tantivy::{BitSet, SegmentReader};

use crate::error::IndexError;
use crate::schema::ID;

/// One run, opened.
pub(crate) struct OpenRun {
    pub(crate) reader: SegmentReader,
    ids: StrColumn,
}

impl OpenRun {
    pub(crate) fn new(folder: &Path, reader: SegmentReader) -> Result<Self, IndexError> {
        let ids = reader.fast_fields().str(ID).map_err(IndexError::tantivy(folder))?.ok_or_else(|| {
            IndexError::Io {
                path: folder.to_owned(),
                source: std::io::Error::other("the run has no page ids"),
            }
        })?;
        Ok(Self { reader, ids })
    }

    fn pages(&self) -> u32 {
        self.reader.max_doc()
    }
}

/// For each run the set of pages to keep, or `None` where all are kept. The page that came first
/// in the stream is the one kept; `on_duplicate` hears the ids of the others.
pub(crate) fn pages_to_keep(
    runs: &[OpenRun],
    on_duplicate: &mut dyn FnMut(&str),
) -> std::io::Result<Vec<Option<BitSet>>> {
    let ids: Vec<&StrColumn> = runs.iter().map(|run| &run.ids).collect();
    let taken = ids_seen_before(&ids)?;
    runs.iter().zip(taken).map(|(run, taken)| keep_in_run(run, taken, on_duplicate)).collect()
}

fn keep_in_run(
    run: &OpenRun,
    taken: Option<BitSet>,
    on_duplicate: &mut dyn FnMut(&str),
) -> std::io::Result<Option<BitSet>> {
    let repeats_inside = run.ids.num_terms() < run.pages() as usize;
    if taken.is_none() && !repeats_inside {
        return Ok(None);
    }
    let mut seen = taken.unwrap_or_else(|| BitSet::with_max_value(run.ids.num_terms() as u32));
    let mut keep = BitSet::with_max_value_and_full(run.pages());
    let mut id = String::new();
    for page in 0..run.pages() {
        let Some(ord) = run.ids.ords().first(page) else {
            continue;
        };
        if !seen.insert(ord as u32) {
            keep.remove(page);
            run.ids.ord_to_str(ord, &mut id)?;
            on_duplicate(&id);
        }
    }
    Ok(Some(keep))
}

/// For each column the ordinals of those of its ids that stand in an earlier column, or `None`
/// where there are none, by a merge of the sorted dictionaries.
pub(crate) fn ids_seen_before(columns: &[&StrColumn]) -> std::io::Result<Vec<Option<BitSet>>> {
    let mut taken: Vec<Option<BitSet>> = columns.iter().map(|_| None).collect();
    if columns.len() < 2 {
        return Ok(taken);
    }
    let mut streams = Vec::with_capacity(columns.len());
    let mut heads = BinaryHeap::with_capacity(columns.len());
    for (number, column) in columns.iter().enumerate() {
        let mut stream = column.dictionary().stream()?;
        if stream.advance() {
            heads.push(Reverse((stream.key().to_vec(), number)));
        }
        streams.push(stream);
    }
    let mut last: Vec<u8> = Vec::new();
    let mut any = false;
    // Equal ids come out in column order, so every one after the first stands in an earlier column.
    while let Some(Reverse((mut id, number))) = heads.pop() {
        let stream = &mut streams[number];
        if any && id == last {
            let ords = columns[number].num_terms() as u32;
            taken[number]
                .get_or_insert_with(|| BitSet::with_max_value(ords))
                .insert(stream.term_ord() as u32);
        } else {
            last.clone_from(&id);
            any = true;
        }
        if stream.advance() {
            id.clear();
            id.extend_from_slice(stream.key());
            heads.push(Reverse((id, number)));
        }
    }
    Ok(taken)
}
