//! `evaluate`: held-out perplexity and cloze accuracy of a trained model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use model::evaluate::{ModelScorer, SAMPLE_ITEMS, cloze, parse_cloze, perplexity, read_cloze};
use model::language_model::LanguageModel;
use model::pretrain::FINAL_FOLDER;
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::corpus::documents;
use super::mix::HELD_OUT;
use super::{External, InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::durable;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "evaluate",
    summary: "Measures a model: perplexity on held-out texts, accuracy on cloze items.",
    version: 1,
    inputs: &[
        InputRole {
            role: "model",
            about: "a `pretrain`, `import_model`, `sft` or `dpo` stage",
            count: InputCount::One,
        },
        InputRole { role: "tokenizer", about: "the model's tokenizer", count: InputCount::One },
        InputRole { role: "corpus", about: "the corpus whose held-out part is read", count: InputCount::One },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<EvaluateConfig>,
    build: super::build_from::<EvaluateConfig>,
};

/// Measures a model. Leaves `evaluation.json`: perplexity by subset, `acc` and `acc_norm`
/// [huggingface/lighteval].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Held-out texts read at most, by subset.
    pub max_texts: usize,
    /// A JSONL file of cloze items (`context`, `choices`, `answer`); the ones that ship with the
    /// program when left out.
    pub cloze: Option<PathBuf>,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { max_texts: 1000, cloze: None }
    }
}

#[async_trait]
impl Stage for EvaluateConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs { memory_bytes: 256 << 20 }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        match &self.cloze {
            Some(path) => Ok(vec![super::file_external(ctx, path)?]),
            None => {
                let digest = blake3::hash(SAMPLE_ITEMS.as_bytes()).to_hex().to_string();
                Ok(vec![External { name: "cloze".to_owned(), digest }])
            }
        }
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let mut texts = documents(ctx, inputs.table(ctx, "corpus")?, HELD_OUT).await?;
        let model = inputs.folder(ctx, "model")?.join(FINAL_FOLDER);
        let tokenizer = inputs.folder(ctx, "tokenizer")?.join(TOKENIZER_FILE);
        let (config, ctx, out) = (self.clone(), ctx.clone(), out.to_owned());
        let evaluate = move || {
            let input = |error: &dyn std::error::Error| ctx.input(error.to_string());
            let model = LanguageModel::load(&model).map_err(|error| input(&error))?;
            let encoder = Encoder::load(&tokenizer).map_err(|error| input(&error))?;
            let mut scorer = ModelScorer::new(&model, &encoder).map_err(|error| input(&error))?;
            let items = match &config.cloze {
                Some(path) => read_cloze(path),
                None => parse_cloze(SAMPLE_ITEMS, Path::new("the built-in cloze items")),
            };
            let items = items.map_err(|error| input(&error))?;
            let mut by_subset: BTreeMap<String, Vec<String>> = BTreeMap::new();
            while let Some(document) = texts.blocking_recv() {
                let document = document?;
                let kept = by_subset.entry(document.subset).or_default();
                if kept.len() < config.max_texts {
                    kept.push(document.text);
                }
            }
            let mut heldout = BTreeMap::new();
            let mut read = 0;
            for (subset, texts) in &by_subset {
                let figures = perplexity(&mut scorer, texts).map_err(|error| ctx.failed(&error))?;
                read += figures.texts;
                ctx.progress.add_rows(figures.texts);
                heldout.insert(subset.clone(), json!(figures));
            }
            let answered = cloze(&mut scorer, &items).map_err(|error| ctx.failed(&error))?;
            let report = json!({"heldout": heldout, "cloze": answered});
            durable::write_file(&out.join("evaluation.json"), format!("{report:#}\n").as_bytes())
                .map_err(|error| ctx.write_error(&error))?;
            Ok(Outcome {
                rows_in: None,
                rows_out: read + answered.items as u64,
                metrics: [("heldout".to_owned(), json!(heldout)), ("cloze".to_owned(), json!(answered))]
                    .into(),
            })
        };
        super::blocking(KIND.name, evaluate).await
    }
}
