//! What training takes, and what it refuses.

use crate::{
    BackboneError, FeatureSet,
    cache::CacheError,
    linear::{AdamwOptions, ClassWeighting, Sampling},
    metrics::{HIGHEST_SCORE, class},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Fewer pages say nothing about a head's worth.
const FEWEST_PAGES: usize = 20;

/// An annotated page.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The page's id. A row that stands twice counts once.
    pub id: String,
    /// The page's text.
    pub text: String,
    /// The annotated score; clipped to 0–5.
    pub score: f32,
}

/// An annotated page whose vector is known.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedExample {
    /// The page's id. A row that stands twice counts once.
    pub id: String,
    /// The page's vector by the backbone, and behind it the features of its text that the options name.
    pub vector: Vec<f32>,
    /// The annotated score; clipped to 0–5.
    pub score: f32,
}

/// How to train a head. The target, splits and learning rate follow
/// huggingface/cosmopedia, `classification/train_edu_bert.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// The head's name, as in its file and card.
    pub name: String,
    /// The command that makes the head again, for the card.
    pub command: String,
    /// What a reader of the card should know of the data, in Markdown.
    pub notes: String,
    /// What of the text stands beside its vector: `none`, as published, or `code_v1`, which helps with
    /// source code. An ONNX file of such a head has an input for them.
    pub features: FeatureSet,
    /// Share of the pages, by whole score, that is kept apart from training
    /// and choice: 0.1 as published; 0.2 suits a few hundred pages.
    pub held_out_share: f64,
    /// Folds of the cross-validation on the other pages, by which method and
    /// strength are chosen (ours; the paper trains one way).
    pub folds: usize,
    /// How often the cross-validation is repeated, on other folds: one round of few pages says little.
    pub repeats: usize,
    /// Seed of all splits and of AdamW's batches.
    pub seed: u64,
    /// The whole score from which a page is kept: 3 for web pages, 4 for code.
    pub keep_threshold: u8,
    /// Weights of pages by score that are tried (ours; the paper: uniform).
    pub weightings: Vec<ClassWeighting>,
    /// Ways to draw AdamW's batches that are tried (ours; the paper: shuffled). Balanced batches go with
    /// uniform weights only.
    pub samplings: Vec<Sampling>,
    /// Strengths λ of the closed-form ridge fit that are tried; an empty list
    /// leaves AdamW alone.
    pub ridge_lambdas: Vec<f64>,
    /// The AdamW fit.
    pub adamw: AdamwOptions,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            name: "head".into(),
            command: String::new(),
            notes: String::new(),
            features: FeatureSet::None,
            held_out_share: 0.1,
            folds: 5,
            repeats: 1,
            seed: 42,
            keep_threshold: 3,
            weightings: vec![ClassWeighting::Uniform, ClassWeighting::SquareRoot, ClassWeighting::Balanced],
            samplings: vec![Sampling::Shuffled],
            ridge_lambdas: vec![0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            adamw: AdamwOptions::default(),
        }
    }
}

impl TrainOptions {
    /// The published recipe alone (huggingface/cosmopedia, `classification/train_edu_bert.py`): AdamW at
    /// 3e-4, 20 passes, batches of 256, uniform weights, a tenth kept apart by score, seed 42, the best
    /// evaluation by macro-F1.
    ///
    /// Two things differ. The paper picks the best evaluation by the pages that it then reports on; here
    /// a tenth of the training pages decides, and the pages apart stay unseen. And dimensions are
    /// standardised first, as everywhere in this crate.
    #[must_use]
    pub fn published() -> Self {
        Self {
            weightings: vec![ClassWeighting::Uniform],
            ridge_lambdas: Vec::new(),
            adamw: AdamwOptions::published(),
            ..Self::default()
        }
    }
}

/// Which ways to fit are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Ridge regression and AdamW, of several strengths and weights; cross-validation chooses.
    #[default]
    Best,
    /// The published one alone.
    Published,
    /// The published one with batches in which each score is as frequent as the others.
    Balanced,
    /// Closed-form ridge regression alone, of several strengths and weights.
    Ridge,
}

impl Recipe {
    /// The options of a recipe.
    #[must_use]
    pub fn options(self) -> TrainOptions {
        match self {
            Self::Best => TrainOptions::default(),
            Self::Published => TrainOptions::published(),
            Self::Balanced => {
                TrainOptions { samplings: vec![Sampling::Balanced], ..TrainOptions::published() }
            }
            Self::Ridge => TrainOptions { samplings: Vec::new(), ..Default::default() },
        }
    }
}

