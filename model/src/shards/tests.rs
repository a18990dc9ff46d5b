use super::*;
use proptest::prelude::*;
use std::path::Path;

const DIGEST: [u8; 32] = [7; 32];

fn write(path: &Path, documents: &[Vec<u32>]) -> ShardSummary {
    let mut writer = ShardWriter::create(path, 1_000, DIGEST).unwrap();
    for document in documents {
        writer.push(document).unwrap();
    }
    writer.finish().unwrap()
}

/// A shard whose token at place `i` is `first + i` (document ends apart).
fn counting(path: &Path, first: u32, documents: usize, tokens: usize) {
    let documents: Vec<Vec<u32>> = (0..documents)
        .map(|d| (0..tokens).map(|t| first + (d * (tokens + 1) + t) as u32).collect())
        .collect();
    write(path, &documents);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn documents_come_back(documents in prop::collection::vec(prop::collection::vec(0u32..1_000, 0..20), 0..12)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let summary = write(&path, &documents);
        let shard = Shard::open(&path, Verify::Everything).unwrap();
        prop_assert_eq!(shard.documents(), documents.len());
        prop_assert_eq!(shard.tokens().len() as u64, summary.tokens);
        prop_assert_eq!(shard.digest(), summary.digest);
        for (number, document) in documents.iter().enumerate() {
            let read: Vec<u32> = shard.document(number).unwrap().iter().map(|&t| u32::from(t)).collect();
            prop_assert_eq!(&read[..document.len()], &document[..]);
            prop_assert_eq!(&read[document.len()..], &[0]);
        }
        prop_assert!(shard.document(documents.len()).is_none());
    }

    #[test]
    fn hostile_files_are_errors_never_panics(
        cut in 0usize..300, place in 0usize..300, byte in any::<u8>(), fix_checksum in any::<bool>(), extra in 0usize..9,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, &[vec![1, 2, 3], vec![4, 5, 6, 7, 8], vec![]]);
        let good = std::fs::read(&path).unwrap();
        let mut bytes = good.clone();
        let place = place % bytes.len();
        bytes[place] = byte;
        if fix_checksum {
            let check = blake3::hash(&bytes[..CHECKED_BYTES]);
            bytes[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&check.as_bytes()[..8]);
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()) / 8);
        bytes.extend(std::iter::repeat_n(9, extra));
        std::fs::write(&path, &bytes).unwrap();
        match Shard::open(&path, Verify::Everything) {
            // A changed tokenizer digest or vocabulary size is still a well-formed shard.
            Ok(shard) => {
                prop_assert!(bytes == good || (12..64).contains(&place));
                for number in 0..shard.documents() {
                    prop_assert!(shard.document(number).is_some());
                }
            }
            Err(error) => prop_assert!(error.to_string().contains("a.bin"), "{}", error),
        }
        // The cheap check may miss changed tokens, but reading stays inside the file.
        if let Ok(shard) = Shard::open(&path, Verify::Structure) {
            for number in 0..shard.documents() {
                prop_assert!(shard.document(number).is_some());
            }
        }
    }
}

#[test]
fn damage_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    write(&path, &[vec![1, 2, 3]]);
    let good = std::fs::read(&path).unwrap();
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Shard::open(&path, Verify::Everything).unwrap_err().to_string()
    };
    assert!(message(&good[..50]).contains("ends inside the header"));
    assert!(message(b"").contains("ends inside the header"));
    assert!(message(&good[..good.len() - 1]).contains("143 bytes where its header says 144"));
    let mut changed = good.clone();
    changed[HEADER_BYTES] ^= 1;
    assert!(message(&changed).contains("digest"));
    changed[8] = 9;
    assert!(message(&changed).contains("format version 9"));
}

