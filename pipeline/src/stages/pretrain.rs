//! `pretrain`: trains a SmolLM-shaped model on token shards.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use model::config::ModelOptions;
use model::evaluate::{EvaluateError, ModelScorer};
use model::network::Network;
use model::pretrain::{Ending, Evaluation, PretrainOptions, StepReport, pretrain_measured};
use model::shards::{Source, TokenDataset, Verify};
use model::tokenizer::{Encoder, TOKENIZER_FILE};
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value as Json, json};

use super::corpus::documents;
use super::evaluate::EvaluateConfig;
use super::measures::{self, Measures};
use super::mix::HELD_OUT;
use super::{
    ConfigMistake, External, InputCount, InputRole, Inputs, Needs, Outcome, OutputKind, Shape, Stage,
    StageKind,
};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::curve::Curve;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "pretrain",
    summary: "Trains a SmolLM-shaped model on token shards, with checkpoints and exact resume.",
    version: 2,
    inputs: &[
        InputRole { role: "tokens", about: "a `pack` stage", count: InputCount::One },
        InputRole {
            role: "trunk",
            about: "a `pretrain` stage, one of whose checkpoints this one goes on from",
            count: InputCount::Optional,
        },
        InputRole {
            role: "tokenizer",
            about: "the tokenizer of the tokens, where the model is measured as training goes",
            count: InputCount::Optional,
        },
        InputRole {
            role: "corpus",
            about: "the corpus on whose held-out part the model is measured as training goes",
            count: InputCount::Optional,
        },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<PretrainConfig>,
    build: super::build_from::<PretrainConfig>,
};

/// What training gets out of one H100: 40 % of its 989 bf16 TFLOP/s (NVIDIA's data sheet, dense).
const GPU_OPERATIONS_PER_SECOND: f64 = 0.4 * 989e12;

/// Trains a model. Leaves `final/`, the newest checkpoints `step-…/`, `loss.jsonl`, `evaluations.jsonl` where the
/// model is measured as training goes, and both as TensorBoard events.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// The share of each subset in the training tokens, relative to the others. SmolLM: 0.70
    /// fineweb-edu-dedup, 0.15 cosmopedia-v2, 0.08 python-edu [huggingface/smollm `smollm1/`].
    pub weights: BTreeMap<String, f64>,
    /// The model and how it is trained. What is left out is as the published run of `model.preset` has it:
    /// learning rate, batch, steps, warm-up and cool-down too.
    #[serde(default, deserialize_with = "with_preset")]
    pub training: PretrainOptions,
    /// Seed of the order of the data.
    #[serde(default)]
    pub data_seed: u64,
    /// The step of the trunk's checkpoint; it must be kept (`checkpoint_every_steps`, `keep_checkpoints`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_step: Option<u64>,
    /// Steps after which the model is measured, again and again, and at the end; needs the input `tokenizer`, and
    /// `corpus` for perplexity. Not at all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub evaluate_every_steps: Option<u64>,
    /// What it is measured by then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub evaluation: EvaluateConfig,
}

/// Options over those of the preset that they name.
fn with_preset<'de, D: Deserializer<'de>>(from: D) -> Result<PretrainOptions, D::Error> {
    let given = serde_json::Map::<String, Json>::deserialize(from)?;
    let model = given.get("model").cloned().unwrap_or_else(|| json!({}));
    let model: ModelOptions = serde_json::from_value(model).map_err(D::Error::custom)?;
    let mut options = json!(PretrainOptions::published(model.preset));
    if let Some(options) = options.as_object_mut() {
        options.extend(given);
    }
    serde_json::from_value(options).map_err(D::Error::custom)
}

fn is_default(evaluation: &EvaluateConfig) -> bool {
    *evaluation == EvaluateConfig::default()
}

impl PretrainConfig {
    /// The checkpoint of the trunk that training goes on from.
    fn branch(&self, ctx: &StageContext, trunk: &Path) -> Result<PathBuf, StageError> {
        let step = self.trunk_step.ok_or_else(|| {
            ctx.input("`trunk` is given without `trunk_step`").help("name the step of its checkpoint")
        })?;
        let folder = model::checkpoint::folder(trunk, step);
        if folder.is_dir() {
            return Ok(folder);
        }
        let kept = model::checkpoint::list(trunk).map_err(|error| ctx.failed(&error))?;
        let kept: Vec<String> = kept.iter().map(u64::to_string).collect();
        Err(ctx.input(format!("the trunk has kept no checkpoint of step {step}")).help(format!(
            "its checkpoints are {}; raise its `keep_checkpoints`, or lower `checkpoint_every_steps`",
            kept.join(", ")
        )))
    }

