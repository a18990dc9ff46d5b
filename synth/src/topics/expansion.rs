//! What an expansion gives: topics, a report, or why it ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::heading::{Heading, Origin};
use super::names::Rejections;
use crate::prompts::TemplateError;
use crate::reject::Reject;

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
    /// The names cannot be compared by meaning.
    #[error("the names cannot be embedded: {0}")]
    Embed(Box<dyn std::error::Error + Send + Sync>),
    /// The rows do not make a batch.
    #[error("the topics do not fit their schema: {0}")]
    Arrow(#[from] ArrowError),
}

/// A heading of which fewer subtopics came than were wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortHeading {
    /// The heading's code.
    pub bisac_code: String,
    /// Subtopics wanted of it at first.
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
    /// Subtopics that were asked of another heading in the end, since their own gave too few.
    pub redistributed: u64,
    /// Names left out, by reason; duplicates are those of a top category.
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
    /// What was left out, in the order of the headings: names by the reason of their [`Rejection`],
    /// whole answers as `refused` or `malformed`; the id is the heading's topic.
    pub rejects: Vec<Reject>,
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

/// Rows of [`topics_schema`].
#[derive(Default)]
pub(super) struct Rows([Vec<String>; 6]);

impl Rows {
    pub(super) fn push(&mut self, heading: &Heading, topic_id: String, subtopic: String, source: &str) {
        let bisac_code = match heading.origin {
            Origin::Bisac => heading.code.clone(),
            Origin::Table => String::new(),
        };
        let (top_category, subcategory) = (heading.top_category.clone(), heading.subcategory.clone());
        let values = [topic_id, bisac_code, top_category, subcategory, subtopic, source.to_string()];
        for (column, value) in self.0.iter_mut().zip(values) {
            column.push(value);
        }
    }

    pub(super) fn batches(self) -> Result<Vec<RecordBatch>, ArrowError> {
        let columns = self.0.map(|column| Arc::new(StringArray::from(column)) as ArrayRef).to_vec();
        let all = RecordBatch::try_new(topics_schema(), columns)?;
        let starts = (0..all.num_rows()).step_by(BATCH_ROWS);
        Ok(starts.map(|start| all.slice(start, BATCH_ROWS.min(all.num_rows() - start))).collect())
    }
}
