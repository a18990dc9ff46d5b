//! Token files of other programs: datatrove's `.ds` (which nanotron reads) and Megatron's `.bin` with `.idx`.
//!
//! | program | tokens | where documents end |
//! |---|---|---|
//! | datatrove | `x.ds`: `u16` or `u32` each | `x.ds.index`: for each document the place after its last token, `u64` |
//! | Megatron | `x.bin`: any of its number types | `x.idx`: header, lengths (`i32`) and byte offsets (`i64`) of sequences, first sequence of each document (`i64`) |
//!
//! Sources: huggingface/datatrove `src/datatrove/pipeline/tokens/tokenizer.py` (`TokenizedFile`),
//! NVIDIA/Megatron-LM `megatron/core/datasets/indexed_dataset.py`. All numbers are little-endian.
//! `tests/parity/token_files.py` holds both programs against this module.

use super::{Shard, ShardError, ShardSetWriter};
use crate::files::{failed, publish, temporary_name};
use crate::tokenizer::END_OF_TEXT;
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const MEGATRON_MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const MEGATRON_HEADER: usize = 34;
/// Megatron's codes of the number types that can hold tokens, with their widths (bytes).
const MEGATRON_TYPES: [(u8, usize); 5] = [(8, 2), (3, 2), (4, 4), (5, 8), (1, 1)];
const MEGATRON_U16: u8 = 8;

/// A mapped token file of another program.
#[derive(Debug)]
pub struct ForeignTokens {
    path: PathBuf,
    map: Mmap,
    /// Bytes of a token.
    width: usize,
    /// Place after each document's last token.
    ends: Vec<u64>,
}

fn foreign(path: &Path, problem: impl Into<String>) -> ShardError {
    ShardError::Foreign { path: path.to_path_buf(), problem: problem.into() }
}

/// `x.ds` → `x.ds.index`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn map(path: &Path) -> Result<Mmap, ShardError> {
    let file = File::open(path).map_err(failed("open", path))?;
    // SAFETY: token files are inputs; like a shard, nothing changes them while they are read.
    Ok(unsafe { Mmap::map(&file) }.map_err(failed("map", path))?)
}

