//! `index`: a sharded full-text index of pages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use search::{IndexOptions, OnReject, OpenSearch, OpenSearchOptions, build_index, write_server_file};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::columns::require;
use super::{InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::engine::streams::{execute, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "index",
    summary: "Builds a full-text index of pages: a sharded Tantivy index, or one on a search server.",
    version: 4,
    inputs: &[InputRole {
        role: "pages",
        about: "pages with `id` and `text`; `url`, `language`, `language_score`, `token_count` and `int_score` for filters",
        count: InputCount::One,
    }],
    output: OutputKind::Folder,
    schema: super::schema_of::<IndexConfig>,
    build: super::build_from::<IndexConfig>,
};

/// Builds the index that `retrieve` and `pipeline search` read. English stemming and stop words;
/// the text itself is not stored in it. A new dump gets an `index` stage of its own beside the old
/// ones, none of which is built again: `retrieve` searches several as one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IndexConfig {
    /// Shards; a page goes to the one that its id hashes to. 64 in the published tool for 520
    /// million pages [huggingface/cosmopedia `fulltext_search/`]. Answers do not depend on it.
    pub shards: u32,
    /// Memory of all shard writers together, in bytes.
    pub memory_bytes: u64,
    /// Runs (what fits into a shard's share of the memory) that a shard keeps side by side; of more, one is
    /// made, which costs a pass over all that was indexed. Answers do not depend on it.
    pub max_runs: u32,
    /// Where the index lies: `"local"`, or `{ opensearch = { url = "http://…", index = "pages" } }`
    /// for a server with the API of OpenSearch or Elasticsearch; `shards` above, `memory_bytes`
    /// and `max_runs` do not count there. Several dumps may be loaded into one index of a server.
    pub backend: IndexBackend,
}

/// Where an index lies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IndexBackend {
    /// In the stage's folder.
    #[default]
    Local,
    /// On a search server.
    Opensearch(OpenSearchOptions),
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self { shards: 4, memory_bytes: 256 << 20, max_runs: 4, backend: IndexBackend::Local }
    }
}

#[async_trait]
impl Stage for IndexConfig {
    fn config(&self) -> Json {
        // Where a server is and how it is asked does not change what it holds.
        let mut config = super::config_json(self);
        if let Some(server) = config.pointer_mut("/backend/opensearch").and_then(Json::as_object_mut) {
            server.retain(|field, _| ["index", "fill", "shards"].contains(&field.as_str()));
        }
        config
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(self.memory_bytes)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let pages = inputs.table(ctx, "pages")?;
        require(ctx, &pages, "pages", &["id", "text"])?;
        let wanted = ["id", "text", "url", "language", "language_score", "token_count", "int_score"];
        let have: Vec<&str> = wanted
            .into_iter()
            .filter(|name| pages.schema().fields().iter().any(|field| field.name() == name))
            .collect();
        let pages = pages.frame().select_columns(&have).map_err(|error| ctx.plan_error(&error))?;
        let stream = execute(pages).await.map_err(|error| ctx.plan_error(&error))?;
        let (sink, progress) = (ctx.ledger.drop_sink(), ctx.progress.clone());
        let counted = futures::StreamExt::inspect(to_domain(stream), move |batch| {
            progress.add_rows(batch.as_ref().map_or(0, |batch| batch.num_rows() as u64));
        });
        let on_reject: OnReject =
            Arc::new(move |reject: search::Reject| sink(reject.id, reject.reason, reject.detail));
        let folder = out.join("index");
        let pages = Box::pin(counted);
        match &self.backend {
            IndexBackend::Local => {
                let options = IndexOptions {
                    shards: self.shards,
                    memory_bytes: self.memory_bytes,
                    max_runs: self.max_runs,
                    ..IndexOptions::default()
                };
                let summary = build_index(&folder, &options, pages, on_reject).await;
                let summary = summary.map_err(|error| ctx.failed(&error))?;
                let ratio = summary.index_bytes as f64 / summary.text_bytes.max(1) as f64;
                Ok(Outcome {
                    rows_in: None,
                    rows_out: summary.pages,
                    metrics: [
                        ("index_bytes".to_owned(), json!(summary.index_bytes)),
                        ("text_bytes".to_owned(), json!(summary.text_bytes)),
                        ("index_bytes_per_text_byte".to_owned(), json!(ratio)),
                    ]
                    .into(),
                })
            }
            IndexBackend::Opensearch(options) => {
                let server = OpenSearch::new(options).map_err(|error| ctx.input(error.to_string()))?;
                let mut metrics = BTreeMap::new();
                if options.fill {
                    let loaded = server.load(pages, on_reject).await.map_err(|error| ctx.failed(&error))?;
                    metrics.insert("text_bytes".to_owned(), json!(loaded.text_bytes));
                    metrics.insert("already_there".to_owned(), json!(loaded.already_there));
                }
                let count = server.count().await.map_err(|error| ctx.failed(&error))?;
                write_server_file(&folder, options).map_err(|error| ctx.failed(&error))?;
                Ok(Outcome { rows_in: None, rows_out: count, metrics })
            }
        }
    }
}
