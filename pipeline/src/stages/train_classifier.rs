//! `train_classifier`: a regression head on annotated texts, and one ONNX file of it and its backbone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use async_trait::async_trait;
use classifiers::annotate::{AnnotationColumns, AnnotationTable};
use classifiers::{
    Backbone, CacheError, EmbeddedExample, FeatureSet, OnReject, Pooling, TrainOptions, TrainReport,
    TrainedHead, VectorCache, export_onnx, train_on_embeddings,
};
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::backbone::{BACKBONE_MEMORY_BYTES, EncoderConfig};
use super::columns::{id_of, require, schema_of, text_column};
use super::{
    External, InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind, blocking,
};
use crate::durable;
use crate::engine::streams::{execute, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "train_classifier",
    summary: "Trains a regression head on annotated texts, with its card and one ONNX file.",
    version: 2,
    inputs: &[
        InputRole {
            role: "annotations",
            about: "a table with ids (or texts) and scores from 0 to 5",
            count: InputCount::One,
        },
        InputRole {
            role: "rows",
            about: "the table with the texts, where that of the annotations has none",
            count: InputCount::Optional,
        },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<TrainClassifierConfig>,
    build: super::build_from::<TrainClassifierConfig>,
};

/// The head, for `score`.
pub const HEAD_FILE: &str = "head.json";
/// What was tried and how well the head does, for people.
const CARD_FILE: &str = "card.md";
/// The same for machines; the report's plots are made of it.
pub const REPORT_FILE: &str = "report.json";
/// Backbone and head in one model.
const ONNX_FILE: &str = "classifier.onnx";
/// Where the vectors of texts are kept: other annotations of the same texts need no second embedding.
const VECTORS_FOLDER: &str = ".vectors";

/// Trains a head as FineWeb-Edu's was trained: the frozen backbone's vectors are computed once, the head is
/// a linear regression on them [huggingface/cosmopedia `classification/`]. Leaves `head.json` (an input of
/// `score`), `card.md`, `report.json` and `classifier.onnx`: backbone and head in one, output `logits`, with
/// its `tokenizer.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainClassifierConfig {
    /// How the head is trained and judged.
    pub training: TrainOptions,
    /// How much of a text the backbone reads, in tokens.
    pub max_tokens: usize,
    /// How the states of a text's tokens become one vector: `mean_l2` as MiniLM is made for, `cls_l2` for
    /// Snowflake/snowflake-arctic-embed-m.
    pub pooling: Pooling,
    /// The columns of the annotations. HuggingFaceFW/fineweb-edu-llama3-annotations is read as it is.
    pub columns: AnnotationColumns,
    /// The column with the text in `rows`.
    pub text_column: String,
    /// The column with the id in `rows`.
    pub id_column: String,
    /// The backbone.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
}

impl Default for TrainClassifierConfig {
    fn default() -> Self {
        Self {
            training: TrainOptions::default(),
            max_tokens: 512,
            pooling: Pooling::default(),
            columns: AnnotationColumns::default(),
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            encoder: EncoderConfig::default(),
        }
    }
}

#[async_trait]
impl Stage for TrainClassifierConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(BACKBONE_MEMORY_BYTES)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        self.encoder.externals(ctx)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let backbone = self.encoder.load(ctx, self.max_tokens, self.pooling).await?;
        let mut pages = Pages::open(ctx, backbone.clone(), self.training.features)?;
        let scores = self.read_annotations(ctx, inputs, &mut pages).await?;
        if !inputs.tables("rows").is_empty() {
            self.read_rows(ctx, inputs, scores, &mut pages).await?;
        }
        let (options, identity, examples) =
            (self.training.clone(), backbone.identity().clone(), pages.examples);
        ctx.progress.set_note(format!("{} annotated texts", examples.len()));
        let failed = ctx.clone();
        let trained = blocking(&ctx.stage, move || {
            train_on_embeddings(&identity, examples, &options).map_err(|error| failed.input(chain(&error)))
        })
        .await?;
        self.write(ctx, trained, pages.without_text, out).await
    }
}

