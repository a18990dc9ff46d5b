//! From headings to topics: asks for subtopics, reads the answers, asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::bisac::BisacTopic;
use super::names::{NameBounds, Rejection, Rejections, dedupe_key};
use super::options::{ExpandOptions, ExpansionPrompt, ExpansionRequest, quotas};
use super::parse::{Verdict, parse_answer};
use crate::prompts::TemplateError;

/// Rows of a batch of topics.
const BATCH_ROWS: usize = 1024;

/// Why a request came back without an answer.
#[derive(Debug)]
pub enum AskFailure {
    /// This request failed; the expansion goes on without it.
    ThisRequest {
        /// What happened.
        reason: String,
    },
    /// No request can succeed (no such server, wrong key, budget spent): the expansion ends.
    Everything {
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why the expansion ended without topics.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    /// The template of the request is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// No heading was given.
    #[error(
        "there are no headings to expand: name at least one top category that exists, and a target_topics above 0"
    )]
    NoHeadings,
    /// The model cannot be asked at all.
    #[error("asking for subtopics of {bisac_code} failed for good: {source}")]
    Ask {
        /// The heading at hand.
        bisac_code: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The rows do not make a batch.
    #[error("the topics do not fit their schema: {0}")]
    Arrow(#[from] ArrowError),
}

/// A heading of which fewer subtopics came than were wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortHeading {
    /// The heading's code.
    pub bisac_code: String,
    /// Subtopics wanted.
    pub wanted: u32,
    /// Subtopics kept.
    pub kept: u32,
    /// Why the last request without an answer failed, if one did.
    pub last_failure: Option<String>,
}

/// What came of the expansion, in counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpansionReport {
    /// Headings used; each is a topic itself.
    pub headings: u64,
    /// Requests made.
    pub asked: u64,
    /// Requests beyond the first of a heading.
    pub retries: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Answers that declined.
    pub refused: u64,
    /// Answers without a usable name.
    pub malformed: u64,
    /// Subtopics wanted.
    pub wanted: u64,
    /// Subtopics kept.
    pub kept: u64,
    /// Names left out, by reason; `duplicate` counts those within a top category, too.
    pub rejected: Rejections,
    /// Topics kept by top category, headings and subtopics together.
    pub by_category: BTreeMap<String, u64>,
    /// Headings that stayed below their number, in the order of the codes.
    pub short_headings: Vec<ShortHeading>,
}

/// The topics, and how they came about.
#[derive(Clone, Debug)]
pub struct Expansion {
    /// Rows of [`topics_schema`].
    pub batches: Vec<RecordBatch>,
    /// The counts.
    pub report: ExpansionReport,
}

/// The columns of the topics table: `topic_id, bisac_code, top_category, subcategory, subtopic,
/// source`, all `Utf8`.
#[must_use]
pub fn topics_schema() -> SchemaRef {
    let names = ["topic_id", "bisac_code", "top_category", "subcategory", "subtopic", "source"];
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Utf8, false)).to_vec()))
}

/// Expands headings into topics by asking a model.
///
/// `ask` gets the request and the number of the attempt (from 0, to vary the sampling seed) and
/// returns the answer's text; at most `max_in_flight` calls run at the same time. A heading is asked
/// again, at most `max_retries` times, when an answer is refused, malformed or leaves subtopics
/// missing; later requests name the subtopics that are there. A heading whose expansion fails is a
/// topic nevertheless (`COM010000-00`, source `bisac`, `subtopic` its own name); its subtopics are
/// `-01` and on (source `llm:<model>:<prompt digest>`). A name stands once in a top category.
///
/// Answers are best sampled with a repetition penalty near 1 (a list repeats digits and line ends, and
/// small models break off under a strong one), and those cut by the length limit passed through
/// [`super::without_cut_line`].
///
/// The result depends on the answers only, not on the order in which they come.
///
/// # Errors
/// [`ExpandError`] for a wrong template, no headings, or [`AskFailure::Everything`].
pub async fn expand_topics<F, Fut>(
    options: &ExpandOptions,
    bisac: &[BisacTopic],
    ask: F,
) -> Result<Expansion, ExpandError>
where
    F: Fn(ExpansionRequest, u32) -> Fut,
    Fut: Future<Output = Result<String, AskFailure>>,
{
    let prompt = ExpansionPrompt::load(options.template.as_deref())?;
    let quotas = quotas(options, bisac);
    if quotas.headings.is_empty() {
        return Err(ExpandError::NoHeadings);
    }
    let all_fields: BTreeSet<String> = bisac.iter().map(|t| dedupe_key(&t.top_category)).collect();
    let worker =
        Worker { options, bounds: options.bounds(), prompt: &prompt, fields: &all_fields, ask: &ask };
    // By index: a closure over references would keep the future from being spawned.
    let jobs = (0..quotas.headings.len()).map(|i| worker.expand(&quotas.headings[i], quotas.wanted[i]));
    let expanded: Vec<Expanded> =
        stream::iter(jobs).buffered(options.max_in_flight.max(1)).try_collect().await?;

    let source = format!("llm:{}:{}", options.model, prompt.digest);
    collect(&quotas.headings, expanded, &source)
}

