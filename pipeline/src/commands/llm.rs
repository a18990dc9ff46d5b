//! `pipeline llm serve`: the embedded model behind an OpenAI-compatible server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::infer::{Engine, EngineOptions, Model, ModelOptions};
use model::pretrain::FINAL_FOLDER;

use super::Failure;
use crate::assets::{Asset, AssetStore};
use crate::cli::{LlmCommand, ServeArgs};
use crate::llm_server::{Server, ServerOptions};
use crate::runner::error::chain;
use crate::stages::embedded::EMBEDDED_MODEL;

/// The word for the model that comes with the program.
const EMBEDDED: &str = "embedded";
/// Threads that speak with clients; the engine has its own.
const SERVER_THREADS: usize = 2;

/// Runs an `llm` command.
///
/// # Errors
/// The model cannot be loaded, the key's variable is not set, or the port cannot be had.
pub fn llm(command: &LlmCommand) -> Result<(), Failure> {
    let LlmCommand::Serve(args) = command;
    serve(args)
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    if args.supervised {
        super::run::end_with_standard_input();
    }
    let (path, model_name) = find_model(&args.model)?;
    let options = ServerOptions {
        host: args.host.clone(),
        port: args.port,
        max_in_flight: args.max_in_flight,
        api_key: args.api_key_env.as_deref().map(read_key).transpose()?,
        model_name,
    };
    let model = Model::load(&path, &ModelOptions::default())
        .map_err(|error| Failure::message(chain(&error), "give `embedded` or the path of a GGUF file"))?;
    let defaults = EngineOptions::default();
    let max_sequences = args.max_in_flight.min(defaults.max_sequences);
    let engine =
        Engine::new(Arc::new(model), &EngineOptions { max_sequences, threads: args.threads, ..defaults })
            .map_err(|error| Failure::message(chain(&error), ""))?;
    super::runtime(SERVER_THREADS)?.block_on(async {
        let (place, name) = (format!("{}:{}", options.host, options.port), options.model_name.clone());
        let server = Server::bind(engine, options).await.map_err(|error| {
            Failure::message(format!("cannot listen at {place}: {error}"), "choose another --host or --port")
        })?;
        let address = server.address().map_err(Failure::run)?;
        println!("{name} answers at http://{address}/v1 (Ctrl-C stops)");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = server.run(async move {
            interrupted().await;
            crate::observe::say("finishing the answers in progress; Ctrl-C again stops at once");
            drop(stop);
        });
        tokio::select! {
            ended = running => ended.map_err(Failure::run),
            () = async { stopped.await.ok(); interrupted().await } => Ok(()),
        }
    })
}

/// The model's file and name.
pub(super) fn find_model(model: &str) -> Result<(PathBuf, String), Failure> {
    if model == EMBEDDED {
        let store = AssetStore::from_environment().map_err(|error| Failure::message(chain(&error), ""))?;
        let path = store.path(Asset::Smollm2Instruct).map_err(|error| Failure::message(chain(&error), ""))?;
        return Ok((path, EMBEDDED_MODEL.to_owned()));
    }
    let path = Path::new(model);
    let name = path.file_stem().map_or_else(|| model.to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok((path.to_owned(), name))
}

/// Where a trained model is inside a stage's folder: that of a stage that trains, of one that exports, or the folder
/// itself.
pub(super) fn trained_folder(folder: &Path) -> PathBuf {
    let inside = [folder.join(FINAL_FOLDER), folder.join("model")];
    inside.into_iter().find(|inside| inside.is_dir()).unwrap_or_else(|| folder.to_owned())
}

/// The key that clients must show. It is named in no message.
fn read_key(variable: &str) -> Result<String, Failure> {
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(key),
        _ => Err(Failure::message(
            format!("--api-key-env names `{variable}`, which is not set"),
            "set it to the key that clients must show",
        )),
    }
}

/// Until Ctrl-C, or the signal that asks a program to end.
pub(super) async fn interrupted() {
    #[cfg(unix)]
    if let Ok(mut ended) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = ended.recv() => {}
        }
        return;
    }
    tokio::signal::ctrl_c().await.ok();
}
