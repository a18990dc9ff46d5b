//! `pipeline classifier …`: a regression head from annotated pages, and what goes with it.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::Array;
use classifiers::annotate::Labelled;
use classifiers::{
    Backbone, BackboneOptions, Example, FeatureSet, Head, Runtime, TrainOptions, export_onnx, train_head,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Failure, annotations};
use crate::assets::{Asset, AssetStore};
use crate::cli::{ClassifierCommand, TrainArgs};
use crate::durable;
use crate::runner::error::chain;
use crate::stages::text_column;

/// Runs a `classifier` command.
///
/// # Errors
/// A file is missing or malformed, or the annotations do not fit the pages.
pub fn classifier(command: &ClassifierCommand) -> Result<(), Failure> {
    match command {
        ClassifierCommand::Train(args) => train(args),
        ClassifierCommand::ExportOnnx { head, output, backbone, dry_run } => {
            export(head, output, backbone.as_deref(), *dry_run)
        }
        ClassifierCommand::Agreement { first, second, json } => annotations::agreement(first, second, *json),
        ClassifierCommand::Review { annotations, output, dry_run } => {
            annotations::review(annotations, output, *dry_run)
        }
        ClassifierCommand::Reviewed { csv, output, dry_run } => annotations::reviewed(csv, output, *dry_run),
    }
}

fn export(head: &Path, output: &Path, backbone: Option<&Path>, dry_run: bool) -> Result<(), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::message(chain(error), "");
    let head = Head::load(head).map_err(|error| failed(&error))?;
    let store = AssetStore::from_environment().map_err(|error| failed(&error))?;
    let backbone = match backbone {
        Some(path) => path.to_owned(),
        None => store.path(Asset::MinilmInt8).map_err(|error| failed(&error))?,
    };
    if dry_run {
        println!("would write {} of {} and the head", output.display(), backbone.display());
        return Ok(());
    }
    export_onnx(&backbone, &head, output).map_err(|error| failed(&error))?;
    println!("{}", output.display());
    Ok(())
}

fn train(args: &TrainArgs) -> Result<(), Failure> {
    let TrainArgs {
        pages,
        annotations,
        id_column,
        notes,
        output,
        name,
        max_tokens,
        held_out,
        threshold,
        features,
        repeats,
        dry_run,
    } = args;
    let wrong = |message: String| Failure::message(message, "");
    let features: FeatureSet = serde_json::from_value(features.as_str().into()).map_err(|_| {
        Failure::message(format!("`{features}` is no set of features"), "there are none, code_v1")
    })?;
    let scores = annotations::read(annotations)?.into_iter().map(|Labelled { annotation, .. }| annotation);
    let scores: BTreeMap<String, f32> = scores.map(|of| (of.id, f32::from(of.score))).collect();
    let examples = read_pages(pages, id_column, &scores).map_err(wrong)?;
    let notes_text = notes.as_deref().map(read_notes).transpose().map_err(wrong)?.unwrap_or_default();
    println!("{} annotations, {} of them with a page", scores.len(), examples.len());
    if *dry_run {
        return Ok(());
    }
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::message(chain(error), "");
    let store = AssetStore::from_environment().map_err(|error| failed(&error))?;
    let asset = |asset| store.path(asset).map_err(|error| failed(&error));
    let library = store.onnx_runtime().map_err(|error| failed(&error))?;
    let runtime = Runtime::load(&library).map_err(|error| failed(&error))?;
    let (model, tokenizer) = (asset(Asset::MinilmInt8)?, asset(Asset::MinilmTokenizer)?);
    let backbone = Backbone::load(
        &runtime,
        &model,
        &tokenizer,
        &BackboneOptions { max_tokens: *max_tokens, ..BackboneOptions::default() },
    );
    let backbone = backbone.map_err(|error| failed(&error))?;
    let file = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let options = TrainOptions {
        name: name.clone(),
        command: format!(
            "pipeline classifier train --pages {} --annotations {} --id-column {id_column} --name {name} --max-tokens {max_tokens} --held-out {held_out} --threshold {threshold}{}{}{} --output DIR",
            file(pages),
            file(annotations),
            if features == FeatureSet::None { "" } else { " --features code_v1" },
            if *repeats == 1 { String::new() } else { format!(" --repeats {repeats}") },
            notes.as_deref().map(|path| format!(" --notes {}", file(path))).unwrap_or_default()
        ),
        notes: notes_text,
        held_out_share: *held_out,
        repeats: *repeats,
        features,
        keep_threshold: *threshold,
        ..TrainOptions::default()
    };
    let trained = train_head(&backbone, examples, &options).map_err(|error| failed(&error))?;
    durable::make_folder(output).map_err(Failure::run)?;
    let head = output.join(format!("{name}.json"));
    trained.head.save(&head).map_err(|error| failed(&error))?;
    let card = output.join(format!("{name}.md"));
    let text = trained.report.to_markdown();
    durable::write_file(&card, text.as_bytes()).map_err(Failure::run)?;
    println!("{text}\n{}\n{}", head.display(), card.display());
    Ok(())
}

fn read_notes(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn read_pages(path: &Path, id_column: &str, scores: &BTreeMap<String, f32>) -> Result<Vec<Example>, String> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(|error| explain(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| explain(&error))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [id_column, "text"]);
    let reader = builder.with_projection(mask).build().map_err(|error| explain(&error))?;
    let mut examples = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| explain(&error))?;
        let ids = text_column(&batch, id_column).map_err(|error| explain(&error))?;
        let texts = text_column(&batch, "text").map_err(|error| explain(&error))?;
        for row in (0..batch.num_rows()).filter(|&row| ids.is_valid(row) && texts.is_valid(row)) {
            if let Some(&score) = scores.get(ids.value(row)) {
                examples.push(Example {
                    id: ids.value(row).to_owned(),
                    text: texts.value(row).to_owned(),
                    score,
                });
            }
        }
    }
    Ok(examples)
}