/// What one heading gave.
#[derive(Default)]
struct Expanded {
    wanted: u32,
    subtopics: Vec<String>,
    asked: u64,
    failed: u64,
    refused: u64,
    malformed: u64,
    rejected: Rejections,
    last_failure: Option<String>,
}

struct Worker<'a, F> {
    options: &'a ExpandOptions,
    bounds: NameBounds,
    prompt: &'a ExpansionPrompt,
    fields: &'a BTreeSet<String>,
    ask: &'a F,
}

impl<F, Fut> Worker<'_, F>
where
    F: Fn(ExpansionRequest, u32) -> Fut,
    Fut: Future<Output = Result<String, AskFailure>>,
{
    async fn expand(&self, heading: &BisacTopic, wanted: u32) -> Result<Expanded, ExpandError> {
        let mut found = Expanded { wanted, ..Default::default() };
        let mut keys = BTreeSet::new();
        for attempt in 0..=self.options.max_retries {
            let missing = wanted.saturating_sub(u32::try_from(found.subtopics.len()).unwrap_or(u32::MAX));
            if missing == 0 {
                break;
            }
            let batch = missing.min(self.options.max_subtopics_per_request.max(1));
            let request = self.prompt.request(heading, batch, &found.subtopics)?;
            found.asked += 1;
            match (self.ask)(request, attempt).await {
                Ok(answer) => self.read(heading, &answer, missing as usize, &mut found, &mut keys),
                Err(AskFailure::ThisRequest { reason }) => {
                    found.failed += 1;
                    found.last_failure = Some(reason);
                }
                Err(AskFailure::Everything { source }) => {
                    return Err(ExpandError::Ask { bisac_code: heading.code.clone(), source });
                }
            }
        }
        Ok(found)
    }

    fn read(
        &self,
        heading: &BisacTopic,
        answer: &str,
        missing: usize,
        found: &mut Expanded,
        keys: &mut BTreeSet<String>,
    ) {
        let parsed = parse_answer(answer, heading, &self.bounds);
        for (reason, count) in parsed.rejected {
            *found.rejected.entry(reason).or_default() += count;
        }
        let mut usable = 0;
        for name in parsed.subtopics {
            let key = dedupe_key(&name);
            let rejection = if self.fields.contains(&key) {
                Some(Rejection::OffTopic)
            } else if keys.contains(&key) {
                Some(Rejection::Duplicate)
            } else {
                None
            };
            match rejection {
                Some(reason) => *found.rejected.entry(reason).or_default() += 1,
                None if usable < missing => {
                    usable += 1;
                    keys.insert(key);
                    found.subtopics.push(name);
                }
                None => {}
            }
        }
        match parsed.verdict {
            Verdict::Refused => found.refused += 1,
            Verdict::Malformed => found.malformed += 1,
            Verdict::List => {}
        }
    }
}

/// Numbers the topics, leaves out names said before in the category, and counts.
fn collect(headings: &[BisacTopic], expanded: Vec<Expanded>, source: &str) -> Result<Expansion, ExpandError> {
    let mut report = ExpansionReport { headings: headings.len() as u64, ..Default::default() };
    let mut said: BTreeSet<(String, String)> =
        headings.iter().map(|h| (h.top_category.clone(), dedupe_key(&h.name()))).collect();
    let mut columns: [Vec<String>; 6] = Default::default();
    let mut push = |heading: &BisacTopic, number: u32, subtopic: String, source: &str| {
        let values = [
            format!("{}-{number:02}", heading.code),
            heading.code.clone(),
            heading.top_category.clone(),
            heading.subcategory.clone(),
            subtopic,
            source.to_string(),
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    };
    for (heading, found) in headings.iter().zip(expanded) {
        push(heading, 0, heading.name(), "bisac");
        let mut kept = 0;
        for subtopic in found.subtopics {
            if said.insert((heading.top_category.clone(), dedupe_key(&subtopic))) {
                kept += 1;
                push(heading, kept, subtopic, source);
            } else {
                *report.rejected.entry(Rejection::Duplicate).or_default() += 1;
            }
        }
        for (reason, count) in found.rejected {
            *report.rejected.entry(reason).or_default() += count;
        }
        report.asked += found.asked;
        report.retries += found.asked.saturating_sub(1);
        report.failed += found.failed;
        report.refused += found.refused;
        report.malformed += found.malformed;
        report.wanted += u64::from(found.wanted);
        report.kept += u64::from(kept);
        *report.by_category.entry(heading.top_category.clone()).or_default() += 1 + u64::from(kept);
        if kept < found.wanted {
            report.short_headings.push(ShortHeading {
                bisac_code: heading.code.clone(),
                wanted: found.wanted,
                kept,
                last_failure: found.last_failure,
            });
        }
    }
    let columns = columns.map(|c| Arc::new(StringArray::from(c)) as ArrayRef).to_vec();
    let all = RecordBatch::try_new(topics_schema(), columns)?;
    let starts = (0..all.num_rows()).step_by(BATCH_ROWS);
    let batches = starts.map(|start| all.slice(start, BATCH_ROWS.min(all.num_rows() - start))).collect();
    Ok(Expansion { batches, report })
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
