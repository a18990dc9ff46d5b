//! Clean-up of generated text.
//!
//! [`clean_completion`] judges one answer and [`clean_stream`] a table of them. The rules are those of
//! huggingface/cosmopedia `generation/boilerplate_cleanup.py` (formula openings) and of Gopher
//! (repetition), with refusals, cut answers and copies of the seed.

mod copying;
mod lengths;
mod opening;
mod refusal;
mod repetition;
mod rules;
mod stream;

pub use copying::longest_common_run;
pub use lengths::Lengths;
pub use opening::{Opened, remove_opening};
pub use refusal::is_refusal;
pub use repetition::{Repetition, RepetitionLimits, find_repetition};
pub use rules::{
    CleanOptions, Cleaned, Completion, CutAnswers, DropReason, Dropped, PUBLISHED_MIN_TOKENS,
    clean_completion,
};
pub use stream::{clean_stream, cleaned_schema};
