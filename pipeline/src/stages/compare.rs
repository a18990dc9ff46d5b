//! `compare`: several generators on the same prompts, side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, UInt64Type};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use synth::cleanup::{Lengths, RepetitionLimits, find_repetition, is_refusal};

use super::columns::{require, text_column};
use super::minhash::cluster::{Keeper, Sketches, Unsigned, duplicates};
use super::minhash::signature::{Scratch, SignatureOptions, Signer, Sketch};
use super::{
    ConfigMistake, InputCount, InputRole, Inputs, Needs, OutputKind, Shape, Stage, StageKind, Task,
    foreign_stages,
};
use crate::engine::Plan;
use crate::engine::streams::{self, execute, to_domain};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "compare",
    summary: "Compares generators: length, refusals, repetition, near-duplicates, score, cost.",
    version: 1,
    inputs: &[InputRole {
        role: "tables",
        about: "the `generate`, `clean` and `score` stages of all generators",
        count: InputCount::Many,
    }],
    output: OutputKind::Table,
    schema: super::schema_of::<CompareConfig>,
    build: super::build_from::<CompareConfig>,
};

/// From this educational score on, FineWeb-Edu keeps a page (SmolLM blog post).
const EDU_THRESHOLD: f64 = 3.0;

/// Compares generators. A row for each: `generator, model, documents, tokens_mean, tokens_p50,
/// tokens_p95, cut_share, refusal_share, repetition_share, near_duplicate_share, kept, kept_share,
/// edu_score_mean, edu_share, prompt_tokens, completion_tokens, usd, latency_ms_mean`. Shares are
/// parts of `documents`, 0 to 1; `edu_share` is the part of the scored texts with a score of 3 or
/// more. What no stage gave is NULL.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareConfig {
    /// The generators by name, each with the stages that hold its answers.
    pub generators: BTreeMap<String, Generator>,
    /// Near-duplicates are looked for among this many answers of each generator, the first ones; an
    /// answer takes about 1 kB of memory.
    #[serde(default = "default_near_duplicate_documents")]
    pub near_duplicate_documents: usize,
}

fn default_near_duplicate_documents() -> usize {
    100_000
}

/// The stages that hold the answers of one generator; all are among the inputs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// Its `generate` stage.
    pub generated: String,
    /// Its `clean` stage, for the part that is kept.
    #[serde(default)]
    pub cleaned: Option<String>,
    /// A `score` stage over its texts, for their educational value.
    #[serde(default)]
    pub scored: Option<String>,
    /// US dollars for a million prompt tokens.
    #[serde(default)]
    pub usd_per_million_prompt_tokens: f64,
    /// US dollars for a million answer tokens.
    #[serde(default)]
    pub usd_per_million_completion_tokens: f64,
}

impl Generator {
    fn stages(&self) -> impl Iterator<Item = &String> {
        [Some(&self.generated), self.cleaned.as_ref(), self.scored.as_ref()].into_iter().flatten()
    }
}

#[async_trait]
impl Stage for CompareConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Whole
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let tables = inputs.get("tables").map_or(&[][..], Vec::as_slice);
        let named = self.generators.iter().flat_map(|(name, of)| of.stages().map(move |stage| (name, stage)));
        let mut mistakes = foreign_stages("generators", named, "generator", tables, "inputs");
        if self.generators.is_empty() {
            mistakes.push(ConfigMistake {
                field: "generators",
                message: "there is no generator to compare".to_owned(),
                help: "name one as [stage.<name>.generators.<generator>] with generated = \"<stage>\""
                    .to_owned(),
            });
        }
        mistakes
    }

    fn needs(&self) -> Needs {
        Needs::Bytes((64 << 20) + self.near_duplicate_documents as u64 * 1000)
    }

    async fn plan(&self, ctx: &StageContext, _task: &Task, inputs: &Inputs) -> Result<DataFrame, StageError> {
        let mut rows = Vec::with_capacity(self.generators.len());
        for (name, generator) in &self.generators {
            let mut figures = self.read_generated(ctx, table(ctx, inputs, &generator.generated)?).await?;
            if let Some(stage) = &generator.cleaned {
                figures.kept = Some(count(ctx, table(ctx, inputs, stage)?).await?);
            }
            if let Some(stage) = &generator.scored {
                figures.scores = Some(read_scores(ctx, stage, table(ctx, inputs, stage)?).await?);
            }
            let usd = figures.prompt_tokens as f64 * generator.usd_per_million_prompt_tokens
                + figures.lengths.tokens() as f64 * generator.usd_per_million_completion_tokens;
            figures.usd = usd / 1e6;
            rows.push((name.clone(), figures));
        }
        let batch = to_batch(&rows).map_err(|error| ctx.failed(&error))?;
        ctx.session().read_batch(batch).map_err(|error| ctx.plan_error(&error))
    }
}

