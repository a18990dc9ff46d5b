//! The regression head: a weight for each dimension and feature, and a bias, in a JSON file.

use crate::{BackboneIdentity, Evaluation, FeatureSet, Pooling, durable};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What `format` says in a head's file.
pub const HEAD_FORMAT: &str = "corpusmith-regression-head";
/// The version of the file's layout that this program writes. Version 1, without `features`, is read too.
pub const HEAD_FORMAT_VERSION: u32 = 2;
/// No head comes near this; a larger file is another kind of file.
const LARGEST_FILE_BYTES: u64 = 16 << 20;

/// Why a head could not be read, written or used.
#[derive(Debug, Error)]
pub enum HeadError {
    /// The file could not be read or written.
    #[error("head: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file is not a head, or a damaged one.
    #[error(
        "head: {}: {reason}. Expected a {HEAD_FORMAT} file, version {HEAD_FORMAT_VERSION}, as \
         `pipeline classifier train` writes it",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where known.
        reason: String,
    },
    /// The head was trained on another backbone.
    #[error(
        "head `{name}` was trained with {field} {expected}, but the backbone in use has {found}. Load the backbone \
         that the head names, or train the head again with `pipeline classifier train`"
    )]
    OtherBackbone {
        /// The head's name.
        name: String,
        /// What differs.
        field: &'static str,
        /// The head's value.
        expected: String,
        /// The backbone's value.
        found: String,
    },
}

/// A few figures of a head, kept in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Pages the figures are of.
    pub pages: usize,
    /// Pages annotated at or above the keep threshold.
    pub positives: usize,
    /// Precision at the keep threshold.
    pub precision: f64,
    /// Recall at the keep threshold.
    pub recall: f64,
    /// F1 at the keep threshold.
    pub f1: f64,
    /// Macro-F1 over the whole scores.
    pub macro_f1: f64,
    /// Mean absolute error of the score.
    pub mean_absolute_error: f64,
}

impl Figures {
    /// The figures of an evaluation at one threshold, to four decimals.
    #[must_use]
    pub fn of(evaluation: &Evaluation, threshold: u8) -> Self {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let at = evaluation.at(threshold);
        Self {
            pages: evaluation.pages,
            positives: at.map_or(0, |row| row.positives),
            precision: round(at.map_or(0.0, |row| row.precision)),
            recall: round(at.map_or(0.0, |row| row.recall)),
            f1: round(evaluation.f1_at(threshold)),
            macro_f1: round(evaluation.macro_f1),
            mean_absolute_error: round(evaluation.mean_absolute_error),
        }
    }
}

/// Where a head comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadMetadata {
    /// The head's name, for example `edu_web_minilm`.
    pub name: String,
    /// What it was trained on: model, tokenizer, length, pooling.
    pub backbone: BackboneIdentity,
    /// What of the text stands behind the vector.
    #[serde(default)]
    pub features: FeatureSet,
    /// blake3, in hexadecimal, over the lines `id TAB score LF` of all
    /// annotated pages, each once, sorted by id.
    pub annotations_blake3: String,
    /// Pages the weights were fitted on.
    pub training_pages: usize,
    /// How they were fitted, for example `ridge, λ = 0.3, balanced weights`.
    pub method: String,
    /// Seed of the splits.
    pub seed: u64,
    /// The whole score from which a page is kept.
    pub keep_threshold: u8,
    /// Figures on pages that no choice or weight has seen.
    pub held_out: Figures,
    /// Figures from cross-validation on the training pages.
    pub cross_validated: Figures,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    format: String,
    format_version: u32,
    metadata: HeadMetadata,
    bias: f32,
    weights: Vec<f32>,
}

/// Just enough to tell another format or version from a damaged file.
#[derive(Deserialize)]
struct HeadFileStart {
    format: Option<String>,
    format_version: Option<u32>,
}

/// A regression head: `score = bias + weights · (vector, features of the text)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    metadata: HeadMetadata,
    bias: f32,
    weights: Vec<f32>,
}

impl Head {
    pub(crate) fn new(metadata: HeadMetadata, bias: f32, weights: Vec<f32>) -> Self {
        Self { metadata, bias, weights }
    }

