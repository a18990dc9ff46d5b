//! A damaged head of a classifier.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = classifiers::Head::from_bytes("head", bytes);
});
