//! Judging pages: by rules ([`rules`], over the words, sentences and lines of [`text`]), and by
//! educational value.
//!
//! A *backbone* (a small ONNX encoder, run by ONNX Runtime) turns a page into
//! one vector; a *head* (a linear regression trained here, in Rust) turns the
//! vector into a score from 0 to 5. That is the recipe of FineWeb-Edu
//! (huggingface/cosmopedia, `classification/`), with the frozen encoder's
//! output computed once. The scores to train on come from a language model or
//! from people ([`annotate`]); [`export_onnx`] makes one file of backbone and
//! head, and a [`Classifier`] scores by such a file, ours or one of the Hub.
//!
//! ```no_run
//! use classifiers::{Backbone, BackboneOptions, Head, Runtime, Scorer};
//! use std::{path::Path, sync::Arc};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Runtime::load(Path::new("libonnxruntime.so.1.31.1"))?;
//! let head = Head::load(Path::new("classifiers/heads/edu_web_minilm.json"))?;
//! let options = BackboneOptions { max_tokens: head.max_tokens(), ..Default::default() };
//! let backbone = Backbone::load(&runtime, Path::new("model.onnx"), Path::new("tokenizer.json"), &options)?;
//! let scorer = Scorer::new(Arc::new(backbone), head)?;
//! println!("{:?}", scorer.score(&["A cell is the smallest unit of life."])?);
//! # Ok(()) }
//! ```

pub mod annotate;
mod backbone;
mod cache;
mod classifier;
pub mod cluster;
mod curve;
mod durable;
mod engine;
mod fasttext;
mod features;
mod head;
mod layout;
mod linear;
mod metrics;
mod onnx;
mod provider;
mod report;
pub mod rules;
mod runtime;
mod score;
mod session;
mod split;
mod spread;
pub mod text;
mod tokenize;
mod train;
mod workers;

pub use backbone::{Backbone, BackboneError, BackboneIdentity, BackboneOptions, Pooling};
pub use cache::{CacheError, VectorCache};
pub use classifier::Classifier;
pub use curve::{CurvePoint, PrecisionRecall};
pub use fasttext::{FastText, FastTextError, Prediction};
pub use features::FeatureSet;
pub use head::{Figures, HEAD_FORMAT, HEAD_FORMAT_VERSION, Head, HeadError, HeadMetadata};
pub use linear::{AdamwOptions, ClassWeighting, Sampling};
pub use metrics::{Evaluation, ThresholdFigures, int_score};
pub use onnx::{ExportError, export_onnx};
pub use provider::Provider;
pub use report::{Candidate, TrainReport};
pub use runtime::{Runtime, RuntimeError};
pub use score::{
    EmbedOptions, ScoreError, ScoreOptions, Scorer, embed_stream, embedded_schema, score_stream,
    scored_schema,
};
pub use spread::{FoldFigures, Spread, ThresholdSpread};
pub use train::{
    EmbeddedExample, Example, Method, Recipe, TrainError, TrainOptions, TrainedHead, train_head,
    train_head_cached, train_on_embeddings,
};

use arrow::{error::ArrowError, record_batch::RecordBatch};
use futures::stream::BoxStream;
use std::sync::Arc;

/// A stream of pages, in batches.
pub type PageStream = BoxStream<'static, Result<RecordBatch, ArrowError>>;

/// Called once for each row that an operator leaves out.
pub type OnReject = Arc<dyn Fn(Reject) + Send + Sync>;

/// A row that an operator left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The page's id.
    pub id: String,
    /// The reason's name in snake case, for example `empty_text`.
    pub reason: String,
    /// What was found, for a person to read.
    pub detail: String,
}

/// Where the tests find the models: the folder named by `CORPUSMITH_ASSETS`,
/// else the default cache. `None`, with a printed line, when the file is absent.
#[cfg(test)]
pub(crate) fn test_asset(name: &str) -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("CORPUSMITH_ASSETS").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_default();
            std::path::PathBuf::from(home).join(".cache/corpusmith/assets")
        },
        std::path::PathBuf::from,
    );
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: {} is absent; run `pipeline assets pull`", path.display());
    None
}

/// The name of ONNX Runtime's library among the assets on this platform.
#[cfg(test)]
pub(crate) const TEST_RUNTIME: &str =
    if cfg!(target_os = "macos") { "libonnxruntime.1.31.1.dylib" } else { "libonnxruntime.so.1.31.1" };

/// The sample profile's backbone, when the assets are there.
#[cfg(test)]
pub(crate) fn test_backbone(max_tokens: usize, sessions: usize) -> Option<Backbone> {
    let options = BackboneOptions { max_tokens, sessions: Some(sessions), ..Default::default() };
    load_test_backbone(&BackboneOptions { cores: Some(sessions), ..options })
}

/// The same in any way.
#[cfg(test)]
pub(crate) fn load_test_backbone(options: &BackboneOptions) -> Option<Backbone> {
    let runtime = Runtime::load(&test_asset(TEST_RUNTIME)?).unwrap();
    let (model, tokenizer) = (test_asset("model.onnx")?, test_asset("tokenizer.json")?);
    Some(Backbone::load(&runtime, &model, &tokenizer, options).unwrap())
}
