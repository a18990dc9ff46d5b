//! A stage's manifest. Its digest is made right: what it guards is what is looked at here.
#![no_main]

use corpusmith::manifest::Manifest;
use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        folder.file("manifest.json", bytes);
        let _ = Manifest::read(folder.path());
        if let Ok(text) = std::str::from_utf8(bytes) {
            folder.file("manifest.json", &digests::seal(text));
            if let Ok(Some(manifest)) = Manifest::read(folder.path()) {
                let _ = manifest.shards().count();
                let _ = manifest.to_bytes();
            }
        }
    });
});
