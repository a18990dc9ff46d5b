//! `cluster_topics`: a language model names clusters, and so makes topics of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt8Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::topics::{
    AskFailure, ClusterName, EXTRACT_CHARS, Nameless, PAGES_SHOWN, cluster_prompt, parse_cluster_name,
};

use super::asker::{Asker, Sampling};
use super::columns::{require, text_column};
use super::llm::{ExpectedAsks, LlmConfig};
use super::{External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::Plan;
use crate::engine::streams::execute;
use crate::forecast::{Before, Expectation, Spread};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "cluster_topics",
    summary: "Asks a language model for the topic and the educational score of each cluster.",
    version: 1,
    inputs: &[InputRole { role: "clusters", about: "a `cluster` stage with texts", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<ClusterTopicsConfig>,
    build: super::build_from::<ClusterTopicsConfig>,
};

/// Names clusters by 10 of their pages and leaves out those of adult and promotional pages
/// [huggingface/cosmopedia]. A row: `topic_id, top_category, subcategory, subtopic, source,
/// educational_score, pages`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterTopicsConfig {
    /// Least educational score, 1–10, of a cluster that is kept.
    pub min_educational_score: u8,
    /// How often a cluster is asked for again after a refused or malformed answer.
    pub max_retries: u32,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// The column with the texts.
    pub text_column: String,
    /// Seed of the choice of pages and of the sampling.
    pub seed: u64,
    /// The language model.
    pub llm: LlmConfig,
}

impl Default for ClusterTopicsConfig {
    fn default() -> Self {
        Self {
            min_educational_score: 1,
            max_retries: 6,
            max_new_tokens: 60,
            temperature: 0.6,
            text_column: "text".to_owned(),
            seed: 1,
            llm: LlmConfig::default(),
        }
    }
}

/// What is shown of a cluster: its size, and the extracts of the pages with the smallest hashes.
#[derive(Default)]
struct Cluster {
    pages: u64,
    extracts: BTreeMap<[u8; 32], String>,
}

fn topics_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let mut fields: Vec<Field> =
        ["topic_id", "top_category", "subcategory", "subtopic", "source"].map(text).to_vec();
    fields.push(Field::new("educational_score", DataType::UInt8, false));
    fields.push(Field::new("pages", DataType::UInt64, false));
    Arc::new(Schema::new(fields))
}

#[async_trait]
impl Stage for ClusterTopicsConfig {
    fn config(&self) -> Json {
        let mut config = super::config_json(self);
        config["llm"] = self.llm.identity();
        config
    }

    fn prices(&self) -> BTreeMap<String, Json> {
        self.llm.prices()
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(self.llm.memory_bytes())
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        let asks = ExpectedAsks {
            requests: before.past.map(|past| past.manifest.rows_out as f64),
            prompt_chars: Spread::of_one((PAGES_SHOWN * EXTRACT_CHARS) as f64),
            max_new_tokens: self.max_new_tokens,
            max_tries: 1 + self.max_retries,
        };
        self.llm.expect(&asks, before)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        self.llm.externals(ctx)
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "clusters")?;
        require(ctx, &rows, "clusters", &["topic_id", "doc_id", &self.text_column])?;
        let clusters = self.read(ctx, rows).await?;
        let sampling = Sampling {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            // Three labels that each answer repeats: a penalty would break them.
            repetition_penalty: 1.0,
            seed: self.seed,
        };
        let asker = Asker::connect(ctx, &self.llm, sampling).await?;
        ctx.progress.set_total(clusters.len() as u64);
        // By index: a closure over references would keep the future from being spawned.
        let asked = (0..clusters.len()).map(|i| self.name(ctx, &clusters[i], &asker));
        let names: Vec<_> =
            futures::stream::iter(asked).buffered(self.llm.max_in_flight.max(1)).try_collect().await?;
        let drop_row = ctx.ledger.drop_sink();
        let mut kept: Vec<(&String, u64, ClusterName)> = Vec::new();
        for ((id, cluster), name) in clusters.iter().zip(names) {
            let reason = match &name {
                Ok(name) if name.score < self.min_educational_score => {
                    Some("educational_score_below_threshold")
                }
                Ok(name) => name.excluded.map(|exclusion| exclusion.reason()),
                Err(Nameless::Refused) => Some("refused"),
                Err(Nameless::Malformed) => Some("malformed_answer"),
            };
            match (reason, name) {
                (None, Ok(name)) => kept.push((id, cluster.pages, name)),
                (reason, name) => {
                    let said = name.map(|name| format!(": {} ({} of 10)", name.topic, name.score));
                    let detail = format!("{} pages{}", cluster.pages, said.unwrap_or_default());
                    drop_row(id.clone(), reason.unwrap_or_default().to_owned(), detail);
                }
            }
        }
        let source = format!("llm:{}", self.llm.name());
        let texts = |text: fn(&ClusterName) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(kept.iter().map(|(_, _, name)| text(name))))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(kept.iter().map(|(id, ..)| id))),
            texts(|name| &name.topic),
            texts(|_| ""),
            texts(|name| &name.topic),
            Arc::new(StringArray::from_iter_values(kept.iter().map(|_| &source))),
            Arc::new(UInt8Array::from_iter_values(kept.iter().map(|(_, _, name)| name.score))),
            Arc::new(UInt64Array::from_iter_values(kept.iter().map(|(_, pages, _)| *pages))),
        ];
        let batch = RecordBatch::try_new(topics_schema(), columns).map_err(|error| ctx.failed(&error))?;
        ctx.session().read_batch(batch).map_err(|error| ctx.plan_error(&error))
    }
}

