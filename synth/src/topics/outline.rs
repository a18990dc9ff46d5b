//! Courses: a topic's table of contents, written by a model, unit by unit.

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use minijinja::context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expansion::{AskFailure, topics_schema};
use super::heading::{label_name, title_case};
use super::names::NameBounds;
use super::outline_parse::{Outline, parse_outline};
use super::parse::Verdict;
use super::request::RequestTemplate;
use crate::columns::{optional_strings, strings, text_at};
use crate::prompts::TemplateError;
use crate::reject::{OnReject, Reject};

/// Courses whose rows make a batch.
const COURSES_IN_BATCH: usize = 64;

const EMBEDDED: (&str, &str) =
    ("synth/templates/topics/outline.jinja", include_str!("../../templates/topics/outline.jinja"));

/// What becomes of topics that have no outline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtherTopics {
    /// They go on as they are.
    #[default]
    Keep,
    /// They are left out; a topic whose outline failed, as `no_outline`.
    Drop,
}

/// How topics become courses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlineOptions {
    /// Topics to write outlines for, chosen by a seeded hash of their ids; none means all.
    pub courses: Option<u32>,
    /// Units asked for; an answer with more is cut.
    pub units: u32,
    /// An answer with fewer units is asked for again.
    pub min_units: u32,
    /// What becomes of topics without an outline.
    pub other_topics: OtherTopics,
    /// How often a topic is asked again after a refused, malformed or short answer.
    pub max_retries: u32,
    /// Requests at the same time.
    pub max_in_flight: usize,
    /// Name of the model, for the column `source`.
    pub model: String,
    /// A template of your own for the request; it may use topic, field, label and units.
    pub template: Option<PathBuf>,
    /// Seed of the hash that chooses topics.
    pub seed: u64,
}

impl Default for OutlineOptions {
    fn default() -> Self {
        Self {
            courses: None,
            units: 8,
            min_units: 3,
            other_topics: OtherTopics::Keep,
            max_retries: 6,
            max_in_flight: 16,
            model: "mistralai/Mixtral-8x7B-Instruct-v0.1".to_string(),
            template: None,
            seed: 0,
        }
    }
}

/// One topic, and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineRequest {
    /// The topic.
    pub topic_id: String,
    /// The finished prompt.
    pub prompt: String,
}

