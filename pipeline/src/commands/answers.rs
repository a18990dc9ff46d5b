//! `pipeline answers`: look into answer logs, export them, compact them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use synth::answer_log::{Compaction, LogStats, compact, segments_exist, survey};

use super::Failure;
use crate::cli::AnswersCommand;
use crate::durable::{self, WriteContext};
use crate::runner::ANSWERS_FOLDER;
use crate::runner::progress::{group, size};

/// Runs an `answers` command.
///
/// # Errors
/// There is no answer log, or it cannot be read or written.
pub fn answers(command: &AnswersCommand) -> Result<(), Failure> {
    match command {
        AnswersCommand::Stats { path, json } => stats(path, *json),
        AnswersCommand::Export { path, output, dry_run } => export(path, output.as_deref(), *dry_run),
        AnswersCommand::Compact { path, dry_run } => {
            let compaction = if *dry_run { Compaction::DryRun } else { Compaction::Write };
            compact_all(path, compaction)
        }
    }
}

/// The logs that a path names: a log's folder, a run's folder, or a stage's.
fn logs(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if segments_exist(path) {
        return Ok(vec![path.to_owned()]);
    }
    let of_run = path.join(ANSWERS_FOLDER);
    if let Ok(entries) = std::fs::read_dir(&of_run) {
        let mut found: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|folder| segments_exist(folder)).collect();
        found.sort();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    if let (Some(run), Some(stage)) = (path.parent(), path.file_name()) {
        let of_stage = run.join(ANSWERS_FOLDER).join(stage);
        if segments_exist(&of_stage) {
            return Ok(vec![of_stage]);
        }
    }
    Err(Failure::message(
        format!("{} holds no answer log", path.display()),
        "name a run's folder, for example runs/cosmopedia_v2/sample, one of its stages, or a log's own folder",
    ))
}

fn stats(path: &Path, json: bool) -> Result<(), Failure> {
    for log in logs(path)? {
        let stats = survey(&log, |_| Ok(())).map_err(Failure::run)?;
        if json {
            println!("{}", serde_json::json!({"log": log, "stats": stats}));
        } else {
            show(&log, &stats);
        }
    }
    Ok(())
}

fn show(log: &Path, stats: &LogStats) {
    let totals = &stats.totals;
    let mean = totals.completion_tokens as f64 / totals.answers.max(1) as f64;
    println!("{}", log.display());
    println!(
        "  {} answers ({} cut by their length) in {} files, {}",
        group(stats.answers),
        group(stats.cut_answers),
        stats.segments,
        size(stats.bytes)
    );
    println!(
        "  paid for: {} requests, {} prompt tokens, {} answer tokens, {mean:.0} an answer",
        group(totals.requests),
        group(totals.prompt_tokens),
        group(totals.completion_tokens)
    );
    for (model, of_model) in &stats.models {
        println!(
            "  model {model}: {} answers, {} answer tokens",
            group(of_model.answers),
            group(of_model.completion_tokens)
        );
    }
    for (what, counts) in [("ended by", &stats.finish_reasons), ("from", &stats.endpoints)] {
        let list: Vec<String> = counts
            .iter()
            .map(|(name, count)| {
                format!("{} {}", if name.is_empty() { "(no word)" } else { name }, group(*count))
            })
            .collect();
        if !list.is_empty() {
            println!("  {what}: {}", list.join(", "));
        }
    }
    if stats.superseded > 0 {
        println!(
            "  {} superseded records, {}: `pipeline answers compact` drops them",
            group(stats.superseded),
            size(stats.superseded_bytes)
        );
    }
    if stats.damaged_bytes > 0 {
        println!(
            "  {} hold no readable record; answers lost there are asked again",
            size(stats.damaged_bytes)
        );
    }
}

fn export(path: &Path, output: Option<&Path>, dry_run: bool) -> Result<(), Failure> {
    let logs = logs(path)?;
    let Some(output) = output.filter(|_| !dry_run) else {
        if dry_run {
            let answers = write_all(&logs, &mut std::io::sink())?;
            let to = output.map_or("standard output".to_owned(), |path| path.display().to_string());
            println!("would write {} answers to {to}", group(answers));
            return Ok(());
        }
        return write_all(&logs, &mut BufWriter::new(std::io::stdout().lock())).map(drop);
    };
    let partial = durable::temporary_name(output);
    let file = File::create(&partial).doing("create", &partial).map_err(Failure::run)?;
    let mut out = BufWriter::new(file);
    let answers = write_all(&logs, &mut out)?;
    out.get_ref().sync_all().doing("sync", &partial).map_err(Failure::run)?;
    durable::publish(&partial, output).map_err(Failure::run)?;
    println!("{} answers in {}", group(answers), output.display());
    Ok(())
}

/// Writes the answers that count as JSON lines; with several logs, each line names its stage.
fn write_all(logs: &[PathBuf], out: &mut dyn Write) -> Result<u64, Failure> {
    let mut answers = 0;
    for log in logs {
        let stage = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stats = survey(log, |answer| {
            let mut line = serde_json::to_value(&answer)?;
            if logs.len() > 1 {
                line["stage"] = stage.clone().into();
            }
            writeln!(out, "{line}")
        })
        .map_err(Failure::run)?;
        answers += stats.answers;
    }
    out.flush().map_err(Failure::run)?;
    Ok(answers)
}

fn compact_all(path: &Path, compaction: Compaction) -> Result<(), Failure> {
    for log in logs(path)? {
        let report = compact(&log, compaction).map_err(Failure::run)?;
        let verb = if compaction == Compaction::DryRun { "would drop" } else { "dropped" };
        println!(
            "{}: {verb} {} records; {} before, {} after",
            log.display(),
            group(report.records),
            size(report.bytes_before),
            size(report.bytes_after)
        );
    }
    Ok(())
}