    async fn evaluator(&self, ctx: &StageContext, inputs: &Inputs) -> Result<Option<Evaluator>, StageError> {
        let Some(every_steps) = self.evaluate_every_steps else { return Ok(None) };
        let tokenizer = inputs.folder(ctx, "tokenizer")?.join(TOKENIZER_FILE);
        let texts = match inputs.optional_folder("corpus") {
            Some(_) => Some(documents(ctx, inputs.table(ctx, "corpus")?, HELD_OUT).await?),
            None => None,
        };
        let (ctx, config) = (ctx.clone(), self.evaluation.clone());
        let read = move || {
            let encoder = Encoder::load(&tokenizer).map_err(|error| ctx.input(error.to_string()))?;
            let measures = Measures::read(&ctx, &config, texts)?;
            match measures.written() {
                Some(task) => Err(ctx
                    .input(format!(
                        "the task {task} asks for written answers, for which training does not wait"
                    ))
                    .help("take it into an `evaluate` stage")),
                None => Ok(Some(Evaluator { every_steps, encoder, measures })),
            }
        };
        super::blocking(KIND.name, read).await
    }

    fn dataset(&self, ctx: &StageContext, folder: &Path) -> Result<TokenDataset, StageError> {
        let mut sources = Vec::new();
        for (name, &weight) in &self.weights {
            let mut shards: Vec<PathBuf> = std::fs::read_dir(folder.join(name))
                .map_err(|_| {
                    let have = subsets(folder).join(", ");
                    ctx.input(format!("weights name the subset `{name}`, which has no tokens"))
                        .help(format!("the subsets are: {have}"))
                })?
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
                .collect();
            shards.sort();
            sources.push(Source { name: name.clone(), weight, shards });
        }
        TokenDataset::open(&sources, self.training.context_tokens, self.data_seed, Verify::Everything)
            .map_err(|error| ctx.input(error.to_string()))
    }
}

/// Measures the model as training goes.
struct Evaluator {
    every_steps: u64,
    encoder: Encoder,
    measures: Measures,
}

impl Evaluator {
    fn measure(&self, network: &Network, parameters: &[f32]) -> Result<BTreeMap<String, f64>, EvaluateError> {
        let mut scorer = ModelScorer::of_network(network, parameters, &self.encoder)?;
        // A stop waits for the figures, which take less than the steps between them.
        let measured = self.measures.score(&mut scorer, &mut |_rows| ControlFlow::Continue(()))?;
        Ok(measured.map(|measured| measured.figures()).unwrap_or_default())
    }
}

