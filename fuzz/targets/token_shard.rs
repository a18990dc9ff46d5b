//! A damaged token shard. The header's checksum is made right: what it guards is what is looked at here.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;
use model::shards::{Shard, Verify};

const CHECKED_BYTES: usize = 120;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= CHECKED_BYTES + 8 {
        let check = blake3::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..CHECKED_BYTES + 8].copy_from_slice(&check.as_bytes()[..8]);
    }
    FOLDER.with(|folder| {
        let path = folder.file("tokens.bin", &bytes);
        let _ = Shard::open(&path, Verify::Structure);
        let _ = Shard::open(&path, Verify::Everything);
    });
});
