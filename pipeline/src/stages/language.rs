//! `language`: tells the language of pages and keeps those of some languages.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use classifiers::FastText;
use classifiers::rules::{Detected, LanguageDetector, Rejected};
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::columns::{require, schema_of, text_column};
use super::loaded::Loaded;
use super::rules::{self, Judged, judge_each, judged_rows};
use super::{External, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "language",
    summary: "Tells the language of pages and keeps those of some languages.",
    version: 1,
    inputs: rules::INPUTS,
    output: OutputKind::Table,
    schema: super::schema_of::<LanguageConfig>,
    build: super::build_from::<LanguageConfig>,
};

/// Writes the columns `language` (two letters) and `language_score` (0–1), in place of those that are
/// there, and drops the rows of other languages or of a lower score (reason `language`; datatrove's filter
/// gives none). The detector is the `whatlang` crate, or the model that `model` names: FineWeb's is fastText's
/// lid.176 (Creative Commons BY-SA 3.0), whose scores are other numbers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageConfig {
    /// The languages to keep, by their two letters; all of them when empty.
    pub languages: Vec<String>,
    /// Scores up to this one are too low, 0–1 (FineWeb; datatrove `language_filter.py`, release 0.10.1).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub language_threshold: f64,
    /// A supervised fastText model whose labels are languages: a file such as `lid.176.bin` or
    /// `lid.176.ftz`.
    pub model: Option<PathBuf>,
    /// The column with the text.
    pub text_column: String,
    /// The column that names a row.
    pub id_column: String,
    /// Loaded once, by the first task that needs it.
    #[serde(skip)]
    detector: Loaded<LanguageDetector>,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self {
            languages: vec!["en".to_owned()],
            language_threshold: 0.65,
            model: None,
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            detector: Loaded::default(),
        }
    }
}

const LANGUAGE: &str = "language";
const SCORE: &str = "language_score";

#[async_trait]
impl Stage for LanguageConfig {
    fn config(&self) -> Json {
        // Where the model is is not what it holds: the fingerprint has its digest.
        let mut config = super::config_json(self);
        if let Some(fields) = config.as_object_mut() {
            fields.remove("model");
        }
        config
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let model = self.model.iter().map(|path| {
            let External { digest, .. } = super::file_external(ctx, path)?;
            Ok(External { name: "model".to_owned(), digest })
        });
        model.collect()
    }

    fn needs(&self) -> Needs {
        let model = self.model.as_ref().and_then(|path| Some(path.metadata().ok()?.len()));
        Needs::Bytes((64 << 20) + model.unwrap_or(0))
    }

    fn release(&self) {
        self.detector.release();
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.id_column, &self.text_column])?;
        let schema = with_language(&schema_of(&rows));
        let (config, detector, out_schema) = (self.clone(), self.detector(ctx).await?, schema.clone());
        judged_rows(ctx, rows, "language", &self.id_column, schema, move |batch| {
            config.judge(&detector, &batch, &out_schema)
        })
    }
}

impl LanguageConfig {
    async fn detector(&self, ctx: &StageContext) -> Result<Arc<LanguageDetector>, StageError> {
        let load = || async {
            let Some(path) = self.model.clone() else { return Ok(Arc::default()) };
            let wrong = ctx.clone();
            super::blocking(&ctx.stage.clone(), move || {
                let model = FastText::load(&path).map_err(|error| wrong.input(error.to_string()))?;
                Ok(Arc::new(LanguageDetector::FastText(Box::new(model))))
            })
            .await
        };
        self.detector.get_or_load(load).await
    }

    fn judge(
        &self,
        detector: &LanguageDetector,
        batch: &RecordBatch,
        schema: &SchemaRef,
    ) -> Result<Judged, ArrowError> {
        let texts = text_column(batch, &self.text_column)?;
        let found = judge_each(&texts, |text, _words| detector.detect(text));
        let rejected = found.iter().map(|found| self.check(*found).err()).collect();
        let languages = found.iter().map(|found| found.map(|found| found.language));
        let scores = found.iter().map(|found| found.map(|found| found.score));
        let languages: ArrayRef = Arc::new(StringArray::from_iter(languages));
        let scores: ArrayRef = Arc::new(Float64Array::from_iter(scores));
        let column = |field: &Arc<Field>| match field.name().as_str() {
            LANGUAGE => Some(languages.clone()),
            SCORE => Some(scores.clone()),
            name => batch.column_by_name(name).cloned(),
        };
        let columns = schema.fields().iter().filter_map(column).collect();
        Ok(Judged { rows: RecordBatch::try_new(schema.clone(), columns)?, rejected })
    }

