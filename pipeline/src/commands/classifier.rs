//! `pipeline classifier …`: a regression head from annotated pages, and what goes with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::Array;
use classifiers::annotate::Labelled;
use classifiers::{
    Backbone, BackboneOptions, Example, FeatureSet, Head, Pooling, Recipe, Runtime, TrainOptions,
    export_onnx, train_head,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::de::DeserializeOwned;

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
        backbone,
        tokenizer,
        max_tokens,
        held_out,
        threshold,
        folds,
        seed,
        repeats,
        dry_run,
        ..
    } = args;
    let wrong = |message: String| Failure::message(message, "");
    let features: FeatureSet = choice("--features", &args.features, "none, code_v1")?;
    let recipe: Recipe = choice("--recipe", &args.recipe, "best, published, balanced, ridge")?;
    let pooling: Pooling = choice("--pooling", &args.pooling, "mean_l2, cls_l2")?;
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
    let own_or = |own: &Option<PathBuf>, asset| match own {
        Some(path) => Ok(path.clone()),
        None => store.path(asset).map_err(|error| failed(&error)),
    };
    let library = store.onnx_runtime().map_err(|error| failed(&error))?;
    let runtime = Runtime::load(&library).map_err(|error| failed(&error))?;
    let model = own_or(backbone, Asset::MinilmInt8)?;
    let tokenizer = own_or(tokenizer, Asset::MinilmTokenizer)?;
    let backbone_options = BackboneOptions { max_tokens: *max_tokens, pooling, ..Default::default() };
    let backbone = Backbone::load(&runtime, &model, &tokenizer, &backbone_options);
    let backbone = backbone.map_err(|error| failed(&error))?;
    let options = TrainOptions {
        name: name.clone(),
        command: command_of(args),
        notes: notes_text,
        held_out_share: *held_out,
        folds: *folds,
        seed: *seed,
        repeats: *repeats,
        features,
        keep_threshold: *threshold,
        ..recipe.options()
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

/// A choice by its name in configs.
fn choice<T: DeserializeOwned>(flag: &str, name: &str, all: &str) -> Result<T, Failure> {
    let unknown = |_| Failure::message(format!("{flag}: there is no `{name}`"), &format!("there are {all}"));
    serde_json::from_value(name.into()).map_err(unknown)
}

/// The command that makes the same head again, for its card: what differs from the defaults is said.
fn command_of(args: &TrainArgs) -> String {
    let file = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut command = format!(
        "pipeline classifier train --pages {} --annotations {} --id-column {} --name {} --max-tokens {} --held-out {} \
         --threshold {}",
        file(&args.pages),
        file(&args.annotations),
        args.id_column,
        args.name,
        args.max_tokens,
        args.held_out,
        args.threshold
    );
    let mut say = |flag: &str, value: String, default: &str| {
        if value != default {
            command += &format!(" --{flag} {value}");
        }
    };
    let own = |path: &Option<PathBuf>| path.as_deref().map(file).unwrap_or_default();
    say("backbone", own(&args.backbone), "");
    say("tokenizer", own(&args.tokenizer), "");
    say("pooling", args.pooling.clone(), "mean_l2");
    say("recipe", args.recipe.clone(), "best");
    say("features", args.features.clone(), "none");
    say("folds", args.folds.to_string(), "5");
    say("seed", args.seed.to_string(), "42");
    say("repeats", args.repeats.to_string(), "1");
    say("notes", own(&args.notes), "");
    command + " --output DIR"
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
