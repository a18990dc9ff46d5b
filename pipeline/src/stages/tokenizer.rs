//! `tokenizer`: trains the byte-level BPE tokenizer on the corpus.

use std::path::Path;

use async_trait::async_trait;
use model::tokenizer::{TokenizerOptions, WordCounts, train_on_counts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::corpus::documents;
use super::mix::TRAIN;
use super::{InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "tokenizer",
    summary: "Trains a byte-level BPE tokenizer on the corpus.",
    version: 1,
    inputs: &[InputRole { role: "corpus", about: "a `mix` stage", count: InputCount::One }],
    output: OutputKind::Folder,
    schema: super::schema_of::<TokenizerConfig>,
    build: super::build_from::<TokenizerConfig>,
};

/// Trains the tokenizer: digits one by one, byte level, the special tokens of
/// HuggingFaceTB/cosmo2-tokenizer first. Leaves tokenizer.json, tokenizer_config.json and
/// special_tokens_map.json, which `tokenizers` and `transformers` load.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TokenizerConfig(pub TokenizerOptions);

#[async_trait]
impl Stage for TokenizerConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(256 << 20)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let mut texts = documents(ctx, inputs.table(ctx, "corpus")?, TRAIN).await?;
        let (options, ctx, out) = (self.0.clone(), ctx.clone(), out.to_owned());
        let train = move || {
            let mut counts = WordCounts::new(options.max_distinct_words);
            let mut bytes = 0_u64;
            while let Some(document) = texts.blocking_recv() {
                let document = document?;
                counts.push(&document.text);
                bytes += document.text.len() as u64;
                ctx.progress.add_rows(1);
            }
            ctx.progress.set_note("merging".to_owned());
            let encoder = train_on_counts(&options, counts, &out).map_err(|error| ctx.failed(&error))?;
            Ok(Outcome {
                rows_in: None,
                rows_out: encoder.vocab_size() as u64,
                metrics: [
                    ("vocabulary".to_owned(), json!(encoder.vocab_size())),
                    ("training_bytes".to_owned(), json!(bytes)),
                ]
                .into(),
            })
        };
        super::blocking(KIND.name, train).await
    }
}