    /// Reads a head and checks all of it.
    ///
    /// # Errors
    /// When the file is missing, too large, not JSON, of another format or
    /// version, or its weights are not finite or not as many as it says.
    pub fn load(path: &Path) -> Result<Self, HeadError> {
        let io = |source| HeadError::Io { path: path.to_owned(), source };
        let malformed = |reason: String| HeadError::Malformed { path: path.to_owned(), reason };
        let size_bytes = std::fs::metadata(path).map_err(io)?.len();
        if size_bytes > LARGEST_FILE_BYTES {
            return Err(malformed(format!("{size_bytes} bytes, a head has at most {LARGEST_FILE_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::from_json(&bytes).map_err(malformed)
    }

    /// Reads a head from a file's bytes; `name` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, HeadError> {
        Self::from_json(bytes).map_err(|reason| HeadError::Malformed { path: name.into(), reason })
    }

    fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let start: HeadFileStart =
            serde_json::from_slice(bytes).map_err(|error| format!("not JSON of a head: {error}"))?;
        if start.format.as_deref() != Some(HEAD_FORMAT) {
            let found = start.format.unwrap_or_else(|| "no format".to_owned());
            return Err(format!("format is {found}"));
        }
        if !start.format_version.is_some_and(|version| (1..=HEAD_FORMAT_VERSION).contains(&version)) {
            let found = start.format_version.map_or("none".into(), |v| v.to_string());
            return Err(format!("format_version is {found}"));
        }
        let file: HeadFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let (hidden, features) = (file.metadata.backbone.hidden, file.metadata.features.names().len());
        if file.weights.len() != hidden + features {
            return Err(format!(
                "{} weights, but its backbone has {hidden} dimensions and there are {features} features",
                file.weights.len()
            ));
        }
        if let Some(at) = file.weights.iter().position(|weight| !weight.is_finite()) {
            return Err(format!("weight {at} is {}", file.weights[at]));
        }
        if !file.bias.is_finite() {
            return Err(format!("the bias is {}", file.bias));
        }
        Ok(Self::new(file.metadata, file.bias, file.weights))
    }

    /// blake3 over the weights and the bias, in hex: two heads with one digest score alike.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for value in self.weights.iter().chain([&self.bias]) {
            hasher.update(&value.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Writes the head; the file appears whole or not at all, and the bytes
    /// depend on the head only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), HeadError> {
        let io = |source| HeadError::Io { path: path.to_owned(), source };
        let file = HeadFile {
            format: HEAD_FORMAT.to_owned(),
            format_version: HEAD_FORMAT_VERSION,
            metadata: self.metadata.clone(),
            bias: self.bias,
            weights: self.weights.clone(),
        };
        let mut json = serde_json::to_vec_pretty(&file).map_err(|error| io(std::io::Error::other(error)))?;
        json.push(b'\n');
        durable::write_whole(path, &json).map_err(io)
    }

    /// How the backbone must make vectors.
    #[must_use]
    pub fn pooling(&self) -> Pooling {
        self.metadata.backbone.pooling
    }

    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    pub(crate) fn bias(&self) -> f32 {
        self.bias
    }

    /// Where the head comes from.
    #[must_use]
    pub fn metadata(&self) -> &HeadMetadata {
        &self.metadata
    }

    /// The length, in tokens, that the backbone must be loaded with.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.metadata.backbone.max_tokens
    }

    /// The score of a page by its vector of the head's backbone and its text, not clipped.
    #[must_use]
    pub fn score(&self, vector: &[f32], text: &str) -> f32 {
        let features = self.metadata.features.of(text);
        let product = |(weight, value): (&f32, &f32)| f64::from(*weight) * f64::from(*value);
        let sum: f64 = self.weights.iter().zip(vector.iter().chain(&features)).map(product).sum();
        (f64::from(self.bias) + sum) as f32
    }

    /// Checks that the head was trained on this backbone.
    ///
    /// # Errors
    /// When model, tokenizer, length or pooling differ; the error says which.
    pub fn check_backbone(&self, found: &BackboneIdentity) -> Result<(), HeadError> {
        let expected = &self.metadata.backbone;
        let pairs: [(&'static str, String, String); 5] = [
            ("the model (blake3)", expected.model_blake3.clone(), found.model_blake3.clone()),
            ("the tokenizer (blake3)", expected.tokenizer_blake3.clone(), found.tokenizer_blake3.clone()),
            ("max_tokens", expected.max_tokens.to_string(), found.max_tokens.to_string()),
            ("hidden size", expected.hidden.to_string(), found.hidden.to_string()),
            ("pooling", format!("{:?}", expected.pooling), format!("{:?}", found.pooling)),
        ];
        for (field, expected, found) in pairs {
            if expected != found {
                return Err(HeadError::OtherBackbone {
                    name: self.metadata.name.clone(),
                    field,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
