//! A damaged fastText model, which then predicts.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        if let Ok(model) = classifiers::FastText::load(&folder.file("a.bin", bytes)) {
            let _ = model.predict("a text of some words, für alle");
        }
    });
});
