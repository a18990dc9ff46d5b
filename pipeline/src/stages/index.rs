//! `index`: a sharded full-text index of pages.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use search::{IndexOptions, build_index};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::columns::require;
use super::{InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::engine::streams::to_domain;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "index",
    summary: "Builds a sharded Tantivy full-text index of pages.",
    version: 1,
    inputs: &[InputRole {
        role: "pages",
        about: "pages with `id` and `text`; `url`, `language_score` and `token_count` for filters",
        count: InputCount::One,
    }],
    output: OutputKind::Folder,
    schema: super::schema_of::<IndexConfig>,
    build: super::build_from::<IndexConfig>,
};

/// Builds the index that `retrieve` and `pipeline search` read. English stemming and stop words;
/// the text itself is not stored in it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IndexConfig {
    /// Shards; a page goes to the one that its id hashes to. 64 in the published tool for 520
    /// million pages [huggingface/cosmopedia `fulltext_search/`]. Answers do not depend on it.
    pub shards: u32,
    /// Memory of all shard writers together, in bytes.
    pub memory_bytes: u64,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self { shards: 4, memory_bytes: 256 << 20 }
    }
}

#[async_trait]
impl Stage for IndexConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs { memory_bytes: self.memory_bytes }
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let pages = inputs.table(ctx, "pages")?;
        require(ctx, &pages, "pages", &["id", "text"])?;
        let wanted = ["id", "text", "url", "language_score", "token_count"];
        let have: Vec<&str> = wanted
            .into_iter()
            .filter(|name| pages.schema().fields().iter().any(|field| field.name() == name))
            .collect();
        let pages = pages.select_columns(&have).map_err(|error| ctx.plan_error(&error))?;
        let stream = pages.execute_stream().await.map_err(|error| ctx.plan_error(&error))?;
        let options =
            IndexOptions { shards: self.shards, memory_bytes: self.memory_bytes, ..IndexOptions::default() };
        let (sink, progress) = (ctx.ledger.drop_sink(), ctx.progress.clone());
        let counted = futures::StreamExt::inspect(to_domain(stream), move |batch| {
            progress.add_rows(batch.as_ref().map_or(0, |batch| batch.num_rows() as u64));
        });
        let on_reject = Arc::new(move |reject: search::Reject| sink(reject.id, reject.reason, reject.detail));
        let summary = build_index(&out.join("index"), &options, Box::pin(counted), on_reject).await;
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
}
