//! A damaged GGUF file: its table, then each tensor that the table names.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;
use model::gguf::GgufFile;

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        let Ok(file) = GgufFile::open(folder.file("model.gguf", bytes)) else { return };
        for name in file.tensors().keys() {
            if let Some(tensor) = file.tensor(name) {
                let _ = tensor.to_f32();
            }
        }
        for key in file.metadata().keys() {
            let _ = (file.require_u64(key), file.require_str(key), file.require_strings(key));
        }
    });
});
