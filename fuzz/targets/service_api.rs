//! Bodies of the service's API, and the words in its addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| service::fuzzing::body(bytes));
