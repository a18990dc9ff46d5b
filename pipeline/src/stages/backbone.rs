//! The ONNX encoder of the stages that embed texts: the embedded MiniLM, or a user's.

use std::path::PathBuf;
use std::sync::Arc;

use classifiers::{Backbone, BackboneOptions, Runtime};

use super::{External, asset_external, file_external};
use crate::assets::Asset;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// Memory of the sessions of MiniLM, in bytes.
pub const BACKBONE_MEMORY_BYTES: u64 = 400 << 20;

/// Loads a backbone; `model` and `tokenizer` are the embedded MiniLM's where they are `None`.
///
/// # Errors
/// A file is missing or is no such model.
pub async fn load(
    ctx: &StageContext,
    model: &Option<PathBuf>,
    tokenizer: &Option<PathBuf>,
    max_tokens: usize,
) -> Result<Arc<Backbone>, StageError> {
    let (model, tokenizer) =
        (own_or(ctx, model, Asset::MinilmInt8)?, own_or(ctx, tokenizer, Asset::MinilmTokenizer)?);
    let library = ctx.asset(Asset::OnnxRuntime)?;
    let options = BackboneOptions { max_tokens, sessions: Some(ctx.env.threads) };
    let load = move || -> Result<Backbone, Box<dyn std::error::Error + Send + Sync>> {
        let runtime = Runtime::load(&library)?;
        Ok(Backbone::load(&runtime, &model, &tokenizer, &options)?)
    };
    let backbone = tokio::task::spawn_blocking(load).await.map_err(|error| ctx.failed(&error))?;
    Ok(Arc::new(backbone.map_err(|error| ctx.input(chain(error.as_ref())))?))
}

/// The digests of a backbone's files.
///
/// # Errors
/// A file is missing.
pub fn externals(
    ctx: &StageContext,
    model: &Option<PathBuf>,
    tokenizer: &Option<PathBuf>,
) -> Result<Vec<External>, StageError> {
    let files = [(model, Asset::MinilmInt8), (tokenizer, Asset::MinilmTokenizer)];
    let digest = |(own, asset): (&Option<PathBuf>, Asset)| match own {
        Some(path) => file_external(ctx, path),
        None => asset_external(ctx, asset),
    };
    files.into_iter().map(digest).collect()
}

fn own_or(ctx: &StageContext, own: &Option<PathBuf>, asset: Asset) -> Result<PathBuf, StageError> {
    own.clone().map_or_else(|| ctx.asset(asset), Ok)
}
