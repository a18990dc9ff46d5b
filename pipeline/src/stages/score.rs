//! `score`: the educational value of pages, by a classifier.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use classifiers::{Head, ScoreOptions, Scorer, score_stream, scored_schema};
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::backbone::{BACKBONE_MEMORY_BYTES, EncoderConfig};
use super::columns::{require, schema_of};
use super::loaded::Loaded;
use super::{
    ConfigMistake, External, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task,
    file_external, train_classifier,
};
use crate::engine::operator;
use crate::engine::streams::{from_domain, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "score",
    summary: "Scores the educational value of texts, 0 to 5, by an ONNX backbone and a regression head.",
    version: 3,
    inputs: &[
        InputRole { role: "rows", about: "any table with a text and an id", count: InputCount::One },
        InputRole {
            role: "classifier",
            about: "a `train_classifier` stage, whose head is taken",
            count: InputCount::Optional,
        },
    ],
    output: OutputKind::Table,
    schema: super::schema_of::<ScoreConfig>,
    build: super::build_from::<ScoreConfig>,
};

/// The heads that ship with the program; `classifiers/heads/` has their cards.
const EDU_WEB: &[u8] = include_bytes!("../../../classifiers/heads/edu_web_minilm.json");
const EDU_PYTHON: &[u8] = include_bytes!("../../../classifiers/heads/edu_python_minilm.json");

/// Adds `score` and `int_score = round(clip(score, 0, 5))` to every row, as FineWeb-Edu does
/// [huggingface/cosmopedia `classification/`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreConfig {
    /// The head: `edu_web` or `edu_python`, which ship with the program, or the path of a head file
    /// made by `pipeline classifier train`. An input `classifier` goes before it.
    pub head: String,
    /// A model that gives the score itself, in place of backbone and head: the ONNX export of a sequence
    /// classification with one label, such as HuggingFaceFW/fineweb-edu-classifier, with its `tokenizer`.
    pub onnx_classifier: Option<PathBuf>,
    /// How much of a text that model reads, in tokens; a head knows its own length.
    pub max_tokens: usize,
    /// The backbone.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
    /// The column with the text.
    pub text_column: String,
    /// The column with the row's id.
    pub id_column: String,
    /// Loaded once, by the first task that needs it.
    #[serde(skip)]
    scorer: Loaded<Scorer>,
}

impl Default for ScoreConfig {
    fn default() -> Self {
        Self {
            head: "edu_web".to_owned(),
            onnx_classifier: None,
            max_tokens: 512,
            encoder: EncoderConfig::default(),
            text_column: "text".to_owned(),
            id_column: "id".to_owned(),
            scorer: Loaded::default(),
        }
    }
}

impl ScoreConfig {
    /// The head of the input stage, or else of the config.
    fn load_head(&self, ctx: &StageContext, trained: Option<&Path>) -> Result<Head, StageError> {
        let head = match (trained, self.head.as_str()) {
            (Some(folder), _) => Head::load(&folder.join(train_classifier::HEAD_FILE)),
            (None, "edu_web") => Head::from_bytes("edu_web", EDU_WEB),
            (None, "edu_python") => Head::from_bytes("edu_python", EDU_PYTHON),
            (None, path) => Head::load(path.as_ref()),
        };
        head.map_err(|error| {
            ctx.input(chain(&error)).help("heads that ship with the program: edu_web, edu_python")
        })
    }

    /// Loads the model once for all tasks of the stage: its sessions are the threads they share.
    async fn load(&self, ctx: &StageContext, trained: Option<&Path>) -> Result<Arc<Scorer>, StageError> {
        if let Some(model) = &self.onnx_classifier {
            let classifier = self.encoder.load_classifier(ctx, model.clone(), self.max_tokens).await?;
            return Ok(Arc::new(Scorer::of_classifier(classifier)));
        }
        let head = self.load_head(ctx, trained)?;
        let backbone = self.encoder.load(ctx, head.max_tokens(), head.pooling()).await?;
        Ok(Arc::new(Scorer::new(backbone, head).map_err(|error| ctx.input(chain(&error)))?))
    }
}

#[async_trait]
impl Stage for ScoreConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let is_used = self.onnx_classifier.is_none() && !inputs.contains_key("classifier");
        let ships = ["edu_web", "edu_python"].contains(&self.head.as_str());
        if !is_used || ships || Path::new(&self.head).exists() {
            return Vec::new();
        }
        vec![ConfigMistake {
            field: "head",
            message: format!("`{}` is neither a head that ships with the program nor a file", self.head),
            help: "those that ship are edu_web and edu_python".to_owned(),
        }]
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(BACKBONE_MEMORY_BYTES)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let mut externals = self.encoder.externals(ctx)?;
        externals.push(match &self.onnx_classifier {
            Some(model) => file_external(ctx, model)?,
            None => External { name: "head".to_owned(), digest: self.load_head(ctx, None)?.digest() },
        });
        Ok(externals)
    }

    fn release(&self) {
        self.scorer.release();
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let rows = inputs.table(ctx, "rows")?;
        require(ctx, &rows, "rows", &[&self.text_column, &self.id_column])?;
        let load = || self.load(ctx, inputs.optional_folder("classifier"));
        let scorer = self.scorer.get_or_load(load).await?;
        let options = ScoreOptions {
            text_column: self.text_column.clone(),
            id_column: self.id_column.clone(),
            ..ScoreOptions::default()
        };
        let schema =
            scored_schema(&schema_of(&rows), &options).map_err(|error| ctx.input(error.to_string()))?;
        let (sink, out_schema) = (ctx.ledger.drop_sink(), schema.clone());
        operator::apply(
            ctx.session(),
            rows,
            "score",
            schema,
            Arc::new(move |stream| {
                let sink = sink.clone();
                let on_reject = Arc::new(move |reject: classifiers::Reject| {
                    sink(reject.id, reject.reason, reject.detail)
                });
                let scored = score_stream(scorer.clone(), &options, on_reject, to_domain(stream));
                Ok(from_domain(out_schema.clone(), scored))
            }),
        )
        .map_err(|error| ctx.plan_error(&error))
    }
}
