//! What the expansion of topics is asked to do, and the requests that follow from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::heading::{Heading, title_case};
use super::names::NameBounds;
use super::request::RequestTemplate;
use super::spread::quotas;
use crate::prompts::TemplateError;

/// How many topics there are in Cosmopedia v2 (SmolLM blog post).
pub const PUBLISHED_TOPICS: u32 = 34_000;

/// How headings are expanded into subtopics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpandOptions {
    /// Topics wanted in all, headings and subtopics together. The published corpus has 34,000.
    pub target_topics: u32,
    /// At most this many headings are used, spread over the top categories by their sizes; none
    /// means all.
    pub max_headings: Option<u32>,
    /// Weight of a top category's subtopics, relative to what its number of headings gives it: 2
    /// asks for twice as many. Categories not named have 1.
    pub category_weights: BTreeMap<String, f64>,
    /// How often a heading is asked beyond what its number of subtopics needs, when answers are
    /// refused, malformed, too short, or name what is there already.
    pub max_retries: u32,
    /// Least similarity of two names' character trigrams, 0 to 1, from which the second is left out
    /// as spelled alike; 1 takes out only names of the same words.
    pub near_duplicate_similarity: f64,
    /// Least cosine of two names' embeddings, 0 to 1, from which the second is left out as meaning
    /// the same; none compares no embeddings.
    pub same_meaning_cosine: Option<f64>,
    /// How often subtopics that are missing at the end are asked of the headings that delivered.
    pub redistributions: u32,
    /// Requests at the same time.
    pub max_in_flight: usize,
    /// Most subtopics asked for in one request; what is still missing is asked for in the next.
    pub max_subtopics_per_request: u32,
    /// Name of the model, for the column `source`.
    pub model: String,
    /// A template of your own for the request; it may use topic, field, label, wanted and known.
    pub template: Option<PathBuf>,
    /// Fewest characters of a subtopic's name.
    pub min_chars: usize,
    /// Most characters of a subtopic's name.
    pub max_chars: usize,
    /// Most words of a subtopic's name.
    pub max_words: usize,
    /// Seed of the hash that chooses headings when `max_headings` is set.
    pub seed: u64,
}

impl Default for ExpandOptions {
    fn default() -> Self {
        let bounds = NameBounds::default();
        Self {
            target_topics: PUBLISHED_TOPICS,
            max_headings: None,
            category_weights: BTreeMap::new(),
            max_retries: 6,
            near_duplicate_similarity: 0.85,
            same_meaning_cosine: None,
            redistributions: 2,
            max_in_flight: 16,
            max_subtopics_per_request: 20,
            model: "mistralai/Mixtral-8x7B-Instruct-v0.1".to_string(),
            template: None,
            min_chars: bounds.min_chars,
            max_chars: bounds.max_chars,
            max_words: bounds.max_words,
            seed: 0,
        }
    }
}

impl ExpandOptions {
    pub(super) fn bounds(&self) -> NameBounds {
        NameBounds { min_chars: self.min_chars, max_chars: self.max_chars, max_words: self.max_words }
    }
}

/// One heading, and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpansionRequest {
    /// The heading's code.
    pub bisac_code: String,
    /// Subtopics asked for in this request.
    pub wanted: u32,
    /// The finished prompt.
    pub prompt: String,
}

/// The requests as they are made at first, in the order of the codes. Headings of which no subtopic
/// is wanted are left out.
///
/// The number of topics is spread over the top categories by weight and within a category evenly,
/// both by largest remainder.
///
/// # Errors
/// [`TemplateError`] when the template cannot be read, compiled or rendered.
pub fn expansion_plan(
    options: &ExpandOptions,
    topics: &[Heading],
) -> Result<Vec<ExpansionRequest>, TemplateError> {
    let prompt = ExpansionPrompt::load(options.template.as_deref())?;
    let quotas = quotas(options, topics);
    let asked = quotas.headings.iter().zip(&quotas.wanted).filter(|(_, wanted)| **wanted > 0);
    asked
        .map(|(heading, wanted)| {
            prompt.request(heading, (*wanted).min(options.max_subtopics_per_request.max(1)), &[])
        })
        .collect()
}

/// Most names that a request lists as taken.
const KNOWN_NAMES: usize = 100;

const EMBEDDED: (&str, &str) =
    ("synth/templates/topics/subtopics.jinja", include_str!("../../templates/topics/subtopics.jinja"));

/// The template of the request, compiled.
pub(super) struct ExpansionPrompt(RequestTemplate);

impl ExpansionPrompt {
    pub(super) fn load(path: Option<&Path>) -> Result<Self, TemplateError> {
        RequestTemplate::load(path, EMBEDDED).map(Self)
    }

    pub(super) fn digest(&self) -> &str {
        &self.0.digest
    }

    pub(super) fn request(
        &self,
        heading: &Heading,
        wanted: u32,
        known: &[String],
    ) -> Result<ExpansionRequest, TemplateError> {
        // The latest names are enough to steer by, and keep the prompt short.
        let known = &known[known.len().saturating_sub(KNOWN_NAMES)..];
        let prompt = self.0.render(context! {
            topic => heading.name(),
            field => title_case(&heading.top_category),
            label => format!("{} / {}", heading.top_category, heading.subcategory),
            wanted => wanted,
            known => known.join(", "),
        })?;
        Ok(ExpansionRequest { bisac_code: heading.code.clone(), wanted, prompt })
    }
}
