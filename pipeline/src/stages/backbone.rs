//! The ONNX encoder of the stages that embed texts: the embedded MiniLM, or a user's.

use std::path::PathBuf;
use std::sync::Arc;

use classifiers::{Backbone, BackboneOptions, Classifier, Pooling, Provider, Runtime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{External, asset_external, file_external};
use crate::assets::Asset;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// Memory of the sessions of MiniLM, in bytes.
pub const BACKBONE_MEMORY_BYTES: u64 = 400 << 20;

/// An encoder's files, and how it is run.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EncoderConfig {
    /// The backbone's ONNX file; the embedded MiniLM (int8) when left out.
    pub backbone: Option<PathBuf>,
    /// The backbone's tokenizer.json; the embedded MiniLM's when left out.
    pub tokenizer: Option<PathBuf>,
    /// Where to compute, the first that can run an operator first: `cpu`, `cuda`, `tensor_rt`, `core_ml`;
    /// the CPU when left out. One that the library of ONNX Runtime lacks is an error; `ORT_DYLIB_PATH` in the
    /// environment names another library.
    pub providers: Vec<Provider>,
    /// Tokens of a batch at most, which suits GPUs: texts of like length share one. Texts are run one by
    /// one when left out, and always where the model is quantised dynamically.
    pub batch_tokens: Option<usize>,
    /// Sessions of ONNX Runtime side by side, which share the threads of the run and hold the model's weights
    /// each. When left out, a short trial finds how many of how many threads run most texts a second; on a
    /// device there are as many as threads. It changes no vector.
    #[serde(skip_serializing)]
    #[schemars(range(min = 1))]
    pub sessions: Option<usize>,
}

type LoadError = Box<dyn std::error::Error + Send + Sync>;

impl EncoderConfig {
    /// Loads the backbone.
    ///
    /// # Errors
    /// A file is missing or is no such model.
    pub async fn load(
        &self,
        ctx: &StageContext,
        max_tokens: usize,
        pooling: Pooling,
    ) -> Result<Arc<Backbone>, StageError> {
        let model = own_or(ctx, &self.backbone, Asset::MinilmInt8)?;
        let tokenizer = own_or(ctx, &self.tokenizer, Asset::MinilmTokenizer)?;
        let load = move |runtime: &Runtime, options: &BackboneOptions| -> Result<Backbone, LoadError> {
            Ok(Backbone::load(runtime, &model, &tokenizer, options)?)
        };
        self.run(ctx, BackboneOptions { max_tokens, pooling, ..Default::default() }, load).await.map(Arc::new)
    }

    /// Loads a model that gives a score itself; `model` and the config's tokenizer are its files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn load_classifier(
        &self,
        ctx: &StageContext,
        model: PathBuf,
        max_tokens: usize,
    ) -> Result<Arc<Classifier>, StageError> {
        let tokenizer = own_or(ctx, &self.tokenizer, Asset::MinilmTokenizer)?;
        let load = move |runtime: &Runtime, options: &BackboneOptions| -> Result<Classifier, LoadError> {
            Ok(Classifier::load(runtime, &model, &tokenizer, options)?)
        };
        self.run(ctx, BackboneOptions { max_tokens, ..Default::default() }, load).await.map(Arc::new)
    }

    async fn run<T: Send + 'static>(
        &self,
        ctx: &StageContext,
        what: BackboneOptions,
        load: impl FnOnce(&Runtime, &BackboneOptions) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, StageError> {
        let library = ctx.onnx_runtime()?;
        let options = BackboneOptions {
            cores: Some(ctx.env.threads),
            sessions: self.sessions,
            batch_tokens: self.batch_tokens,
            providers: self.providers.clone(),
            ..what
        };
        let work = move || load(&Runtime::load(&library)?, &options);
        let loaded = tokio::task::spawn_blocking(work).await.map_err(|error| ctx.failed(&error))?;
        loaded.map_err(|error| ctx.input(chain(error.as_ref())))
    }

    /// The backbone's ONNX file.
    ///
    /// # Errors
    /// The asset is not there.
    pub fn model_path(&self, ctx: &StageContext) -> Result<PathBuf, StageError> {
        own_or(ctx, &self.backbone, Asset::MinilmInt8)
    }

    /// The tokenizer.json.
    ///
    /// # Errors
    /// The asset is not there.
    pub fn tokenizer_path(&self, ctx: &StageContext) -> Result<PathBuf, StageError> {
        own_or(ctx, &self.tokenizer, Asset::MinilmTokenizer)
    }

    /// The digests of the files.
    ///
    /// # Errors
    /// A file is missing.
    pub fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let files = [(&self.backbone, Asset::MinilmInt8), (&self.tokenizer, Asset::MinilmTokenizer)];
        let digest = |(own, asset): (&Option<PathBuf>, Asset)| match own {
            Some(path) => file_external(ctx, path),
            None => asset_external(ctx, asset),
        };
        files.into_iter().map(digest).collect()
    }
}

fn own_or(ctx: &StageContext, own: &Option<PathBuf>, asset: Asset) -> Result<PathBuf, StageError> {
    own.clone().map_or_else(|| ctx.asset(asset), Ok)
}
