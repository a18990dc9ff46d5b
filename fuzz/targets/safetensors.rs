//! A model's folder whose weights are damaged.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;
use model::language_model::LanguageModel;

const CONFIG: &[u8] = include_bytes!("../model_config.json");

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        if !folder.path().join("config.json").exists() {
            folder.file("config.json", CONFIG);
        }
        folder.file("model.safetensors", bytes);
        let _ = LanguageModel::load(folder.path());
    });
});
