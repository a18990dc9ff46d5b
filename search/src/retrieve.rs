//! Topics in, hits out: the two-step query for every topic, many topics at a time.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, Float32Builder, RecordBatch, StringBuilder, UInt32Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::columns::strings;
use crate::error::RetrieveError;
use crate::query::{Matching, Topic};
use crate::searcher::Searcher;
use crate::two_step::{Answer, answer};

/// Rows after which a batch of hits is handed on (whole topics, so batches are a little larger).
const BATCH_ROWS: usize = 8_192;

/// How pages are retrieved for topics. Filters act before ranking: a page that fails one is never
/// counted. A page without the value that a filter asks for fails it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrieveOptions {
    /// Pages wanted for each topic. 1,000 [post: the SmolLM blog post]; the published script's
    /// default is 2,000.
    pub pages_per_topic: u32,
    /// Most pages a query ranks [cosmo: huggingface/cosmopedia
    /// `fulltext_search/search_sharded.py`]. With `max_pages_per_host` the pages of a topic are
    /// taken from the best this many of each query.
    pub max_matches: u32,
    /// Least language score (0 to 1) of a page.
    pub min_language_score: Option<f64>,
    /// Least token count of a page, in tokens.
    pub min_tokens: Option<u64>,
    /// Greatest token count of a page, in tokens.
    pub max_tokens: Option<u64>,
    /// Most pages of one URL host in a topic. Pages without URL are not limited.
    pub max_pages_per_host: Option<u32>,
    /// Topics answered at the same time; one a processor if not given.
    pub threads: Option<u32>,
}

impl Default for RetrieveOptions {
    fn default() -> Self {
        Self {
            pages_per_topic: 1_000,
            max_matches: 4_000,
            min_language_score: None,
            min_tokens: None,
            max_tokens: None,
            max_pages_per_host: None,
            threads: None,
        }
    }
}

