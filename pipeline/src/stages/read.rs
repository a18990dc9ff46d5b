//! `read`: rows from Parquet and JSONL files, local or on the Hugging Face hub.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use async_trait::async_trait;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::DataFrame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{External, Inputs, OutputKind, Shape, Stage, StageKind, Task};
use crate::engine::hub::HubError;
use crate::engine::source::{self, Format, SourceError, SourceFile};
use crate::engine::{BATCH_ROWS, scan};
use crate::forecast::{Before, Expectation};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::inputs;
use crate::runner::ledger::RowSink;

/// The registry's entry.
pub const KIND: StageKind = StageKind {
    name: "read",
    summary: "Reads Parquet and JSONL files, local or from the Hugging Face hub.",
    version: 1,
    inputs: &[],
    output: OutputKind::Table,
    schema: super::schema_of::<ReadConfig>,
    build: super::build_from::<ReadConfig>,
};

/// Lines from which the columns of a JSONL file are inferred.
const INFERENCE_LINES: usize = 1000;

/// Reads files into the line. All columns pass through untouched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadConfig {
    /// Paths and globs, in order: local ones, or `hf://datasets/<owner>/<name>/<path>`. Files end in
    /// `.parquet`, `.jsonl` or `.jsonl.gz`.
    pub paths: Vec<String>,
    /// Columns to keep; all of them when empty.
    #[serde(default)]
    pub columns: Vec<String>,
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
    async fn files(&self, ctx: &StageContext) -> Result<Vec<SourceFile>, StageError> {
        let cache = ctx.env.run_folder.join(".digests.json");
        let files = source::resolve(ctx.session(), &self.paths, &cache).await;
        files.map_err(|error| match error {
            // Not wrong input: the hub may be back for the next try.
            SourceError::Hub(HubError::Request { .. }) => ctx.failed(&error),
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
                Format::JsonLines => vec![file.slice.clone()],
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
        let frame = if slice.path.to_ascii_lowercase().ends_with(".parquet") {
            let schema = if slice.store == "file:///" {
                inputs::schema_of(&path).map_err(|message| ctx.input(message))?
            } else {
                remote_schema(ctx, slice).await?
            };
            scan::parquet(ctx.session(), schema, std::slice::from_ref(slice))
                .map_err(|e| ctx.plan_error(&e))?
        } else if slice.store == "file:///" {
            let schema = infer_schema(&path).map_err(|message| ctx.input(message))?;
            let (sink, lines_schema) = (ctx.ledger.quarantine_sink(), schema.clone());
            super::from_batches(ctx, schema, move || {
                read_lines(path.clone(), lines_schema.clone(), sink.clone())
            })?
        } else {
            return Err(ctx.input(format!("{}: JSONL is read from local files only", task.name)));
        };
        if self.columns.is_empty() {
            return Ok(frame);
        }
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        super::columns::require(ctx, &frame, "paths", &columns)?;
        frame.select_columns(&columns).map_err(|error| ctx.plan_error(&error))
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

fn open_lines(path: &Path) -> std::io::Result<BufReader<Box<dyn Read + Send>>> {
    let file = File::open(path)?;
    let gzipped = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let reader: Box<dyn Read + Send> =
        if gzipped { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(BufReader::with_capacity(1 << 20, reader))
}

/// A line as a JSON object, or what is wrong with it.
fn parse_line(line: &[u8]) -> Result<Option<Json>, (&'static str, String)> {
    let text = std::str::from_utf8(line)
        .map_err(|error| ("not_utf8", format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str::<Json>(text) {
        Ok(value @ Json::Object(_)) => Ok(Some(value)),
        Ok(_) => Err(("not_an_object", "the line is JSON but not an object".to_owned())),
        Err(error) => Err(("bad_json", error.to_string())),
    }
}

fn infer_schema(path: &Path) -> Result<SchemaRef, String> {
    let name = path.display();
    let lines = open_lines(path).map_err(|error| format!("cannot open {name}: {error}"))?;
    let mut rows = Vec::new();
    for line in lines.split(b'\n').take(INFERENCE_LINES) {
        let line = line.map_err(|error| format!("cannot read {name}: {error}"))?;
        if let Ok(Some(row)) = parse_line(&line) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return Err(format!("{name}: none of the first {INFERENCE_LINES} lines is a JSON object"));
    }
    let schema = infer_json_schema_from_iterator(rows.iter().map(Ok));
    schema.map(Arc::new).map_err(|error| format!("{name}: the lines do not agree on their columns: {error}"))
}

/// The rows of a JSONL file in batches; a line that cannot be read goes to `sink` as `file:line`.
fn read_lines(
    path: PathBuf,
    schema: SchemaRef,
    sink: RowSink,
) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let mut lines = None;
    let mut number = 0_u64;
    let mut finished = false;
    std::iter::from_fn(move || {
        if finished {
            return None;
        }
        let result = (|| {
            let lines = match &mut lines {
                Some(lines) => lines,
                slot => slot.insert(open_lines(&path)?.split(b'\n')),
            };
            let mut rows = Vec::with_capacity(BATCH_ROWS);
            while rows.len() < BATCH_ROWS {
                let Some(line) = lines.next() else {
                    finished = true;
                    break;
                };
                number += 1;
                match parse_line(&line?) {
                    Ok(Some(row)) => rows.push((number, row)),
                    Ok(None) => {}
                    Err((reason, detail)) => {
                        sink(format!("{}:{number}", path.display()), reason.to_owned(), detail)
                    }
                }
            }
            decode(&schema, &rows, &path, &sink)
        })();
        match result {
            Ok(batch) if finished && batch.num_rows() == 0 => None,
            other => {
                finished |= other.is_err();
                Some(other)
            }
        }
    })
}

/// Decodes rows at once; when one has a wrong type, row by row to find which.
fn decode(
    schema: &SchemaRef,
    rows: &[(u64, Json)],
    path: &Path,
    sink: &RowSink,
) -> Result<RecordBatch, ArrowError> {
    let decode_rows = |rows: &[&Json]| {
        let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH_ROWS).build_decoder()?;
        decoder.serialize(rows)?;
        decoder.flush()
    };
    let all: Vec<&Json> = rows.iter().map(|(_, row)| row).collect();
    let whole = decode_rows(&all);
    if let Ok(batch) = whole {
        return Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())));
    }
    let mut good = Vec::with_capacity(rows.len());
    for (number, row) in rows {
        match decode_rows(&[row]) {
            Ok(_) => good.push(row),
            Err(error) => {
                sink(format!("{}:{number}", path.display()), "wrong_type".to_owned(), error.to_string())
            }
        }
    }
    Ok(decode_rows(&good)?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    async fn read(
        config: &ReadConfig,
    ) -> Result<(Vec<RecordBatch>, Vec<crate::runner::ledger::LostRow>), StageError> {
        let ctx = testing::context();
        let mut rows = Vec::new();
        for task in config.tasks(&ctx).await?.unwrap() {
            let inputs = Inputs::new(Default::default(), Default::default());
            let frame = config.plan(&ctx, &task, &inputs).await?;
            rows.extend(frame.collect().await.map_err(|error| ctx.plan_error(&error))?);
        }
        Ok((rows, ctx.ledger.quarantined()))
    }

    fn config(path: &Path) -> ReadConfig {
        ReadConfig {
            paths: vec![path.display().to_string()],
            columns: Vec::new(),
            piece_bytes: default_piece_bytes(),
            expected_rows: None,
        }
    }

    #[tokio::test]
    async fn bad_lines_are_set_aside_with_their_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, b"{\"id\":\"a\",\"n\":1}\n\xff\xfe\n{\"id\":\n{\"id\":\"b\",\"n\":\"x\"}\n\n[1]\n{\"id\":\"c\",\"n\":3}\n").unwrap();
        let (rows, bad) = read(&config(&path)).await.unwrap();
        // A column that is a number in one line and a text in another is read as text by inference,
        // so "x" is kept; the broken lines are not.
        assert_eq!(testing::strings(&rows, "id").len() + bad.len(), 6);
        let reasons: Vec<&str> = bad.iter().map(|row| row.reason.as_str()).collect();
        assert!(
            reasons.contains(&"not_utf8")
                && reasons.contains(&"bad_json")
                && reasons.contains(&"not_an_object")
        );
        assert!(bad.iter().any(|row| row.id.ends_with("a.jsonl:2")), "{bad:?}");
    }

    #[tokio::test]
    async fn a_truncated_parquet_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let batch = testing::batch(serde_json::json!([{"id": "a"}]));
        crate::runner::shards::write_table(&path, &batch).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = read(&config(&path)).await.unwrap_err();
        assert!(error.to_string().contains("a.parquet"), "{error}");
        assert_eq!(error.fault, crate::runner::error::Fault::Input);
    }

    #[tokio::test]
    async fn gzipped_lines_are_read_and_columns_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":2}\n").unwrap();
        encoder.finish().unwrap();
        let mut config = config(&path);
        config.columns = vec!["id".into()];
        let (rows, _) = read(&config).await.unwrap();
        assert_eq!(testing::strings(&rows, "id"), ["a", "b"]);
        assert_eq!(rows[0].num_columns(), 1);
    }
}
