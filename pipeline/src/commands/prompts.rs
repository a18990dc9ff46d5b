//! `pipeline prompts`: look at finished prompts, and check templates.

use std::path::Path;

use arrow::record_batch::RecordBatch;
use datafusion::prelude::{col, lit};
use synth::prompts::{PromptSet, lint};

use super::{Failure, runtime};
use crate::cli::PromptsCommand;
use crate::engine::scan::{self, FileSlice};
use crate::inspect::parquet_files;
use crate::runner::inputs::schema_of;
use crate::stages::text_column;
use crate::{engine, units};

/// Runs a `prompts` command.
///
/// # Errors
/// The run has no prompts, or a template is wrong.
pub fn prompts(command: &PromptsCommand) -> Result<(), Failure> {
    match command {
        PromptsCommand::Preview { run, topic, style, n } => {
            preview(run, topic.as_deref(), style.as_deref(), *n)
        }
        PromptsCommand::Lint { templates } => check(templates.as_deref()),
    }
}

fn check(templates: Option<&Path>) -> Result<(), Failure> {
    let set = PromptSet::load(templates).map_err(|error| Failure::message(error, ""))?;
    let findings = lint(&set);
    for finding in &findings {
        println!("{}: {} ({})", finding.place, finding.what, finding.template);
    }
    if findings.is_empty() {
        println!("{} templates, no finding", set.templates().len());
        return Ok(());
    }
    Err(Failure::message(
        format!("{} findings in the templates", findings.len()),
        "mend the templates named above",
    ))
}

fn preview(run: &Path, topic: Option<&str>, style: Option<&str>, n: usize) -> Result<(), Failure> {
    let wrong = |message: String| {
        Failure::message(message, "run the workflow first: `pipeline run <workflow> --until prompts`")
    };
    let files = parquet_files(&run.join("prompts").join("data")).map_err(wrong)?;
    let Some((first, _)) = files.first() else {
        return Err(wrong(format!("{} has no prompts", run.display())));
    };
    let schema = schema_of(first).map_err(wrong)?;
    let session =
        engine::session(units::machine_memory_bytes() / 4, &std::env::temp_dir()).map_err(Failure::run)?;
    let slices: Vec<FileSlice> = files.iter().map(|(path, _)| FileSlice::of(path)).collect();
    let mut rows = scan::parquet(&session, schema, &slices).map_err(Failure::run)?;
    if let Some(topic) = topic {
        let pattern = format!("%{topic}%");
        rows = rows.filter(col("topic_id").like(lit(pattern))).map_err(Failure::run)?;
    }
    if let Some(style) = style {
        rows = rows.filter(col("style").eq(lit(style))).map_err(Failure::run)?;
    }
    let rows = rows.limit(0, Some(n)).map_err(Failure::run)?;
    let batches = runtime(units::machine_threads())?.block_on(rows.collect()).map_err(Failure::run)?;
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Err(Failure::message("no prompt has that topic and style", "leave one of them out"));
    }
    batches.iter().try_for_each(show).map_err(Failure::run)
}

fn show(batch: &RecordBatch) -> Result<(), arrow::error::ArrowError> {
    let column = |name| text_column(batch, name);
    let (ids, topics, styles, audiences) =
        (column("prompt_id")?, column("topic_id")?, column("style")?, column("audience")?);
    let prompts = column("prompt")?;
    for row in 0..batch.num_rows() {
        let (id, topic) = (ids.value(row), topics.value(row));
        println!("── {id} · topic {topic} · {} · {}", styles.value(row), audiences.value(row));
        println!("{}\n", prompts.value(row));
    }
    Ok(())
}
