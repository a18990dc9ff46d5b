//! What a training run found, and the card that ships with its head.

use crate::{Evaluation, FoldFigures, HeadMetadata, Method, Pooling, PrecisionRecall, metrics::class};
use serde::Serialize;
use std::fmt::Write;

/// Rows of the table of methods in a card.
const METHODS_IN_CARD: usize = 8;
/// Points of the grid from one row of a card's table to the next.
const CARD_GRID_STEP: usize = 2;
/// How far from the keep threshold a card's table reaches.
const CARD_GRID_REACH: f32 = 1.01;
/// A whole score with fewer pages than this is called rare in a card.
const RARE_PAGES: usize = 10;

/// A method that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The method.
    pub method: Method,
    /// What methods are ranked by: the mean of macro-F1 and of F1 at the keep
    /// threshold in cross-validation.
    pub selection: f64,
    /// Figures over the pooled predictions of all folds, each page counted once a repeat.
    pub cross_validated: Evaluation,
    /// Every figure's mean and deviation over the folds.
    pub by_fold: FoldFigures,
    /// Figures of each fold.
    pub folds: Vec<Evaluation>,
    /// Figures on the pages apart; only for the best method of each kind.
    pub held_out: Option<Evaluation>,
}

/// What a training run found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainReport {
    /// The head's own description.
    pub head: HeadMetadata,
    /// The command that makes the head again.
    pub command: String,
    /// What a reader should know of the data.
    pub notes: String,
    /// Folds of the cross-validation.
    pub folds: usize,
    /// How often it was repeated, on other folds.
    pub repeats: usize,
    /// Annotated pages left out because they have no text.
    pub pages_without_text: usize,
    /// Rows that repeat another and were counted once.
    pub repeated_rows: usize,
    /// Training pages by whole score, 0 to 5.
    pub training_counts: [usize; 6],
    /// Pages apart by whole score, 0 to 5.
    pub held_out_counts: [usize; 6],
    /// Figures of giving every page the commonest training score.
    pub majority: Evaluation,
    /// Figures of the head on the pages apart.
    pub held_out: Evaluation,
    /// Precision and recall of "at or above the keep threshold" by the raw score, on the pages apart.
    pub held_out_curve: PrecisionRecall,
    /// The same over the pooled predictions of the head's method in cross-validation.
    pub cross_validated_curve: PrecisionRecall,
    /// All methods tried, the best (the head's) first.
    pub candidates: Vec<Candidate>,
}

impl TrainReport {
    pub(crate) fn count(scores: impl Iterator<Item = f32>) -> [usize; 6] {
        let mut counts = [0; 6];
        for score in scores {
            counts[class(score)] += 1;
        }
        counts
    }

