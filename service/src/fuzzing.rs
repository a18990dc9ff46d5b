//! What strangers send, as the service reads it, for the fuzzing targets of `fuzz/`. No part of the interface.

use crate::api::admin::TokenRequest;
use crate::api::runs::{RunRequest, combinations};

/// Reads a body as each of the API's requests, and makes the runs that one asks for.
pub fn body(bytes: &[u8]) {
    drop(serde_json::from_slice::<TokenRequest>(bytes));
    let Ok(request) = serde_json::from_slice::<RunRequest>(bytes) else { return };
    if let Ok(specs) = combinations(&request) {
        drop(serde_json::to_string(&specs));
    }
}
