//! Rows between batches: taken apart on the way in, put together on the way out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, UInt32Array};
use arrow::compute::{cast, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::error::GenerateError;
use super::options::GenerateOptions;
use crate::chat::ChatAnswer;

const ADDED: [(&str, DataType); 8] = [
    ("completion", DataType::Utf8),
    ("finish_reason", DataType::Utf8),
    ("prompt_tokens", DataType::UInt32),
    ("completion_tokens", DataType::UInt32),
    ("model", DataType::Utf8),
    ("endpoint", DataType::Utf8),
    ("attempts", DataType::UInt32),
    ("latency_ms", DataType::UInt32),
];

/// The schema of generated rows for prompts of this schema: all its columns, then `completion,
/// finish_reason: Utf8, prompt_tokens, completion_tokens: UInt32, model, endpoint: Utf8, attempts,
/// latency_ms: UInt32`, none of them null.
pub fn generated_schema(prompts: &Schema) -> Result<SchemaRef, GenerateError> {
    let mut fields: Vec<_> = prompts.fields().iter().cloned().collect();
    for (name, data_type) in ADDED {
        if prompts.field_with_name(name).is_ok() {
            return Err(GenerateError::ColumnExists { column: name.into() });
        }
        fields.push(Arc::new(Field::new(name, data_type, false)));
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, prompts.metadata().clone())))
}

/// A batch of prompts, ready to be asked row by row.
pub(super) struct PromptBatch {
    pub(super) batch: RecordBatch,
    ids: StringArray,
    prompts: StringArray,
}

/// A row's texts, or which of them it lacks.
pub(super) enum RowTexts<'a> {
    Whole { id: &'a str, prompt: &'a str },
    NullId,
    NullPrompt { id: &'a str },
}

impl PromptBatch {
    pub(super) fn new(batch: RecordBatch, options: &GenerateOptions) -> Result<Self, GenerateError> {
        let ids = strings(&batch, &options.id_column, "id_column")?;
        let prompts = strings(&batch, &options.prompt_column, "prompt_column")?;
        Ok(Self { batch, ids, prompts })
    }

    pub(super) fn row(&self, row: usize) -> RowTexts<'_> {
        if self.ids.is_null(row) {
            return RowTexts::NullId;
        }
        let id = self.ids.value(row);
        if self.prompts.is_null(row) {
            RowTexts::NullPrompt { id }
        } else {
            RowTexts::Whole { id, prompt: self.prompts.value(row) }
        }
    }
}

/// A column of any string type, as Utf8.
fn strings(batch: &RecordBatch, column: &str, option: &'static str) -> Result<StringArray, GenerateError> {
    let Some(array) = batch.column_by_name(column) else {
        let present =
            batch.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        return Err(GenerateError::MissingColumn { column: column.into(), present, option });
    };
    let wrong = || GenerateError::WrongType { column: column.into(), found: array.data_type().to_string() };
    if !matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Err(wrong());
    }
    // Utf8 holds 2 GiB: a larger column does not cast, and no batch of prompts is that large.
    let utf8 = cast(array, &DataType::Utf8).map_err(|_| wrong())?;
    utf8.as_any().downcast_ref::<StringArray>().cloned().ok_or_else(wrong)
}

/// A row that was answered.
pub(super) struct AnsweredRow {
    pub(super) source: Arc<PromptBatch>,
    pub(super) row: usize,
    pub(super) answer: ChatAnswer,
    /// Requests sent over all tries.
    pub(super) attempts: u32,
}

/// Puts rows together into one batch.
pub(super) fn assemble(rows: &[AnsweredRow], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut sources: Vec<&RecordBatch> = Vec::new();
    let mut source_index = std::collections::HashMap::new();
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let index = *source_index.entry(Arc::as_ptr(&row.source)).or_insert_with(|| {
            sources.push(&row.source.batch);
            sources.len() - 1
        });
        places.push((index, row.row));
    }
    let mut columns = interleave_record_batch(&sources, &places)?.columns().to_vec();
    let text = |of: fn(&ChatAnswer) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| of(&row.answer))))
    };
    let number = |of: fn(&AnsweredRow) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(of)))
    };
    // In the order of ADDED.
    columns.extend([
        text(|answer| &answer.text),
        text(|answer| answer.finish_reason.as_str()),
        number(|row| row.answer.prompt_tokens),
        number(|row| row.answer.completion_tokens),
        text(|answer| &answer.model),
        text(|answer| &answer.endpoint),
        number(|row| row.attempts),
        number(|row| row.answer.latency_ms),
    ]);
    RecordBatch::try_new(Arc::clone(schema), columns)
}
