//! `evaluate`: held-out perplexity and cloze accuracy of a trained model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use model::evaluate::{AnswerRequest, EngineGenerator, Form, Generator, ModelScorer};
use model::infer::EngineOptions;
use model::language_model::LanguageModel;
use model::pretrain::FINAL_FOLDER;
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::corpus::documents;
use super::measures::{self, Answers, Measures, TaskConfig};
use super::mix::HELD_OUT;
use super::{External, InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage, StageKind};
use crate::durable;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "evaluate",
    summary: "Measures a model: perplexity on held-out texts, cloze items, benchmarks.",
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

/// Measures a model. Leaves `evaluation.json`: perplexity by subset, `acc` and `acc_norm` of cloze items
/// [huggingface/lighteval], and what it does on benchmarks; `answers.jsonl` has what it wrote there, `samples.jsonl`
/// how it goes on from beginnings of your own, which the report shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Held-out texts read at most, by subset.
    pub max_texts: usize,
    /// A JSONL file of cloze items (`context`, `choices`, `answer`); the ones that ship with the
    /// program when left out.
    pub cloze: Option<PathBuf>,
    /// Benchmarks, from files as the Hub has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskConfig>,
    /// Beginnings of texts, or questions to a chat model, for samples of what it writes (100 tokens at most, at
    /// temperature 0.6).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<String>,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { max_texts: 1000, cloze: None, tasks: Vec::new(), samples: Vec::new() }
    }
}

/// Name of the file with the figures.
const EVALUATION_FILE: &str = "evaluation.json";
/// Name of the file with what the model wrote: a line of JSON an item.
const ANSWERS_FILE: &str = "answers.jsonl";
/// Name of the file with the samples: a line of JSON with `prompt` and `text` each.
pub const SAMPLES_FILE: &str = "samples.jsonl";

#[async_trait]
impl Stage for EvaluateConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(256 << 20)
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        measures::externals(ctx, self)
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let texts = documents(ctx, inputs.table(ctx, "corpus")?, HELD_OUT).await?;
        let model = inputs.folder(ctx, "model")?.join(FINAL_FOLDER);
        let tokenizer = inputs.folder(ctx, "tokenizer")?.join(TOKENIZER_FILE);
        let (config, ctx, out) = (self.clone(), ctx.clone(), out.to_owned());
        let evaluate = move || {
            let input = |error: &(dyn std::error::Error + 'static)| ctx.input(chain(error));
            let encoder = Encoder::load(&tokenizer).map_err(|error| input(&error))?;
            let measures = Measures::read(&ctx, &config, Some(texts))?;
            let mut progress = |rows| {
                ctx.progress.add_rows(rows);
                if ctx.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let stopped = || StageError::stopped(&ctx.stage);
            let mut measured = {
                let model = LanguageModel::load(&model).map_err(|error| input(&error))?;
                let mut scorer = ModelScorer::new(&model, &encoder).map_err(|error| input(&error))?;
                let scored = measures.score(&mut scorer, &mut progress);
                scored.map_err(|error| ctx.failed(&error))?.ok_or_else(stopped)?
            };
            if measures.written().is_some() || !config.samples.is_empty() {
                let engine = EngineOptions { threads: ctx.env.threads, ..EngineOptions::default() };
                let generator = EngineGenerator::of_checkpoint(&model, encoder.folder(), &engine);
                let mut generator = generator.map_err(|error| input(&error))?;
                let asked = measures.ask(&mut generator, &mut measured, &mut progress);
                let answers = asked.map_err(|error| ctx.failed(&error))?.ok_or_else(stopped)?;
                let requests = samples(&config.samples);
                let texts = generator.answers(&requests, &mut |_| progress(0));
                let texts = texts.map_err(|error| ctx.failed(&error))?.ok_or_else(stopped)?;
                let sample = |(asked, text): (&AnswerRequest, &String)| {
                    format!("{}\n", json!({"prompt": asked.prompt, "text": text}))
                };
                let samples: String = requests.iter().zip(&texts).map(sample).collect();
                for (name, lines) in [(ANSWERS_FILE, lines(&answers)), (SAMPLES_FILE, samples)] {
                    if !lines.is_empty() {
                        write(&ctx, &out.join(name), &lines)?;
                    }
                }
            }
            write(&ctx, &out.join(EVALUATION_FILE), &format!("{:#}\n", json!(measured)))?;
            Ok(Outcome { rows_in: None, rows_out: measured.rows(), metrics: measured.metrics() })
        };
        super::blocking(KIND.name, evaluate).await
    }
}

fn samples(prompts: &[String]) -> Vec<AnswerRequest> {
    let request = |(seed, prompt): (u64, &String)| AnswerRequest {
        prompt: prompt.clone(),
        form: Form::Chat,
        max_new_tokens: 100,
        temperature: 0.6,
        top_p: 0.95,
        stop: Vec::new(),
        seed,
    };
    (0..).zip(prompts).map(request).collect()
}

fn write(ctx: &StageContext, path: &Path, text: &str) -> Result<(), StageError> {
    durable::write_file(path, text.as_bytes()).map_err(|error| ctx.write_error(&error))
}

fn lines(answers: &Answers) -> String {
    let lines = answers.iter().flat_map(|(task, items)| {
        items.iter().map(move |item| format!("{}\n", json!({"task": task, "item": item})))
    });
    lines.collect()
}
