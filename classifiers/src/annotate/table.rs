//! Tables of annotations: Arrow batches to checked rows.

use super::{
    AnnotateError, Labelled,
    record::{Row, check},
};
use crate::OnReject;
use arrow::{
    array::{Array, AsArray, StringArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Schema},
    record_batch::RecordBatch,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The columns of a table of annotations. Only the score's must be there, and the id's or the text's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnnotationColumns {
    /// The column with the page's id. Where the table has none, the text gives it: its blake3, in hex.
    pub id: String,
    /// The column with the score: whole numbers from 0 to 5, of any numeric type.
    pub score: String,
    /// The column with the page's text.
    pub text: String,
    /// The column with the judge's reasons.
    pub why: String,
    /// The column with the judge's name.
    pub model: String,
}

impl Default for AnnotationColumns {
    fn default() -> Self {
        Self {
            id: "id".into(),
            score: "score".into(),
            text: "text".into(),
            why: "why".into(),
            model: "model".into(),
        }
    }
}

/// Where the columns of a table stand. HuggingFaceFW/fineweb-edu-llama3-annotations, which has `text` and
/// `score` and no id, is read as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnotationTable {
    id: Option<usize>,
    score: usize,
    text: Option<usize>,
    why: Option<usize>,
    model: Option<usize>,
}

impl AnnotationTable {
    /// Finds the columns.
    ///
    /// # Errors
    /// The score is missing or not numeric, id and text are both missing, or a text column is none.
    pub fn new(schema: &Schema, columns: &AnnotationColumns) -> Result<Self, AnnotateError> {
        let text_like = |column: &str| match schema.column_with_name(column) {
            None => Ok(None),
            Some((at, field)) if is_text(field.data_type()) => Ok(Some(at)),
            Some((_, field)) => Err(AnnotateError::ColumnType {
                column: column.into(),
                found: field.data_type().clone(),
                expected: "text (Utf8, LargeUtf8 or Utf8View)",
            }),
        };
        let missing = |column: &str, mend| {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            AnnotateError::NoColumn { column: column.into(), found: names.join(", "), mend }
        };
        let (score, field) = schema
            .column_with_name(&columns.score)
            .ok_or_else(|| missing(&columns.score, "set `score` to the column with the scores"))?;
        if !field.data_type().is_numeric() && field.data_type() != &DataType::Null {
            return Err(AnnotateError::ColumnType {
                column: columns.score.clone(),
                found: field.data_type().clone(),
                expected: "whole numbers, of an integer or a float type",
            });
        }
        // Ids may be numbers: rows of a data base have such.
        let id = schema.column_with_name(&columns.id);
        let id = id.filter(|(_, field)| field.data_type().is_integer() || is_text(field.data_type()));
        let id = match id {
            Some((at, _)) => Some(at),
            None => text_like(&columns.id)?,
        };
        let text = text_like(&columns.text)?;
        if id.is_none() && text.is_none() {
            return Err(missing(&columns.id, "name the column with the ids, or one with the texts"));
        }
        Ok(Self { id, score, text, why: text_like(&columns.why)?, model: text_like(&columns.model)? })
    }

