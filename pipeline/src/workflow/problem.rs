//! What is wrong with a workflow: every problem with its place, printed together.

use miette::{Diagnostic, LabeledSpan, Severity, SourceCode};
use thiserror::Error;

use super::tree::{Place, Source};

/// One mistake in a workflow or an override.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Problem {
    message: String,
    label: String,
    help: Option<String>,
    place: Option<(Source, miette::SourceSpan)>,
}

impl Problem {
    /// A problem at a place; `label` is printed under the underlined text.
    pub fn at(place: &Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            label: label.into(),
            help: None,
            place: Some((place.source.clone(), place.range.clone().into())),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The message, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The help, if there is one.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|(source, _)| source.as_ref() as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, span) = self.place.as_ref()?;
        let label = LabeledSpan::new_with_span(Some(self.label.clone()), *span);
        Some(Box::new(std::iter::once(label)))
    }
}

/// All that is wrong with a workflow.
#[derive(Debug, Error, Diagnostic)]
#[error("{workflow}: {} {}", problems.len(), if problems.len() == 1 { "problem" } else { "problems" })]
pub struct Problems {
    /// The workflow file as the user named it.
    pub workflow: String,
    /// The problems in the order of the file.
    #[related]
    pub problems: Vec<Problem>,
}

/// The known name that is nearest to a misspelt one, if any is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len().max(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_spelling_is_offered_only_when_near() {
        assert_eq!(nearest("retreive", ["read", "retrieve", "score"]), Some("retrieve"));
        assert_eq!(nearest("zebra", ["read", "retrieve"]), None);
    }
}