/// Why a head could not be trained.
#[derive(Debug, Error)]
pub enum TrainError {
    /// An option is out of range.
    #[error("training: {option} = {found}, expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A page's score is no number.
    #[error(
        "training: page {id} has the score {score}, expected a number from 0 to 5; correct the annotation"
    )]
    Score {
        /// The page.
        id: String,
        /// Its score.
        score: f32,
    },
    /// A page stands twice, with different scores or texts.
    #[error("training: page {id} stands twice, with different scores or texts; keep one of the two rows")]
    Duplicate {
        /// The page.
        id: String,
    },
    /// A vector is not the backbone's, or lacks the features.
    #[error(
        "training: page {id} has a vector of {found} finite values, expected {expected}; embed it with the backbone given"
    )]
    Vector {
        /// The page.
        id: String,
        /// Finite values in its vector.
        found: usize,
        /// The backbone's hidden size and the features.
        expected: usize,
    },
    /// Nothing can be learnt from so little.
    #[error(
        "training: {pages} pages with {scores} different whole scores; annotate at least {FEWEST_PAGES} pages with 2 scores or more"
    )]
    TooFew {
        /// Pages with text.
        pages: usize,
        /// Different whole scores.
        scores: usize,
    },
    /// A page could not be embedded.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// Vectors could not be kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// A way to fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Closed-form ridge regression of a strength λ.
    Ridge {
        /// The strength.
        lambda: f64,
        /// Weights of pages by score.
        weighting: ClassWeighting,
    },
    /// AdamW with early stop.
    Adamw {
        /// Weights of pages by score.
        weighting: ClassWeighting,
        /// How its batches are drawn.
        sampling: Sampling,
    },
}

impl fmt::Display for Method {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |weighting: &ClassWeighting| match weighting {
            ClassWeighting::Uniform => "uniform",
            ClassWeighting::SquareRoot => "square-root",
            ClassWeighting::Balanced => "balanced",
        };
        match self {
            Self::Ridge { lambda, weighting } => {
                write!(out, "ridge, λ = {lambda}, {} weights", word(weighting))
            }
            Self::Adamw { sampling: Sampling::Balanced, .. } => write!(out, "AdamW, balanced batches"),
            Self::Adamw { weighting, .. } => write!(out, "AdamW, {} weights", word(weighting)),
        }
    }
}

/// Checks every option before any work.
pub(super) fn check_options(options: &TrainOptions) -> Result<(), TrainError> {
    let wrong = |option, found: String, expected| TrainError::Option { option, found, expected };
    let share = |share: f64| share > 0.0 && share <= 0.5;
    if !share(options.held_out_share) {
        return Err(wrong("held_out_share", options.held_out_share.to_string(), "more than 0, at most 0.5"));
    }
    if !share(options.adamw.validation_share) {
        let found = options.adamw.validation_share.to_string();
        return Err(wrong("adamw.validation_share", found, "more than 0, at most 0.5"));
    }
    if !(2..=20).contains(&options.folds) {
        return Err(wrong("folds", options.folds.to_string(), "2 to 20"));
    }
    if !(1..=100).contains(&options.repeats) {
        return Err(wrong("repeats", options.repeats.to_string(), "1 to 100"));
    }
    if !(1..=5).contains(&options.keep_threshold) {
        return Err(wrong("keep_threshold", options.keep_threshold.to_string(), "1 to 5"));
    }
    if let Some(lambda) = options.ridge_lambdas.iter().find(|l| !(l.is_finite() && **l > 0.0)) {
        return Err(wrong("ridge_lambdas", lambda.to_string(), "numbers above 0"));
    }
    Ok(())
}

/// Checks sorted examples, whose vectors are to have `length` values, and clips their scores.
pub(super) fn check_examples(sorted: &mut [EmbeddedExample], length: usize) -> Result<(), TrainError> {
    let mut counts = [0_usize; 6];
    for example in sorted.iter_mut() {
        if !example.score.is_finite() {
            return Err(TrainError::Score { id: example.id.clone(), score: example.score });
        }
        let found = example.vector.iter().filter(|value| value.is_finite()).count();
        if found != length || example.vector.len() != length {
            return Err(TrainError::Vector { id: example.id.clone(), found, expected: length });
        }
        example.score = example.score.clamp(0.0, HIGHEST_SCORE);
        counts[class(example.score)] += 1;
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(TrainError::Duplicate { id: pair[0].id.clone() });
    }
    let scores = counts.iter().filter(|&&count| count > 0).count();
    if sorted.len() < FEWEST_PAGES || scores < 2 {
        return Err(TrainError::TooFew { pages: sorted.len(), scores });
    }
    Ok(())
}
