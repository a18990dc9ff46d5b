//! What can go wrong in a run, and whose fault it is.

use datafusion::error::DataFusionError;
use miette::Diagnostic;
use serde::{Deserialize, Serialize};
pub use service::words::chain;
use thiserror::Error;

use crate::durable::WriteError;
use crate::manifest::ManifestError;

/// Whose fault a failure is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The workflow or the data it names is wrong: exit code 2.
    Input,
    /// The run failed: exit code 1.
    Run,
    /// The user stopped it: exit code 1.
    Stopped,
    /// A rule inside the program is broken: exit code 1.
    Internal,
}

/// A stage could not finish.
#[derive(Debug, Error, Diagnostic, Serialize, Deserialize)]
#[error("stage `{stage}`: {message}")]
pub struct StageError {
    /// The stage's name.
    pub stage: String,
    /// Whose fault it is.
    pub fault: Fault,
    /// What failed, where, and why.
    pub message: String,
    /// What to do.
    #[help]
    pub help: Option<String>,
}

impl StageError {
    /// A failure of the run.
    pub fn run(stage: &str, message: impl Into<String>) -> Self {
        Self { stage: stage.to_owned(), fault: Fault::Run, message: message.into(), help: None }
    }

    /// Wrong input.
    pub fn input(stage: &str, message: impl Into<String>) -> Self {
        Self { stage: stage.to_owned(), fault: Fault::Input, message: message.into(), help: None }
    }

    /// The user asked to stop.
    pub fn stopped(stage: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            fault: Fault::Stopped,
            message: "stopped; finished shards and answers are kept".to_owned(),
            help: Some("run the same command again to go on".to_owned()),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A plan failed: DataFusion's error, told by its root cause. `place` names what was read.
    pub fn plan(stage: &str, place: &str, error: &DataFusionError) -> Self {
        let root = error.find_root();
        let fault = match root {
            DataFusionError::SchemaError(..)
            | DataFusionError::Plan(_)
            | DataFusionError::SQL(..)
            | DataFusionError::ParquetError(_) => Fault::Input,
            DataFusionError::Internal(_) => Fault::Internal,
            _ => Fault::Run,
        };
        let mut help = None;
        if let DataFusionError::ResourcesExhausted(_) = root {
            help = Some("raise --memory-limit, or lower --threads".to_owned());
        }
        if let DataFusionError::ParquetError(_) = root {
            help = Some("that file is damaged: fetch it again, or take it out of the input".to_owned());
        }
        let message = match root {
            DataFusionError::External(source) => chain(source.as_ref()),
            other => other.strip_backtrace(),
        };
        let message = if place.is_empty() { message } else { format!("{place}: {message}") };
        Self { stage: stage.to_owned(), fault, message, help }
    }
}

/// A run could not finish.
#[derive(Debug, Error, Diagnostic)]
pub enum RunError {
    /// One stage failed (others may have finished).
    #[error(transparent)]
    #[diagnostic(transparent)]
    Stage(#[from] StageError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A manifest could not be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Another process works in the run's folder.
    #[error("{holder} works in {folder}")]
    #[diagnostic(help("wait for it, or choose another folder with --runs"))]
    Locked {
        /// The run's folder.
        folder: String,
        /// Who works there.
        holder: String,
    },
    /// There is no folder for the assets.
    #[error(transparent)]
    Assets(Box<crate::assets::AssetError>),
    /// The engine could not be started.
    #[error("cannot start the engine: {0}")]
    Engine(#[from] DataFusionError),
}

impl RunError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Stage(error) => error.fault,
            _ => Fault::Run,
        }
    }
}
