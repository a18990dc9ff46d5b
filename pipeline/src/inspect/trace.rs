//! Follows a document through the stages of a run: in which outputs it stands, where it was dropped
//! and why. Ids that a row names (the seed page of a prompt, the topic of a page) are followed on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{Expr, col, lit};

use super::{cut, manifests, parquet_files};
use crate::engine::Session;
use crate::engine::scan::{self, FileSlice};
use crate::engine::streams::collect;
use crate::manifest::Manifest;
use crate::runner::inputs::schema_of;

/// Columns that identify a row, or the row it was made from.
pub const ID_COLUMNS: [&str; 6] = ["id", "doc_id", "seed_doc_id", "prompt_id", "topic_id", "blob_id"];

/// Rows of one output that are shown.
const SHOWN_ROWS: usize = 20;

/// A row that belongs to the document.
pub struct Sighting {
    /// The stage.
    pub stage: String,
    /// What became of it there: `in the output`, `dropped`, `failed`.
    pub fate: &'static str,
    /// The row's columns, texts cut.
    pub row: BTreeMap<String, String>,
}

/// The rows that belong to a document, in the order of the stages' dependence.
///
/// # Errors
/// A text that names what cannot be read.
pub async fn trace(session: &Session, run_folder: &Path, id: &str) -> Result<Vec<Sighting>, String> {
    let mut stages = manifests(run_folder);
    if stages.is_empty() {
        return Err(format!("{} is not the folder of a run", run_folder.display()));
    }
    order(&mut stages);
    let mut sightings = Vec::new();
    for manifest in &stages {
        let folder = run_folder.join(&manifest.stage);
        for (part, fate) in [("data", "in the output"), ("dropped", "dropped"), ("quarantine", "failed")] {
            let path = folder.join(part);
            if !path.exists() {
                continue;
            }
            let files: Vec<PathBuf> = parquet_files(&path)?.into_iter().map(|(path, _)| path).collect();
            for row in rows_of(session, &files, id).await? {
                sightings.push(Sighting { stage: manifest.stage.clone(), fate, row });
            }
        }
    }
    Ok(sightings)
}

/// Puts each stage behind the stages it reads.
fn order(stages: &mut Vec<Manifest>) {
    let mut sorted: Vec<Manifest> = Vec::with_capacity(stages.len());
    let mut done: BTreeSet<String> = BTreeSet::new();
    while !stages.is_empty() {
        let names: BTreeSet<String> = stages.iter().map(|manifest| manifest.stage.clone()).collect();
        let ready = |manifest: &Manifest| {
            let mut upstream = manifest.inputs.values().flatten().filter_map(|input| input.split(':').next());
            upstream.all(|id| done.contains(id) || !names.contains(id))
        };
        // A run has no cycles; a folder that was tampered with is shown as it lies.
        let next = stages.iter().position(ready).unwrap_or(0);
        let manifest = stages.remove(next);
        done.insert(manifest.stage.clone());
        sorted.push(manifest);
    }
    *stages = sorted;
}

async fn rows_of(
    session: &Session,
    files: &[PathBuf],
    id: &str,
) -> Result<Vec<BTreeMap<String, String>>, String> {
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    let schema = schema_of(first)?;
    let conditions = ID_COLUMNS
        .iter()
        .filter(|name| schema.field_with_name(name).is_ok())
        .map(|name| col(*name).eq(lit(id)));
    let Some(condition) = conditions.reduce(Expr::or) else { return Ok(Vec::new()) };
    let slices: Vec<FileSlice> = files.iter().map(|path| FileSlice::of(path)).collect();
    let explain = |error: datafusion::error::DataFusionError| format!("{}: {error}", first.display());
    let rows = scan::parquet(session, schema, &slices)
        .and_then(|rows| rows.filter(condition))
        .and_then(|rows| rows.limit(0, Some(SHOWN_ROWS)))
        .map_err(explain)?;
    let batches = collect(rows).await.map_err(explain)?;
    batches.iter().map(cells).collect::<Result<Vec<_>, _>>().map(|rows| rows.into_iter().flatten().collect())
}

fn cells(batch: &RecordBatch) -> Result<Vec<BTreeMap<String, String>>, String> {
    let options = FormatOptions::default().with_null("");
    let schema = batch.schema();
    let mut rows = vec![BTreeMap::new(); batch.num_rows()];
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let format = ArrayFormatter::try_new(column, &options).map_err(|error| error.to_string())?;
        for (row, cells) in rows.iter_mut().enumerate() {
            if !column.is_null(row) {
                cells.insert(field.name().clone(), cut(&format.value(row).to_string()));
            }
        }
    }
    Ok(rows)
}
