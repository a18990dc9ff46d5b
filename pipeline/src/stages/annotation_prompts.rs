//! `annotation_prompts`: asks for the educational value of pages, for a `generate` stage to answer.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::annotate::{AnnotationPrompt, AnnotationPromptOptions};
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{id_of, require, text_column};
use super::{External, InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};
use crate::runner::ledger::RowSink;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "annotation_prompts",
    summary: "Writes the prompts that ask a language model for the educational value of texts.",
    version: 1,
    inputs: &[InputRole { role: "rows", about: "a table with a text and an id", count: InputCount::One }],
    output: OutputKind::Table,
    schema: super::schema_of::<AnnotationPromptsConfig>,
    build: super::build_from::<AnnotationPromptsConfig>,
};

/// A prompt for each of a share of the rows, with the rubric of FineWeb-Edu or of Python-Edu. A row:
/// `prompt_id` (the text's id), `prompt`. Rows that are not drawn, or have no text, are dropped (reasons
/// `not_drawn`, `empty_text`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnnotationPromptsConfig {
    /// The column with the text.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// Share of the rows that are asked about, 0–1, drawn by a hash of their ids.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// Seed of that hash.
    pub seed: u64,
    /// What is asked, and how much of a text is shown.
    pub options: AnnotationPromptOptions,
}

impl Default for AnnotationPromptsConfig {
    fn default() -> Self {
        Self {
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            share: 1.0,
            seed: 0,
            options: AnnotationPromptOptions::default(),
        }
    }
}

fn prompts_schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![column("prompt_id"), column("prompt")]))
}

#[async_trait]
impl Stage for AnnotationPromptsConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    /// The rubrics' wording is a part of the program.
    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        Ok(vec![External { name: "template".to_owned(), digest: self.prompt(ctx)?.digest() }])
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.text_column])?;
        let (prompt, config, sink) = (Arc::new(self.prompt(ctx)?), self.clone(), ctx.ledger.drop_sink());
        let function = move |stream| {
            let (prompt, config, sink) = (prompt.clone(), config.clone(), sink.clone());
            let rows = to_domain(stream).map(move |batch| config.ask(&prompt, &batch?, &sink));
            Ok(from_domain(prompts_schema(), rows))
        };
        operator::apply(ctx.session(), rows, "annotation_prompts", prompts_schema(), Arc::new(function))
            .map_err(|error| ctx.plan_error(&error))
    }
}

impl AnnotationPromptsConfig {
    fn prompt(&self, ctx: &StageContext) -> Result<AnnotationPrompt, StageError> {
        AnnotationPrompt::new(&self.options).map_err(|error| ctx.input(chain(&error)))
    }

    fn is_drawn(&self, id: &str) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(id.as_bytes());
        let first = hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        (first as f64) < self.share * u64::MAX as f64
    }

    fn ask(
        &self,
        prompt: &AnnotationPrompt,
        batch: &RecordBatch,
        sink: &RowSink,
    ) -> Result<RecordBatch, ArrowError> {
        let ids = text_column(batch, &self.id_column)?;
        let texts = text_column(batch, &self.text_column)?;
        let (mut asked, mut prompts) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let id = id_of(&ids, row);
            if texts.is_null(row) || texts.value(row).trim().is_empty() {
                sink(id, "empty_text".to_owned(), "there is no text to judge".to_owned());
            } else if !self.is_drawn(&id) {
                sink(id, "not_drawn".to_owned(), format!("a share of {} is drawn", self.share));
            } else {
                let text = prompt.render(texts.value(row));
                prompts.push(text.map_err(|error| ArrowError::ExternalError(Box::new(error)))?);
                asked.push(id);
            }
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(asked)), Arc::new(StringArray::from(prompts))];
        RecordBatch::try_new(prompts_schema(), columns)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn a_share_of_the_texts_is_asked_about() {
        let rows: Vec<Json> =
            (0..400).map(|i| json!({"id": format!("d{i}"), "text": format!("Text {i}.")})).collect();
        let mut rows = rows;
        rows.push(json!({"id": "e", "text": " "}));
        let config = AnnotationPromptsConfig { share: 0.25, ..Default::default() };
        let (asked, ctx) = testing::plan(&config, "rows", testing::batch(rows.into())).await.unwrap();
        let (ids, prompts) = (testing::strings(&asked, "prompt_id"), testing::strings(&asked, "prompt"));
        assert!((60..140).contains(&ids.len()), "{}", ids.len());
        let number = ids[0].trim_start_matches('d');
        assert!(prompts[0].contains(&format!("Text {number}.")), "{}", prompts[0]);
        let dropped = ctx.ledger.dropped();
        assert_eq!(dropped.len() + ids.len(), 401);
        assert!(dropped.iter().any(|row| row.id == "e" && row.reason == "empty_text"));
    }
}
