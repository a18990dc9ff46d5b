//! What topics got: the hits, and reports over them.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, Float32Builder, RecordBatch, StringBuilder, UInt32Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use crate::page_ids::PageIds;
use crate::query::{Matching, Topic};

/// The pages of a topic in rank order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hits {
    /// Ids of the pages.
    pub doc_ids: PageIds,
    /// BM25 of each under the query that found it.
    pub scores: Vec<f32>,
    /// How many of them, the first ones, query 1 ([`Matching::All`]) found.
    pub of_query_1: usize,
}

impl Hits {
    /// Adds a page behind those that the same query and the one before found.
    pub(crate) fn push(&mut self, doc_id: &str, score: f32, matching: Matching) {
        self.doc_ids.push(doc_id);
        self.scores.push(score);
        if matching == Matching::All {
            self.of_query_1 = self.scores.len();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }
}

/// A topic's hits in rank order.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What the topic got.
    pub report: TopicReport,
    /// Its pages.
    pub hits: Hits,
}

impl Answer {
    /// The answer to a topic of so many terms.
    pub(crate) fn new(topic: &Topic, terms: usize, hits: Hits) -> Self {
        let report = TopicReport {
            topic_id: topic.topic_id.clone(),
            terms: terms as u32,
            pages_all: hits.of_query_1 as u32,
            pages_any: (hits.len() - hits.of_query_1) as u32,
        };
        Self { report, hits }
    }
}

/// What a topic got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReport {
    /// Id of the topic.
    pub topic_id: String,
    /// Terms searched for; 0 if the topic is made of stop words and operators only.
    pub terms: u32,
    /// Pages found by query 1 (all terms).
    pub pages_all: u32,
    /// Pages filled up by query 2 (any term).
    pub pages_any: u32,
}

/// What all topics answered so far got, in topic order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrieveSummary {
    /// Topics that got fewer pages than wanted.
    pub short_topics: u64,
    /// Topics without any term.
    pub topics_without_terms: u64,
    /// Pages found by query 1, over all topics.
    pub pages_all: u64,
    /// Pages found by query 2, over all topics.
    pub pages_any: u64,
    /// Every topic answered.
    pub topics: Vec<TopicReport>,
}

impl RetrieveSummary {
    fn add(&mut self, report: TopicReport, wanted: u32) {
        self.short_topics += u64::from(report.pages_all + report.pages_any < wanted);
        self.topics_without_terms += u64::from(report.terms == 0);
        self.pages_all += u64::from(report.pages_all);
        self.pages_any += u64::from(report.pages_any);
        self.topics.push(report);
    }
}

/// Reads the summary while the hits flow and after they have ended.
#[derive(Clone, Default)]
pub struct SummaryHandle(Arc<Mutex<RetrieveSummary>>);

impl SummaryHandle {
    /// A copy of the summary so far.
    pub fn get(&self) -> RetrieveSummary {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add(&self, report: TopicReport, wanted: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(report, wanted);
    }
}

/// Columns of a hit: `topic_id`, `rank` (from 1), `score` (BM25 under the query that found the
/// page), `doc_id`, `matched` (`all` for query 1, `any` for query 2).
pub fn hits_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic_id", DataType::Utf8, false),
        Field::new("rank", DataType::UInt32, false),
        Field::new("score", DataType::Float32, false),
        Field::new("doc_id", DataType::Utf8, false),
        Field::new("matched", DataType::Utf8, false),
    ]))
}

/// Gathers the hits of several topics as a batch.
#[derive(Default)]
pub(crate) struct HitsBuilder {
    pub(crate) rows: usize,
    topic_id: StringBuilder,
    rank: UInt32Builder,
    score: Float32Builder,
    doc_id: StringBuilder,
    matched: StringBuilder,
}

impl HitsBuilder {
    pub(crate) fn add(&mut self, answer: &Answer) {
        let hits = &answer.hits;
        for ((rank, doc_id), score) in (1..).zip(hits.doc_ids.iter()).zip(&hits.scores) {
            self.topic_id.append_value(&answer.report.topic_id);
            self.rank.append_value(rank);
            self.score.append_value(*score);
            self.doc_id.append_value(doc_id);
            self.matched.append_value(if rank as usize <= hits.of_query_1 { "all" } else { "any" });
        }
        self.rows += hits.len();
    }

    pub(crate) fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.topic_id.finish()),
            Arc::new(self.rank.finish()),
            Arc::new(self.score.finish()),
            Arc::new(self.doc_id.finish()),
            Arc::new(self.matched.finish()),
        ];
        RecordBatch::try_new(hits_schema(), columns)
    }
}
