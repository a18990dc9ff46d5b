//! Educational scores by a language model or by people.
//!
//! 1. [`AnnotationPrompt`] asks: a page's start, fenced, and an additive rubric of five points.
//! 2. [`parse_answer`] reads the score from what a model said.
//! 3. [`Annotation`]s are kept as JSONL ([`write_jsonl`], [`read_jsonl`]) or any table that Arrow reads
//!    ([`AnnotationTable`]), among them HuggingFaceFW/fineweb-edu-llama3-annotations as it is.
//! 4. [`write_review`] and [`read_review`] let people correct them in a spreadsheet.
//! 5. [`Agreement`] says how far two judges agree.
//!
//! The way is that of FineWeb-Edu (Penedo et al. 2024, arXiv:2406.17557, section 4) and of Python-Edu
//! (the SmolLM blog post); the wording of the rubrics is ours.

mod agreement;
mod answer;
mod error;
mod extract;
mod prompt;
mod record;
mod review;
mod table;

pub use agreement::Agreement;
pub use answer::{AnswerProblem, Judgement, parse_answer};
pub use error::AnnotateError;
pub use prompt::{AnnotationPrompt, AnnotationPromptOptions, Rubric};
pub use record::{Annotation, Labelled, read_jsonl, write_jsonl};
pub use review::{REVIEWER, read_review, write_review};
pub use table::{AnnotationColumns, AnnotationTable};

/// The highest score of the rubrics: each of the five points counts one.
pub const HIGHEST_ANNOTATION: u8 = 5;
