//! Topics in, hits out: the two-step query for every topic, many topics at a time.

use std::sync::Arc;

use arrow::array::{Array, LargeStringArray, RecordBatch};
use arrow::error::ArrowError;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::answer::{Answer, HitsBuilder, SummaryHandle};
use crate::backend::SearchBackend;
use crate::columns::strings;
use crate::error::RetrieveError;
use crate::filter::PageFilters;
use crate::query::Topic;

/// Rows after which a batch of hits is handed on (whole topics, so batches are a little larger).
const BATCH_ROWS: usize = 8_192;

/// Batches of topics at work at the same time: while the last topics of one end, the next begins.
const BATCHES_IN_FLIGHT: usize = 2;

/// How pages are retrieved for topics.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrieveOptions {
    /// Pages wanted for each topic; 1,000 in Cosmopedia v2 (SmolLM blog post). The published
    /// script's default is 2,000.
    pub pages_per_topic: u32,
    /// Most pages a query ranks; 4,000 in the published tool [huggingface/cosmopedia
    /// `fulltext_search/search_sharded.py`]. With `max_pages_per_host` a query whose best pages are
    /// all of hosts that have enough is widened, up to 64 times this.
    pub max_matches: u32,
    /// Which pages may be found at all.
    pub filters: PageFilters,
    /// Most pages of one URL host in a topic. Pages without URL are not limited.
    pub max_pages_per_host: Option<u32>,
    /// Topics of a batch: each shard is searched for all of them before the next shard.
    pub topics_per_batch: u32,
    /// Topics answered at the same time; one a processor if not given.
    #[serde(skip)]
    pub threads: Option<u32>,
}

impl Default for RetrieveOptions {
    fn default() -> Self {
        Self {
            pages_per_topic: 1_000,
            max_matches: 4_000,
            filters: PageFilters::default(),
            max_pages_per_host: None,
            topics_per_batch: 256,
            threads: None,
        }
    }
}

impl RetrieveOptions {
    /// # Errors
    /// [`RetrieveError::InvalidOption`] names the option that cannot work.
    pub fn check(&self) -> Result<(), RetrieveError> {
        let invalid = |field, value: u32, why: String| RetrieveError::InvalidOption {
            field,
            value: value.to_string(),
            why,
        };
        if self.pages_per_topic == 0 || self.pages_per_topic > self.max_matches {
            let why = format!("must lie between 1 and max_matches ({})", self.max_matches);
            return Err(invalid("pages_per_topic", self.pages_per_topic, why));
        }
        if self.topics_per_batch == 0 {
            return Err(invalid("topics_per_batch", 0, "must be at least 1".to_owned()));
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

/// A running retrieval.
pub struct Retrieval {
    /// The hits, see [`crate::hits_schema`]: in the order of the topics, then by rank.
    pub hits: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    /// What the topics got.
    pub summary: SummaryHandle,
}

/// Finds the best pages of every topic with the published two-step query.
///
/// `topics` needs the string columns `topic_id`, `top_category`, `subcategory` and `subtopic`;
/// all but the id may be null. First the pages with every term (subtopic terms weighted twofold)
/// are ranked; if they are fewer than `pages_per_topic`, pages with any term (weighted alike) fill
/// up behind them. No page stands twice in a topic. Topics that stay short are reported in the
/// summary, never an error.
///
/// Up to twice `topics_per_batch` topics are in flight, across the batches of `topics`; the output
/// is in topic order, its bytes a function of index, options and topics. Dropping the stream stops
/// the work.
///
/// # Errors
/// [`RetrieveError`] at once for options that cannot work; inside the stream, wrapped as
/// `ArrowError::ExternalError`, for topics or shards that cannot be read.
pub fn retrieve(
    backend: Arc<dyn SearchBackend>,
    options: &RetrieveOptions,
    topics: BoxStream<'static, Result<RecordBatch, ArrowError>>,
) -> Result<Retrieval, RetrieveError> {
    options.check()?;
    let wanted = options.pages_per_topic;
    let answers = topics_of(topics)
        .chunks(options.topics_per_batch as usize)
        .map(move |topics| {
            let backend = backend.clone();
            async move { stream::iter(answer_until_error(&*backend, topics).await) }
        })
        .buffered(BATCHES_IN_FLIGHT)
        .flatten();
    let summary = SummaryHandle::default();
    let hits = batches(answers, summary.clone(), wanted).boxed();
    Ok(Retrieval { hits, summary })
}

/// Answers the topics that came before an error, then tells the error.
async fn answer_until_error(
    backend: &dyn SearchBackend,
    topics: Vec<Result<Topic, ArrowError>>,
) -> Vec<Result<Answer, ArrowError>> {
    let mut good = Vec::with_capacity(topics.len());
    let mut error = None;
    for topic in topics {
        match topic {
            Ok(topic) => good.push(topic),
            Err(found) => {
                error = Some(Err(found));
                break;
            }
        }
    }
    let mut answers: Vec<_> = match backend.answer(good).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) => return vec![Err(external(error))],
    };
    answers.extend(error);
    answers
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
    let text = |column: &LargeStringArray, row: usize| match column.is_valid(row) {
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
            RetrieveOptions { topics_per_batch: 0, ..Default::default() },
            RetrieveOptions { threads: Some(0), ..Default::default() },
        ];
        for options in wrong {
            assert!(options.check().is_err(), "{options:?}");
        }
        RetrieveOptions::default().check().unwrap();
    }
}
