//! `dataset`: a corpus as the Hub lays it out, with its dataset card.

mod card;
mod croissant;
mod figures;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatchReader;
use async_trait::async_trait;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::columns::{require, schema_of};
use super::{
    ConfigMistake, InputCount, InputRole, InputTable, Inputs, Outcome, OutputKind, Shape, Stage, StageKind,
    foreign_stages, odd_names,
};
use crate::durable::{self, WriteContext, WriteError};
use crate::integrity::files;
use crate::manifest::{Manifest, OutputFile};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::shards;
use figures::Figures;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "dataset",
    summary: "Lays subsets out as a dataset of the Hub, with its card; `datasets.load_dataset` opens the folder.",
    version: 2,
    inputs: &[
        InputRole { role: "sources", about: "tables with a text", count: InputCount::Many },
        InputRole {
            role: "tokens",
            about: "a `pack` stage, for the token counts",
            count: InputCount::Optional,
        },
        InputRole {
            role: "evaluation",
            about: "an `evaluate` stage, for its figures",
            count: InputCount::Optional,
        },
        InputRole {
            role: "mixture",
            about: "the `mix` stage of the corpus, for its weights and repeats",
            count: InputCount::Optional,
        },
    ],
    output: OutputKind::Folder,
    schema: super::schema_of::<DatasetConfig>,
    build: super::build_from::<DatasetConfig>,
};

/// Lays subsets out as `data/<subset>/train-00000-of-000NN.parquet` with a README.md (front matter with a
/// config for each subset, sizes, lengths, the shares of audiences and formats, figures) and a
/// `croissant.json` (MLCommons Croissant 1.0), by which other tools find the files and their columns.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// The dataset's name.
    pub title: String,
    /// What it is, in a paragraph.
    #[serde(default)]
    pub description: String,
    /// The licence's identifier on the Hub, for example `odc-by`.
    #[serde(default = "default_licence")]
    pub licence: String,
    /// Where it is to be published, `owner/name` on the Hub; the description for other tools names it.
    #[serde(default)]
    pub repository: Option<String>,
    /// The language's code.
    #[serde(default = "default_language")]
    pub language: String,
    /// The subsets by name, in the Hub's names: `cosmopedia-v2`, `fineweb-edu-dedup`, `python-edu`.
    pub subsets: BTreeMap<String, PublishedSubset>,
}

/// One subset of the dataset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedSubset {
    /// The stage whose rows these are; one of the `sources`.
    pub stage: String,
    /// The columns to publish, in this order; all of them when empty. HuggingFaceTB/smollm-corpus
    /// has `prompt, text, token_length, audience, format, seed_data` in `cosmopedia-v2`.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The column with the text.
    #[serde(default = "default_text")]
    pub text_column: String,
    /// The licence of its texts, where it is not the dataset's.
    #[serde(default)]
    pub licence: Option<String>,
}

/// What is told of a subset.
struct Published {
    figures: Figures,
    schema: SchemaRef,
}

/// What other stages tell in their manifests.
#[derive(Default)]
struct Told {
    packed: BTreeMap<String, Json>,
    evaluation: BTreeMap<String, Json>,
    mixture: BTreeMap<String, Json>,
}

fn default_licence() -> String {
    "other".to_owned()
}

fn default_language() -> String {
    "en".to_owned()
}

fn default_text() -> String {
    "text".to_owned()
}

