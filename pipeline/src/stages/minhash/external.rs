//! The clusters of [`super::cluster`], found on disk.
//!
//! Each bucket's hashes are sorted with their rows; in order, equal neighbours are linked; the links
//! of all buckets, taken in turn, join the rows in a union-find that lies in a mapped file. As in
//! datatrove 0.10.1 (`src/datatrove/pipeline/dedup/minhash.py`, `MinhashDedupBuckets`,
//! `MinhashDedupCluster`) the order of buckets, hashes and rows decides which row becomes a root, so
//! that work side by side changes nothing: buckets are sorted and linked at once, but joined in turn.
//!
//! Disk, with the published settings: 1,064 bytes a row for the buckets while they are sorted, 928 for
//! the slots, 8 for the union-find and 12 for each link. Memory: what the sorts are given; the mapped
//! file is the system's to keep or to write back.

use std::fs::File;
use std::io::{BufReader, BufWriter, IntoInnerError, Read, Seek, Write};

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;
use rayon::iter::{
    IndexedParallelIterator, IntoParallelIterator, IntoParallelRefMutIterator, ParallelIterator,
};

use super::index::SignatureIndex;
use super::signature::{SignatureOptions, Sketch};
use crate::durable::{WriteContext, WriteError};
use crate::engine::external_sort::{ExternalSorter, Sorted, Spill};
use crate::stages::duplicates::DedupError;
use crate::stages::duplicates::groups::{Decisions, Groups, Place};
use crate::stages::duplicates::keep::Ranks;
use crate::stages::duplicates::rows::{RowReader, RowWriter};

/// Words of a row's slot before its signature: the digest of its simplified text.
const DIGEST_WORDS: usize = 2;

/// What becomes of texts that are too short for a signature.
pub use super::cluster::Unsigned;

/// The words that a row's slot holds.
pub fn slot_words(options: &SignatureOptions) -> usize {
    DIGEST_WORDS + options.hashes()
}

/// The digest and the signature in a row's slot.
pub fn split_slot(words: &[u64]) -> (&[u64], &[u64]) {
    words.split_at(DIGEST_WORDS.min(words.len()))
}

/// Takes the sketches of all rows in order, and leaves them on disk.
pub struct Survey {
    options: SignatureOptions,
    rows: RowWriter,
    /// One a bucket, and the last for the digests of texts without a signature: records of key and
    /// row, big-endian.
    buckets: Vec<ExternalSorter>,
    unsigned: Unsigned,
    ranks: Option<BufWriter<File>>,
    spill: Spill,
}

impl Survey {
    /// A survey whose rows go into two empty files.
    pub fn new(options: SignatureOptions, unsigned: Unsigned, spill: Spill, files: [File; 2]) -> Self {
        let buckets = (0..=options.buckets).map(|_| spill.sorter(options.buckets + 1)).collect();
        let [slots, ids] = files;
        let rows = RowWriter::new(slots, ids, slot_words(&options));
        Self { options, rows, buckets, unsigned, ranks: None, spill }
    }

    /// Adds rows. Ranks are given for all rows or for none.
    ///
    /// # Errors
    /// The disk is full, or there are too many rows.
    pub fn add(
        &mut self,
        ids: &[String],
        sketches: &[Sketch],
        ranks: Option<&Ranks>,
    ) -> Result<(), DedupError> {
        let first_row = self.rows.rows();
        let mut words = Vec::with_capacity(slot_words(&self.options));
        for (at, (id, sketch)) in ids.iter().zip(sketches).enumerate() {
            words.clear();
            let digest = u128::from_be_bytes(sketch.digest.unwrap_or_default());
            words.extend([(digest >> 64) as u64, digest as u64]);
            words.extend(sketch.signature.iter().flatten());
            self.rows.push(id, &words)?;
            if let Some(ranks) = ranks {
                self.add_rank(ranks.get(at))?;
            }
        }
        let (options, unsigned) = (&self.options, self.unsigned);
        self.buckets.par_iter_mut().enumerate().try_for_each(|(bucket, sorter)| {
            let mut record = Vec::new();
            for (row, sketch) in (first_row..).zip(sketches) {
                record.clear();
                match (&sketch.signature, sketch.digest) {
                    (Some(signature), _) if bucket < options.buckets => {
                        let start = bucket * options.hashes_per_bucket;
                        let hashes = &signature[start..start + options.hashes_per_bucket];
                        hashes.iter().for_each(|hash| record.extend(hash.to_be_bytes()));
                    }
                    (None, Some(digest)) if bucket == options.buckets && unsigned == Unsigned::Exact => {
                        record.extend(digest);
                    }
                    _ => continue,
                }
                record.extend(row.to_be_bytes());
                sorter.push(&record)?;
            }
            Ok::<_, WriteError>(())
        })?;
        Ok(())
    }

