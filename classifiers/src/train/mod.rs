//! Trains a head on annotated pages.

mod options;
#[cfg(test)]
mod tests;

pub use options::{EmbeddedExample, Example, Method, Recipe, TrainError, TrainOptions};

use crate::{
    Backbone, BackboneIdentity, Evaluation, Figures, Head, HeadMetadata, VectorCache,
    curve::PrecisionRecall,
    linear::{ClassWeighting, Linear, Page, Sampling, adamw, ridge},
    report::{Candidate, TrainReport},
    split::{cross_validation, held_out},
    spread::FoldFigures,
};
use options::{check_examples, check_options};

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
    examples: Vec<Example>,
    options: &TrainOptions,
) -> Result<TrainedHead, TrainError> {
    embed_and_train(backbone, examples, options, |texts| Ok(backbone.embed(texts)?))
}

/// As [`train_head`], but pages whose vectors `cache` keeps are not run again, and the others' are kept.
///
/// # Errors
/// As [`train_head`], and when the cache fails or is another backbone's.
pub fn train_head_cached(
    backbone: &Backbone,
    cache: &mut VectorCache,
    examples: Vec<Example>,
    options: &TrainOptions,
) -> Result<TrainedHead, TrainError> {
    embed_and_train(backbone, examples, options, |texts| Ok(cache.embed(backbone, texts)?))
}

