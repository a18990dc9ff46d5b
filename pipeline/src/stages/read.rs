//! `read`: rows from files: Parquet, JSONL, CSV, Arrow IPC, WARC and WET. A module a format.

mod arrow_ipc;
mod batches;
mod compressed;
mod csv;
mod json_lines;
mod unchanged;
mod warc;

use std::collections::BTreeMap;
use std::path::Path;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::prelude::{DataFrame, ident};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use self::unchanged::unchanged;
use super::{External, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::data_file::DataFile;
use crate::engine::scan::{self, FileSlice};
use crate::engine::source::{self, Format, SourceError, SourceFile};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::inputs;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "read",
    summary: "Reads Parquet, JSONL, CSV, Arrow IPC, WARC and WET files: local ones, of the Hugging Face hub, of buckets and web servers.",
    version: 1,
    inputs: &[],
    output: OutputKind::Table,
    schema: super::schema_of::<ReadConfig>,
    build: super::build_from::<ReadConfig>,
};

/// Digests of a run's local input files, in its folder.
pub(super) const DIGEST_CACHE: &str = ".digests.json";
/// Rows from which the columns of a JSONL or CSV file are inferred.
const INFERENCE_ROWS: usize = 1000;

/// Reads files into the line. All columns pass through untouched. A page of a WARC or WET file has the
/// columns `text` (HTML, or the text of a WET file), `id`, `dump`, `url`, `date`, `file_path` and
/// `mime_type`; records that are no page are dropped with a reason, damaged ones set aside by their offset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadConfig {
    /// Paths and globs, in order: local ones, `hf://datasets/<owner>/<name>/<path>`, those of a bucket
    /// (`s3://`, `gs://`, `az://`), whose credentials come from the environment, or the address of a file
    /// (`https://`) on a server that gives files in parts. Files end in
    /// `.parquet`, `.jsonl`, `.ndjson`, `.csv` or `.tsv` (each also with `.gz` or `.zst`), `.arrow`,
    /// `.feather`, `.warc`, `.warc.gz`, `.wet` or `.wet.gz`.
    pub paths: Vec<String>,
    /// Columns to keep; all of them when empty.
    #[serde(default)]
    pub columns: Vec<String>,
    /// New names of columns, by their old ones: `{ content = "text" }`.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Large Parquet files are read in pieces of this many bytes, each a task that is resumed
    /// on its own.
    #[serde(default = "default_piece_bytes")]
    pub piece_bytes: u64,
    /// About how many rows there are, for `pipeline plan`; local Parquet files are counted when left
    /// out.
    #[serde(default)]
    pub expected_rows: Option<u64>,
}

fn default_piece_bytes() -> u64 {
    256 << 20
}

impl ReadConfig {
    /// The columns that are kept, under their new names.
    fn shaped(&self, ctx: &StageContext, frame: DataFrame) -> Result<DataFrame, StageError> {
        if self.columns.is_empty() && self.rename.is_empty() {
            return Ok(frame);
        }
        let needed: Vec<&str> = self.columns.iter().chain(self.rename.keys()).map(String::as_str).collect();
        super::columns::require(ctx, &frame, "paths", &needed)?;
        let names = frame.schema().fields().iter().map(|field| field.name().clone());
        let kept: Vec<String> = if self.columns.is_empty() { names.collect() } else { self.columns.clone() };
        let columns = kept.iter().map(|name| match self.rename.get(name) {
            Some(new) => ident(name).alias(new),
            None => ident(name),
        });
        frame.select(columns.collect::<Vec<_>>()).map_err(|error| ctx.plan_error(&error))
    }

    async fn files(&self, ctx: &StageContext) -> Result<Vec<SourceFile>, StageError> {
        let cache = ctx.env.run_folder.join(DIGEST_CACHE);
        let files = source::resolve(ctx.session(), &self.paths, &cache).await;
        files.map_err(|error| source_error(ctx, &error))
    }
}

#[async_trait]
impl Stage for ReadConfig {
    fn config(&self) -> Json {
        // Where files are is not what they hold: the fingerprint has their digests.
        let mut config = super::config_json(self);
        if let Some(map) = config.as_object_mut() {
            map.remove("paths");
            map.remove("expected_rows");
        }
        config
    }

    fn shape(&self) -> Shape {
        Shape::PerShard
    }

    fn expect(&self, _before: &Before<'_>) -> Expectation {
        let rows = self.expected_rows.or_else(|| source::local_parquet_rows(&self.paths));
        Expectation { rows: rows.map(|rows| rows as f64), ..Expectation::default() }
    }

