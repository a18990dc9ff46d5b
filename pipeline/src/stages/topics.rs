//! `topics`: headings of BISAC or of a user's tables, expanded into subtopics by a language model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use classifiers::{Backbone, Pooling};
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::topics::{
    AskFailure, Embedder, ExpandOptions, Heading, PUBLISHED_TOPICS, expand_topics, expansion_plan,
    load_bisac, load_table, select, table_headings,
};

use super::asker::{Asker, Sampling};
use super::backbone::{BACKBONE_MEMORY_BYTES, EncoderConfig};
use super::llm::{ExpectedAsks, LlmConfig};
use super::{
    ConfigMistake, External, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task, asset_external,
    file_external,
};
use crate::assets::Asset;
use crate::engine::scan::{self, FileSlice};
use crate::engine::streams::collect;
use crate::forecast::{Before, Expectation, Spread};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::inputs;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "topics",
    summary: "Expands BISAC headings, or a table of your own, into topics by asking a language model.",
    version: 3,
    inputs: &[],
    output: OutputKind::Table,
    schema: super::schema_of::<TopicsConfig>,
    build: super::build_from::<TopicsConfig>,
};

/// Headings that `synth::topics::load_bisac` gives.
const BISAC_HEADINGS: u32 = 3223;

/// Length of a request for subtopics, in characters.
const PROMPT_CHARS: f64 = 800.0;

/// A name is read up to this many tokens for its embedding.
const NAME_TOKENS: usize = 48;

/// Expands headings into topics. A row: `topic_id, bisac_code, top_category, subcategory, subtopic,
/// source` (`bisac`, `table`, or `llm:<model>:<prompt digest>`). Names that are left out and answers
/// that are no lists are counted as dropped rows by their reason.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    /// Your own headings, in place of BISAC's: files in .csv, .tsv, .jsonl, .toml (`[[topics]]`) or
    /// .parquet with the columns `top_category` and, where wanted, `subcategory`, `subtopic` and
    /// `topic_id`.
    pub tables: Vec<PathBuf>,
    /// Take BISAC's headings beside those of `tables`; without tables they are taken anyway.
    pub with_bisac: bool,
    /// The top categories to take, for example `["Computers", "Mathematics"]`; all of them when
    /// empty.
    pub categories: Vec<String>,
    /// Topics wanted in all, headings included. When left out: 34,000 with BISAC, as in Cosmopedia v2
    /// (SmolLM blog post); the rows of `tables` as they are, and no question asked, without.
    pub target: Option<u32>,
    /// Headings used at most, spread over the categories by size; all when left out.
    pub max_headings: Option<u32>,
    /// Weight of a top category's subtopics, 1 for those not named.
    pub category_weights: BTreeMap<String, f64>,
    /// How often a heading is asked beyond what its number of subtopics needs, when answers are
    /// refused, malformed, too short, or name what is there already.
    pub max_retries: u32,
    /// Least similarity of two names' character trigrams, 0 to 1, from which the second is left out
    /// as `near_duplicate`.
    pub near_duplicate_similarity: f64,
    /// Least cosine of two names' MiniLM embeddings, 0 to 1, from which the second is left out as
    /// `same_meaning`. 0.82 finds 27 of 30 paraphrases (`Marine ecosystems` of `Ocean ecosystems`) and
    /// none of 35 neighbours (`Linear algebra` of `Abstract algebra`, `World War I` of `II`), whose highest is
    /// 0.80; `tests/parity/topic_cosines.py` has the names. Nothing is embedded when left out.
    pub same_meaning_cosine: Option<f64>,
    /// How often subtopics that are missing in the end are asked of the headings that delivered.
    pub redistributions: u32,
    /// Subtopics asked for in one request at most.
    pub max_subtopics_per_request: u32,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Divisor of the scores of tokens that are there already; lists repeat their form, so a high
    /// one breaks them.
    pub repetition_penalty: f64,
    /// Seed of the choice of headings and of the sampling.
    pub seed: u64,
    /// The language model.
    pub llm: LlmConfig,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        let options = ExpandOptions::default();
        Self {
            tables: Vec::new(),
            with_bisac: false,
            categories: Vec::new(),
            target: None,
            max_headings: None,
            category_weights: BTreeMap::new(),
            max_retries: options.max_retries,
            near_duplicate_similarity: options.near_duplicate_similarity,
            same_meaning_cosine: None,
            redistributions: options.redistributions,
            max_subtopics_per_request: options.max_subtopics_per_request,
            max_new_tokens: 512,
            temperature: 0.6,
            repetition_penalty: 1.0,
            seed: 1,
            llm: LlmConfig::default(),
        }
    }
}

impl TopicsConfig {
    fn uses_bisac(&self) -> bool {
        self.tables.is_empty() || self.with_bisac
    }

    /// Whether a language model may be asked.
    fn may_ask(&self) -> bool {
        self.uses_bisac() || self.target.is_some()
    }