    fn check(&self, found: Option<Detected<'_>>) -> Result<(), Rejected> {
        let Some(Detected { language, score }) = found else {
            return Err(Rejected::new("language", "no language is recognised"));
        };
        let wanted = self.languages.is_empty() || self.languages.iter().any(|wanted| wanted == language);
        if wanted && score > self.language_threshold {
            return Ok(());
        }
        Err(Rejected::new("language", format_args!("{language}, {score:.2}")))
    }
}

/// The columns that come out: `language` and `language_score` where they were, or at the end.
fn with_language(schema: &Schema) -> SchemaRef {
    let new = [Field::new(LANGUAGE, DataType::Utf8, true), Field::new(SCORE, DataType::Float64, true)]
        .map(Arc::new);
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    for field in new {
        match fields.iter_mut().find(|old| old.name() == field.name()) {
            Some(old) => *old = field,
            None => fields.push(field),
        }
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;
    use serde_json::json;

    use super::super::testing;
    use super::*;

    #[tokio::test]
    async fn pages_of_other_languages_are_dropped_and_the_columns_written() {
        let batch = testing::batch(json!([
            {"id": "a", "text": "The sea was calm, and the ships lay in the harbour until the morning.", "language": 7, "url": "x"},
            {"id": "b", "text": "Das Meer war ruhig, und die Schiffe lagen bis zum Morgen im Hafen.", "language": 7, "url": "y"},
            {"id": "c", "text": null, "language": 7, "url": "z"},
        ]));
        let (rows, ctx) = testing::plan(&LanguageConfig::default(), "rows", batch.clone()).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["a"]);
        assert_eq!(testing::strings(&rows, LANGUAGE), ["en"]);
        let names: Vec<String> = rows[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names.last().unwrap(), SCORE);
        assert!(rows[0][SCORE].as_primitive::<Float64Type>().value(0) > 0.65);
        let dropped = ctx.ledger.dropped();
        let reasons: Vec<(&str, &str)> =
            dropped.iter().map(|row| (row.id.as_str(), row.reason.as_str())).collect();
        assert_eq!(reasons, [("b", "language"), ("c", "language")]);
        assert!(dropped[0].detail.starts_with("de, "), "{}", dropped[0].detail);
        let all = LanguageConfig { languages: Vec::new(), ..LanguageConfig::default() };
        let (rows, _) = testing::plan(&all, "rows", batch).await.unwrap();
        assert_eq!(testing::strings(&rows, LANGUAGE), ["en", "de"]);
    }

    #[tokio::test]
    async fn a_fasttext_model_tells_the_language_in_place_of_whatlang() {
        let batch = testing::batch(json!([
            {"id": "a", "text": "the sea was calm\nand ships lay in harbour"},
            {"id": "b", "text": "das meer war ruhig"},
            {"id": "c", "text": " \n"},
        ]));
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../classifiers/tests/fixtures");
        let model = |name: &str| Some(PathBuf::from(fixtures).join(name));
        let config = LanguageConfig { model: model("quantised.ftz"), ..LanguageConfig::default() };
        let (rows, ctx) = testing::plan(&config, "rows", batch.clone()).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["a"]);
        let details: Vec<String> = ctx.ledger.dropped().into_iter().map(|row| row.detail).collect();
        assert_eq!(details, ["de, 1.00", "no language is recognised"]);
        let config = LanguageConfig { model: model("fasttext.json"), ..LanguageConfig::default() };
        let error = testing::plan(&config, "rows", batch).await.unwrap_err().to_string();
        assert!(error.contains("fasttext.json, byte 4") && error.contains("lid.176.bin"), "{error}");
    }

    #[test]
    fn a_score_has_to_be_over_the_threshold() {
        let config = LanguageConfig::default();
        let found = |score| Some(Detected { language: "en", score });
        assert!(config.check(found(0.65)).is_err());
        assert!(config.check(found(0.651)).is_ok());
    }
}