fn u64s(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

impl ForeignTokens {
    /// Opens `x.ds` with its index, or `x.bin` with its `x.idx`, by the name's ending.
    ///
    /// # Errors
    /// [`ShardError::Foreign`] if the files disagree with each other, or an I/O failure.
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("ds") => Self::open_datatrove(path),
            Some("bin") => Self::open_megatron(path),
            _ => Err(foreign(path, "its name ends with neither .ds (datatrove) nor .bin (Megatron)")),
        }
    }

    fn open_datatrove(path: &Path) -> Result<Self, ShardError> {
        let index_path = beside(path, ".index");
        let (tokens, index) = (map(path)?, map(&index_path)?);
        if index.len() % 8 != 0 {
            return Err(foreign(&index_path, "it is no list of 64-bit numbers"));
        }
        let ends: Vec<u64> = u64s(&index).collect();
        let total = ends.last().copied().unwrap_or(0);
        // The width stands in no header; the index tells.
        let width = [2, 4].into_iter().find(|&width| total.checked_mul(width) == Some(tokens.len() as u64));
        let Some(width) = width else {
            let problem = format!(
                "it has {} bytes, which is neither 2 nor 4 for each of the {total} tokens of its index",
                tokens.len()
            );
            return Err(foreign(path, problem));
        };
        Self::checked(path, tokens, width as usize, ends)
    }

    fn open_megatron(path: &Path) -> Result<Self, ShardError> {
        let index_path = path.with_extension("idx");
        let (tokens, index) = (map(path)?, map(&index_path)?);
        let bad = |problem: &str| foreign(&index_path, problem);
        if index.len() < MEGATRON_HEADER || &index[..9] != MEGATRON_MAGIC {
            return Err(bad("it does not start with MMIDIDX, it is no Megatron index"));
        }
        let header: Vec<u64> = u64s(&index[9..17]).chain(u64s(&index[18..34])).collect();
        let &[version, sequences, documents] = header.as_slice() else {
            return Err(bad("it ends inside its header"));
        };
        if version != 1 {
            return Err(bad(&format!("it has version {version}, this program reads version 1")));
        }
        let Some(&(_, width)) = MEGATRON_TYPES.iter().find(|(code, _)| *code == index[17]) else {
            return Err(bad(&format!("its number type {} holds no tokens", index[17])));
        };
        let lengths_end = sequences.checked_mul(4).and_then(|n| n.checked_add(MEGATRON_HEADER as u64));
        let documents_start = lengths_end.zip(sequences.checked_mul(8)).and_then(|(a, b)| a.checked_add(b));
        let documents_end = documents_start.zip(documents.checked_mul(8)).and_then(|(a, b)| a.checked_add(b));
        let (Some(lengths_end), Some(documents_start), Some(documents_end)) =
            (lengths_end, documents_start, documents_end.filter(|&end| end <= index.len() as u64))
        else {
            return Err(bad("it is shorter than its counts say"));
        };
        let part = |from: u64, to: u64| &index[from as usize..to as usize];
        let lengths = part(MEGATRON_HEADER as u64, lengths_end).as_chunks::<4>().0.iter();
        // Place after each sequence, with 0 before the first.
        let mut places = vec![0u64];
        for (length, pointer) in lengths.zip(u64s(part(lengths_end, documents_start))) {
            let place = places.last().copied().unwrap_or(0);
            let length =
                u64::try_from(i32::from_le_bytes(*length)).map_err(|_| bad("a length is negative"))?;
            if place.checked_mul(width as u64) != Some(pointer) {
                return Err(bad("its sequences do not lie one after another"));
            }
            places.push(place + length);
        }
        let ends: Option<Vec<u64>> = u64s(part(documents_start, documents_end))
            .skip(1)
            .map(|i| places.get(i as usize).copied())
            .collect();
        let ends = ends.ok_or_else(|| bad("a document lies behind the last sequence"))?;
        if places.last().copied() != Some(ends.last().copied().unwrap_or(0)) {
            return Err(bad("its documents do not hold all sequences"));
        }
        Self::checked(path, tokens, width, ends)
    }

    fn checked(path: &Path, map: Mmap, width: usize, ends: Vec<u64>) -> Result<Self, ShardError> {
        let total = ends.last().copied().unwrap_or(0);
        if total.checked_mul(width as u64) != Some(map.len() as u64) {
            let problem =
                format!("it has {} bytes where its index says {total} tokens of {width}", map.len());
            return Err(foreign(path, problem));
        }
        if let Some(place) = ends.windows(2).position(|pair| pair[0] > pair[1]) {
            return Err(foreign(path, format!("document {} ends before the one before it", place + 1)));
        }
        Ok(Self { path: path.to_path_buf(), map, width, ends })
    }

    /// Number of documents.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.ends.len()
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Writes a document's tokens to `out`; false past the last document.
    ///
    /// A token that does not fit 32 bits becomes the largest number, which no vocabulary holds.
    pub fn document(&self, number: usize, out: &mut Vec<u32>) -> bool {
        out.clear();
        let Some(&end) = self.ends.get(number) else { return false };
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        let bytes = &self.map[start as usize * self.width..end as usize * self.width];
        out.extend(bytes.chunks_exact(self.width).map(|bytes| {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            u32::try_from(u64::from_le_bytes(value)).unwrap_or(u32::MAX)
        }));
        true
    }

    /// Adds all documents to `out`; each ends with one `<|endoftext|>`, whether it did here or not.
    ///
    /// # Errors
    /// [`ShardError::Token`] for a token outside the vocabulary, or an I/O failure.
    pub fn import(&self, out: &mut ShardSetWriter) -> Result<(), ShardError> {
        let mut tokens = Vec::new();
        for number in 0..self.documents() {
            self.document(number, &mut tokens);
            if tokens.last() == Some(&END_OF_TEXT) {
                tokens.pop();
            }
            out.push(&tokens).map_err(|error| match error {
                // Named by its place in the file that must be mended.
                ShardError::Token { token, vocab_size, .. } => {
                    ShardError::Token { path: self.path.clone(), document: number as u64, token, vocab_size }
                }
                other => other,
            })?;
        }
        Ok(())
    }
}