fn table(ctx: &StageContext, inputs: &Inputs, stage: &str) -> Result<Plan, StageError> {
    let table = inputs.tables("tables").iter().find(|table| table.stage == stage);
    table.map(|table| table.plan.clone()).ok_or_else(|| ctx.input(format!("stage `{stage}` leaves no table")))
}

async fn count(ctx: &StageContext, rows: Plan) -> Result<u64, StageError> {
    streams::count(rows).await.map(|rows| rows as u64).map_err(|error| ctx.plan_error(&error))
}

/// What is known of a generator's answers.
#[derive(Default)]
struct Figures {
    models: Vec<String>,
    lengths: Lengths,
    prompt_tokens: u64,
    latency_ms: u64,
    cut: u64,
    refused: u64,
    repetitive: u64,
    /// Answers looked at for near-duplicates, and those that are one.
    sketched: u64,
    near_duplicates: u64,
    kept: Option<u64>,
    scores: Option<Scores>,
    usd: f64,
}

/// Educational scores.
#[derive(Clone, Copy, Default)]
struct Scores {
    texts: u64,
    sum: f64,
    educational: u64,
}

/// What is found in one answer.
struct Judged {
    refused: bool,
    repetitive: bool,
    sketch: Option<Sketch>,
}

impl CompareConfig {
    async fn read_generated(&self, ctx: &StageContext, rows: Plan) -> Result<Figures, StageError> {
        let columns =
            ["completion", "finish_reason", "model", "prompt_tokens", "completion_tokens", "latency_ms"];
        require(ctx, &rows, "generated", &columns)?;
        let plan_error = |error| ctx.plan_error(&error);
        let rows = rows.frame().select_columns(&columns).map_err(plan_error)?;
        let mut batches = to_domain(execute(rows).await.map_err(plan_error)?);
        let signer = Arc::new(Signer::new(SignatureOptions::default()));
        let (mut figures, mut sketches) = (Figures::default(), Sketches::default());
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| ctx.failed(&error))?;
            let left = self.near_duplicate_documents.saturating_sub(sketches.len());
            let (signer, judged_batch) = (signer.clone(), batch.clone());
            let judged = super::blocking(&ctx.stage, move || Ok(judge(&signer, &judged_batch, left))).await?;
            for judged in judged.map_err(|error| ctx.failed(&error))? {
                figures.refused += u64::from(judged.refused);
                figures.repetitive += u64::from(judged.repetitive);
                judged.sketch.iter().for_each(|sketch| sketches.push(sketch));
            }
            figures.count(&batch).map_err(|error| ctx.failed(&error))?;
        }
        figures.sketched = sketches.len() as u64;
        let cluster =
            move || Ok(duplicates(&sketches, signer.options(), &Keeper::Root, Unsigned::Exact).len() as u64);
        figures.near_duplicates = super::blocking(&ctx.stage, cluster).await?;
        Ok(figures)
    }
}

/// Looks at the answers of a batch; the first `sketched` of them get a sketch.
fn judge(signer: &Signer, batch: &RecordBatch, sketched: usize) -> Result<Vec<Judged>, ArrowError> {
    let texts = text_column(batch, "completion")?;
    let limits = RepetitionLimits::default();
    let judge = |scratch: &mut Scratch, row: usize| {
        let text = if texts.is_null(row) { "" } else { texts.value(row) };
        Judged {
            refused: is_refusal(text),
            repetitive: find_repetition(text, &limits).is_some(),
            sketch: (row < sketched).then(|| signer.sketch(text, scratch)),
        }
    };
    Ok((0..batch.num_rows()).into_par_iter().map_init(Scratch::default, judge).collect())
}

