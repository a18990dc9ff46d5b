//! `pipeline prompts`: look at finished prompts, and check templates.

use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use datafusion::prelude::{col, lit};
use synth::prompts::{PromptSet, lint};

use super::{Failure, runtime};
use crate::cli::PromptsCommand;
use crate::inspect::{self, generated};
use crate::manifest::Manifest;
use crate::stages::text_column;
use crate::units;

/// Runs a `prompts` command.
///
/// # Errors
/// The run has no prompts, or a template is wrong.
pub fn prompts(command: &PromptsCommand) -> Result<(), Failure> {
    match command {
        PromptsCommand::Preview { run, topic, style, n } => {
            preview(run, topic.as_deref(), style.as_deref(), *n)
        }
        PromptsCommand::Lint { templates_dir, json } => check(templates_dir.as_deref(), *json),
        PromptsCommand::List { templates_dir } => list(templates_dir.as_deref()),
        PromptsCommand::Statistics { run, generate, clean, json } => {
            statistics(&run.join(generate), &run.join(clean), *json)
        }
    }
}

fn check(templates: Option<&Path>, json: bool) -> Result<(), Failure> {
    let set = PromptSet::load(templates).map_err(|error| Failure::message(error, ""))?;
    let findings = lint(&set);
    if json {
        println!("{}", serde_json::json!({"templates": set.templates().len(), "findings": findings}));
    } else if findings.is_empty() {
        println!("{} templates, no finding", set.templates().len());
    } else {
        let rows = findings
            .iter()
            .map(|finding| [finding.template.clone(), finding.place.clone(), finding.what.clone()]);
        print_table(["template", "file", "finding"], rows.collect());
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::message(
        format!("{} findings in the templates", findings.len()),
        "mend the templates named above",
    ))
}

fn list(templates: Option<&Path>) -> Result<(), Failure> {
    let set = PromptSet::load(templates).map_err(|error| Failure::message(error, ""))?;
    let of_share = |share| set.templates().iter().filter(|t| t.share == share).map(|t| t.weight).sum::<f64>();
    let rows = set.templates().iter().map(|template| {
        let part = template.weight / of_share(template.share);
        let share = format!("{:.1} % of {}", part * 100.0, template.share.name());
        [template.name.clone(), template.audience.clone(), template.style.clone(), share]
    });
    print_table(["template", "audience", "format", "share"], rows.collect());
    Ok(())
}

fn statistics(generate: &Path, clean: &Path, json: bool) -> Result<(), Failure> {
    let wrong =
        |message: String| Failure::message(message, "run the workflow first, up to its `clean` stage");
    let session = inspect::session().map_err(Failure::run)?;
    let groups = runtime(units::machine_threads())?
        .block_on(generated::of_run(&session, generate, clean))
        .map_err(wrong)?;
    if json {
        println!("{}", serde_json::json!(groups));
        return Ok(());
    }
    let rows = groups.into_iter().map(|group| {
        let dropped: Vec<String> = group.dropped.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        [
            group.audience,
            group.format,
            group.generated.to_string(),
            group.kept.to_string(),
            group.mean_tokens.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.0}")),
            dropped.join(", "),
        ]
    });
    print_table(["audience", "format", "generated", "kept", "mean tokens", "dropped"], rows.collect());
    Ok(())
}

/// Columns as wide as their widest value.
fn print_table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) {
    let head = head.map(str::to_owned);
    let mut widths = [0; N];
    for row in rows.iter().chain([&head]) {
        for (width, value) in widths.iter_mut().zip(row) {
            *width = (*width).max(value.chars().count());
        }
    }
    for row in [&head].into_iter().chain(&rows) {
        let cells = row.iter().zip(widths).map(|(value, width)| format!("{value:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// The folder of a run's `prompts` stage, or the folder itself if it is one. Of several the one that is called
/// `prompts`.
fn prompts_stage(run: &Path) -> Option<PathBuf> {
    let is_prompts = |manifest: &Manifest| manifest.kind == "prompts";
    if Manifest::read(run).ok().flatten().as_ref().is_some_and(is_prompts) {
        return Some(run.to_owned());
    }
    let stages = inspect::manifests(run).into_iter().filter(is_prompts).map(|manifest| manifest.stage);
    stages.min_by_key(|stage| (stage != "prompts", stage.clone())).map(|stage| run.join(stage))
}

fn preview(run: &Path, topic: Option<&str>, style: Option<&str>, n: usize) -> Result<(), Failure> {
    let wrong = |message: String| {
        Failure::message(message, "run the workflow first: `pipeline run <workflow> --until prompts`")
    };
    let session = inspect::session().map_err(Failure::run)?;
    let stage = prompts_stage(run)
        .ok_or_else(|| wrong(format!("{} has no finished stage of the kind `prompts`", run.display())))?;
    let mut rows = inspect::table(&session, &stage).map_err(wrong)?;
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