    /// The rows of one batch, in order. Scores that are null, not whole or out of range, and rows without
    /// an id (or a text to make one of), are told to `on_reject`.
    ///
    /// # Errors
    /// The batch does not fit the schema.
    pub fn rows(&self, batch: &RecordBatch, on_reject: &OnReject) -> Result<Vec<Labelled>, AnnotateError> {
        let strings = |at: Option<usize>| at.map(|at| string_column(batch, at)).transpose();
        let (ids, texts) = (strings(self.id)?, strings(self.text)?);
        let (whys, models) = (strings(self.why)?, strings(self.model)?);
        let scores = cast(batch.column(self.score), &DataType::Float64)?;
        let scores = scores.as_primitive::<Float64Type>();
        let value = |column: &Option<StringArray>, row: usize| {
            let column = column.as_ref().filter(|column| column.is_valid(row));
            column.map(|column| column.value(row).to_owned())
        };
        let checked = (0..batch.num_rows()).filter_map(|row| {
            let unchecked = Row {
                id: value(&ids, row),
                score: scores.is_valid(row).then(|| scores.value(row)),
                text: value(&texts, row),
                why: value(&whys, row),
                model: value(&models, row),
            };
            check(unchecked, ids.is_some()).map_err(|reject| on_reject(reject)).ok()
        });
        Ok(checked.collect())
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

fn string_column(batch: &RecordBatch, at: usize) -> Result<StringArray, AnnotateError> {
    Ok(cast(batch.column(at), &DataType::Utf8)?.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float32Array, Int32Array, Int64Array, LargeStringArray, StringViewArray};
    use std::sync::{Arc, Mutex};

    fn read(batch: &RecordBatch) -> (Vec<Labelled>, Vec<(String, String)>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let on_reject: OnReject = Arc::new({
            let told = Arc::clone(&told);
            move |reject| told.lock().unwrap().push((reject.id, reject.reason))
        });
        let table = AnnotationTable::new(batch.schema_ref(), &AnnotationColumns::default()).unwrap();
        let rows = table.rows(batch, &on_reject).unwrap();
        drop(on_reject);
        (rows, Arc::into_inner(told).unwrap().into_inner().unwrap())
    }

    #[test]
    fn our_table_is_read_and_unfit_rows_have_reasons() {
        let ids = [Some("a"), Some("b"), Some("c"), Some("d"), Some("e"), None];
        let scores = [Some(3.0), Some(2.5), Some(6.0), None, Some(f32::NAN), Some(1.0)];
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(StringViewArray::from(ids.to_vec())) as ArrayRef),
            ("why", Arc::new(LargeStringArray::from(vec![Some("good"); 6])) as ArrayRef),
            ("score", Arc::new(Float32Array::from(scores.to_vec())) as ArrayRef),
        ]);
        let (rows, told) = read(&batch.unwrap());
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].annotation.id.as_str(), rows[0].annotation.score), ("a", 3));
        assert_eq!((rows[0].annotation.why.as_deref(), &rows[0].text), (Some("good"), &None));
        let told: Vec<(&str, &str)> = told.iter().map(|(id, why)| (id.as_str(), why.as_str())).collect();
        assert_eq!(
            told,
            [
                ("b", "score_not_whole"),
                ("c", "score_out_of_range"),
                ("d", "null_score"),
                ("e", "score_not_whole"),
                ("", "null_id")
            ]
        );
    }

    #[test]
    fn fineweb_edus_annotations_are_read_as_they_are() {
        let texts = [Some("Cells divide."), None, Some("Sale!")];
        let batch = RecordBatch::try_from_iter([
            ("text", Arc::new(LargeStringArray::from(texts.to_vec())) as ArrayRef),
            ("metadata", Arc::new(LargeStringArray::from(vec!["{}"; 3])) as ArrayRef),
            ("score", Arc::new(Int64Array::from(vec![4, 2, 0])) as ArrayRef),
        ]);
        let (rows, told) = read(&batch.unwrap());
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].annotation.id, blake3::hash(b"Cells divide.").to_hex().to_string());
        assert_eq!((rows[1].text.as_deref(), rows[1].annotation.score), (Some("Sale!"), 0));
        assert_eq!(told, [(String::new(), "null_text".to_owned())]);
    }

    #[test]
    fn wrong_tables_are_named() {
        let error = |columns: Vec<(&str, ArrayRef)>| {
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let table = AnnotationTable::new(batch.schema_ref(), &AnnotationColumns::default());
            table.unwrap_err().to_string()
        };
        let numbers = || Arc::new(Int32Array::from(vec![1])) as ArrayRef;
        let words = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
        let text = error(vec![("id", words()), ("label", numbers())]);
        assert!(text.contains("no column `score` among id, label; set `score`"), "{text}");
        let text = error(vec![("id", words()), ("score", words())]);
        assert!(text.contains("column `score` is Utf8, expected whole numbers"), "{text}");
        let text = error(vec![("score", numbers())]);
        assert!(text.contains("no column `id` among score"), "{text}");
        let text = error(vec![("id", words()), ("score", numbers()), ("why", numbers())]);
        assert!(text.contains("column `why` is Int32, expected text"), "{text}");
    }

    #[test]
    fn ids_may_be_numbers() {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![17])) as ArrayRef),
            ("score", Arc::new(Int32Array::from(vec![5])) as ArrayRef),
        ]);
        assert_eq!(read(&batch.unwrap()).0[0].annotation.id, "17");
    }
}
