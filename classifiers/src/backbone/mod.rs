//! The encoder that turns a page into one vector.

mod error;
#[cfg(test)]
mod tests;

pub use error::BackboneError;

use crate::{
    Runtime,
    tokenize::PageTokenizer,
    workers::{Workers, run_page},
};
use futures::StreamExt;
use ort::{
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel},
    value::{Outlet, TensorElementType, ValueType},
};
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::Arc};

/// The inputs a backbone must have, each i64 `[pages, tokens]`.
pub(crate) const INPUT_NAMES: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
/// The output a backbone must have, f32 `[pages, tokens, hidden]`.
pub(crate) const HIDDEN_STATE: &str = "last_hidden_state";
/// Fewer tokens would leave no room beside the two special ones.
const FEWEST_TOKENS: usize = 3;
/// Pages waiting in the queue for each session when a list is embedded.
pub(crate) const QUEUED_PAGES_PER_SESSION: usize = 8;

/// How to run a backbone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneOptions {
    /// How much of a page is read, in tokens, the two special ones included.
    /// 512 as in FineWeb-Edu (huggingface/cosmopedia,
    /// `classification/run_edu_bert.py`). A head works with the length it was
    /// trained with only.
    pub max_tokens: usize,
    /// Sessions, and threads, side by side; one a core when not given. Each
    /// never uses more than one core, and holds its own weights and working
    /// memory: about 170 MB for MiniLM int8 at 512 tokens.
    pub sessions: Option<usize>,
}

impl Default for BackboneOptions {
    fn default() -> Self {
        Self { max_tokens: 512, sessions: None }
    }
}

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens, scaled to length 1, as all-MiniLM-L6-v2 is
    /// meant to be used.
    MeanL2,
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

/// A loaded encoder with its tokenizer and its worker threads.
///
/// Every page is run alone and without padding on one core, so its vector
/// does not depend on its neighbours, on the number of sessions or on timing.
/// (In an int8 model with dynamic quantisation one scale holds for a whole
/// batch: there a page's vector changes with the pages beside it.)
#[derive(Debug)]
pub struct Backbone {
    workers: Workers,
    identity: BackboneIdentity,
    sessions: usize,
}

impl Backbone {
    /// Loads an ONNX encoder and its tokenizer, and runs one trial page of
    /// `max_tokens` tokens.
    ///
    /// # Errors
    /// When a file is missing, cut, of another kind, or the two do not fit.
    pub fn load(
        runtime: &Runtime,
        model_onnx: &Path,
        tokenizer_json: &Path,
        options: &BackboneOptions,
    ) -> Result<Self, BackboneError> {
        let sessions = session_count(options)?;
        let model = read(model_onnx)?;
        let tokenizer_bytes = read(tokenizer_json)?;
        let tokenizer = PageTokenizer::from_bytes(&tokenizer_bytes, tokenizer_json, options.max_tokens)
            .map_err(|reason| BackboneError::Tokenizer { reason })?;
        let open = || {
            open_session(runtime, &model).map_err(|error| BackboneError::NotOnnx {
                path: model_onnx.to_owned(),
                size_bytes: model.len(),
                reason: error.message().trim().to_owned(),
            })
        };
        let mut first = open()?;
        check_interface(&first, model_onnx)?;
        let id = tokenizer.largest_id();
        let trial =
            run_page(&mut first, &vec![id; options.max_tokens]).map_err(|reason| BackboneError::Trial {
                model: model_onnx.to_owned(),
                tokenizer: tokenizer_json.to_owned(),
                tokens: options.max_tokens,
                id,
                reason,
            })?;
        let mut opened = vec![first];
        for _ in 1..sessions {
            opened.push(open()?);
        }
        Ok(Self {
            workers: Workers::start(opened, Arc::new(tokenizer))?,
            identity: BackboneIdentity {
                model_blake3: blake3::hash(&model).to_hex().to_string(),
                tokenizer_blake3: blake3::hash(&tokenizer_bytes).to_hex().to_string(),
                hidden: trial.len() / options.max_tokens,
                max_tokens: options.max_tokens,
                pooling: Pooling::MeanL2,
            },
            sessions,
        })
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
        self.sessions
    }

    /// Embeds pages on all sessions and waits: `texts.len() × hidden` values,
    /// page after page. Call it from a thread that may block.
    ///
    /// # Errors
    /// When a page cannot be tokenised or run.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<f32>, BackboneError> {
        let in_flight = self.sessions * QUEUED_PAGES_PER_SESSION;
        let pages =
            futures::stream::iter(texts).map(|text| self.embed_page((*text).to_owned())).buffered(in_flight);
        futures::executor::block_on(async {
            futures::pin_mut!(pages);
            let mut all = Vec::with_capacity(texts.len() * self.hidden());
            while let Some(vector) = pages.next().await {
                all.extend(vector?);
            }
            Ok(all)
        })
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
        self.workers.submit(text)
    }
}

fn session_count(options: &BackboneOptions) -> Result<usize, BackboneError> {
    if options.max_tokens < FEWEST_TOKENS {
        return Err(BackboneError::Option {
            option: "max_tokens",
            found: options.max_tokens,
            expected: "3 or more, at most the model's positions (512 for MiniLM)",
        });
    }
    match options.sessions {
        Some(0) => Err(BackboneError::Option {
            option: "sessions",
            found: 0,
            expected: "1 or more; leave it out for one a core",
        }),
        Some(count) => Ok(count),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BackboneError> {
    std::fs::read(path).map_err(|source| BackboneError::Read { path: path.to_owned(), source })
}

/// One session on one core: with one thread an operator adds up its sums in
/// one order only.
fn open_session(runtime: &Runtime, model: &[u8]) -> ort::Result<Session> {
    Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_deterministic_compute(true)?
        // Every page has a length of its own: a plan for each costs more than it saves.
        .with_memory_pattern(false)?
        // Errors come back to the caller; printed by the library they would come twice.
        .with_log_level(LogLevel::Fatal)?
        .commit_from_memory(model)
}

fn check_interface(session: &Session, path: &Path) -> Result<(), BackboneError> {
    let fits = |outlet: &Outlet, element: TensorElementType, rank: usize| matches!(outlet.dtype(), ValueType::Tensor { ty, shape, .. } if *ty == element && shape.len() == rank);
    let inputs = session.inputs();
    let known =
        |outlet: &Outlet| INPUT_NAMES.contains(&outlet.name()) && fits(outlet, TensorElementType::Int64, 2);
    if inputs.len() != INPUT_NAMES.len() || !inputs.iter().all(known) {
        return Err(BackboneError::Interface {
            path: path.to_owned(),
            side: "inputs",
            found: describe(inputs),
            expected: "input_ids, attention_mask and token_type_ids, each i64 [pages, tokens]",
        });
    }
    let outputs = session.outputs();
    let wanted =
        |outlet: &Outlet| outlet.name() == HIDDEN_STATE && fits(outlet, TensorElementType::Float32, 3);
    if !outputs.iter().any(wanted) {
        return Err(BackboneError::Interface {
            path: path.to_owned(),
            side: "outputs",
            found: describe(outputs),
            expected: "last_hidden_state, f32 [pages, tokens, hidden]",
        });
    }
    Ok(())
}

fn describe(outlets: &[Outlet]) -> String {
    let names: Vec<String> =
        outlets.iter().map(|outlet| format!("{} {}", outlet.name(), outlet.dtype())).collect();
    if names.is_empty() {
        return "(none)".to_owned();
    }
    names.join(", ")
}
