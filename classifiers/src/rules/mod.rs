//! The cleaning rules of FineWeb, for the pages of raw web dumps.
//!
//! Each is a plain function of a page: it comes through, perhaps changed, or is [`Rejected`] with a
//! reason. Reasons, bounds and the order of a rule's checks are those of datatrove 0.10.1
//! (`src/datatrove/pipeline/filters/`, `formatters/pii.py`), so that the decisions are the same.

mod c4_quality;
mod code_quality;
mod extract;
mod fineweb_quality;
mod gopher_quality;
mod gopher_repetition;
mod language;
mod pii;
mod url_filter;

use std::borrow::Cow;
use std::fmt::Display;

pub use c4_quality::{C4Quality, Unit};
pub use code_quality::CodeQuality;
pub use extract::ExtractText;
pub use fineweb_quality::FinewebQuality;
pub use gopher_quality::GopherQuality;
pub use gopher_repetition::GopherRepetition;
pub use language::{Detected, LanguageDetector};
pub use pii::Pii;
pub use url_filter::{UrlBlocklists, UrlFilter};

use crate::text::Words;

/// A rule over the text of a page.
pub trait TextRule: Send + Sync {
    /// Its name in snake case.
    const NAME: &'static str;

    /// The page's text as it is kept. `words` is a buffer.
    ///
    /// # Errors
    /// The page is not kept, and why.
    fn apply<'t>(&self, text: &'t str, words: &mut Words) -> Result<Cow<'t, str>, Rejected>;
}

/// Why a page is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The check that it did not pass, in snake case, by datatrove's name.
    pub reason: String,
    /// What was found, for a person to read.
    pub detail: String,
}

impl Rejected {
    /// With a reason and what was found.
    #[must_use]
    pub fn new(reason: impl Display, detail: impl Display) -> Self {
        Self { reason: reason.to_string(), detail: detail.to_string() }
    }
}

/// Rejects what is over a bound.
fn at_most(reason: impl Display, value: f64, most: f64) -> Result<(), Rejected> {
    if value > most {
        return Err(Rejected::new(reason, format_args!("{} is over {most}", short(value))));
    }
    Ok(())
}

/// Rejects what is under a bound.
fn at_least(reason: impl Display, value: f64, least: f64) -> Result<(), Rejected> {
    if value < least {
        return Err(Rejected::new(reason, format_args!("{} is under {least}", short(value))));
    }
    Ok(())
}

/// A number with four decimals, without zeros at its end.
fn short(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// What part of `all` are `some`; 0 of nothing.
fn share(some: usize, all: usize) -> f64 {
    some as f64 / all.max(1) as f64
}

#[cfg(test)]
mod testing {
    use super::*;

    /// What becomes of a text: the text that is kept, or the reason.
    pub fn outcome(rule: &impl TextRule, text: &str) -> Result<String, String> {
        let kept = rule.apply(text, &mut Words::default());
        kept.map(Cow::into_owned).map_err(|rejected| rejected.reason)
    }

    /// The reason for which a text is not kept; empty where it is.
    pub fn reason(rule: &impl TextRule, text: &str) -> String {
        outcome(rule, text).err().unwrap_or_default()
    }

    /// `count` words, no two alike, none a stop word.
    pub fn words(count: usize) -> Vec<String> {
        let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
        (0..count).map(|number| format!("qu{}{}", letter(number / 26), letter(number))).collect()
    }
}