impl TrainClassifierConfig {
    /// The scores by id; annotations that bring their text become examples at once.
    async fn read_annotations(
        &self,
        ctx: &StageContext,
        inputs: &Inputs,
        pages: &mut Pages,
    ) -> Result<HashMap<String, f32>, StageError> {
        let annotations = inputs.table(ctx, "annotations")?;
        let table = AnnotationTable::new(&schema_of(&annotations), &self.columns);
        let table = table.map_err(|error| ctx.input(chain(&error)))?;
        let sink = ctx.ledger.drop_sink();
        let on_reject: OnReject = Arc::new(move |reject| sink(reject.id, reject.reason, reject.detail));
        let with_rows = !inputs.tables("rows").is_empty();
        let mut scores = HashMap::new();
        let mut batches = to_domain(execute(annotations).await.map_err(|error| ctx.plan_error(&error))?);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| ctx.failed(&error))?;
            let rows = table.rows(&batch, &on_reject).map_err(|error| ctx.input(chain(&error)))?;
            let mut texts = Vec::new();
            for row in rows {
                let (id, score) = (row.annotation.id, f32::from(row.annotation.score));
                match row.text {
                    _ if with_rows => drop(scores.insert(id, score)),
                    Some(text) => texts.push((id, text, score)),
                    None => {
                        let message = "the annotations have no texts";
                        let help = "give the table with the texts: inputs = { annotations = …, rows = … }";
                        return Err(ctx.input(message).help(help));
                    }
                }
            }
            pages.add(ctx, texts).await?;
        }
        Ok(scores)
    }

    /// The texts that are annotated.
    async fn read_rows(
        &self,
        ctx: &StageContext,
        inputs: &Inputs,
        mut scores: HashMap<String, f32>,
        pages: &mut Pages,
    ) -> Result<(), StageError> {
        let rows = inputs.table(ctx, "rows")?;
        let columns = [self.id_column.as_str(), self.text_column.as_str()];
        require(ctx, &rows, "rows", &columns)?;
        let rows = rows.frame().select_columns(&columns).map_err(|error| ctx.plan_error(&error))?;
        let mut batches = to_domain(execute(rows).await.map_err(|error| ctx.plan_error(&error))?);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| ctx.failed(&error))?;
            let texts = self.annotated(&batch, &mut scores);
            pages.add(ctx, texts.map_err(|error| ctx.input(error.to_string()))?).await?;
            if ctx.stopping() {
                return Err(StageError::stopped(&ctx.stage));
            }
        }
        let sink = ctx.ledger.drop_sink();
        for id in scores.into_keys() {
            sink(id, "text_not_found".to_owned(), "the rows hold no text with this id".to_owned());
        }
        Ok(())
    }

    fn annotated(
        &self,
        batch: &RecordBatch,
        scores: &mut HashMap<String, f32>,
    ) -> Result<Vec<(String, String, f32)>, arrow::error::ArrowError> {
        let (ids, texts) = (text_column(batch, &self.id_column)?, text_column(batch, &self.text_column)?);
        let found = (0..batch.num_rows()).filter_map(|row| {
            let id = id_of(&ids, row);
            let score = scores.remove(&id)?;
            let text = if texts.is_null(row) { "" } else { texts.value(row) };
            Some((id, text.to_owned(), score))
        });
        Ok(found.collect())
    }

    async fn write(
        &self,
        ctx: &StageContext,
        trained: TrainedHead,
        without_text: usize,
        out: &Path,
    ) -> Result<Outcome, StageError> {
        let TrainedHead { head, mut report } = trained;
        report.pages_without_text = without_text;
        head.save(&out.join(HEAD_FILE)).map_err(|error| ctx.failed(&error))?;
        let write = |name: &str, text: String| {
            durable::write_file(&out.join(name), text.as_bytes()).map_err(|error| ctx.write_error(&error))
        };
        write(CARD_FILE, report.to_markdown())?;
        write(REPORT_FILE, super::config_json(&report).to_string())?;
        let examples = report.training_counts.iter().chain(&report.held_out_counts).sum::<usize>();
        let metrics = metrics(&report);
        let (model, tokenizer) = (self.encoder.model_path(ctx)?, self.encoder.tokenizer_path(ctx)?);
        self.export(ctx, model, tokenizer, head, out).await?;
        Ok(Outcome { rows_in: None, rows_out: examples as u64, metrics })
    }

    async fn export(
        &self,
        ctx: &StageContext,
        model: PathBuf,
        tokenizer: PathBuf,
        head: classifiers::Head,
        out: &Path,
    ) -> Result<(), StageError> {
        let (out, failed) = (out.to_owned(), ctx.clone());
        blocking(&ctx.stage, move || {
            export_onnx(&model, &head, &out.join(ONNX_FILE)).map_err(|error| failed.input(chain(&error)))?;
            let bytes = std::fs::read(&tokenizer).map_err(|error| failed.failed(&error))?;
            let written = durable::write_file(&out.join("tokenizer.json"), &bytes);
            written.map_err(|error| failed.write_error(&error))
        })
        .await
    }
}

