//! Damaged token files of datatrove and Megatron: the first bytes say how long the index is, then come index
//! and tokens.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;
use model::shards::ForeignTokens;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((index, tokens)) = rest.split_at_checked(u16::from_le_bytes(*length) as usize) else { return };
    FOLDER.with(|folder| {
        folder.file("a.ds.index", index);
        let _ = ForeignTokens::open(&folder.file("a.ds", tokens));
        folder.file("b.idx", index);
        let _ = ForeignTokens::open(&folder.file("b.bin", tokens));
    });
});
