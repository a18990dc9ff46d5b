//! What scoring and embedding read and add: options, schemas, errors.

use crate::BackboneError;
use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// How to score pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreOptions {
    /// The column with the page's text.
    pub text_column: String,
    /// The column with the page's id, by which rejected pages are named.
    pub id_column: String,
    /// The column that gets the score, f32, not clipped. `score` as in
    /// HuggingFaceTB/smollm-corpus.
    pub score_column: String,
    /// The column that gets `round(clip(score, 0, 5))`, i64. `int_score` as in
    /// HuggingFaceTB/smollm-corpus.
    pub int_score_column: String,
    /// Pages in work or waiting at once, over batch borders; 8 a session when
    /// not given. More evens out long and short pages and holds more text.
    pub in_flight_pages: Option<usize>,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            text_column: "text".into(),
            id_column: "id".into(),
            score_column: "score".into(),
            int_score_column: "int_score".into(),
            in_flight_pages: None,
        }
    }
}

/// How to embed pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbedOptions {
    /// The column with the page's text.
    pub text_column: String,
    /// The column with the page's id, by which rejected pages are named.
    pub id_column: String,
    /// The column that gets the vector, a list of `hidden` f32.
    pub embedding_column: String,
    /// Pages in work or waiting at once, over batch borders; 8 a session when
    /// not given.
    pub in_flight_pages: Option<usize>,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            text_column: "text".into(),
            id_column: "id".into(),
            embedding_column: "embedding".into(),
            in_flight_pages: None,
        }
    }
}

/// Why a stream of pages could not be scored or embedded.
#[derive(Debug, Error)]
pub enum ScoreError {
    /// A column is missing.
    #[error("score: no column `{column}` among {found}; set the option to the column's name")]
    NoColumn {
        /// The column wanted.
        column: String,
        /// The columns there are.
        found: String,
    },
    /// A column holds no text.
    #[error("score: column `{column}` is {found}, expected text (Utf8, LargeUtf8 or Utf8View)")]
    NotText {
        /// The column.
        column: String,
        /// Its type.
        found: DataType,
    },
    /// An output column is there already.
    #[error(
        "score: the pages already have a column `{column}`; drop or rename it, or set another name for the output"
    )]
    ColumnExists {
        /// The column.
        column: String,
    },
    /// A page could not be run.
    #[error("score: page {id}: {source}")]
    Page {
        /// The page.
        id: String,
        /// What went wrong.
        source: BackboneError,
    },
}

impl From<ScoreError> for ArrowError {
    fn from(error: ScoreError) -> Self {
        Self::ExternalError(Box::new(error))
    }
}

/// The schema that [`score_stream`](crate::score_stream) gives for pages of `input`.
///
/// # Errors
/// When a column is missing, is no text, or an output column exists.
pub fn scored_schema(input: &Schema, options: &ScoreOptions) -> Result<SchemaRef, ScoreError> {
    let added = [
        Field::new(&options.score_column, DataType::Float32, false),
        Field::new(&options.int_score_column, DataType::Int64, false),
    ];
    extended_schema(input, [&options.text_column, &options.id_column], added)
}

/// The schema that [`embed_stream`](crate::embed_stream) gives for pages of `input` and vectors of
/// `hidden` values.
///
/// # Errors
/// When a column is missing, is no text, or the output column exists.
pub fn embedded_schema(
    input: &Schema,
    hidden: usize,
    options: &EmbedOptions,
) -> Result<SchemaRef, ScoreError> {
    let list = DataType::FixedSizeList(item_field(), i32::try_from(hidden).unwrap_or(i32::MAX));
    let added = [Field::new(&options.embedding_column, list, false)];
    extended_schema(input, [&options.text_column, &options.id_column], added)
}

/// The field of a vector's values.
pub(super) fn item_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

fn extended_schema<const N: usize>(
    input: &Schema,
    text_columns: [&String; 2],
    added: [Field; N],
) -> Result<SchemaRef, ScoreError> {
    for column in text_columns {
        let Ok(field) = input.field_with_name(column) else {
            let names: Vec<&str> = input.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(ScoreError::NoColumn { column: column.clone(), found: names.join(", ") });
        };
        let is_text = |kind: &DataType| {
            matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
        };
        if !is_text(field.data_type()) {
            let found = field.data_type().clone();
            return Err(ScoreError::NotText { column: column.clone(), found });
        }
    }
    let mut fields: Vec<Arc<Field>> = input.fields().iter().cloned().collect();
    for field in added {
        if fields.iter().any(|known| known.name() == field.name()) {
            return Err(ScoreError::ColumnExists { column: field.name().clone() });
        }
        fields.push(Arc::new(field));
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())))
}
