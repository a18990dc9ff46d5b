//! Trains a head on annotated pages.

use crate::{
    Backbone, BackboneError, BackboneIdentity, Evaluation, Figures, Head, HeadMetadata,
    linear::{AdamwOptions, ClassWeighting, Linear, Page, adamw, ridge},
    metrics::{HIGHEST_SCORE, class},
    report::{Candidate, TrainReport},
    split::{Split, cross_validation, held_out},
};
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
    /// The page's vector by the backbone.
    pub vector: Vec<f32>,
    /// The annotated score; clipped to 0–5.
    pub score: f32,
}

/// How to train a head. The target, splits and learning rate follow
/// huggingface/cosmopedia, `classification/train_edu_bert.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// The head's name, as in its file and card.
    pub name: String,
    /// The command that makes the head again, for the card.
    pub command: String,
    /// What a reader of the card should know of the data, in Markdown.
    pub notes: String,
    /// Share of the pages, by whole score, that is kept apart from training
    /// and choice: 0.1 as published; 0.2 suits a few hundred pages.
    pub held_out_share: f64,
    /// Folds of the cross-validation on the other pages, by which method and
    /// strength are chosen (ours; the paper trains one way).
    pub folds: usize,
    /// Seed of all splits and of AdamW's batches.
    pub seed: u64,
    /// The whole score from which a page is kept: 3 for web pages, 4 for code.
    pub keep_threshold: u8,
    /// Weights of pages by score that are tried (ours; the paper: uniform).
    pub weightings: Vec<ClassWeighting>,
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
            held_out_share: 0.1,
            folds: 5,
            seed: 42,
            keep_threshold: 3,
            weightings: vec![
                ClassWeighting::Uniform,
                ClassWeighting::SquareRoot,
                ClassWeighting::Balanced,
            ],
            ridge_lambdas: vec![0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
            adamw: AdamwOptions::default(),
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
    /// A vector is not the backbone's.
    #[error(
        "training: page {id} has a vector of {found} finite values, expected {expected}; embed it with the backbone given"
    )]
    Vector {
        /// The page.
        id: String,
        /// Finite values in its vector.
        found: usize,
        /// The backbone's hidden size.
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
            Self::Adamw { weighting } => write!(out, "AdamW, {} weights", word(weighting)),
        }
    }
}

/// A head and how it came about.
#[derive(Debug, Clone)]
pub struct TrainedHead {
    /// The head, to be saved or used.
    pub head: Head,
    /// What was tried and how well it does.
    pub report: TrainReport,
}

/// Embeds annotated pages and trains a head on them. Pages without text are
/// left out and counted in the report. Blocks; the same pages, in any order,
/// give the same head.
///
/// # Errors
/// When an annotation or an option is out of range, or a page cannot be run.
pub fn train_head(
    backbone: &Backbone,
    mut examples: Vec<Example>,
    options: &TrainOptions,
) -> Result<TrainedHead, TrainError> {
    let all = examples.len();
    examples.retain(|example| !example.text.trim().is_empty());
    let without_text = all - examples.len();
    examples.sort_by(|a, b| a.id.cmp(&b.id));
    examples.dedup();
    let repeated = all - without_text - examples.len();
    let texts: Vec<&str> = examples
        .iter()
        .map(|example| example.text.as_str())
        .collect();
    let vectors = backbone.embed(&texts)?;
    let embedded = examples
        .into_iter()
        .zip(vectors.chunks(backbone.hidden()))
        .map(|(example, vector)| EmbeddedExample {
            id: example.id,
            vector: vector.to_vec(),
            score: example.score,
        })
        .collect();
    let mut trained = train_on_embeddings(backbone.identity(), embedded, options)?;
    trained.report.pages_without_text = without_text;
    trained.report.repeated_rows += repeated;
    Ok(trained)
}