#[test]
fn writers_leave_nothing_when_dropped_and_refuse_foreign_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&folder.path().join("a.bin"), 1_000, DIGEST).unwrap();
    writer.push(&[5]).unwrap();
    let message = writer.push(&[5, 1_000]).unwrap_err().to_string();
    assert!(message.contains("document 1") && message.contains("token 1000"), "{message}");
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_set_rolls_over_at_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut set = ShardSetWriter::create(folder.path(), 1_000, DIGEST, 10).unwrap();
    for _ in 0..7 {
        set.push(&[1, 2, 3]).unwrap();
    }
    let shards = set.finish().unwrap();
    assert_eq!(shards.iter().map(|s| s.documents).collect::<Vec<_>>(), [3, 3, 1]);
    assert!(shards[2].path.ends_with("tokens-00002.bin"));
}

#[test]
fn an_epoch_reads_every_window_once_across_shards() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..3).map(|i| folder.path().join(format!("{i}.bin"))).collect();
    for (i, path) in paths.iter().enumerate() {
        counting(path, 1 + 100 * i as u32, 9, 10);
    }
    let all: Vec<u32> = paths
        .iter()
        .flat_map(|p| {
            Shard::open(p, Verify::Everything)
                .unwrap()
                .tokens()
                .iter()
                .map(|&t| u32::from(t))
                .collect::<Vec<_>>()
        })
        .collect();
    let dataset = TokenDataset::single(&paths, 8, 3).unwrap();
    let windows = dataset.uses(1)[0].sequences_per_epoch;
    assert_eq!(windows, (all.len() as u64 - 1) / 8);
    let read = |index| {
        let mut out = vec![0; 9];
        dataset.sequence(index, &mut out);
        out
    };
    let mut wanted: Vec<_> = (0..windows as usize).map(|w| all[w * 8..w * 8 + 9].to_vec()).collect();
    wanted.sort();
    for epoch in 0..2 {
        let mut got: Vec<_> = (0..windows).map(|i| read(epoch * windows + i)).collect();
        got.sort();
        assert_eq!(got, wanted);
    }
    let order = |epoch: u64| (0..windows).map(|i| read(epoch * windows + i)).collect::<Vec<_>>();
    assert_ne!(order(0), order(1));
    assert_eq!(order(0), order(0));
}

#[test]
fn mixtures_meet_their_weights_in_every_block() {
    let folder = tempfile::tempdir().unwrap();
    let source = |name: &str, weight, first| {
        let path = folder.path().join(format!("{name}.bin"));
        counting(&path, first, 4, 20);
        Source { name: name.to_owned(), weight, shards: vec![path] }
    };
    // The published shares, which sum to 1.
    let sources = [
        source("edu", 0.70, 100),
        source("cosmo", 0.15, 300),
        source("code", 0.15, 500),
        source("none", 0.0, 700),
    ];
    let dataset = TokenDataset::open(&sources, 8, 1, Verify::Structure).unwrap();
    let mut counts = [0; 4];
    let mut out = [0; 9];
    for index in BLOCK_RANGE {
        dataset.sequence(index, &mut out);
        let token = out.iter().find(|&&t| t != 0).unwrap();
        counts[(token / 200) as usize] += 1;
    }
    assert_eq!(counts, [7_000, 1_500, 1_500, 0]);
    assert_eq!(dataset.uses(10_000)[1].epochs, 150.0);

    let error = |sources: &[Source], context| {
        TokenDataset::open(sources, context, 1, Verify::Structure).unwrap_err().to_string()
    };
    assert!(error(&[], 8).contains("at least one source"));
    assert!(error(&sources[..1], 84).contains("fewer than one sequence of 84"));
    assert!(error(&[Source { weight: f64::NAN, ..sources[0].clone() }], 8).contains("weight of source edu"));
    let foreign = folder.path().join("foreign.bin");
    ShardWriter::create(&foreign, 10, [1; 32]).unwrap().finish().unwrap();
    let mixed = Source { shards: vec![sources[0].shards[0].clone(), foreign], ..sources[0].clone() };
    assert!(error(&[mixed], 8).contains("another tokenizer"));
}

const BLOCK_RANGE: std::ops::Range<u64> = 10_000..20_000;