impl RetrieveOptions {
    fn check(&self) -> Result<(), RetrieveError> {
        let invalid = |field, value: u32, why: String| RetrieveError::InvalidOption {
            field,
            value: value.to_string(),
            why,
        };
        if self.pages_per_topic == 0 || self.pages_per_topic > self.max_matches {
            let why = format!("must lie between 1 and max_matches ({})", self.max_matches);
            return Err(invalid("pages_per_topic", self.pages_per_topic, why));
        }
        let at_least_one = "must be at least 1; leave it out for no limit".to_owned();
        if self.max_pages_per_host == Some(0) {
            return Err(invalid("max_pages_per_host", 0, at_least_one));
        }
        if self.threads == Some(0) {
            return Err(invalid("threads", 0, at_least_one));
        }
        Ok(())
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

    fn add(&self, report: TopicReport, wanted: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(report, wanted);
    }
}

/// A running retrieval.
pub struct Retrieval {
    /// The hits, see [`hits_schema`]: in the order of the topics, then by rank.
    pub hits: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    /// What the topics got.
    pub summary: SummaryHandle,
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

/// Finds the best pages of every topic with the published two-step query.
///
/// `topics` needs the string columns `topic_id`, `top_category`, `subcategory` and `subtopic`;
/// all but the id may be null. First the pages with every term (subtopic terms weighted twofold)
/// are ranked; if they are fewer than `pages_per_topic`, pages with any term (weighted alike) fill
/// up behind them. No page stands twice in a topic. Topics that stay short are reported in the
/// summary, never an error.
///
/// Up to twice `threads` topics are in flight, across the batches of `topics`; the output is in
/// topic order, its bytes a function of index, options and topics. Dropping the stream stops the
/// work.
///
/// # Errors
/// [`RetrieveError`] at once for options that cannot work; inside the stream, wrapped as
/// `ArrowError::ExternalError`, for topics or shards that cannot be read.
pub fn retrieve(
    searcher: Arc<Searcher>,
    options: &RetrieveOptions,
    topics: BoxStream<'static, Result<RecordBatch, ArrowError>>,
) -> Result<Retrieval, RetrieveError> {
    options.check()?;
    let threads = options.threads.unwrap_or(0) as usize;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("retrieve-{number}"))
        // The waiting side notices that no answer comes and reports the topic.
        .panic_handler(|_| {})
        .build()
        .map_err(|error| RetrieveError::Threads(error.to_string()))?;
    let in_flight = 2 * pool.current_num_threads();
    let options = Arc::new(options.clone());
    let wanted = options.pages_per_topic;
    let answers = topics_of(topics)
        .map(move |topic| {
            let answer = topic.map(|topic| spawn(&pool, searcher.clone(), options.clone(), topic));
            async move {
                match answer {
                    Ok((topic_id, receiver)) => {
                        receiver.await.unwrap_or(Err(RetrieveError::Worker { topic_id })).map_err(external)
                    }
                    Err(error) => Err(error),
                }
            }
        })
        .buffered(in_flight);
    let summary = SummaryHandle::default();
    let hits = batches(answers, summary.clone(), wanted).boxed();
    Ok(Retrieval { hits, summary })
}

type AnswerReceiver = oneshot::Receiver<Result<Answer, RetrieveError>>;

fn spawn(
    pool: &rayon::ThreadPool,
    searcher: Arc<Searcher>,
    options: Arc<RetrieveOptions>,
    topic: Topic,
) -> (String, AnswerReceiver) {
    let (sender, receiver) = oneshot::channel();
    let topic_id = topic.topic_id.clone();
    pool.spawn(move || {
        // The stream may have been dropped while this topic waited.
        if sender.is_closed() {
            return;
        }
        let answer = answer(&searcher, &options, &topic)
            .map_err(|source| RetrieveError::Search { topic_id: topic.topic_id, source });
        // A dropped receiver means that nobody wants the answer any more.
        let _ = sender.send(answer);
    });
    (topic_id, receiver)
}

/// The rows of a stream of topic batches.
fn topics_of(
    batches: BoxStream<'static, Result<RecordBatch, ArrowError>>,
) -> impl Stream<Item = Result<Topic, ArrowError>> {
    batches
        .scan((0_u64, 0_u64), |(batch_number, first_row), batch| {
            let topics = batch.and_then(|batch| {
                let topics = read_topics(&batch, *batch_number, *first_row).map_err(external);
                *batch_number += 1;
                *first_row += batch.num_rows() as u64;
                topics
            });
            let topics = match topics {
                Ok(topics) => topics.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            std::future::ready(Some(stream::iter(topics)))
        })
        .flatten()
}

fn read_topics(batch: &RecordBatch, batch_number: u64, first_row: u64) -> Result<Vec<Topic>, RetrieveError> {
    let column = |name: &'static str| {
        strings(batch, name).map_err(|problem| RetrieveError::Column {
            batch: batch_number,
            column: problem.column,
            problem: problem.problem,
        })
    };
    let ids = column("topic_id")?;
    let top_categories = column("top_category")?;
    let subcategories = column("subcategory")?;
    let subtopics = column("subtopic")?;
    let text = |column: &arrow::array::LargeStringArray, row: usize| match column.is_valid(row) {
        true => column.value(row).to_owned(),
        false => String::new(),
    };
    (0..batch.num_rows())
        .map(|row| match ids.is_valid(row) {
            true => Ok(Topic {
                topic_id: text(&ids, row),
                top_category: text(&top_categories, row),
                subcategory: text(&subcategories, row),
                subtopic: text(&subtopics, row),
            }),
            false => Err(RetrieveError::MissingTopicId { row: first_row + row as u64 }),
        })
        .collect()
}

/// Joins the answers of several topics into batches. Where a batch ends depends on the hits alone.
fn batches(
    answers: impl Stream<Item = Result<Answer, ArrowError>> + Send + 'static,
    summary: SummaryHandle,
    wanted: u32,
) -> impl Stream<Item = Result<RecordBatch, ArrowError>> + Send {
    let start = (Box::pin(answers.fuse()), summary);
    stream::unfold(start, move |(mut answers, summary)| async move {
        let mut hits = HitsBuilder::default();
        while hits.rows < BATCH_ROWS {
            match answers.next().await {
                Some(Ok(answer)) => {
                    hits.add(&answer);
                    summary.add(answer.report, wanted);
                }
                Some(Err(error)) => return Some((Err(error), (answers, summary))),
                None if hits.rows == 0 => return None,
                None => break,
            }
        }
        Some((hits.finish(), (answers, summary)))
    })
}

#[derive(Default)]
struct HitsBuilder {
    rows: usize,
    topic_id: StringBuilder,
    rank: UInt32Builder,
    score: Float32Builder,
    doc_id: StringBuilder,
    matched: StringBuilder,
}

impl HitsBuilder {
    fn add(&mut self, answer: &Answer) {
        for (rank, (found, matching)) in (1..).zip(&answer.hits) {
            self.topic_id.append_value(&answer.report.topic_id);
            self.rank.append_value(rank);
            self.score.append_value(found.score);
            self.doc_id.append_value(&found.id);
            self.matched.append_value(match matching {
                Matching::All => "all",
                Matching::Any => "any",
            });
        }
        self.rows += answer.hits.len();
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
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

fn external(error: RetrieveError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_work_are_named() {
        let wrong = [
            RetrieveOptions { pages_per_topic: 0, ..Default::default() },
            RetrieveOptions { pages_per_topic: 5_000, ..Default::default() },
            RetrieveOptions { max_pages_per_host: Some(0), ..Default::default() },
            RetrieveOptions { threads: Some(0), ..Default::default() },
        ];
        for options in wrong {
            assert!(options.check().is_err(), "{options:?}");
        }
        RetrieveOptions::default().check().unwrap();
    }
}