fn subsets(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[async_trait]
impl Stage for PretrainConfig {
    fn config(&self) -> Json {
        super::without_threads(super::config_json(self))
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let usable = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        let mut mistakes = Vec::new();
        if !self.weights.values().all(usable) || self.weights.values().sum::<f64>() <= 0.0 {
            mistakes.push(ConfigMistake {
                field: "weights",
                message: "the weights must be numbers of 0 or more, one of them above 0".to_owned(),
                help: "for example weights = { \"fineweb-edu-dedup\" = 0.7, \"cosmopedia-v2\" = 0.15 }"
                    .to_owned(),
            });
        }
        let model = self.training.model.resolve().map(|_| ()).map_err(|error| error.to_string());
        if let Err(message) = model.and_then(|()| self.training.check().map_err(|error| error.to_string())) {
            let help =
                "the presets are sample, 135m, 360m and 1.7b; `pipeline explain pretrain` has the fields";
            mistakes.push(ConfigMistake { field: "training", message, help: help.to_owned() });
        }
        if !self.evaluation.samples.is_empty() {
            mistakes.push(ConfigMistake {
                field: "evaluation",
                message: "no samples are written while a model is trained".to_owned(),
                help: "give `samples` to an `evaluate` stage of this one".to_owned(),
            });
        }
        let has_tokenizer = inputs.get("tokenizer").is_some_and(|stages| !stages.is_empty());
        if self.evaluate_every_steps.is_some() && !has_tokenizer {
            mistakes.push(ConfigMistake {
                field: "evaluate_every_steps",
                message: "the model cannot be measured without its tokenizer".to_owned(),
                help: "name the stage in inputs = { tokens = …, tokenizer = \"tokenizer\", corpus = \"corpus\" }".to_owned(),
            });
        }
        mistakes
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        match self.evaluate_every_steps {
            Some(_) => measures::externals(ctx, &self.evaluation),
            None => Ok(Vec::new()),
        }
    }

    fn needs(&self) -> Needs {
        Needs::Bytes(512 << 20)
    }

    fn expect(&self, before: &Before<'_>) -> Expectation {
        // Six operations a parameter and token, forward and backward (Kaplan et al. 2020, §2.1).
        let operations = self.training.model.resolve().and_then(|model| model.parameters()).ok().map(|n| {
            6.0 * n as f64
                * (self.training.context_tokens * self.training.batch_sequences) as f64
                * self.training.steps as f64
        });
        let last = before.past.and_then(|past| {
            let metrics = &past.manifest.metrics;
            Some(6.0 * metrics.get("parameters")?.as_f64()? * metrics.get("tokens")?.as_f64()?)
        });
        Expectation {
            rows: Some(self.training.steps as f64),
            work: operations.zip(last).map(|(now, last)| now / last),
            gpu_hours: operations.map(|operations| operations / GPU_OPERATIONS_PER_SECOND / 3600.0),
            ..Expectation::default()
        }
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let folder = inputs.folder(ctx, "tokens")?;
        let dataset = self.dataset(ctx, folder)?;
        let mut options = self.training.clone();
        if options.threads == 0 {
            options.threads = ctx.env.threads;
        }
        if let Some(trunk) = inputs.optional_folder("trunk") {
            options.branch_from = Some(self.branch(ctx, trunk)?);
        }
        let evaluator = self.evaluator(ctx, inputs).await?;
        let other =
            |found: &Evaluator| dataset.tokenizer_digest().is_some_and(|made| made != found.encoder.digest());
        if evaluator.as_ref().is_some_and(other) {
            return Err(ctx
                .input("the tokens were made by another tokenizer than the one in `tokenizer`")
                .help("name the tokenizer that the `pack` stage has, or run that stage anew"));
        }
        let (ctx, out) = (ctx.clone(), out.to_owned());
        ctx.progress.set_total(options.steps);
        let train = move || {
            let batch_tokens = (options.batch_sequences * options.context_tokens) as u64;
            let mut steps_seen = 0;
            let (mut losses, mut last) = (Curve::default(), None);
            let mut progress = |report: StepReport| {
                let step = report.line.step;
                ctx.progress.add_rows(step.saturating_sub(steps_seen));
                ctx.progress.add_tokens(step.saturating_sub(steps_seen) * batch_tokens);
                losses.push(report.line.loss);
                ctx.progress.set_note(format!("loss {:.3} {losses}", report.line.loss));
                steps_seen = step;
                last = Some(report.line.loss);
                if ctx.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let evaluation = evaluator.as_ref().map(|found| Evaluation {
                every_steps: found.every_steps,
                measure: Box::new(|network, parameters| found.measure(network, parameters)),
            });
            let trained = pretrain_measured(&options, &dataset, &out, &mut progress, evaluation);
            let summary = trained.map_err(|error| ctx.failed(&error))?;
            if summary.ending == Ending::Stopped {
                return Err(StageError::stopped(&ctx.stage));
            }
            let sequences = options.steps * options.batch_sequences as u64;
            let uses: BTreeMap<String, Json> = dataset
                .uses(sequences)
                .into_iter()
                .map(|part| (part.name.clone(), json!({"tokens": part.tokens, "epochs": part.epochs})))
                .collect();
            Ok(Outcome {
                rows_in: None,
                rows_out: summary.step,
                metrics: [
                    ("parameters".to_owned(), json!(summary.parameters)),
                    ("tokens".to_owned(), json!(summary.step * batch_tokens)),
                    ("final_loss".to_owned(), json!(last)),
                    ("data".to_owned(), json!(uses)),
                ]
                .into(),
            })
        };
        super::blocking(KIND.name, train).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(training: Json) -> PretrainConfig {
        serde_json::from_value(json!({"weights": {"web": 1.0}, "training": training})).unwrap()
    }

    #[test]
    fn a_preset_brings_all_of_its_published_run() {
        // huggingface/smollm `text/pretraining/smollm1/config_smollm1_1B.yaml`.
        let large = config(json!({"model": {"preset": "1.7b"}})).training;
        assert_eq!(
            (large.lr, large.batch_sequences, large.steps, large.warmup_steps),
            (5e-4, 1_024, 500_000, 2_000)
        );
        let short = config(json!({"model": {"preset": "1.7b"}, "steps": 1_000})).training;
        assert_eq!(short, PretrainOptions { steps: 1_000, ..large });
        assert_eq!(config(json!({})).training, PretrainOptions::default());
        let unknown = json!({"weights": {"web": 1.0}, "training": {"step": 3}});
        assert!(serde_json::from_value::<PretrainConfig>(unknown).unwrap_err().to_string().contains("step"));
    }

    #[test]
    fn shapes_that_cannot_be_are_mistakes_of_the_workflow() {
        let mistakes = |training| config(training).validate(&BTreeMap::new());
        assert!(mistakes(json!({})).is_empty());
        let heads = mistakes(json!({"model": {"preset": "135m", "heads": 7}}));
        assert!(heads.len() == 1 && heads[0].message.contains("heads"), "{}", heads[0].message);
        let context = mistakes(json!({"context_tokens": 0}));
        assert!(context[0].message.contains("context_tokens"), "{}", context[0].message);
    }
}
