//! A damaged ONNX encoder to which a head is joined.
#![no_main]

use corpusmith_fuzz::FOLDER;
use libfuzzer_sys::fuzz_target;

const HEAD: &str = include_str!("../head.json");

fuzz_target!(|bytes: &[u8]| {
    let digest = blake3::hash(bytes).to_hex();
    let head = HEAD.replace("MODEL_BLAKE3", &digest);
    let head = classifiers::Head::from_bytes("head", head.as_bytes()).expect("a whole head");
    FOLDER.with(|folder| {
        let _ = classifiers::export_onnx(&folder.file("a.onnx", bytes), &head, &folder.path().join("b.onnx"));
    });
});