/// Why the outlines ended.
#[derive(Debug, thiserror::Error)]
pub enum OutlineError {
    /// The template of the request is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model cannot be asked at all.
    #[error("asking for the outline of {topic_id} failed for good: {source}")]
    Ask {
        /// The topic at hand.
        topic_id: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<OutlineError> for ArrowError {
    fn from(error: OutlineError) -> Self {
        ArrowError::ExternalError(Box::new(error))
    }
}

/// The columns of [`topics_schema`], then `course` (Utf8), `unit` (UInt32, from 1) and
/// `previous_units` (Utf8, one a line); for topics that are no units empty, 0 and empty.
#[must_use]
pub fn outline_schema() -> SchemaRef {
    let topics = topics_schema();
    let fields = topics.fields().iter().map(|field| field.as_ref().clone()).chain([
        Field::new("course", DataType::Utf8, false),
        Field::new("unit", DataType::UInt32, false),
        Field::new("previous_units", DataType::Utf8, false),
    ]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Topics with their units behind them, in the order of the topics.
///
/// In: `topic_id, top_category, subcategory, subtopic`, and `bisac_code` and `source` where they are.
/// Out: [`outline_schema`]. A unit is a topic (`<topic_id>-u01` and on): its title is the `subtopic`,
/// the topic it belongs to ends the `subcategory`, the source is `outline:<model>:<prompt digest>`.
/// The topic of a course goes on beside its units under [`OtherTopics::Keep`] only when it got none.
///
/// `ask` gets the request and the number of the attempt (from 0); `on_reject` is called, in the order
/// of the topics, for every answer that was `refused` or `malformed` (too few units counts as that)
/// and every request that `failed`. The topics are held in memory, the outlines are not.
///
/// # Errors
/// [`TemplateError`]; the stream ends with an error for a missing column or [`AskFailure::Everything`].
pub fn outline_stream<F, Fut>(
    options: &OutlineOptions,
    topics: BoxStream<'static, Result<RecordBatch, ArrowError>>,
    ask: F,
    on_reject: OnReject,
) -> Result<BoxStream<'static, Result<RecordBatch, ArrowError>>, TemplateError>
where
    F: Fn(OutlineRequest, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, AskFailure>> + Send + 'static,
{
    let template = RequestTemplate::load(options.template.as_deref(), EMBEDDED)?;
    let source = format!("outline:{}:{}", options.model, template.digest);
    let worker = Arc::new(Worker { options: options.clone(), template, source, ask });
    let in_flight = options.max_in_flight.max(1);
    let rows = stream::once(async move {
        let batches: Vec<RecordBatch> = topics.try_collect().await?;
        let topics = batches.iter().map(read_topics).collect::<Result<Vec<_>, _>>()?.concat();
        let chosen = choose(&worker.options, &topics);
        let outlined = stream::iter(topics).map(move |topic| {
            let (worker, is_course) = (Arc::clone(&worker), chosen.contains(&topic.topic_id));
            async move { worker.outline(topic, is_course).await }
        });
        Ok::<_, ArrowError>(outlined.buffered(in_flight))
    });
    let rows = rows.try_flatten().map_ok(move |outlined| {
        outlined.rejects.into_iter().for_each(|reject| on_reject(reject));
        outlined.rows
    });
    let batches = rows
        .try_chunks(COURSES_IN_BATCH)
        .map_err(|error| error.1)
        .map(|courses| to_batch(&courses?.concat()));
    Ok(batches.try_filter(|batch| futures::future::ready(batch.num_rows() > 0)).boxed())
}

/// A row of the topics table.
#[derive(Clone, Debug)]
struct Topic {
    topic_id: String,
    bisac_code: String,
    top_category: String,
    subcategory: String,
    subtopic: String,
    source: String,
}

impl Topic {
    fn name(&self) -> String {
        match self.subtopic.trim() {
            "" => label_name(&self.top_category, &self.subcategory),
            subtopic => subtopic.to_string(),
        }
    }

    /// The place in the field that its units have: the subcategory, ended by the topic itself.
    fn label(&self) -> String {
        let name = self.name();
        let parts: Vec<&str> =
            self.subcategory.split(" / ").map(str::trim).filter(|part| !part.is_empty()).collect();
        let is_last = parts.last().is_some_and(|last| last.eq_ignore_ascii_case(&name));
        if is_last { parts.join(" / ") } else { [&parts[..], &[name.as_str()]].concat().join(" / ") }
    }
}

/// A row of [`outline_schema`].
#[derive(Clone, Debug)]
struct Row {
    topic: Topic,
    course: String,
    unit: u32,
    previous_units: String,
}

/// What became of a topic.
#[derive(Default)]
struct Outlined {
    rows: Vec<Row>,
    rejects: Vec<Reject>,
}

fn read_topics(batch: &RecordBatch) -> Result<Vec<Topic>, ArrowError> {
    let (ids, tops) = (strings(batch, "topic_id")?, strings(batch, "top_category")?);
    let (subcategories, subtopics) = (strings(batch, "subcategory")?, strings(batch, "subtopic")?);
    let (codes, sources) = (optional_strings(batch, "bisac_code")?, optional_strings(batch, "source")?);
    let optional =
        |column: &Option<StringArray>, row| column.as_ref().map_or("", |c| text_at(c, row)).to_string();
    let topic = |row: usize| Topic {
        topic_id: text_at(&ids, row).to_string(),
        bisac_code: optional(&codes, row),
        top_category: text_at(&tops, row).to_string(),
        subcategory: text_at(&subcategories, row).to_string(),
        subtopic: text_at(&subtopics, row).to_string(),
        source: optional(&sources, row),
    };
    Ok((0..batch.num_rows()).map(topic).collect())
}

/// The ids of the topics that get an outline.
fn choose(options: &OutlineOptions, topics: &[Topic]) -> HashSet<String> {
    let mut ids: Vec<&str> = topics.iter().map(|topic| topic.topic_id.as_str()).collect();
    if let Some(courses) = options.courses {
        let hash = |id: &&str| {
            *blake3::Hasher::new()
                .update(&options.seed.to_le_bytes())
                .update(id.as_bytes())
                .finalize()
                .as_bytes()
        };
        ids.sort_by_cached_key(hash);
        ids.truncate(courses as usize);
    }
    ids.into_iter().map(str::to_string).collect()
}

struct Worker<F> {
    options: OutlineOptions,
    template: RequestTemplate,
    source: String,
    ask: F,
}

impl<F, Fut> Worker<F>
where
    F: Fn(OutlineRequest, u32) -> Fut + Send + Sync,
    Fut: Future<Output = Result<String, AskFailure>> + Send,
{
    async fn outline(&self, topic: Topic, is_course: bool) -> Result<Outlined, ArrowError> {
        let mut outlined = Outlined::default();
        if is_course {
            if let Some(outline) = self.ask_until_read(&topic, &mut outlined.rejects).await? {
                outlined.rows = self.units(&topic, outline);
                return Ok(outlined);
            }
            if self.options.other_topics == OtherTopics::Drop {
                let detail = format!("none of {} answers was an outline", self.options.max_retries + 1);
                outlined.rejects.push(reject(&topic, "no_outline", detail));
            }
        }
        if self.options.other_topics == OtherTopics::Keep {
            let row = Row { topic, course: String::new(), unit: 0, previous_units: String::new() };
            outlined.rows.push(row);
        }
        Ok(outlined)
    }

    async fn ask_until_read(
        &self,
        topic: &Topic,
        rejects: &mut Vec<Reject>,
    ) -> Result<Option<Outline>, OutlineError> {
        let (units, fewest) =
            (self.options.units.max(2), self.options.min_units.clamp(2, self.options.units.max(2)));
        let prompt = self.template.render(context! {
            topic => topic.name(),
            field => title_case(&topic.top_category),
            label => format!("{} / {}", topic.top_category, topic.subcategory),
            units => units,
        })?;
        for attempt in 0..=self.options.max_retries {
            let request = OutlineRequest { topic_id: topic.topic_id.clone(), prompt: prompt.clone() };
            let answer = match (self.ask)(request, attempt).await {
                Ok(answer) => answer,
                Err(AskFailure::ThisRequest { reason }) => {
                    rejects.push(reject(topic, "failed", reason));
                    continue;
                }
                Err(AskFailure::Everything { source }) => {
                    return Err(OutlineError::Ask { topic_id: topic.topic_id.clone(), source });
                }
            };
            let outline = parse_outline(&answer, &topic.name(), &NameBounds::default(), units as usize);
            if outline.verdict == Verdict::List && outline.units.len() >= fewest as usize {
                return Ok(Some(outline));
            }
            let reason = if outline.verdict == Verdict::Refused { "refused" } else { "malformed" };
            let opening: String = answer.trim().chars().take(80).collect();
            rejects.push(reject(topic, reason, format!("{} units in: {opening}", outline.units.len())));
        }
        Ok(None)
    }

    fn units(&self, topic: &Topic, outline: Outline) -> Vec<Row> {
        let course = outline.course.unwrap_or_else(|| topic.name());
        let row = |(i, title): (usize, &String)| Row {
            topic: Topic {
                topic_id: format!("{}-u{:02}", topic.topic_id, i + 1),
                subcategory: topic.label(),
                subtopic: title.clone(),
                source: self.source.clone(),
                ..topic.clone()
            },
            course: course.clone(),
            unit: i as u32 + 1,
            previous_units: outline.units[..i].join("\n"),
        };
        outline.units.iter().enumerate().map(row).collect()
    }
}

fn reject(topic: &Topic, reason: &str, detail: String) -> Reject {
    Reject { id: topic.topic_id.clone(), reason: reason.to_string(), detail }
}

fn to_batch(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let column =
        |get: fn(&Row) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(get))) };
    let columns = vec![
        column(|row| &row.topic.topic_id),
        column(|row| &row.topic.bisac_code),
        column(|row| &row.topic.top_category),
        column(|row| &row.topic.subcategory),
        column(|row| &row.topic.subtopic),
        column(|row| &row.topic.source),
        column(|row| &row.course),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.unit))),
        column(|row| &row.previous_units),
    ];
    RecordBatch::try_new(outline_schema(), columns)
}

#[cfg(test)]
#[path = "outline_tests.rs"]
mod tests;