fn metrics(report: &TrainReport) -> std::collections::BTreeMap<String, Json> {
    let (held_out, crossed) = (&report.head.held_out, &report.head.cross_validated);
    let figures = [
        ("method", Json::from(report.head.method.clone())),
        ("held_out_pages", held_out.pages.into()),
        ("held_out_precision", held_out.precision.into()),
        ("held_out_recall", held_out.recall.into()),
        ("held_out_f1", held_out.f1.into()),
        ("held_out_macro_f1", held_out.macro_f1.into()),
        ("cross_validated_f1", crossed.f1.into()),
        ("cross_validated_macro_f1", crossed.macro_f1.into()),
    ];
    figures.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Annotated texts as their vectors.
struct Pages {
    backbone: Arc<Backbone>,
    cache: Option<VectorCache>,
    features: FeatureSet,
    examples: Vec<EmbeddedExample>,
    without_text: usize,
}

impl Pages {
    fn open(ctx: &StageContext, backbone: Arc<Backbone>, features: FeatureSet) -> Result<Self, StageError> {
        let folder = ctx.env.run_folder.join(VECTORS_FOLDER);
        let cache =
            VectorCache::open(&folder, backbone.identity()).map_err(|error| ctx.input(chain(&error)))?;
        Ok(Self { backbone, cache: Some(cache), features, examples: Vec::new(), without_text: 0 })
    }

    async fn add(&mut self, ctx: &StageContext, texts: Vec<(String, String, f32)>) -> Result<(), StageError> {
        let all = texts.len();
        let texts: Vec<_> = texts.into_iter().filter(|(_, text, _)| !text.trim().is_empty()).collect();
        self.without_text += all - texts.len();
        let Some(mut cache) = self.cache.take() else {
            return Err(ctx.internal("the vectors' file is lost"));
        };
        let (backbone, features) = (self.backbone.clone(), self.features);
        let failed = ctx.clone();
        let (cache, examples) = blocking(&ctx.stage, move || {
            let refs: Vec<&str> = texts.iter().map(|(_, text, _)| text.as_str()).collect();
            let vectors = cache.embed(&backbone, &refs);
            let vectors = vectors.map_err(|error: CacheError| failed.failed(&error))?;
            let vectors = vectors.chunks(backbone.hidden().max(1));
            let examples: Vec<EmbeddedExample> = texts
                .iter()
                .zip(vectors)
                .map(|((id, text, score), vector)| EmbeddedExample {
                    id: id.clone(),
                    vector: [vector, &features.of(text)].concat(),
                    score: *score,
                })
                .collect();
            Ok((cache, examples))
        })
        .await?;
        self.cache = Some(cache);
        ctx.progress.add_rows(examples.len() as u64);
        self.examples.extend(examples);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::{InputTable, testing};
    use super::*;

    fn inputs(ctx: &StageContext, tables: &[(&str, Json)]) -> Inputs {
        let table = |(role, rows): &(&str, Json)| {
            let plan = ctx.session().read_batch(testing::batch(rows.clone())).unwrap().into();
            ((*role).to_owned(), vec![InputTable { stage: (*role).to_owned(), plan, rows: None }])
        };
        Inputs::new(tables.iter().map(table).collect(), BTreeMap::new())
    }

    /// Lessons score 4 or 5, offers 0 or 1.
    fn pages() -> (Json, Json) {
        let subjects =
            ["tides", "cells", "verbs", "primes", "rivers", "atoms", "poems", "maps", "stars", "roots"];
        let mut annotations = vec![json!({"id": "gone", "score": 3}), json!({"id": "p0", "score": 9})];
        let mut rows = Vec::new();
        for (at, subject) in subjects.iter().enumerate() {
            for copy in 0..3 {
                let id = format!("{at}-{copy}");
                rows.push(json!({"id": format!("l{id}"), "text": format!(
                    "Lesson {copy}: {subject}. In this chapter students learn what {subject} are, step by step, with exercises.")}));
                annotations.push(json!({"id": format!("l{id}"), "score": 4 + at % 2}));
                rows.push(json!({"id": format!("o{id}"), "text": format!(
                    "Buy {subject} now! Offer {copy} of the week, free shipping, best price for {subject}, order today!")}));
                annotations.push(json!({"id": format!("o{id}"), "score": at % 2}));
            }
        }
        (annotations.into(), rows.into())
    }

    #[tokio::test]
    async fn annotated_texts_make_a_head_that_scores_and_one_onnx_file() {
        let (annotations, rows) = pages();
        let (ctx, folder) = (testing::context(), tempfile::tempdir().unwrap());
        let config = TrainClassifierConfig { max_tokens: 64, ..Default::default() };
        let tables = inputs(&ctx, &[("annotations", annotations), ("rows", rows.clone())]);
        let outcome = config.run(&ctx, &tables, folder.path()).await.unwrap();
        assert_eq!(outcome.rows_out, 60);
        assert!(outcome.metrics["held_out_f1"].as_f64().unwrap() > 0.9, "{:?}", outcome.metrics);
        let reasons: Vec<String> = ctx.ledger.dropped().iter().map(|row| row.reason.clone()).collect();
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons.contains(&"text_not_found".to_owned()), "{reasons:?}");

        // The head and the ONNX file give the same scores.
        let score = |settings: Json| {
            let stage: super::super::score::ScoreConfig = serde_json::from_value(settings).unwrap();
            let rows = testing::batch(rows.clone());
            async move {
                let (rows, _) = testing::plan(&stage, "rows", rows).await.unwrap();
                testing::strings(&rows, "score").iter().map(|s| s.parse::<f64>().unwrap()).collect::<Vec<_>>()
            }
        };
        let by_head = score(json!({"head": folder.path().join(HEAD_FILE)})).await;
        let by_onnx = score(json!({
            "onnx_classifier": folder.path().join(ONNX_FILE), "max_tokens": 64,
            "tokenizer": folder.path().join("tokenizer.json"),
        }))
        .await;
        assert!(by_head[0] > 3.0 && by_head[1] < 2.0, "{by_head:?}");
        assert!(by_head.iter().zip(&by_onnx).all(|(a, b)| (a - b).abs() < 1e-4), "{by_head:?}\n{by_onnx:?}");
    }

    #[tokio::test]
    async fn annotations_without_texts_need_the_rows() {
        let ctx = testing::context();
        let tables = inputs(&ctx, &[("annotations", json!([{"id": "a", "score": 3}]))]);
        let out = tempfile::tempdir().unwrap();
        let error = TrainClassifierConfig::default().run(&ctx, &tables, out.path()).await.unwrap_err();
        assert!(error.message.contains("no texts"), "{error}");
    }
}