    async fn headings(&self, ctx: &StageContext) -> Result<Vec<Heading>, StageError> {
        let mut headings = Vec::new();
        if self.uses_bisac() {
            let path = ctx.asset(Asset::Bisac)?;
            headings = load_bisac(&path).map_err(|error| ctx.input(error.to_string()))?;
        }
        for path in &self.tables {
            headings.extend(read_table(ctx, path).await?);
        }
        let mut ids = BTreeSet::new();
        if let Some(twice) = headings.iter().map(Heading::topic_id).find(|id| !ids.insert(id.clone())) {
            let message = format!("topic `{twice}` stands in two of the tables");
            return Err(ctx.input(message).help("take one of the two out, or give it another topic_id"));
        }
        if self.categories.is_empty() {
            return Ok(headings);
        }
        select(&headings, &self.categories).map_err(|error| ctx.input(error.to_string()))
    }

    fn options(&self, headings: usize) -> ExpandOptions {
        let as_they_are = if self.uses_bisac() { PUBLISHED_TOPICS } else { headings as u32 };
        ExpandOptions {
            target_topics: self.target.unwrap_or(as_they_are),
            max_headings: self.max_headings,
            category_weights: self.category_weights.clone(),
            max_retries: self.max_retries,
            near_duplicate_similarity: self.near_duplicate_similarity,
            same_meaning_cosine: self.same_meaning_cosine,
            redistributions: self.redistributions,
            max_in_flight: self.llm.max_in_flight,
            max_subtopics_per_request: self.max_subtopics_per_request,
            model: self.llm.name(),
            seed: self.seed,
            ..ExpandOptions::default()
        }
    }
}

#[async_trait]
impl Stage for TopicsConfig {
    fn config(&self) -> Json {
        let mut config = super::config_json(self);
        config["llm"] = self.llm.identity();
        // Where tables are is not what they hold: the fingerprint has their digests.
        if let Some(map) = config.as_object_mut() {
            map.remove("tables");
        }
        config
    }

    fn prices(&self) -> BTreeMap<String, Json> {
        self.llm.prices()
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, _inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let cosine = self.same_meaning_cosine.unwrap_or(1.0);
        let parts =
            [("near_duplicate_similarity", self.near_duplicate_similarity), ("same_meaning_cosine", cosine)];
        let wrong = parts.into_iter().filter(|(_, part)| !(*part > 0.0 && *part <= 1.0));
        wrong
            .map(|(field, part)| ConfigMistake {
                field,
                message: format!("{field} {part} is not between 0 and 1"),
                help: "give a number above 0, at most 1".to_owned(),
            })
            .collect()
    }

    fn needs(&self) -> Needs {
        let embedder = if self.same_meaning_cosine.is_some() { BACKBONE_MEMORY_BYTES } else { 0 };
        let llm = if self.may_ask() { self.llm.memory_bytes() } else { 0 };
        Needs::Bytes(llm + embedder + (64 << 20))
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        if !self.may_ask() {
            return Expectation::default();
        }
        let target = f64::from(self.target.unwrap_or(PUBLISHED_TOPICS));
        let headings = f64::from(self.max_headings.unwrap_or(BISAC_HEADINGS)).min(target);
        let subtopics = target - headings;
        let per_request = f64::from(self.max_subtopics_per_request.max(1));
        let asks = ExpectedAsks {
            // A heading is asked at least once where it is to have subtopics.
            requests: Some((subtopics / per_request).max(headings.min(subtopics))),
            prompt_chars: Spread::of_one(PROMPT_CHARS),
            max_new_tokens: self.max_new_tokens,
            max_tries: 1 + self.max_retries,
        };
        Expectation { rows: Some(target), ..self.llm.expect(&asks, before) }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let mut externals = Vec::new();
        if self.uses_bisac() {
            externals.push(asset_external(ctx, Asset::Bisac)?);
        }
        for path in &self.tables {
            externals.push(file_external(ctx, path)?);
        }
        if self.may_ask() {
            externals.extend(self.llm.externals(ctx)?);
        }
        if self.same_meaning_cosine.is_some() {
            externals.push(asset_external(ctx, Asset::MinilmInt8)?);
            externals.push(asset_external(ctx, Asset::MinilmTokenizer)?);
        }
        Ok(externals)
    }