    fn add_rank(&mut self, rank: &[u8]) -> Result<(), WriteError> {
        let out = match &mut self.ranks {
            Some(out) => out,
            None => self.ranks.insert(BufWriter::new(self.spill.file()?)),
        };
        let length = (rank.len() as u32).to_le_bytes();
        out.write_all(&length).and_then(|()| out.write_all(rank)).doing("spill into", &self.spill.folder)
    }

    /// Ends the survey without clusters: the rows, their number, and each bucket's sorted records.
    ///
    /// # Errors
    /// The disk is full.
    pub fn sorted(self) -> Result<(RowReader, u32, Vec<Sorted>), WriteError> {
        let count = self.rows.rows();
        let buckets = self.buckets.into_par_iter().map(ExternalSorter::finish).collect::<Result<_, _>>()?;
        Ok((self.rows.finish()?, count, buckets))
    }

    /// Decides which rows are dropped: of the rows that belong together the one of the least rank is
    /// kept, without ranks the root of the union; where a row of an earlier index belongs to them, it
    /// stands for all.
    ///
    /// # Errors
    /// The disk is full, or an index cannot be read.
    pub fn decide(self, against: &[SignatureIndex]) -> Result<(RowReader, Decisions), WriteError> {
        let Self { rows, buckets, ranks, spill, .. } = self;
        let mut links = buckets
            .into_par_iter()
            .enumerate()
            .map(|(bucket, sorter)| {
                let earlier = against.iter().map(|index| EarlierBucket::open(index, bucket));
                link(sorter.finish()?, &mut earlier.collect::<Result<Vec<_>, _>>()?, &spill)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut sets = MappedSets::new(rows.rows(), &spill)?;
        for file in &mut links {
            file.each(|link| {
                if link.source == 0 {
                    sets.union(link.other, link.row);
                }
                Ok(())
            })?;
        }
        let mut groups = Groups::new(spill.sorter(2), 4);
        for file in &mut links {
            file.each(|link| {
                if link.source == 0 {
                    return Ok(());
                }
                let root = sets.root(link.row);
                groups.add_earlier(&root.to_be_bytes(), Place { source: link.source, row: link.other })?;
                // Rows of larger sets are all added below.
                if sets.size(root) == 1 { groups.add(&root.to_be_bytes(), &[], root) } else { Ok(()) }
            })?;
        }
        drop(links);
        let mut ranks = ranks.map(|ranks| RankReader::new(ranks, &spill)).transpose()?;
        for row in 0..rows.rows() {
            let root = sets.root(row);
            let root_first = [u8::from(row != root)];
            let rank = match &mut ranks {
                Some(ranks) => ranks.next()?,
                None => &root_first[..],
            };
            if sets.size(root) > 1 {
                groups.add(&root.to_be_bytes(), rank, row)?;
            }
        }
        drop(sets);
        Ok((rows.finish()?, groups.finish(&spill)?))
    }
}

/// Two rows with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Link {
    row: u32,
    /// 0: `other` is an earlier row of this input; n: a row of the nth index.
    source: u32,
    other: u32,
}

/// Links in the order in which they were found, in a file.
struct Links {
    file: File,
    spill: Spill,
}

impl Links {
    fn each(&mut self, mut take: impl FnMut(Link) -> Result<(), WriteError>) -> Result<(), WriteError> {
        let folder = &self.spill.folder;
        self.file.rewind().doing("read back from", folder)?;
        let links = self.file.metadata().doing("read back from", folder)?.len() / size_of::<Link>() as u64;
        let mut input = BufReader::with_capacity(1 << 18, &self.file);
        for _ in 0..links {
            let mut link = Link::zeroed();
            input.read_exact(bytemuck::bytes_of_mut(&mut link)).doing("read back from", folder)?;
            take(link)?;
        }
        Ok(())
    }
}

/// Links each record to the one before where their keys are equal, and the first of a key to the first
/// row that has it in the first index that does.
fn link(mut records: Sorted, earlier: &mut [EarlierBucket], spill: &Spill) -> Result<Links, WriteError> {
    let mut out = BufWriter::with_capacity(1 << 18, spill.file()?);
    let (mut last_key, mut last_row) = (Vec::new(), None);
    while let Some(record) = records.next_record()? {
        let Some((key, row)) = record.split_last_chunk::<4>() else { continue };
        let row = u32::from_be_bytes(*row);
        let link = match last_row {
            Some(other) if key == last_key => Some(Link { row, source: 0, other }),
            _ => {
                let mut found = None;
                for (source, index) in (1..).zip(earlier.iter_mut()) {
                    if let Some(other) = index.find(key)? {
                        found = Some(Link { row, source, other });
                        break;
                    }
                }
                found
            }
        };
        if let Some(link) = link {
            out.write_all(bytemuck::bytes_of(&link)).doing("spill into", &spill.folder)?;
        }
        last_key.clear();
        last_key.extend_from_slice(key);
        last_row = Some(row);
    }
    let file = out.into_inner().map_err(IntoInnerError::into_error).doing("spill into", &spill.folder)?;
    Ok(Links { file, spill: spill.clone() })
}

/// A bucket of an index, read beside the records at hand.
struct EarlierBucket {
    records: Sorted,
    /// The record that was read last: its key, and its row.
    key: Vec<u8>,
    row: Option<u32>,
}

impl EarlierBucket {
    fn open(index: &SignatureIndex, bucket: usize) -> Result<Self, WriteError> {
        let mut opened = Self { records: index.bucket(bucket)?, key: Vec::new(), row: None };
        opened.advance()?;
        Ok(opened)
    }