fn embed_and_train(
    backbone: &Backbone,
    mut examples: Vec<Example>,
    options: &TrainOptions,
    embed: impl FnOnce(&[&str]) -> Result<Vec<f32>, TrainError>,
) -> Result<TrainedHead, TrainError> {
    check_options(options)?;
    let all = examples.len();
    examples.retain(|example| !example.text.trim().is_empty());
    let without_text = all - examples.len();
    examples.sort_by(|a, b| a.id.cmp(&b.id));
    examples.dedup();
    let repeated = all - without_text - examples.len();
    let texts: Vec<&str> = examples.iter().map(|example| example.text.as_str()).collect();
    let vectors = embed(&texts)?;
    let embedded = examples
        .into_iter()
        .zip(vectors.chunks(backbone.hidden()))
        .map(|(example, vector)| EmbeddedExample {
            vector: [vector, &options.features.of(&example.text)].concat(),
            id: example.id,
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
    let features = options.features.names().len();
    check_examples(&mut examples, backbone.hidden + features)?;
    let annotations_blake3 = annotations_digest(&examples);
    let labels: Vec<(&str, f32)> = examples.iter().map(|e| (e.id.as_str(), e.score)).collect();
    let apart = held_out(&labels, options.held_out_share, options.seed, "held-out");
    let train_labels = pick(&labels, &apart.train);
    let pages: Vec<Page> =
        examples.iter().map(|e| Page { vector: &e.vector, features, score: e.score }).collect();
    let (train, test) = (pick(&pages, &apart.train), pick(&pages, &apart.held_out));

    let mut judged = judge(&train, &train_labels, options);
    // Stable: of equals the first stays first, and the order of trial is fixed.
    judged.sort_by(|(a, _), (b, _)| b.selection.total_cmp(&a.selection));
    let cross_validated_curve =
        judged.first().map(|(_, pairs)| PrecisionRecall::new(pairs, options.keep_threshold));
    let mut candidates: Vec<Candidate> = judged.into_iter().map(|(candidate, _)| candidate).collect();
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
    let (Some((model, _)), Some(best), Some(cross_validated_curve)) =
        (chosen, candidates.first(), cross_validated_curve)
    else {
        return Err(TrainError::Option {
            option: "weightings",
            found: "an empty list".into(),
            expected: "one or more of uniform, square_root, balanced, and a way to fit",
        });
    };
    let best = best.clone();
    let test_pairs = model.pairs(&test);
    let evaluation = Evaluation::new(&test_pairs);
    let metadata = HeadMetadata {
        name: options.name.clone(),
        backbone: backbone.clone(),
        features: options.features,
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
        repeats: options.repeats,
        pages_without_text: 0,
        repeated_rows,
        training_counts: TrainReport::count(train_labels.iter().map(|(_, score)| *score)),
        held_out_counts: TrainReport::count(test.iter().map(|page| page.score)),
        majority: majority(&train, &test),
        held_out: evaluation,
        held_out_curve: PrecisionRecall::new(&test_pairs, options.keep_threshold),
        cross_validated_curve,
        candidates,
    };
    Ok(TrainedHead { head, report })
}

/// Predicted and annotated scores, pair by pair.
type Pairs = Vec<(f32, f32)>;

/// Cross-validates every method, on the same folds; with each its predictions for all pages, once a repeat.
fn judge(train: &[Page], labels: &[(&str, f32)], options: &TrainOptions) -> Vec<(Candidate, Pairs)> {
    let methods = methods(options);
    let mut pairs: Vec<Pairs> = vec![Vec::with_capacity(train.len()); methods.len()];
    let mut folds = vec![Vec::new(); methods.len()];
    // Of one repeat the seed's own folds.
    let seeds = (0..options.repeats as u64).map(|repeat| options.seed.wrapping_add(repeat));
    for fold in seeds.flat_map(|seed| cross_validation(labels, options.folds, seed)) {
        let (inner, inner_labels) = (pick(train, &fold.train), pick(labels, &fold.train));
        let apart = pick(train, &fold.held_out);
        for (at, model) in fit_many(&methods, &inner, &inner_labels, options).iter().enumerate() {
            let fold_pairs = model.pairs(&apart);
            folds[at].push(Evaluation::new(&fold_pairs));
            pairs[at].extend(fold_pairs);
        }
    }
    let candidate = |((method, pairs), folds): ((Method, Pairs), Vec<Evaluation>)| {
        let cross_validated = Evaluation::new(&pairs);
        let f1 = cross_validated.f1_at(options.keep_threshold);
        let candidate = Candidate {
            method,
            selection: f64::midpoint(cross_validated.macro_f1, f1),
            cross_validated,
            by_fold: FoldFigures::of(&folds),
            folds,
            held_out: None,
        };
        (candidate, pairs)
    };
    methods.into_iter().zip(pairs).zip(folds).map(candidate).collect()
}

fn methods(options: &TrainOptions) -> Vec<Method> {
    let ridge = options.weightings.iter().flat_map(|&weighting| {
        let method = move |&lambda: &f64| Method::Ridge { lambda, weighting };
        options.ridge_lambdas.iter().map(method)
    });
    let adamw = options.samplings.iter().flat_map(|&sampling| {
        let weightings = match sampling {
            Sampling::Shuffled => options.weightings.as_slice(),
            Sampling::Balanced => &[ClassWeighting::Uniform],
        };
        weightings.iter().map(move |&weighting| Method::Adamw { weighting, sampling })
    });
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
        let at = options.ridge_lambdas.iter().position(|known| known == lambda);
        let found = fits.flat_map(|(_, fits)| at.and_then(|at| fits.get(at))).next();
        models.extend(found.cloned());
    }
    models
}

/// Fits one method.
fn fit(method: Method, pages: &[Page], labels: &[(&str, f32)], options: &TrainOptions) -> Linear {
    match method {
        Method::Ridge { lambda, weighting } => ridge(pages, weighting, &[lambda]).remove(0),
        Method::Adamw { weighting, sampling } => {
            let share = options.adamw.validation_share;
            let stop = held_out(labels, share, options.seed, "early stop");
            let (mut train, validation) = (pick(pages, &stop.train), pick(pages, &stop.held_out));
            if validation.is_empty() {
                // So few pages of each score that none can be spared: fit to the end.
                train = pages.to_vec();
            }
            adamw(&train, &validation, weighting, sampling, &options.adamw, options.seed)
        }
    }
}

/// What comes of giving every page the commonest training score.
fn majority(train: &[Page], test: &[Page]) -> Evaluation {
    let counts = TrainReport::count(train.iter().map(|page| page.score));
    let most = counts.iter().max().copied().unwrap_or(0);
    let commonest = counts.iter().position(|&count| count == most).unwrap_or(0);
    let pairs: Vec<(f32, f32)> = test.iter().map(|page| (commonest as f32, page.score)).collect();
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