impl ClusterTopicsConfig {
    /// Sizes and extracts of all clusters, in one pass that holds a few extracts of each.
    async fn read(&self, ctx: &StageContext, rows: Plan) -> Result<Vec<(String, Cluster)>, StageError> {
        let rows = rows.frame().select_columns(&["topic_id", "doc_id", &self.text_column]);
        let rows = rows.map_err(|error| ctx.plan_error(&error))?;
        let mut batches = execute(rows).await.map_err(|error| ctx.plan_error(&error))?;
        let mut clusters: BTreeMap<String, Cluster> = BTreeMap::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| ctx.plan_error(&error))?;
            let column = |name| text_column(&batch, name).map_err(|error| ctx.input(error.to_string()));
            let (topics, docs, texts) = (column("topic_id")?, column("doc_id")?, column(&self.text_column)?);
            for row in 0..batch.num_rows() {
                let cluster = clusters.entry(topics.value(row).to_owned()).or_default();
                cluster.pages += 1;
                let mut hasher = blake3::Hasher::new();
                hasher.update(&self.seed.to_le_bytes()).update(docs.value(row).as_bytes());
                let words = texts.value(row).split_whitespace().collect::<Vec<_>>().join(" ");
                let extract = words.chars().take(EXTRACT_CHARS).collect();
                cluster.extracts.insert(*hasher.finalize().as_bytes(), extract);
                if cluster.extracts.len() > PAGES_SHOWN {
                    cluster.extracts.pop_last();
                }
            }
        }
        Ok(clusters.into_iter().collect())
    }

    /// Asks for a name until one comes that can be read.
    async fn name(
        &self,
        ctx: &StageContext,
        (id, cluster): &(String, Cluster),
        asker: &Asker,
    ) -> Result<Result<ClusterName, Nameless>, StageError> {
        let extracts: Vec<String> = cluster.extracts.values().cloned().collect();
        let prompt = cluster_prompt(&extracts, self.llm.api).map_err(|error| ctx.failed(&error))?;
        let mut last = Nameless::Malformed;
        for attempt in 0..=self.max_retries {
            match asker.ask(id, &prompt, attempt).await {
                Ok(answer) => match parse_cluster_name(&answer, self.llm.api) {
                    Ok(name) => return Ok(Ok(name)),
                    Err(nameless) => last = nameless,
                },
                Err(AskFailure::ThisRequest { .. }) => break,
                Err(AskFailure::Everything { source }) => return Err(ctx.failed(source.as_ref())),
            }
        }
        Ok(Err(last))
    }
}
