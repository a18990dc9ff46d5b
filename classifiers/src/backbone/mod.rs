//! The encoder that turns a page into one vector.

mod error;
#[cfg(test)]
mod tests;

pub use error::BackboneError;

use crate::{Runtime, engine::Engine, provider::Provider, session::Output};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::Arc};

/// How to run a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneOptions {
    /// How much of a page is read, in tokens, the two special ones included.
    /// 512 as in FineWeb-Edu (huggingface/cosmopedia,
    /// `classification/run_edu_bert.py`). A head works with the length it was
    /// trained with only.
    pub max_tokens: usize,
    /// How token states become one vector. A head works with the one it was
    /// trained with only.
    pub pooling: Pooling,
    /// Cores to use; all when not given.
    pub cores: Option<usize>,
    /// Sessions side by side, which share the cores; when not given, a short
    /// trial finds how many of how many threads run most pages a second (below
    /// four cores one a core do). Each holds its own weights and working memory:
    /// about 170 MB for MiniLM at 512 tokens.
    pub sessions: Option<usize>,
    /// Tokens of a batch at most, padding included. Pages of like length among
    /// 512 in a row then share a batch, which suits GPUs. A page's vector
    /// depends on the pages beside it by rounding only (about 1e-6), and not at
    /// all on timing. Not given, pages are run one by one; so they are, whatever
    /// is given, where the model is quantised dynamically, since its pages
    /// influence each other.
    pub batch_tokens: Option<usize>,
    /// Where to compute, the first that can run an operator first; the CPU when
    /// empty. One that the loaded library lacks is an error.
    pub providers: Vec<Provider>,
}

impl Default for BackboneOptions {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            pooling: Pooling::default(),
            cores: None,
            sessions: None,
            batch_tokens: None,
            providers: Vec::new(),
        }
    }
}

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens, scaled to length 1, as all-MiniLM-L6-v2 is
    /// meant to be used.
    #[default]
    MeanL2,
    /// The state of the first token, scaled to length 1, as
    /// Snowflake/snowflake-arctic-embed-m is meant to be used.
    ClsL2,
}

/// All that a vector depends on besides the page: what a head must agree with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneIdentity {
    /// blake3 of the ONNX file, in hexadecimal.
    pub model_blake3: String,
    /// blake3 of the tokenizer.json, in hexadecimal.
    pub tokenizer_blake3: String,
    /// Length of a vector.
    pub hidden: usize,
    /// How much of a page is read, in tokens.
    pub max_tokens: usize,
    /// How token states become one vector.
    pub pooling: Pooling,
}

/// A loaded encoder with its tokenizer and its worker threads. Its inputs are
/// `input_ids`, `attention_mask` and perhaps `token_type_ids`, its output
/// `last_hidden_state`.
///
/// Every page is run alone and without padding, so its vector does not depend
/// on its neighbours, on the number of sessions or on timing.
/// (In an int8 model with dynamic quantisation one scale holds for a whole
/// batch: there a page's vector changes with the pages beside it.)
/// [`BackboneOptions::batch_tokens`] trades the first for speed.
#[derive(Debug)]
pub struct Backbone {
    engine: Arc<Engine>,
    identity: BackboneIdentity,
}

impl Backbone {
    /// Loads an ONNX encoder and its tokenizer, and runs one trial page of
    /// `max_tokens` tokens.
    ///
    /// # Errors
    /// When a file is missing, cut, of another kind, the two do not fit, or the
    /// library lacks a provider.
    pub fn load(
        runtime: &Runtime,
        model_onnx: &Path,
        tokenizer_json: &Path,
        options: &BackboneOptions,
    ) -> Result<Self, BackboneError> {
        let output = Output::HiddenState(options.pooling);
        let engine = Engine::load(runtime, model_onnx, tokenizer_json, options, output)?;
        let identity = BackboneIdentity {
            model_blake3: engine.model_blake3.clone(),
            tokenizer_blake3: engine.tokenizer_blake3.clone(),
            hidden: engine.width,
            max_tokens: options.max_tokens,
            pooling: options.pooling,
        };
        Ok(Self { engine: Arc::new(engine), identity })
    }

    /// What this backbone's vectors depend on.
    #[must_use]
    pub fn identity(&self) -> &BackboneIdentity {
        &self.identity
    }

    /// Length of a vector.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.identity.hidden
    }

    /// Sessions side by side.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.engine.sessions()
    }

    /// Embeds pages on all sessions and waits: `texts.len() × hidden` values,
    /// page after page. Call it from a thread that may block.
    ///
    /// # Errors
    /// When a page cannot be tokenised or run.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<f32>, BackboneError> {
        self.engine.run(texts)
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Queues one page at once and gives its vector (`hidden` values, length
    /// 1) when awaited. A page whose future is dropped is passed over.
    ///
    /// # Errors
    /// When the page cannot be tokenised or run.
    pub fn embed_page(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Vec<f32>, BackboneError>> + Send + use<> {
        self.engine.page(text)
    }
}