    fn advance(&mut self) -> Result<(), WriteError> {
        let record = self.records.next_record()?;
        let parts = record.and_then(|record| record.split_last_chunk::<4>());
        self.row = parts.map(|(_, row)| u32::from_be_bytes(*row));
        self.key.clear();
        self.key.extend_from_slice(parts.map_or(&[], |(key, _)| key));
        Ok(())
    }

    /// The first row with a key; keys are asked for in ascending order.
    fn find(&mut self, key: &[u8]) -> Result<Option<u32>, WriteError> {
        while self.row.is_some() && self.key.as_slice() < key {
            self.advance()?;
        }
        Ok(self.row.filter(|_| self.key == key))
    }
}

/// Ranks, in the order of rows.
struct RankReader {
    input: BufReader<File>,
    rank: Vec<u8>,
    spill: Spill,
}

impl RankReader {
    fn new(ranks: BufWriter<File>, spill: &Spill) -> Result<Self, WriteError> {
        let file = ranks.into_inner().map_err(IntoInnerError::into_error);
        let mut file = file.doing("spill into", &spill.folder)?;
        file.rewind().doing("read back from", &spill.folder)?;
        Ok(Self { input: BufReader::with_capacity(1 << 18, file), rank: Vec::new(), spill: spill.clone() })
    }

    fn next(&mut self) -> Result<&[u8], WriteError> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).doing("read back from", &self.spill.folder)?;
        self.rank.resize(u32::from_le_bytes(length) as usize, 0);
        self.input.read_exact(&mut self.rank).doing("read back from", &self.spill.folder)?;
        Ok(&self.rank)
    }
}

