//! `pipeline publish`: uploads a run's dataset to the Hugging Face hub.

use std::path::{Path, PathBuf};

use super::{Failure, runtime};
use crate::cli::PublishArgs;
use crate::engine::hub::DEFAULT_ENDPOINT;
use crate::inspect::manifests;
use crate::publish::{HubApi, LocalFile, PublishError, PublishOptions, Step, dataset_files, publish};
use crate::runner::error::Fault;
use crate::runner::progress::{group, size};
use crate::units;

/// Uploads the files of a `dataset` stage.
///
/// # Errors
/// There is no finished dataset, no token, or the hub refuses.
pub fn run(args: &PublishArgs) -> Result<(), Failure> {
    let folder = dataset_folder(args)?;
    let files = dataset_files(&folder).map_err(failure)?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    println!("{}: {} files, {}", folder.display(), group(files.len() as u64), size(bytes));
    if args.dry_run {
        for file in &files {
            println!("    {}  {}", file.path, size(file.bytes));
        }
        println!("nothing was sent");
        return Ok(());
    }
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.to_owned());
    let api =
        HubApi::new(&endpoint, &token().ok_or_else(|| failure(PublishError::Token))?).map_err(failure)?;
    let options = PublishOptions {
        repository: args.repository.clone(),
        revision: args.revision.clone(),
        private: args.private,
    };
    let show = |file: &LocalFile, step: Step| match step {
        Step::Sent => println!("    sent      {}  {}", file.path, size(file.bytes)),
        Step::Committed => println!("    committed {}", file.path),
        Step::Skipped => {}
    };
    let done = runtime(units::machine_threads())?.block_on(publish(&api, &options, files, show));
    let done = done.map_err(failure)?;
    println!("{} files committed, {} were there already", done.committed, done.skipped);
    if !done.foreign.is_empty() {
        println!("left alone, for they are not of this dataset: {}", done.foreign.join(", "));
    }
    println!("{}/datasets/{}", endpoint.trim_end_matches('/'), args.repository);
    Ok(())
}

/// The folder itself when it is a stage's, otherwise the run's only `dataset` stage.
fn dataset_folder(args: &PublishArgs) -> Result<PathBuf, Failure> {
    let wrong = |message: String| {
        let help = "give a run's folder, or with several datasets the folder of one";
        Failure::message(message, help)
    };
    if args.run.join(crate::manifest::FILE_NAME).exists() {
        return Ok(args.run.clone());
    }
    let found = manifests(&args.run).into_iter().filter(|manifest| manifest.kind == "dataset");
    match found.map(|manifest| manifest.stage).collect::<Vec<_>>().as_slice() {
        [stage] => Ok(args.run.join(stage)),
        [] => Err(wrong(format!("{} has no finished `dataset` stage", args.run.display()))),
        several => Err(wrong(format!("{} has several datasets: {}", args.run.display(), several.join(", ")))),
    }
}

/// `HF_TOKEN`, or the token that `hf auth login` has left.
fn token() -> Option<String> {
    let given = std::env::var("HF_TOKEN").ok();
    let home = std::env::var("HF_HOME").map(PathBuf::from);
    let home =
        home.or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cache/huggingface")));
    let saved = || std::fs::read_to_string(home.ok()?.join("token")).ok();
    given.or_else(saved).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn failure(error: PublishError) -> Failure {
    let fault = match &error {
        PublishError::Request { .. } | PublishError::Status { .. } | PublishError::Answer { .. } => {
            Fault::Run
        }
        _ => Fault::Input,
    };
    Failure { report: miette::Report::from_err(error), fault }
}
