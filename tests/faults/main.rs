//! Runs meet kills, failing disks, power cuts, damaged files, rivals and bad servers. After each: the bytes of
//! an undisturbed run, no answer that was kept asked for again; or a refusal that names the file and the mend.
//!
//! README.md in this folder says what each test does, and how to run it at full size.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a step that fails is the result of the test")]

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod endpoint;
mod failing_disk;
mod fixture;
mod kills;
mod language_model;
mod ledger;
mod power;
mod rivals;
mod shim;
