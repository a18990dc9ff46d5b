//! A damaged log of answers. Checksums are made right: what they guard is what is looked at here.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

const MARKER: [u8; 4] = [0xF5, 0xC1, 0xFE, 0xA7];

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let mut at = 16;
    while at + 56 <= bytes.len() {
        let length = u32::from_le_bytes([bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]]) as usize;
        if bytes[at..at + 4] == MARKER && at + 56 + length <= bytes.len() {
            let record = &mut bytes[at..at + 56 + length];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&record[4..8]).update(&record[24..]);
            let check = hasher.finalize();
            record[8..24].copy_from_slice(&check.as_bytes()[..16]);
            at += 56 + length;
        } else {
            at += 1;
        }
    }
    FOLDER.with(|folder| {
        folder.file("answers-00001.log", &bytes);
        let _ = synth::answer_log::survey(folder.path(), |_| Ok(()));
        let _ = synth::answer_log::totals(folder.path());
    });
});