/// Trains a head on pages whose vectors are known.
///
/// 1. `held_out_share` of the pages of each whole score is put aside.
/// 2. On the others, every method is judged by cross-validation: the mean of
///    macro-F1 and of F1 at the keep threshold over the pooled predictions.
/// 3. The best is fitted on all of those others, and only then measured on
///    the pages put aside.
///
/// # Errors
/// When an annotation or an option is out of range.
pub fn train_on_embeddings(
    backbone: &BackboneIdentity,
    mut examples: Vec<EmbeddedExample>,
    options: &TrainOptions,
) -> Result<TrainedHead, TrainError> {
    check_options(options)?;
    // One order, whatever order the annotations came in.
    let rows = examples.len();
    examples.sort_by(|a, b| a.id.cmp(&b.id));
    examples.dedup();
    let repeated_rows = rows - examples.len();
    check_examples(&mut examples, backbone.hidden)?;
    let annotations_blake3 = annotations_digest(&examples);
    let labels: Vec<(&str, f32)> = examples.iter().map(|e| (e.id.as_str(), e.score)).collect();
    let apart = held_out(&labels, options.held_out_share, options.seed, "held-out");
    let train_labels = pick(&labels, &apart.train);
    let pages: Vec<Page> = examples
        .iter()
        .map(|example| Page {
            vector: &example.vector,
            score: example.score,
        })
        .collect();
    let (train, test) = (pick(&pages, &apart.train), pick(&pages, &apart.held_out));

    let folds = cross_validation(&train_labels, options.folds, options.seed);
    let mut candidates = judge(&train, &train_labels, &folds, options);
    // Stable: of equals the first stays first, and the order of trial is fixed.
    candidates.sort_by(|a, b| b.selection.total_cmp(&a.selection));
    let fit_all = |method: Method| fit(method, &train, &train_labels, options);
    let mut chosen = None;
    for candidate in &mut candidates {
        // The best of each kind is measured on the pages apart; that changes no choice.
        let kind = std::mem::discriminant(&candidate.method);
        let first_of_kind = chosen.as_ref().is_none_or(|(_, first)| *first != kind);
        if first_of_kind && candidate.held_out.is_none() {
            let model = fit_all(candidate.method);
            candidate.held_out = Some(model.evaluate(&test));
            if chosen.is_some() {
                break;
            }
            chosen = Some((model, kind));
        }
    }
    let (Some((model, _)), Some(best)) = (chosen, candidates.first()) else {
        return Err(TrainError::Option {
            option: "weightings",
            found: "an empty list".into(),
            expected: "one or more of uniform, square_root, balanced",
        });
    };
    let best = best.clone();
    let evaluation = model.evaluate(&test);
    let metadata = HeadMetadata {
        name: options.name.clone(),
        backbone: backbone.clone(),
        annotations_blake3,
        training_pages: train.len(),
        method: best.method.to_string(),
        seed: options.seed,
        keep_threshold: options.keep_threshold,
        held_out: Figures::of(&evaluation, options.keep_threshold),
        cross_validated: Figures::of(&best.cross_validated, options.keep_threshold),
    };
    let head = Head::new(
        metadata.clone(),
        model.bias as f32,
        model.weights.iter().map(|&weight| weight as f32).collect(),
    );
    let report = TrainReport {
        head: metadata,
        command: options.command.clone(),
        notes: options.notes.clone(),
        folds: options.folds,
        pages_without_text: 0,
        repeated_rows,
        training_counts: TrainReport::count(train_labels.iter().map(|(_, score)| *score)),
        held_out_counts: TrainReport::count(test.iter().map(|page| page.score)),
        majority: majority(&train, &test),
        held_out: evaluation,
        candidates,
    };
    Ok(TrainedHead { head, report })
}