/// [`super::cluster::DisjointSets`] in a mapped file: a parent and a size for each row, side by side.
struct MappedSets {
    map: MmapMut,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Set {
    parent: u32,
    size: u32,
}

impl MappedSets {
    fn new(rows: u32, spill: &Spill) -> Result<Self, WriteError> {
        let file = spill.file()?;
        // A map of nothing is an error.
        let bytes = u64::from(rows.max(1)) * size_of::<Set>() as u64;
        file.set_len(bytes).doing("make room in", &spill.folder)?;
        // SAFETY: the file has no name, so that nobody else can cut or change it.
        let map = unsafe { MmapMut::map_mut(&file) }.doing("map a file of", &spill.folder)?;
        let mut sets = Self { map };
        for (row, set) in (0..).zip(sets.all()) {
            *set = Set { parent: row, size: 1 };
        }
        Ok(sets)
    }

    fn all(&mut self) -> &mut [Set] {
        bytemuck::cast_slice_mut(&mut self.map[..])
    }

    fn size(&mut self, root: u32) -> u32 {
        self.all()[root as usize].size
    }

    fn root(&mut self, row: u32) -> u32 {
        let sets = self.all();
        let mut at = row;
        while sets[at as usize].parent != at {
            let above = sets[sets[at as usize].parent as usize].parent;
            sets[at as usize].parent = above;
            at = above;
        }
        at
    }

    fn union(&mut self, left: u32, right: u32) {
        let (mut above, mut below) = (self.root(left), self.root(right));
        if above == below {
            return;
        }
        let sets = self.all();
        if sets[above as usize].size < sets[below as usize].size {
            std::mem::swap(&mut above, &mut below);
        }
        sets[below as usize].parent = above;
        sets[above as usize].size += sets[below as usize].size;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cluster::{Keeper, Sketches, duplicates};
    use super::*;

    const OPTIONS: SignatureOptions = SignatureOptions {
        ngram_words: 5,
        buckets: 3,
        hashes_per_bucket: 2,
        seed: 1,
        hash: super::super::signature::ShingleHash::Xxhash,
    };

    fn sketch((digest, signature): &(u8, Option<[u64; 6]>)) -> Sketch {
        Sketch {
            digest: (*digest > 0).then_some([*digest; 16]),
            signature: signature.map(|hashes| hashes.into()),
        }
    }

    /// Rows whose hashes are so few that many are equal: chains, stars and copies.
    fn rows() -> impl Strategy<Value = Vec<(u8, Option<[u64; 6]>)>> {
        let signature = prop::option::weighted(0.8, prop::array::uniform6(0..4_u64));
        prop::collection::vec((0..6_u8, signature), 0..60)
    }

    proptest! {
        #[test]
        fn on_disk_and_in_memory_the_same_rows_are_dropped(
            rows in rows(),
            memory_bytes in prop::sample::select(vec![0, 2000, 1 << 20]),
            batch_rows in 1..30_usize,
            keep_short in any::<bool>(),
        ) {
            let unsigned = if keep_short { Unsigned::Keep } else { Unsigned::Exact };
            let spill = Spill { folder: std::env::temp_dir(), memory_bytes };
            let files = [spill.file().unwrap(), spill.file().unwrap()];
            let mut survey = Survey::new(OPTIONS, unsigned, spill, files);
            let mut sketches = Sketches::default();
            for batch in rows.chunks(batch_rows) {
                let batch: Vec<Sketch> = batch.iter().map(sketch).collect();
                batch.iter().for_each(|sketch| sketches.push(sketch));
                survey.add(&vec![String::new(); batch.len()], &batch, None).unwrap();
            }
            let found = duplicates(&sketches, &OPTIONS, &Keeper::Root, unsigned);
            let want: Vec<(u32, Place)> =
                found.iter().map(|found| (found.row, Place { source: 0, row: found.kept })).collect();
            let (_, mut decisions) = survey.decide(&[]).unwrap();
            let got = decisions.before(u32::MAX).unwrap();
            prop_assert_eq!(got.iter().map(|decision| (decision.row, decision.kept)).collect::<Vec<_>>(), want);
        }
    }
}
