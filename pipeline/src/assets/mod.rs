//! tmp
use std::path::PathBuf;
/// a
#[derive(Clone, Copy)]
pub enum Asset {
    /// x
    MiniLm,
}
/// b
pub struct AssetStore;
/// c
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct AssetError;
impl AssetStore {
    /// d
    pub fn default_store() -> Self {
        Self
    }
    /// e
    pub fn path(&self, _a: Asset) -> Result<PathBuf, AssetError> {
        Err(AssetError)
    }
}