    /// The head's card, in Markdown. It depends on the run only: no dates, no
    /// times, no paths.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut card = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut card);
        card
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let head = &self.head;
        let at = head.keep_threshold;
        writeln!(out, "# {}\n", head.name)?;
        writeln!(
            out,
            "A regression head: a weight for each dimension (and each feature) and a bias, which turn a page's vector \
             into a score from 0 to 5. Pages are kept from {at}.\n"
        )?;
        if !self.notes.is_empty() {
            writeln!(out, "{}\n", self.notes.trim())?;
        }
        if !self.command.is_empty() {
            writeln!(out, "Made by, and made again by:\n\n```\n{}\n```\n", self.command.trim())?;
        }
        writeln!(out, "| | |\n|---|---|")?;
        writeln!(out, "| backbone (blake3) | `{}` |", head.backbone.model_blake3)?;
        writeln!(out, "| tokenizer (blake3) | `{}` |", head.backbone.tokenizer_blake3)?;
        writeln!(
            out,
            "| vector | {}, scaled to length 1; {} dimensions |",
            match head.backbone.pooling {
                Pooling::MeanL2 => format!("mean of the first {} tokens' states", head.backbone.max_tokens),
                Pooling::ClsL2 => format!("the first of {} tokens' states", head.backbone.max_tokens),
            },
            head.backbone.hidden
        )?;
        writeln!(out, "| features of the text | {} |", head.features)?;
        writeln!(out, "| annotations (blake3) | `{}` |", head.annotations_blake3)?;
        writeln!(out, "| method | {} |", head.method)?;
        writeln!(out, "| seed | {} |\n", head.seed)?;
        self.write_pages(out)?;
        self.write_held_out(out)?;
        self.write_cross_validation(out)?;
        self.write_thresholds(out)?;
        self.write_methods(out)?;
        self.write_limits(out)
    }

    fn write_pages(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "## Pages\n\n| score | 0 | 1 | 2 | 3 | 4 | 5 | all |\n|---|---|---|---|---|---|---|---|"
        )?;
        for (name, counts) in [("training", self.training_counts), ("held out", self.held_out_counts)] {
            let cells = counts.map(|count| count.to_string()).join(" | ");
            writeln!(out, "| {name} | {cells} | {} |", counts.iter().sum::<usize>())?;
        }
        if self.repeated_rows > 0 {
            writeln!(out, "\n{} rows repeat another one and were counted once.", self.repeated_rows)?;
        }
        if self.pages_without_text > 0 {
            writeln!(out, "\n{} annotated pages without text were left out.", self.pages_without_text)?;
        }
        writeln!(out)
    }

    fn write_held_out(&self, out: &mut String) -> std::fmt::Result {
        let (head, majority) = (&self.held_out, &self.majority);
        writeln!(out, "## On held-out pages\n")?;
        writeln!(out, "These pages took no part in the fit or in the choice of method.\n")?;
        writeln!(
            out,
            "| keep from | pages that should be kept | precision | recall | F1 |\n|---|---|---|---|---|"
        )?;
        for row in &head.thresholds {
            writeln!(
                out,
                "| {} | {} | {:.3} | {:.3} | {:.3} |",
                row.threshold, row.positives, row.precision, row.recall, row.f1
            )?;
        }
        let threshold = self.head.keep_threshold;
        // Keeping every page has recall 1 and the share of good pages as precision.
        let positives = head.at(threshold).map_or(0, |row| row.positives) as f64;
        let keep_all = 2.0 * positives / (head.pages as f64 + positives).max(1.0);
        writeln!(
            out,
            "\n| | macro-F1 | accuracy | mean absolute error | F1 at {threshold} |\n|---|---|---|---|---|"
        )?;
        for (name, figures) in [("this head", head), ("always the commonest score", majority)] {
            writeln!(
                out,
                "| {name} | {:.3} | {:.3} | {:.3} | {:.3} |",
                figures.macro_f1,
                figures.accuracy,
                figures.mean_absolute_error,
                figures.f1_at(threshold)
            )?;
        }
        writeln!(out, "| keep every page | – | – | – | {keep_all:.3} |")?;
        writeln!(out, "\nAnnotated (rows) and predicted (columns) whole scores:\n")?;
        writeln!(out, "| | 0 | 1 | 2 | 3 | 4 | 5 |\n|---|---|---|---|---|---|---|")?;
        for (score, row) in head.confusion.iter().enumerate() {
            let cells = row.map(|pages| pages.to_string()).join(" | ");
            writeln!(out, "| {score} | {cells} |")?;
        }
        writeln!(out)
    }

    fn write_cross_validation(&self, out: &mut String) -> std::fmt::Result {
        let Some(best) = self.candidates.first() else { return Ok(()) };
        let by_fold = &best.by_fold;
        let repeats = match self.repeats {
            1 => String::new(),
            repeats => format!(", {repeats} times over"),
        };
        writeln!(out, "## In cross-validation\n")?;
        writeln!(
            out,
            "This head's method, on the training pages: {} folds{repeats}, mean ± standard deviation over them.\n",
            self.folds
        )?;
        writeln!(out, "| keep from | precision | recall | F1 |\n|---|---|---|---|")?;
        for row in &by_fold.thresholds {
            writeln!(out, "| {} | {} | {} | {} |", row.threshold, row.precision, row.recall, row.f1)?;
        }
        writeln!(
            out,
            "\nMacro-F1 {}, accuracy {}, mean absolute error {}.\n",
            by_fold.macro_f1, by_fold.accuracy, by_fold.mean_absolute_error
        )
    }

    fn write_thresholds(&self, out: &mut String) -> std::fmt::Result {
        let curve = &self.cross_validated_curve;
        writeln!(out, "## By raw score\n")?;
        writeln!(
            out,
            "Keeping pages from a raw score on, in cross-validation; pages annotated {} or more should be kept. \
             Average precision {:.3}.\n",
            curve.positive_from, curve.average_precision
        )?;
        writeln!(out, "| raw score from | share kept | precision | recall | F1 |\n|---|---|---|---|---|")?;
        let pages = self.candidates.first().map_or(0, |best| best.cross_validated.pages);
        // The grid is fine; a card shows every second point around the threshold.
        let near = |threshold: f32| (threshold - f32::from(curve.positive_from)).abs() <= CARD_GRID_REACH;
        for point in curve.grid.iter().step_by(CARD_GRID_STEP).filter(|point| near(point.threshold)) {
            let share = point.kept as f64 / pages.max(1) as f64;
            writeln!(
                out,
                "| {:.1} | {share:.3} | {:.3} | {:.3} | {:.3} |",
                point.threshold, point.precision, point.recall, point.f1
            )?;
        }
        if let Some(best) = curve.best_threshold() {
            writeln!(
                out,
                "\nThe highest F1, {:.3}, is at {:.1} (precision {:.3}, recall {:.3}).",
                best.f1, best.threshold, best.precision, best.recall
            )?;
        }
        writeln!(out)
    }

    fn write_methods(&self, out: &mut String) -> std::fmt::Result {
        let threshold = self.head.keep_threshold;
        writeln!(out, "## Methods tried\n")?;
        writeln!(
            out,
            "By {}-fold cross-validation on the training pages; the first is this head's. Methods are ranked by the \
             mean of macro-F1 and of F1 at {threshold}. With the held-out figures of the best of each kind, which had \
             no part in the choice.\n",
            self.folds
        )?;
        writeln!(
            out,
            "| method | macro-F1 | precision | recall | F1 at {threshold} | F1 over the folds | mean absolute error | held \
             out: macro-F1, F1 |\n|---|---|---|---|---|---|---|---|"
        )?;
        let shown = |(index, candidate): &(usize, &Candidate)| {
            *index < METHODS_IN_CARD || candidate.held_out.is_some()
        };
        for (_, candidate) in self.candidates.iter().enumerate().filter(shown) {
            let figures = &candidate.cross_validated;
            let (precision, recall) =
                figures.at(threshold).map_or((0.0, 0.0), |row| (row.precision, row.recall));
            let over_folds = candidate.by_fold.thresholds.iter().find(|row| row.threshold == threshold);
            let over_folds = over_folds.map_or_else(String::new, |row| row.f1.to_string());
            let held_out = candidate.held_out.as_ref().map_or_else(String::new, |figures| {
                format!("{:.3}, {:.3}", figures.macro_f1, figures.f1_at(threshold))
            });
            writeln!(
                out,
                "| {} | {:.3} | {precision:.3} | {recall:.3} | {:.3} | {} | {:.3} | {held_out} |",
                candidate.method,
                figures.macro_f1,
                figures.f1_at(threshold),
                over_folds,
                figures.mean_absolute_error
            )?;
        }
        if self.candidates.len() > METHODS_IN_CARD {
            writeln!(out, "\n{} methods were tried in all.", self.candidates.len())?;
        }
        writeln!(out)
    }

    fn write_limits(&self, out: &mut String) -> std::fmt::Result {
        let head = &self.head;
        writeln!(out, "## Limits\n")?;
        let positives = head.held_out.positives;
        writeln!(
            out,
            "- {positives} of the {} held-out pages should be kept: one page more or less moves recall by {:.3}.",
            head.held_out.pages,
            1.0 / positives.max(1) as f64
        )?;
        let rare: Vec<String> = (0..6)
            .filter(|&score| self.training_counts[score] < RARE_PAGES)
            .map(|score| format!("{score} ({})", self.training_counts[score]))
            .collect();
        if !rare.is_empty() {
            writeln!(out, "- Scores with few training pages, hardly ever predicted: {}.", rare.join(", "))?;
        }
        writeln!(
            out,
            "- Cross-validated figures of the chosen method are a little too good, because it was chosen by them; the \
             held-out ones are not."
        )?;
        writeln!(
            out,
            "- Only the first {} tokens of a page count, and only with this backbone and tokenizer: others are refused.",
            head.backbone.max_tokens
        )
    }
}
