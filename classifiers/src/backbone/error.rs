//! What can go wrong with a backbone.

use std::path::PathBuf;
use thiserror::Error;

/// Why a backbone could not be loaded or run.
#[derive(Debug, Error)]
pub enum BackboneError {
    /// An option is out of range.
    #[error("backbone: {option} = {found}, expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        found: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// The loaded library cannot compute there.
    #[error(
        "backbone: the loaded ONNX Runtime has no {provider}; set ORT_DYLIB_PATH to one that was built with it, or \
         take it from `providers`"
    )]
    NoProvider {
        /// The provider's name.
        provider: &'static str,
    },
    /// A file could not be read.
    #[error("backbone: {}: {source}. Fetch it with `pipeline assets pull`, or correct the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The tokenizer is not one.
    #[error("backbone: {reason}")]
    Tokenizer {
        /// Which file, and what is wrong.
        reason: String,
    },
    /// The file is no ONNX model, or a cut one.
    #[error(
        "backbone: {} ({size_bytes} bytes) is not a model that ONNX Runtime loads: {reason}. Expected a whole ONNX \
         encoder; check the file with `pipeline assets verify`",
        path.display()
    )]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: usize,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The model is of another kind.
    #[error(
        "backbone: {} has the {side} {found}; expected {expected}. Export the encoder with these {side}",
        path.display()
    )]
    Interface {
        /// The file.
        path: PathBuf,
        /// `inputs` or `outputs`.
        side: &'static str,
        /// What the model has.
        found: String,
        /// What it must have.
        expected: &'static str,
    },
    /// The model asks for features of a text that this program does not count.
    #[error(
        "backbone: {} has an input `features`, of the set `{found}` by its metadata `corpusmith.features`; this \
         program counts code_v1",
        path.display()
    )]
    Features {
        /// The file.
        path: PathBuf,
        /// The set that it names, if any.
        found: String,
    },
    /// The model loads but cannot run pages of this length or this vocabulary.
    #[error(
        "backbone: {} fails on a trial page of {tokens} tokens with id {id}: {reason}. Either max_tokens is more than \
         the model's positions, or {} belongs to another model",
        model.display(), tokenizer.display()
    )]
    Trial {
        /// The ONNX file.
        model: PathBuf,
        /// The tokenizer file.
        tokenizer: PathBuf,
        /// Length of the trial page.
        tokens: usize,
        /// The tokenizer's largest id.
        id: i64,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A page could not be tokenised.
    #[error("backbone: a page could not be tokenised: {reason}")]
    Tokenize {
        /// What the tokenizer said.
        reason: String,
    },
    /// A page could not be run.
    #[error("backbone: a page could not be run: {reason}. If memory ran out, lower `sessions`")]
    Run {
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A thread could not be started.
    #[error("backbone: cannot start a thread: {0}. Lower `sessions`")]
    Thread(std::io::Error),
    /// The worker threads have ended.
    #[error("backbone: a worker thread ended before it answered; see the log above for its panic")]
    WorkerGone,
}