/// Cross-validates every method.
fn judge(
    train: &[Page],
    labels: &[(&str, f32)],
    folds: &[Split],
    options: &TrainOptions,
) -> Vec<Candidate> {
    let methods = methods(options);
    let mut pairs = vec![Vec::with_capacity(train.len()); methods.len()];
    let mut fold_f1 = vec![Vec::with_capacity(folds.len()); methods.len()];
    for fold in folds {
        let (inner, inner_labels) = (pick(train, &fold.train), pick(labels, &fold.train));
        for (at, model) in fit_many(&methods, &inner, &inner_labels, options)
            .iter()
            .enumerate()
        {
            let predicted = |&index: &usize| {
                let page = &train[index];
                (model.predict(page.vector), page.score)
            };
            let fold_pairs: Vec<(f32, f32)> = fold.held_out.iter().map(predicted).collect();
            fold_f1[at].push(Evaluation::new(&fold_pairs).f1_at(options.keep_threshold));
            pairs[at].extend(fold_pairs);
        }
    }
    methods
        .into_iter()
        .zip(pairs)
        .zip(fold_f1)
        .map(|((method, pairs), fold_f1)| {
            let cross_validated = Evaluation::new(&pairs);
            Candidate {
                method,
                selection: f64::midpoint(
                    cross_validated.macro_f1,
                    cross_validated.f1_at(options.keep_threshold),
                ),
                cross_validated,
                fold_f1,
                held_out: None,
            }
        })
        .collect()
}

fn methods(options: &TrainOptions) -> Vec<Method> {
    let ridge = options.weightings.iter().flat_map(|&weighting| {
        let method = move |&lambda: &f64| Method::Ridge { lambda, weighting };
        options.ridge_lambdas.iter().map(method)
    });
    let adamw = options
        .weightings
        .iter()
        .map(|&weighting| Method::Adamw { weighting });
    ridge.chain(adamw).collect()
}

/// Fits every method on the same pages; ridge fits share their sums.
fn fit_many(
    methods: &[Method],
    pages: &[Page],
    labels: &[(&str, f32)],
    options: &TrainOptions,
) -> Vec<Linear> {
    let mut ridges: Vec<(ClassWeighting, Vec<Linear>)> = Vec::new();
    let mut models = Vec::with_capacity(methods.len());
    for method in methods {
        let Method::Ridge { lambda, weighting } = method else {
            models.push(fit(*method, pages, labels, options));
            continue;
        };
        if !ridges.iter().any(|(known, _)| known == weighting) {
            ridges.push((*weighting, ridge(pages, *weighting, &options.ridge_lambdas)));
        }
        let fits = ridges.iter().filter(|(known, _)| known == weighting);
        let at = options
            .ridge_lambdas
            .iter()
            .position(|known| known == lambda);
        let found = fits
            .flat_map(|(_, fits)| at.and_then(|at| fits.get(at)))
            .next();
        models.extend(found.cloned());
    }
    models
}

/// Fits one method.
fn fit(method: Method, pages: &[Page], labels: &[(&str, f32)], options: &TrainOptions) -> Linear {
    match method {
        Method::Ridge { lambda, weighting } => ridge(pages, weighting, &[lambda]).remove(0),
        Method::Adamw { weighting } => {
            let share = options.adamw.validation_share;
            let stop = held_out(labels, share, options.seed, "early stop");
            let (mut train, validation) = (pick(pages, &stop.train), pick(pages, &stop.held_out));
            if validation.is_empty() {
                // So few pages of each score that none can be spared: fit to the end.
                train = pages.to_vec();
            }
            adamw(&train, &validation, weighting, &options.adamw, options.seed)
        }
    }
}

/// What comes of giving every page the commonest training score.
fn majority(train: &[Page], test: &[Page]) -> Evaluation {
    let counts = TrainReport::count(train.iter().map(|page| page.score));
    let most = counts.iter().max().copied().unwrap_or(0);
    let commonest = counts.iter().position(|&count| count == most).unwrap_or(0);
    let pairs: Vec<(f32, f32)> = test
        .iter()
        .map(|page| (commonest as f32, page.score))
        .collect();
    Evaluation::new(&pairs)
}

