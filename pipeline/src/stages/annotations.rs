//! `annotations`: the scores in a judge's answers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::annotate::parse_answer;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{id_of, require, text_column};
use super::{InputCount, InputRole, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::RowSink;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "annotations",
    summary: "Reads the educational scores out of a language model's answers.",
    version: 1,
    inputs: &[InputRole {
        role: "generated",
        about: "answers to the prompts of an `annotation_prompts` stage",
        count: InputCount::One,
    }],
    output: OutputKind::Table,
    schema: super::schema_of::<AnnotationsConfig>,
    build: super::build_from::<AnnotationsConfig>,
};

/// The score of each answer, from its last line that names one. A row: `id, score, why, model`. Answers
/// without a score from 0 to 5 are dropped (reasons `refused`, `no_score`, `malformed_score`,
/// `score_out_of_range`).
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnnotationsConfig {}

fn annotations_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let score = Field::new("score", DataType::UInt8, false);
    Arc::new(Schema::new(vec![text("id"), score, text("why"), text("model")]))
}

#[async_trait]
impl Stage for AnnotationsConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let answers = inputs.table(ctx, "generated")?;
        require(ctx, &answers, "generated", &["prompt_id", "completion", "model"])?;
        let sink = ctx.ledger.drop_sink();
        let function = move |stream| {
            let sink = sink.clone();
            let rows = to_domain(stream).map(move |batch| judge(&batch?, &sink));
            Ok(from_domain(annotations_schema(), rows))
        };
        operator::apply(ctx.session(), answers, "annotations", annotations_schema(), Arc::new(function))
            .map_err(|error| ctx.plan_error(&error))
    }
}

fn judge(batch: &RecordBatch, sink: &RowSink) -> Result<RecordBatch, ArrowError> {
    let column = |name| text_column(batch, name);
    let (ids, answers, models) = (column("prompt_id")?, column("completion")?, column("model")?);
    let (mut rows, mut scores, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..batch.num_rows() {
        let answer = if answers.is_null(row) { "" } else { answers.value(row) };
        match parse_answer(answer) {
            Ok(judgement) => {
                rows.push(row);
                scores.push(judgement.score);
                reasons.push(judgement.why);
            }
            Err(problem) => sink(id_of(&ids, row), problem.reason().to_owned(), problem.to_string()),
        }
    }
    let text = |column: &StringArray| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|&row| id_of(column, row))))
    };
    let columns: Vec<ArrayRef> = vec![
        text(&ids),
        Arc::new(UInt8Array::from(scores)),
        Arc::new(StringArray::from(reasons)),
        text(&models),
    ];
    RecordBatch::try_new(annotations_schema(), columns)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn scores_are_read_and_the_rest_counted_by_reason() {
        let answer = |id: &str, text: &str| json!({"prompt_id": id, "completion": text, "model": "m"});
        let rows = testing::batch(json!([
            answer("a", "It teaches tides well.\nEducational score: 4"),
            answer("b", "I'm sorry, I cannot judge this page."),
            answer("c", "Educational score: 9"),
            answer("d", "The page tells of tides."),
        ]));
        let (rows, ctx) = testing::plan(&AnnotationsConfig::default(), "generated", rows).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["a"]);
        assert_eq!(testing::strings(&rows, "score"), ["4"]);
        assert_eq!(testing::strings(&rows, "why"), ["It teaches tides well."]);
        let dropped = ctx.ledger.dropped();
        let reasons: Vec<&str> = dropped.iter().map(|row| row.reason.as_str()).collect();
        assert_eq!(reasons, ["refused", "score_out_of_range", "no_score"]);
    }
}
