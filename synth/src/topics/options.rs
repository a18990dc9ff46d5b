//! What the expansion of topics is asked to do, and the requests that follow from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Environment, context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bisac::{BisacTopic, title_case};
use super::names::NameBounds;
use crate::prompts::{TemplateError, body_error, environment, largest_remainder};

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
    /// How often a heading is asked again when the answer is refused, malformed or too short.
    pub max_retries: u32,
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

/// The headings that are used, with the number of subtopics wanted of each.
pub(super) struct Quotas {
    pub(super) headings: Vec<BisacTopic>,
    pub(super) wanted: Vec<u32>,
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
    topics: &[BisacTopic],
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

pub(super) fn quotas(options: &ExpandOptions, topics: &[BisacTopic]) -> Quotas {
    let headings = choose_headings(options, topics);
    let subtopics = u64::from(options.target_topics).saturating_sub(headings.len() as u64);
    let mut of_category: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, heading) in headings.iter().enumerate() {
        of_category.entry(&heading.top_category).or_default().push(i);
    }
    let weight = |category: &str| {
        let named =
            options.category_weights.iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(category));
        named.map_or(1.0, |(_, w)| if w.is_finite() { w.max(0.0) } else { 0.0 })
    };
    let weights: Vec<f64> =
        of_category.iter().map(|(category, members)| weight(category) * members.len() as f64).collect();
    let mut wanted = vec![0; headings.len()];
    for (members, total) in of_category.values().zip(largest_remainder(subtopics, &weights)) {
        for (i, part) in members.iter().zip(largest_remainder(total, &vec![1.0; members.len()])) {
            wanted[*i] = u32::try_from(part).unwrap_or(u32::MAX);
        }
    }
    Quotas { headings, wanted }
}

/// At most `max_headings`, spread over the categories, chosen by a seeded hash of the code.
fn choose_headings(options: &ExpandOptions, topics: &[BisacTopic]) -> Vec<BisacTopic> {
    let limit = options.max_headings.unwrap_or(u32::MAX).min(options.target_topics) as usize;
    let mut chosen: Vec<BisacTopic> = topics.to_vec();
    if chosen.len() > limit {
        let hash = |t: &BisacTopic| {
            *blake3::Hasher::new()
                .update(&options.seed.to_le_bytes())
                .update(t.code.as_bytes())
                .finalize()
                .as_bytes()
        };
        let mut of_category: BTreeMap<&str, Vec<&BisacTopic>> = BTreeMap::new();
        for topic in topics {
            of_category.entry(&topic.top_category).or_default().push(topic);
        }
        let sizes: Vec<f64> = of_category.values().map(|m| m.len() as f64).collect();
        let parts = largest_remainder(limit as u64, &sizes);
        chosen.clear();
        for (members, part) in of_category.values_mut().zip(parts) {
            members.sort_by_cached_key(|t| hash(t));
            chosen.extend(members.iter().take(part as usize).map(|t| (*t).clone()));
        }
    }
    chosen.sort_by(|a, b| a.code.cmp(&b.code));
    chosen
}

const EMBEDDED_PATH: &str = "synth/templates/topics/subtopics.jinja";
const EMBEDDED: &str = include_str!("../../templates/topics/subtopics.jinja");

/// The template of the request, compiled.
pub(super) struct ExpansionPrompt {
    environment: Environment<'static>,
    path: PathBuf,
    /// The first 16 hex digits of blake3 of the template.
    pub(super) digest: String,
}

impl ExpansionPrompt {
    pub(super) fn load(path: Option<&Path>) -> Result<Self, TemplateError> {
        let (path, text) = match path {
            None => (PathBuf::from(EMBEDDED_PATH), EMBEDDED.to_string()),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| TemplateError::Read { path: path.to_path_buf(), source })?;
                (path.to_path_buf(), text)
            }
        };
        let text = text.replace("\r\n", "\n");
        let digest = blake3::hash(text.as_bytes()).to_hex().as_str().chars().take(16).collect();
        let mut environment = environment();
        environment.add_template_owned("request", text).map_err(|e| body_error(&path, 1, &e))?;
        Ok(Self { environment, path, digest })
    }

    pub(super) fn request(
        &self,
        heading: &BisacTopic,
        wanted: u32,
        known: &[String],
    ) -> Result<ExpansionRequest, TemplateError> {
        let variables = context! {
            topic => heading.name(),
            field => title_case(&heading.top_category),
            label => format!("{} / {}", heading.top_category, heading.subcategory),
            wanted => wanted,
            known => known.join(", "),
        };
        let rendered = self.environment.get_template("request").and_then(|t| t.render(variables));
        let prompt = rendered.map_err(|e| body_error(&self.path, 1, &e))?.trim().to_string();
        Ok(ExpansionRequest { bisac_code: heading.code.clone(), wanted, prompt })
    }
}
