//! `extract`: takes the main text out of HTML pages.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::rules::{ExtractText, Rejected, TextRule};
use classifiers::text::Words;
use datafusion::prelude::DataFrame;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, schema_of, text_column};
use super::rules::{self, Judged, judged_rows, with_column};
use super::{Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "extract",
    summary: "Takes the main text out of HTML pages.",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<ExtractConfig>,
    build: super::build_from::<ExtractConfig>,
};

/// Puts the main text of a page in place of its HTML, with the `trafilatura` crate, whose texts are
/// nearest to those of the Python library that FineWeb was made with (docs/PERFORMANCE.md). Where a column
/// `mime_type` says that a row is plain text (WET files), it passes as it is; other types than HTML are
/// dropped (reason `not_html`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExtractConfig {
    /// The column with the HTML; the text takes its place.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// The column with a page's media type, where there is one.
    pub mime_type_column: String,
    /// How it is done.
    pub options: ExtractText,
}

impl Default for ExtractConfig {
    fn default() -> Self {
        Self {
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            mime_type_column: "mime_type".to_owned(),
            options: ExtractText::default(),
        }
    }
}

#[async_trait]
impl Stage for ExtractConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.text_column])?;
        let (schema, config) = (schema_of(&rows), self.clone());
        judged_rows(ctx, rows, "extract", &self.id_column, schema, move |batch| config.extract(batch))
    }
}

impl ExtractConfig {
    fn extract(&self, batch: RecordBatch) -> Result<Judged, ArrowError> {
        let pages = text_column(&batch, &self.text_column)?;
        let types = batch.column_by_name(&self.mime_type_column);
        let types = types.map(|_| text_column(&batch, &self.mime_type_column)).transpose()?;
        let of_row = |row: usize| {
            let page = if pages.is_null(row) { "" } else { pages.value(row) };
            let mime_type = types.as_ref().filter(|types| types.is_valid(row)).map(|types| types.value(row));
            match mime_type {
                Some("text/plain") => Ok(Cow::Borrowed(page)),
                None | Some("" | "text/html" | "application/xhtml+xml") => {
                    self.options.apply(page, &mut Words::default())
                }
                Some(other) => Err(Rejected::new("not_html", other)),
            }
        };
        let found: Vec<Result<Cow<'_, str>, Rejected>> =
            (0..batch.num_rows()).into_par_iter().map(of_row).collect();
        let texts: StringArray = found.iter().map(|text| Some(text.as_deref().unwrap_or_default())).collect();
        let rejected = found.into_iter().map(Result::err).collect();
        Ok(Judged { rows: with_column(batch, &self.text_column, Arc::new(texts))?, rejected })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn pages_become_text_and_plain_text_passes() {
        let paragraph =
            "A spring tide comes twice a month, when the sun and the moon pull in one line. ".repeat(4);
        let page = format!(
            "<html><body><nav><a href='/'>Home</a></nav><article><p>{paragraph}</p></article></body></html>"
        );
        let rows = testing::batch(json!([
            {"id": "a", "text": page, "mime_type": "text/html"}, {"id": "b", "text": page, "mime_type": null},
            {"id": "c", "text": "as <b>it</b> is", "mime_type": "text/plain"},
            {"id": "d", "text": "%PDF", "mime_type": "application/pdf"}, {"id": "e", "text": null, "mime_type": "text/html"},
        ]));
        let (rows, ctx) = testing::plan(&ExtractConfig::default(), "rows", rows).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["a", "b", "c"]);
        assert_eq!(testing::strings(&rows, "text"), [paragraph.trim(), paragraph.trim(), "as <b>it</b> is"]);
        let dropped = ctx.ledger.dropped();
        let reasons: Vec<(&str, &str)> =
            dropped.iter().map(|row| (row.id.as_str(), row.reason.as_str())).collect();
        assert_eq!(reasons, [("d", "not_html"), ("e", "no_main_text")]);
    }
}
