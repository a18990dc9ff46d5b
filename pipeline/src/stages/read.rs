//! `read`: rows from files: Parquet, JSONL, CSV, Arrow IPC, WARC and WET. A module a format.

mod arrow_ipc;
mod batches;
mod compressed;
mod csv;
mod json_lines;
mod warc;

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::{DataFrame, ident};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{External, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::hub::HubError;
use crate::engine::scan;
use crate::engine::source::{self, Format, SourceError, SourceFile};
use crate::engine::stores::StoreError;
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::inputs;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "read",
    summary: "Reads Parquet (local, from the Hugging Face hub or a bucket), JSONL, CSV, Arrow IPC, WARC and WET files.",
    version: 1,
    inputs: &[],
    output: OutputKind::Table,
    schema: super::schema_of::<ReadConfig>,
    build: super::build_from::<ReadConfig>,
};

/// Rows from which the columns of a JSONL or CSV file are inferred.
const INFERENCE_ROWS: usize = 1000;

/// Reads files into the line. All columns pass through untouched. A page of a WARC or WET file has the
/// columns `text` (HTML, or the text of a WET file), `id`, `dump`, `url`, `date`, `file_path` and
/// `mime_type`; records that are no page are dropped with a reason, damaged ones set aside by their offset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadConfig {
    /// Paths and globs, in order: local ones, `hf://datasets/<owner>/<name>/<path>`, or those of a bucket
    /// (`s3://`, `gs://`, `az://`), whose credentials come from the environment. Files end in
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
        let cache = ctx.env.run_folder.join(".digests.json");
        let files = source::resolve(ctx.session(), &self.paths, &cache).await;
        files.map_err(|error| match error {
            // Not wrong input: the hub may be back for the next try.
            SourceError::Hub(HubError::Request { .. }) => ctx.failed(&error),
            SourceError::Store(StoreError::Store { .. }) => ctx.failed(&error),
            error => ctx.input(crate::runner::error::chain(&error)),
        })
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
                let name = display_name(&piece.store, &piece.path);
                tasks.push(Task { name, slice: Some(vec![piece]) });
            }
        }
        Ok(Some(tasks))
    }

    async fn plan(&self, ctx: &StageContext, task: &Task, _inputs: &Inputs) -> Result<DataFrame, StageError> {
        let slice = task.slice.as_ref().and_then(|slices| slices.first());
        let slice = slice.ok_or_else(|| ctx.internal("a read task without a file"))?;
        let path = PathBuf::from(format!("/{}", slice.path));
        let format = source::format_of(&slice.path).map_err(|error| ctx.input(error.to_string()))?;
        if slice.store != "file:///" && format != Format::Parquet {
            let message = format!(
                "{}: only Parquet is read from the hub and from buckets, other files are local",
                task.name
            );
            return Err(ctx.input(message).help("download the file and give its path"));
        }
        let wrong = |message| ctx.input(message);
        let frame = match format {
            Format::Parquet => {
                let schema = match slice.store == "file:///" {
                    true => inputs::schema_of(&path).map_err(wrong)?,
                    false => remote_schema(ctx, slice).await?,
                };
                scan::parquet(ctx.session(), schema, std::slice::from_ref(slice))
                    .map_err(|e| ctx.plan_error(&e))?
            }
            Format::JsonLines => {
                let schema = json_lines::schema(&path).map_err(wrong)?;
                let (sink, columns) = (ctx.ledger.quarantine_sink(), schema.clone());
                let rows = move || json_lines::rows(path.clone(), columns.clone(), sink.clone());
                super::from_batches(ctx, schema, rows)?
            }
            Format::Csv => {
                let schema = csv::schema(&path).map_err(wrong)?;
                let (sink, columns) = (ctx.ledger.quarantine_sink(), schema.clone());
                let rows = move || csv::rows(path.clone(), columns.clone(), sink.clone());
                super::from_batches(ctx, schema, rows)?
            }
            Format::ArrowIpc => {
                let schema = arrow_ipc::schema(&path).map_err(wrong)?;
                super::from_batches(ctx, schema, move || arrow_ipc::rows(path.clone()))?
            }
            Format::Warc => {
                let sinks =
                    warc::Sinks { dropped: ctx.ledger.drop_sink(), damaged: ctx.ledger.quarantine_sink() };
                super::from_batches(ctx, warc::schema(), move || warc::rows(path.clone(), sinks.clone()))?
            }
        };
        self.shaped(ctx, frame)
    }
}

fn display_name(store: &str, path: &str) -> String {
    if store == "file:///" { format!("/{path}") } else { format!("{store}{path}") }
}

async fn remote_schema(ctx: &StageContext, slice: &scan::FileSlice) -> Result<SchemaRef, StageError> {
    let url = ObjectStoreUrl::parse(&slice.store).map_err(|error| ctx.plan_error(&error))?;
    let store = ctx.session().runtime_env().object_store(&url).map_err(|error| ctx.plan_error(&error))?;
    let mut object = PartitionedFile::new(slice.path.clone(), slice.bytes).object_meta;
    object.size = slice.bytes;
    let format = ParquetFormat::default().with_force_view_types(false);
    let schema = format.infer_schema(&ctx.session().state(), &store, &[object]).await;
    schema.map_err(|error| StageError::plan(&ctx.stage, &display_name(&slice.store, &slice.path), &error))
}

#[cfg(test)]
mod tests;
