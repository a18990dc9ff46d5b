//! A damaged WARC or WET file, compressed or not.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the reader's own file, of which the target needs a part")]
#[path = "../../pipeline/src/stages/read/warc/record.rs"]
mod record;

fn read(path: &std::path::Path) {
    let Ok(mut records) = std::fs::File::open(path).and_then(record::Records::new) else { return };
    while let Ok(Some(record)) = records.next_record() {
        if let Ok(record) = record {
            let _ = (record.kind(), record.header("WARC-Target-URI"), record.body.len());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        read(&folder.file("a.warc", bytes));
        if bytes.first().is_some_and(|first| first % 8 == 7) {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let _ = std::io::Write::write_all(&mut packed, bytes);
            let packed = packed.finish().unwrap_or_default();
            read(&folder.file("a.warc.gz", &packed));
        }
    });
});
