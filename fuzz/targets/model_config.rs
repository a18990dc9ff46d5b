//! A model's folder whose description is damaged. The weights are none: a shape that is far too large must be
//! found out before memory is taken for it.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;
use model::language_model::LanguageModel;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        folder.file("config.json", bytes);
        if !folder.path().join("model.safetensors").exists() {
            folder.file("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
        }
        let _ = LanguageModel::load(folder.path());
    });
});