#[async_trait]
impl Stage for DatasetConfig {
    fn config(&self) -> Json {
        super::config_json(self)
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn validate(&self, inputs: &BTreeMap<String, Vec<String>>) -> Vec<ConfigMistake> {
        let sources = inputs.get("sources").map_or(&[][..], Vec::as_slice);
        let named = self.subsets.iter().map(|(name, subset)| (name, &subset.stage));
        let mut mistakes = foreign_stages("subsets", named, "subset", sources, "sources");
        mistakes.extend(odd_names(self.subsets.keys()).map(|name| ConfigMistake {
            field: "subsets",
            message: format!("`{name}` cannot be the name of a folder and of a config on the Hub"),
            help: "use letters, digits, `-`, `_` and `.`".to_owned(),
        }));
        mistakes
    }

    async fn run(&self, ctx: &StageContext, inputs: &Inputs, out: &Path) -> Result<Outcome, StageError> {
        let mut published = BTreeMap::new();
        for (name, subset) in &self.subsets {
            let place = inputs.tables("sources").iter().position(|table| table.stage == subset.stage);
            let place =
                place.ok_or_else(|| ctx.input(format!("stage `{}` leaves no table", subset.stage)))?;
            let (table, source) = (&inputs.tables("sources")[place], &inputs.folders("sources")[place]);
            published.insert(name.clone(), self.publish(ctx, name, subset, table, source, out).await?);
        }
        let metrics = |role: &str| -> Result<BTreeMap<String, Json>, StageError> {
            let Some(folder) = inputs.optional_folder(role) else { return Ok(BTreeMap::new()) };
            let manifest = Manifest::read(folder).map_err(|error| ctx.failed(&error))?;
            Ok(manifest.map(|manifest| manifest.metrics).unwrap_or_default())
        };
        let told = Told {
            packed: metrics("tokens")?,
            evaluation: metrics("evaluation")?,
            mixture: metrics("mixture")?,
        };
        let mut files = card::plots(&published);
        files.push(("README.md".to_owned(), card::render(self, &published, &told)));
        files.push(("croissant.json".to_owned(), croissant::render(self, &published)));
        for (path, text) in files {
            let path = out.join(path);
            let made = path.parent().map_or(Ok(()), durable::make_folder);
            made.and_then(|()| durable::write_file(&path, text.as_bytes()))
                .map_err(|error| ctx.write_error(&error))?;
        }
        let figures = || published.iter().map(|(name, subset)| (name, &subset.figures));
        Ok(Outcome {
            rows_in: None,
            rows_out: figures().map(|(_, figures)| figures.documents).sum(),
            metrics: figures().map(|(name, figures)| (name.clone(), json!(figures))).collect(),
        })
    }
}

impl DatasetConfig {
    /// Writes the files of a subset that are not there yet.
    async fn publish(
        &self,
        ctx: &StageContext,
        name: &str,
        subset: &PublishedSubset,
        table: &InputTable,
        source: &Path,
        out: &Path,
    ) -> Result<Published, StageError> {
        let mut needed: Vec<&str> = subset.columns.iter().map(String::as_str).collect();
        needed.push(&subset.text_column);
        require(ctx, &table.plan, &subset.stage, &needed)?;
        let manifest = Manifest::read(source).map_err(|error| ctx.failed(&error))?;
        let manifest = manifest.ok_or_else(|| {
            ctx.input(format!("stage `{}` is not written out", subset.stage))
                .help("take `materialize = false` out of it: a dataset is made of finished files")
        })?;
        // Empty shards tell a stage's columns; a dataset has no use for them beside full ones.
        let full = manifest.shards().filter(|shard| shard.rows != Some(0));
        let mut shards: Vec<PathBuf> = full.map(|shard| source.join(&shard.path)).collect();
        if shards.is_empty() {
            shards = manifest.shards().take(1).map(|shard| source.join(&shard.path)).collect();
        }
        let folder = out.join("data").join(name);
        let (count, columns, progress) = (shards.len(), subset.columns.clone(), ctx.progress.clone());
        let write = move || {
            let path = |i: usize| folder.join(format!("train-{i:05}-of-{count:05}.parquet"));
            for (i, shard) in shards.iter().enumerate() {
                let path = path(i);
                // What a killed run left is taken over, if it still is what was written.
                if files::noted(&path).is_none() {
                    let file = copy_columns(shard, &columns, &path)?;
                    progress.add_rows(file.rows.unwrap_or_default());
                    files::note(&path, &file)?;
                }
            }
            // The manifest, which comes next, says the same.
            (0..count).map(path).for_each(|path| files::forget(&path));
            Ok::<_, WriteError>(())
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(|error| ctx.failed(&error))?;
        written.map_err(|error| ctx.write_error(&error))?;
        let found = schema_of(&table.plan);
        let places: Vec<usize> = match subset.columns.is_empty() {
            true => (0..found.fields().len()).collect(),
            false => subset.columns.iter().filter_map(|column| found.index_of(column).ok()).collect(),
        };
        let schema = found.project(&places).map_err(|error| ctx.failed(&error))?;
        let figures = Figures::of(ctx, table.plan.clone(), &subset.text_column).await?;
        Ok(Published { figures, schema: schema.into() })
    }
}

/// Copies columns of a shard, in the order given, into a file that appears whole.
fn copy_columns(shard: &Path, columns: &[String], path: &Path) -> Result<OutputFile, WriteError> {
    let reading = |error: parquet::errors::ParquetError| std::io::Error::other(error);
    let file = File::open(shard).doing("open", shard)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(reading).doing("read", shard)?;
    let builder = if columns.is_empty() {
        builder
    } else {
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().map(String::as_str));
        builder.with_projection(mask)
    };
    let rows = builder.build().map_err(reading).doing("read", shard)?;
    let found = rows.schema();
    let order: Vec<usize> = if columns.is_empty() {
        (0..found.fields().len()).collect()
    } else {
        columns.iter().filter_map(|name| found.index_of(name).ok()).collect()
    };
    let schema = found.project(&order).map_err(std::io::Error::other).doing("read", shard)?;
    let batches = rows.map(|batch| batch.and_then(|batch| batch.project(&order)));
    shards::write_batches(path, schema.into(), batches)
}