    async fn plan(
        &self,
        ctx: &StageContext,
        _task: &Task,
        _inputs: &Inputs,
    ) -> Result<DataFrame, StageError> {
        let headings = self.headings(ctx).await?;
        let options = self.options(headings.len());
        let nothing_to_ask =
            expansion_plan(&options, &headings).map_err(|error| ctx.input(error.to_string()))?.is_empty();
        let (mut asker, mut embedder) = (None, None);
        if !nothing_to_ask {
            let sampling = Sampling {
                max_new_tokens: self.max_new_tokens,
                temperature: self.temperature,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            };
            asker = Some(Arc::new(Asker::connect(ctx, &self.llm, sampling).await?));
            if self.same_meaning_cosine.is_some() {
                embedder = Some(NameEmbedder::load(ctx).await?);
            }
        }
        let embedder = embedder.as_ref().map(|embedder| embedder as &dyn Embedder);
        let expansion = expand_topics(&options, &headings, embedder, |request, attempt| {
            let asker = asker.clone();
            async move {
                match asker {
                    Some(asker) => asker.ask(&request.bisac_code, &request.prompt, attempt).await,
                    None => Err(AskFailure::Everything { source: "no model was loaded".into() }),
                }
            }
        });
        let expansion = expansion.await.map_err(|error| ctx.failed(&error))?;
        tracing::info!(report = ?expansion.report, "topics expanded");
        let sink = ctx.ledger.drop_sink();
        expansion.rejects.into_iter().for_each(|reject| sink(reject.id, reject.reason, reject.detail));
        ctx.session().read_batches(expansion.batches).map_err(|error| ctx.plan_error(&error))
    }
}

/// The headings of a user's file; Parquet is read by the engine.
async fn read_table(ctx: &StageContext, path: &Path) -> Result<Vec<Heading>, StageError> {
    let wrong = |error: synth::topics::TableError| ctx.input(error.to_string());
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return load_table(path).map_err(wrong);
    }
    let schema = inputs::schema_of(path).map_err(|message| ctx.input(message))?;
    let place = |error| StageError::plan(&ctx.stage, &path.display().to_string(), &error);
    let rows = scan::parquet(ctx.session(), schema, &[FileSlice::of(path)]).map_err(place)?;
    table_headings(path, &collect(rows).await.map_err(place)?).map_err(wrong)
}

/// MiniLM for names.
struct NameEmbedder(Arc<Backbone>);

impl NameEmbedder {
    async fn load(ctx: &StageContext) -> Result<Self, StageError> {
        Ok(Self(EncoderConfig::default().load(ctx, NAME_TOKENS, Pooling::default()).await?))
    }
}

#[async_trait]
impl Embedder for NameEmbedder {
    async fn embed(
        &self,
        names: &[String],
    ) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error + Send + Sync>> {
        let (backbone, names) = (self.0.clone(), names.to_vec());
        let embed = move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            backbone.embed(&names).map(|all| all.chunks(backbone.hidden()).map(<[f32]>::to_vec).collect())
        };
        Ok(tokio::task::spawn_blocking(embed).await??)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    async fn topics(config: &TopicsConfig) -> Result<(Vec<String>, Vec<String>), StageError> {
        let ctx = testing::context();
        let task = Task { name: "all".into(), slice: None };
        let inputs = Inputs::new(Default::default(), Default::default());
        let rows = config.plan(&ctx, &task, &inputs).await?;
        let rows = collect(rows).await.map_err(|error| ctx.plan_error(&error))?;
        Ok((testing::strings(&rows, "topic_id"), testing::strings(&rows, "subtopic")))
    }

    #[tokio::test]
    async fn a_users_tables_are_topics_without_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let csv = folder.path().join("a.csv");
        std::fs::write(&csv, "topic_id,top_category,subtopic\nb,Baking,Rye\n").unwrap();
        let parquet = folder.path().join("b.parquet");
        let batch = testing::batch(serde_json::json!([{"topic_id": "s", "top_category": "Soups"}]));
        crate::runner::shards::write_table(&parquet, &batch).unwrap();
        let config = TopicsConfig { tables: vec![csv.clone(), parquet], ..Default::default() };
        let (ids, subtopics) = topics(&config).await.unwrap();
        assert_eq!(ids, ["b", "s"]);
        assert_eq!(subtopics, ["Rye", "Soups"]);

        let twice = TopicsConfig { tables: vec![csv.clone(), csv.clone()], ..Default::default() };
        assert!(topics(&twice).await.unwrap_err().to_string().contains("`b` stands in two"));
        std::fs::write(&csv, "topic_id,top_category,subtopic\nb,,Rye\n").unwrap();
        let error = topics(&config).await.unwrap_err();
        assert!(error.to_string().contains("a.csv: line 2: column `top_category`"), "{error}");
        assert_eq!(error.fault, crate::runner::error::Fault::Input);
    }

    #[tokio::test]
    async fn the_fingerprint_follows_the_content_of_tables() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let config = TopicsConfig { tables: vec![path.clone()], ..Default::default() };
        let mut digests = Vec::new();
        for text in ["top_category\nA\n", "top_category\nB\n"] {
            std::fs::write(&path, text).unwrap();
            digests.push(config.externals(&testing::context()).await.unwrap()[0].digest.clone());
        }
        assert_ne!(digests[0], digests[1]);
        assert!(config.config().get("tables").is_none());
    }
}