/// Writes `shard` as `x.ds`, `x.ds.index` and `x.ds.metadata` at `path`, the tokens last: whoever sees them sees
/// all three. `tokenizer` is the name by which nanotron loads the tokenizer.
///
/// # Errors
/// An I/O failure.
pub fn write_datatrove(shard: &Shard, path: &Path, tokenizer: &str) -> Result<(), ShardError> {
    let count = shard.tokens().len();
    // datatrove's third line is the count for people.
    let metadata = format!("{tokenizer}|2\n{count}\n{count} T");
    write(&beside(path, ".metadata"), &[metadata.as_bytes()])?;
    write(&beside(path, ".index"), &[bytemuck::cast_slice(&ends(shard))])?;
    write(path, &[bytemuck::cast_slice(shard.tokens())])
}

/// Writes `shard` as `x.bin` (`path`) and `x.idx`, a sequence a document, the tokens last.
///
/// # Errors
/// [`ShardError::Foreign`] for a document longer than the format can say, or an I/O failure.
pub fn write_megatron(shard: &Shard, path: &Path) -> Result<(), ShardError> {
    let (starts, ends) = (shard.starts(), ends(shard));
    let lengths: Result<Vec<i32>, _> =
        starts.iter().zip(&ends).map(|(start, end)| i32::try_from(end - start)).collect();
    let lengths = lengths.map_err(|_| foreign(path, "a document has more than 2,147,483,647 tokens"))?;
    let pointers: Vec<u64> = starts.iter().map(|start| 2 * start).collect();
    let documents: Vec<u64> = (0..=starts.len() as u64).collect();
    let counts = [starts.len() as u64, documents.len() as u64];
    let parts: [&[u8]; 7] = [
        MEGATRON_MAGIC,
        &1u64.to_le_bytes(),
        &[MEGATRON_U16],
        bytemuck::cast_slice(&counts),
        bytemuck::cast_slice(&lengths),
        bytemuck::cast_slice(&pointers),
        bytemuck::cast_slice(&documents),
    ];
    write(&path.with_extension("idx"), &parts)?;
    write(path, &[bytemuck::cast_slice(shard.tokens())])
}

/// Place after each document's last token.
fn ends(shard: &Shard) -> Vec<u64> {
    let total = (shard.documents() > 0).then_some(shard.tokens().len() as u64);
    shard.starts().iter().skip(1).copied().chain(total).collect()
}