fn pick<T: Copy>(from: &[T], positions: &[usize]) -> Vec<T> {
    positions.iter().map(|&position| from[position]).collect()
}

fn annotations_digest(sorted: &[EmbeddedExample]) -> String {
    let mut hasher = blake3::Hasher::new();
    for example in sorted {
        hasher.update(format!("{}\t{}\n", example.id, example.score).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn check_options(options: &TrainOptions) -> Result<(), TrainError> {
    let wrong = |option, found: String, expected| TrainError::Option {
        option,
        found,
        expected,
    };
    let share = |share: f64| share > 0.0 && share <= 0.5;
    if !share(options.held_out_share) {
        return Err(wrong(
            "held_out_share",
            options.held_out_share.to_string(),
            "more than 0, at most 0.5",
        ));
    }
    if !share(options.adamw.validation_share) {
        let found = options.adamw.validation_share.to_string();
        return Err(wrong(
            "adamw.validation_share",
            found,
            "more than 0, at most 0.5",
        ));
    }
    if !(2..=20).contains(&options.folds) {
        return Err(wrong("folds", options.folds.to_string(), "2 to 20"));
    }
    if !(1..=5).contains(&options.keep_threshold) {
        return Err(wrong(
            "keep_threshold",
            options.keep_threshold.to_string(),
            "1 to 5",
        ));
    }
    if let Some(lambda) = options
        .ridge_lambdas
        .iter()
        .find(|l| !(l.is_finite() && **l > 0.0))
    {
        return Err(wrong(
            "ridge_lambdas",
            lambda.to_string(),
            "numbers above 0",
        ));
    }
    Ok(())
}

/// Checks sorted examples and clips their scores.
fn check_examples(sorted: &mut [EmbeddedExample], hidden: usize) -> Result<(), TrainError> {
    let mut counts = [0_usize; 6];
    for example in sorted.iter_mut() {
        if !example.score.is_finite() {
            return Err(TrainError::Score {
                id: example.id.clone(),
                score: example.score,
            });
        }
        let found = example
            .vector
            .iter()
            .filter(|value| value.is_finite())
            .count();
        if found != hidden || example.vector.len() != hidden {
            return Err(TrainError::Vector {
                id: example.id.clone(),
                found,
                expected: hidden,
            });
        }
        example.score = example.score.clamp(0.0, HIGHEST_SCORE);
        counts[class(example.score)] += 1;
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(TrainError::Duplicate {
            id: pair[0].id.clone(),
        });
    }
    let scores = counts.iter().filter(|&&count| count > 0).count();
    if sorted.len() < FEWEST_PAGES || scores < 2 {
        return Err(TrainError::TooFew {
            pages: sorted.len(),
            scores,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{head::tests::identity, linear::tests::made_up, test_backbone};

    fn examples(count: usize) -> Vec<EmbeddedExample> {
        let example = |(index, (vector, score)): (usize, (Vec<f32>, f32))| EmbeddedExample {
            id: format!("page {index}"),
            vector,
            score: score.round(),
        };
        made_up(count, 0.3, 9)
            .into_iter()
            .enumerate()
            .map(example)
            .collect()
    }

    #[test]
    fn a_head_learns_beats_the_baseline_and_does_not_depend_on_the_order() {
        let options = TrainOptions {
            name: "made up".into(),
            held_out_share: 0.2,
            ..Default::default()
        };
        let trained = train_on_embeddings(&identity(6), examples(300), &options).unwrap();
        let report = &trained.report;
        assert!(report.held_out.f1_at(3) > 0.85, "{:?}", report.held_out);
        assert!(report.held_out.macro_f1 > report.majority.macro_f1 + 0.2);
        assert_eq!(report.held_out.pages + report.head.training_pages, 300);
        // The best of both kinds is measured on the pages apart.
        assert_eq!(
            report
                .candidates
                .iter()
                .filter(|c| c.held_out.is_some())
                .count(),
            2
        );
        assert_eq!(
            report.candidates[0].held_out.as_ref(),
            Some(&report.held_out)
        );

        let mut backwards = examples(300);
        backwards.reverse();
        let again = train_on_embeddings(&identity(6), backwards, &options).unwrap();
        assert_eq!(again.head, trained.head);
        assert_eq!(again.report.to_markdown(), report.to_markdown());
    }

    #[test]
    fn wrong_annotations_are_named() {
        let options = TrainOptions::default();
        let error = |change: fn(&mut Vec<EmbeddedExample>)| {
            let mut wrong = examples(40);
            change(&mut wrong);
            train_on_embeddings(&identity(6), wrong, &options)
                .unwrap_err()
                .to_string()
        };
        assert!(error(|rows| rows[7].score = f32::NAN).contains("page 7 has the score NaN"));
        assert!(error(|rows| rows[7].id = "page 3".into()).contains("page 3 stands twice"));
        assert!(error(|rows| rows[7].vector.truncate(5)).contains("page 7 has a vector of 5"));
        assert!(error(|rows| rows.truncate(5)).contains("5 pages"));
        assert!(
            error(|rows| rows.iter_mut().for_each(|row| row.score = 2.0)).contains("1 different")
        );
        let options = TrainOptions {
            folds: 1,
            ..Default::default()
        };
        let text = train_on_embeddings(&identity(6), examples(40), &options)
            .unwrap_err()
            .to_string();
        assert!(text.contains("folds = 1, expected 2 to 20"), "{text}");
    }

    #[test]
    fn a_row_that_stands_twice_counts_once() {
        let mut rows = examples(40);
        rows.push(rows[3].clone());
        let repeated = train_on_embeddings(&identity(6), rows, &TrainOptions::default()).unwrap();
        let plain = train_on_embeddings(&identity(6), examples(40), &TrainOptions::default()).unwrap();
        assert_eq!(repeated.report.repeated_rows, 1);
        assert_eq!(repeated.head, plain.head);
    }

    #[test]
    fn scores_beyond_the_scale_are_clipped() {
        let mut rows = examples(40);
        rows[0].score = 9.0;
        let clipped =
            train_on_embeddings(&identity(6), rows.clone(), &TrainOptions::default()).unwrap();
        rows[0].score = 5.0;
        let plain = train_on_embeddings(&identity(6), rows, &TrainOptions::default()).unwrap();
        assert_eq!(clipped.head, plain.head);
    }

    #[test]
    fn real_pages_are_told_apart() {
        let Some(backbone) = test_backbone(64, 2) else {
            return;
        };
        let lessons = [
            "cells",
            "gravity",
            "prime numbers",
            "volcanoes",
            "electric current",
            "the water cycle",
        ];
        let goods = [
            "shoes",
            "phones",
            "curtains",
            "garden chairs",
            "coffee machines",
            "headphones",
        ];
        let mut rows = Vec::new();
        for (round, lead) in [
            "In this chapter",
            "Students will see how",
            "The lesson shows why",
        ]
        .iter()
        .enumerate()
        {
            for (lesson, good) in lessons.iter().zip(&goods) {
                let text = format!(
                    "{lead} {lesson} can be explained step by step, with an example and exercises."
                );
                rows.push(Example {
                    id: format!("{round} {lesson}"),
                    text,
                    score: 4.0,
                });
                let text =
                    format!("Sale {round}: buy {good} now, free delivery, 30 % off until Sunday!");
                rows.push(Example {
                    id: format!("{round} {good}"),
                    text,
                    score: 0.0,
                });
            }
        }
        rows.push(Example {
            id: "blank".into(),
            text: " \n".into(),
            score: 0.0,
        });
        let options = TrainOptions {
            held_out_share: 0.3,
            ..Default::default()
        };
        let trained = train_head(&backbone, rows, &options).unwrap();
        assert_eq!(trained.report.pages_without_text, 1);
        assert_eq!(trained.report.held_out.f1_at(3), 1.0);
    }
}