impl Figures {
    fn count(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let number = |name: &str| -> Result<UInt64Array, ArrowError> {
            let column = batch.column(batch.schema().index_of(name)?);
            Ok(cast(column, &DataType::UInt64)?.as_primitive::<UInt64Type>().clone())
        };
        let (prompt_tokens, latencies) = (number("prompt_tokens")?, number("latency_ms")?);
        self.prompt_tokens += arrow::compute::sum(&prompt_tokens).unwrap_or(0);
        self.latency_ms += arrow::compute::sum(&latencies).unwrap_or(0);
        for tokens in number("completion_tokens")?.iter() {
            self.lengths.add(u32::try_from(tokens.unwrap_or(0)).unwrap_or(u32::MAX));
        }
        let reasons = text_column(batch, "finish_reason")?;
        self.cut += reasons.iter().filter(|reason| *reason == Some("length")).count() as u64;
        for model in text_column(batch, "model")?.iter().flatten() {
            if !self.models.iter().any(|known| known == model) {
                self.models.push(model.to_owned());
            }
        }
        Ok(())
    }
}

async fn read_scores(ctx: &StageContext, stage: &str, rows: Plan) -> Result<Scores, StageError> {
    require(ctx, &rows, stage, &["score"])?;
    let plan_error = |error| ctx.plan_error(&error);
    let rows = rows.frame().select_columns(&["score"]).map_err(plan_error)?;
    let mut batches = to_domain(execute(rows).await.map_err(plan_error)?);
    let mut scores = Scores::default();
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|error| ctx.failed(&error))?;
        let column = cast(batch.column(0), &DataType::Float64).map_err(|error| ctx.failed(&error))?;
        for score in column.as_primitive::<Float64Type>().iter().flatten() {
            scores.texts += 1;
            scores.sum += score;
            // As `int_score`: rounded.
            scores.educational += u64::from(score.round() >= EDU_THRESHOLD);
        }
    }
    Ok(scores)
}

/// A column of the comparison: its name and its value for a generator.
type Column<T> = (&'static str, fn(&Figures) -> T);

const COUNTS: [Column<Option<u64>>; 4] = [
    ("documents", |f| Some(f.lengths.texts())),
    ("kept", |f| f.kept),
    ("prompt_tokens", |f| Some(f.prompt_tokens)),
    ("completion_tokens", |f| Some(f.lengths.tokens())),
];

const FIGURES: [Column<Option<f64>>; 12] = [
    ("tokens_mean", |f| f.lengths.mean()),
    ("tokens_p50", |f| f.lengths.quantile(0.5).map(f64::from)),
    ("tokens_p95", |f| f.lengths.quantile(0.95).map(f64::from)),
    ("cut_share", |f| share(f.cut, f.lengths.texts())),
    ("refusal_share", |f| share(f.refused, f.lengths.texts())),
    ("repetition_share", |f| share(f.repetitive, f.lengths.texts())),
    ("near_duplicate_share", |f| share(f.near_duplicates, f.sketched)),
    ("kept_share", |f| f.kept.and_then(|kept| share(kept, f.lengths.texts()))),
    ("edu_score_mean", |f| f.scores.filter(|s| s.texts > 0).map(|s| s.sum / s.texts as f64)),
    ("edu_share", |f| f.scores.and_then(|s| share(s.educational, s.texts))),
    ("usd", |f| Some(f.usd)),
    ("latency_ms_mean", |f| share(f.latency_ms, f.lengths.texts())),
];

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn to_batch(rows: &[(String, Figures)]) -> Result<RecordBatch, ArrowError> {
    let text = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
    let mut columns = vec![
        ("generator", DataType::Utf8, text(rows.iter().map(|(name, _)| name.clone()).collect())),
        ("model", DataType::Utf8, text(rows.iter().map(|(_, of)| of.models.join(", ")).collect())),
    ];
    for (name, value) in COUNTS {
        let column: UInt64Array = rows.iter().map(|(_, of)| value(of)).collect();
        columns.push((name, DataType::UInt64, Arc::new(column)));
    }
    for (name, value) in FIGURES {
        let column: Float64Array = rows.iter().map(|(_, of)| value(of)).collect();
        columns.push((name, DataType::Float64, Arc::new(column)));
    }
    let fields = columns.iter().map(|(name, kind, _)| Field::new(*name, kind.clone(), true));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, _, column)| column).collect())
}

#[cfg(test)]
mod tests;