fn write(path: &Path, parts: &[&[u8]]) -> Result<(), ShardError> {
    let temporary = temporary_name(path);
    let file = File::create(&temporary).map_err(failed("create", &temporary))?;
    let mut file = BufWriter::with_capacity(1 << 18, file);
    for part in parts {
        file.write_all(part).map_err(failed("write", &temporary))?;
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed("write", &temporary))?;
    publish(&temporary, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::{ShardWriter, Verify};
    use proptest::prelude::*;

    fn shard(folder: &Path, documents: &[Vec<u32>]) -> Shard {
        let path = folder.join("tokens.csm");
        let mut writer = ShardWriter::create(&path, 50_000, [7; 32]).unwrap();
        for document in documents {
            writer.push(document).unwrap();
        }
        writer.finish().unwrap();
        Shard::open(&path, Verify::Everything).unwrap()
    }

    /// Both formats of `shard`, written below `folder`.
    fn exported(shard: &Shard, folder: &Path) -> [PathBuf; 2] {
        let paths = [folder.join("a.ds"), folder.join("b.bin")];
        write_datatrove(shard, &paths[0], "HuggingFaceTB/cosmo2-tokenizer").unwrap();
        write_megatron(shard, &paths[1]).unwrap();
        paths
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn both_formats_come_back(documents in prop::collection::vec(prop::collection::vec(1u32..50_000, 0..30), 1..9)) {
            let folder = tempfile::tempdir().unwrap();
            let shard = shard(folder.path(), &documents);
            for path in exported(&shard, folder.path()) {
                let tokens = ForeignTokens::open(&path).unwrap();
                prop_assert_eq!(tokens.tokens(), shard.tokens().len() as u64);
                let back = folder.path().join("back");
                let mut set = ShardSetWriter::create(&back, 50_000, [7; 32], u64::MAX).unwrap();
                tokens.import(&mut set).unwrap();
                let summary = set.finish().unwrap().remove(0);
                prop_assert_eq!(summary.digest, shard.digest());
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_formats() {
        let folder = tempfile::tempdir().unwrap();
        let [ds, bin] = exported(&shard(folder.path(), &[vec![258, 7], vec![9]]), folder.path());
        let read = |path: &Path| std::fs::read(path).unwrap();
        let tokens = [2, 1, 7, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(read(&ds), tokens);
        assert_eq!(read(&bin), tokens);
        assert_eq!(read(&beside(&ds, ".index")), [3u64, 5].map(u64::to_le_bytes).concat());
        let index = [
            b"MMIDIDX\0\0".to_vec(),
            1u64.to_le_bytes().to_vec(),
            vec![8],
            [2u64, 3].map(u64::to_le_bytes).concat(),
            [3i32, 2].map(i32::to_le_bytes).concat(),
            [0u64, 6].map(u64::to_le_bytes).concat(),
            [0u64, 1, 2].map(u64::to_le_bytes).concat(),
        ];
        assert_eq!(read(&bin.with_extension("idx")), index.concat());
    }

    #[test]
    fn wide_tokens_and_documents_of_several_sequences_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.bin");
        std::fs::write(&path, [1i32, 2, 3, 4, 5].map(i32::to_le_bytes).concat()).unwrap();
        let index = [
            b"MMIDIDX\0\0".to_vec(),
            1u64.to_le_bytes().to_vec(),
            vec![4],
            [3u64, 3].map(u64::to_le_bytes).concat(),
            [2i32, 1, 2].map(i32::to_le_bytes).concat(),
            [0u64, 8, 12].map(u64::to_le_bytes).concat(),
            [0u64, 2, 3].map(u64::to_le_bytes).concat(),
        ];
        std::fs::write(path.with_extension("idx"), index.concat()).unwrap();
        let tokens = ForeignTokens::open(&path).unwrap();
        let mut document = Vec::new();
        assert!(tokens.document(0, &mut document));
        assert_eq!(document, [1, 2, 3]);
        assert!(tokens.document(1, &mut document));
        assert_eq!(document, [4, 5]);
        assert!(!tokens.document(2, &mut document));
        // A token outside the vocabulary is named by file and document.
        let mut set = ShardSetWriter::create(&folder.path().join("x"), 5, [0; 32], 99).unwrap();
        let message = tokens.import(&mut set).unwrap_err().to_string();
        assert!(message.contains("wide.bin") && message.contains("document 1"), "{message}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn hostile_files_are_errors_never_panics(
            place in 0usize..120, byte in any::<u8>(), cut in 0usize..20, which in 0usize..4,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let [ds, bin] = exported(&shard(folder.path(), &[vec![1, 2, 3], vec![4], vec![]]), folder.path());
            let victim = [ds.clone(), beside(&ds, ".index"), bin.clone(), bin.with_extension("idx")][which].clone();
            let mut bytes = std::fs::read(&victim).unwrap();
            let place = place % bytes.len();
            bytes[place] = byte;
            bytes.truncate(bytes.len() - cut.min(bytes.len()) / 4);
            std::fs::write(&victim, &bytes).unwrap();
            for path in [ds, bin] {
                let Ok(tokens) = ForeignTokens::open(&path) else { continue };
                let mut document = Vec::new();
                for number in 0..tokens.documents() {
                    prop_assert!(tokens.document(number, &mut document));
                }
            }
        }
    }
}