    async fn externals(&self, ctx: &StageContext) -> Result<Vec<External>, StageError> {
        let files = self.files(ctx).await?;
        let external =
            |(i, file): (usize, SourceFile)| External { name: format!("file {i}"), digest: file.digest };
        Ok(files.into_iter().enumerate().map(external).collect())
    }

    async fn tasks(&self, ctx: &StageContext) -> Result<Option<Vec<Task>>, StageError> {
        let files = self.files(ctx).await?;
        let mut tasks = Vec::new();
        for file in files {
            let pieces = match file.format {
                Format::Parquet => file.slice.cut(self.piece_bytes),
                _ => vec![file.slice.clone()],
            };
            for piece in pieces {
                tasks.push(Task { name: piece.address(), slice: Some(vec![piece]) });
            }
        }
        Ok(Some(tasks))
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, _inputs: &Inputs) -> Result<DataFrame, StageError> {
        let slice = task.slice.as_ref().and_then(|slices| slices.first());
        let slice = slice.ok_or_else(|| ctx.internal("a read task without a file"))?;
        let format = source::format_of(&slice.path).map_err(|error| source_error(ctx, &error))?;
        let frame = match format {
            Format::Parquet => {
                let schema = match slice.is_local() {
                    true => {
                        inputs::schema_of(Path::new(&slice.address())).map_err(|error| ctx.input(error))?
                    }
                    false => remote_schema(ctx, slice).await?,
                };
                scan::parquet(ctx.session(), schema, std::slice::from_ref(slice))
                    .map_err(|e| ctx.plan_error(&e))?
            }
            Format::JsonLines => {
                let (file, schema) = inferred(ctx, slice, json_lines::schema).await?;
                let (sink, columns) = (ctx.ledger.quarantine_sink(), schema.clone());
                let rows = move || json_lines::rows(file.clone(), columns.clone(), sink.clone());
                super::from_batches(ctx, schema, rows)?
            }
            Format::Csv => {
                let (file, schema) = inferred(ctx, slice, csv::schema).await?;
                let (sink, columns) = (ctx.ledger.quarantine_sink(), schema.clone());
                let rows = move || csv::rows(file.clone(), columns.clone(), sink.clone());
                super::from_batches(ctx, schema, rows)?
            }
            Format::ArrowIpc => {
                let (file, schema) = inferred(ctx, slice, arrow_ipc::schema).await?;
                super::from_batches(ctx, schema, move || arrow_ipc::rows(file.clone()))?
            }
            Format::Warc => {
                let (file, schema) = inferred(ctx, slice, |_| Ok(warc::schema())).await?;
                let sinks =
                    warc::Sinks { dropped: ctx.ledger.drop_sink(), damaged: ctx.ledger.quarantine_sink() };
                super::from_batches(ctx, schema, move || warc::rows(file.clone(), sinks.clone()))?
            }
        };
        unchanged(ctx, self.shaped(ctx, frame)?, slice)
    }
}

/// A source that cannot be read: the input is wrong, or the next try may go better.
pub(super) fn source_error(ctx: &StageContext, error: &SourceError) -> StageError {
    match error.may_pass() {
        true => ctx.failed(error),
        false => ctx.input(crate::runner::error::chain(error)),
    }
}

/// A file, and its columns as `schema` finds them.
async fn inferred(
    ctx: &StageContext,
    slice: &FileSlice,
    schema: fn(&DataFile) -> Result<SchemaRef, String>,
) -> Result<(DataFile, SchemaRef), StageError> {
    let file = DataFile::of(ctx.session(), slice).map_err(|error| ctx.plan_error(&error))?;
    let wrong = ctx.clone();
    super::blocking(&ctx.stage, move || {
        let schema = schema(&file).map_err(|message| wrong.input(message))?;
        Ok((file, schema))
    })
    .await
}

async fn remote_schema(ctx: &StageContext, slice: &FileSlice) -> Result<SchemaRef, StageError> {
    let store = source::store_of(ctx.session(), slice).map_err(|error| ctx.plan_error(&error))?;
    let mut object = PartitionedFile::new(slice.path.clone(), slice.bytes).object_meta;
    object.size = slice.bytes;
    let format = ParquetFormat::default().with_force_view_types(false);
    let schema = format.infer_schema(&ctx.session().state(), &store, &[object]).await;
    schema.map_err(|error| StageError::plan(&ctx.stage, &slice.address(), &error))
}

#[cfg(test)]
mod tests;
