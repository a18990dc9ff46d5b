//! `pipeline classifier agreement|review|reviewed`: annotations of judges and people.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use classifiers::annotate::{
    Agreement, Annotation, AnnotationColumns, AnnotationTable, Labelled, read_jsonl, read_review,
    write_jsonl, write_review,
};
use classifiers::{OnReject, Reject};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Failure;
use crate::durable;
use crate::inspect::parquet_files;
use crate::runner::error::chain;

/// Shown of the rows that are no annotations.
const SHOWN_REJECTS: usize = 5;

/// The annotations in a file of JSON lines, a Parquet file, or the folder of a stage. Rows that are none
/// (a score outside 0–5, no id) are told on standard error.
///
/// # Errors
/// A sentence that names the file and what to do.
pub fn read(path: &Path) -> Result<Vec<Labelled>, Failure> {
    let rejects: Arc<Mutex<Vec<Reject>>> = Arc::default();
    let on_reject: OnReject = {
        let rejects = rejects.clone();
        Arc::new(move |reject| rejects.lock().unwrap_or_else(PoisonError::into_inner).push(reject))
    };
    let lines = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
    let found = if lines { read_lines(path, &on_reject) } else { read_table(path, &on_reject) };
    let found = found.map_err(|message| Failure::message(message, ""))?;
    let rejects = rejects.lock().unwrap_or_else(PoisonError::into_inner);
    if !rejects.is_empty() {
        eprintln!("{}: {} rows are left out", path.display(), rejects.len());
        for Reject { id, reason, detail } in rejects.iter().take(SHOWN_REJECTS) {
            eprintln!("    {id}: {reason} ({detail})");
        }
    }
    Ok(found)
}

fn read_lines(path: &Path, on_reject: &OnReject) -> Result<Vec<Labelled>, String> {
    let file = File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let name = path.display().to_string();
    read_jsonl(&name, BufReader::new(file), on_reject)
        .collect::<Result<_, _>>()
        .map_err(|error| chain(&error))
}

fn read_table(path: &Path, on_reject: &OnReject) -> Result<Vec<Labelled>, String> {
    let mut found = Vec::new();
    for (path, _) in parquet_files(path)? {
        let name =
            |error: &(dyn std::error::Error + 'static)| format!("{}: {}", path.display(), chain(error));
        let file = File::open(&path).map_err(|error| name(&error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| name(&error))?;
        let table = AnnotationTable::new(builder.schema(), &AnnotationColumns::default());
        let table = table.map_err(|error| name(&error))?;
        for batch in builder.build().map_err(|error| name(&error))? {
            let batch = batch.map_err(|error| name(&error))?;
            found.extend(table.rows(&batch, on_reject).map_err(|error| name(&error))?);
        }
    }
    Ok(found)
}

/// Shows how far two judges agree.
///
/// # Errors
/// A file cannot be read, or a judge has scored a page twice.
pub fn agreement(first: &Path, second: &Path, json: bool) -> Result<(), Failure> {
    let annotations = |path: &Path| -> Result<Vec<Annotation>, Failure> {
        Ok(read(path)?.into_iter().map(|labelled| labelled.annotation).collect())
    };
    let agreement = Agreement::between(&annotations(first)?, &annotations(second)?);
    let agreement = agreement.map_err(|error| Failure::message(chain(&error), ""))?;
    if agreement.pages == 0 {
        let message = format!("{} and {} share no id", first.display(), second.display());
        return Err(Failure::message(message, "both must have scored the same texts"));
    }
    if json {
        println!("{}", serde_json::json!(agreement));
    } else {
        let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        println!("{}", agreement.to_markdown(&name(first), &name(second)));
    }
    Ok(())
}

/// Writes annotations for people to correct.
///
/// # Errors
/// A file cannot be read or written.
pub fn review(annotations: &Path, output: &Path, dry_run: bool) -> Result<(), Failure> {
    let rows = read(annotations)?;
    let mut text = Vec::new();
    let written = write_review(&output.display().to_string(), &mut text, &rows);
    written.map_err(|error| Failure::message(chain(&error), ""))?;
    write(output, &text, dry_run)?;
    println!("{}: {} annotations; fill in `corrected_score` and `note`", output.display(), rows.len());
    Ok(())
}

/// Takes corrected annotations back.
///
/// # Errors
/// A file cannot be read or written, or a score is none.
pub fn reviewed(csv: &Path, output: &Path, dry_run: bool) -> Result<(), Failure> {
    let wrong = |error: classifiers::annotate::AnnotateError| Failure::message(chain(&error), "");
    let file = File::open(csv)
        .map_err(|error| Failure::message(format!("cannot open {}: {error}", csv.display()), ""))?;
    let rows = read_review(&csv.display().to_string(), file).map_err(wrong)?;
    let mut text = Vec::new();
    write_jsonl(&output.display().to_string(), &mut text, &rows).map_err(wrong)?;
    write(output, &text, dry_run)?;
    println!("{}: {} annotations", output.display(), rows.len());
    Ok(())
}

/// Writes a file that appears whole, and is not there yet: people's corrections are not written over.
fn write(path: &Path, bytes: &[u8], dry_run: bool) -> Result<(), Failure> {
    if path.exists() {
        let message = format!("{} is there already", path.display());
        return Err(Failure::message(message, "name a file that is not there yet"));
    }
    if dry_run {
        print!("would write ");
        return Ok(());
    }
    durable::write_file(path, bytes).map_err(Failure::run)
}
