//! `pipeline generate` and `pipeline chat`: a model that runs here, in the terminal.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use model::export::{ModelUse, inference_model};
use model::infer::{
    Engine, EngineOptions, GenerateError, GenerateRequest, Message, Model, ModelOptions, Prompt, Role,
    SamplingOptions, StreamItem,
};
use model::tokenizer::TOKENIZER_FILE;

use super::Failure;
use super::llm::{find_model, trained_folder};
use crate::cli::{ChatArgs, GenerateArgs, SpeakerArgs};
use crate::runner::error::chain;

/// A model's engine.
struct Speaker {
    engine: Engine,
}

impl Speaker {
    fn open(args: &SpeakerArgs, model_use: ModelUse) -> Result<Self, Failure> {
        let failed =
            |error: &(dyn std::error::Error + 'static), help: &str| Failure::message(chain(error), help);
        let folder = Path::new(&args.model);
        let model = if folder.is_dir() {
            let (model, tokenizer) = places(folder, args.tokenizer.as_deref())?;
            inference_model(model_use, &model, &tokenizer).map_err(|error| failed(&error, ""))?
        } else {
            let (path, _) = find_model(&args.model)?;
            Model::load(&path, &ModelOptions::default())
                .map_err(|error| failed(&error, "give `embedded`, a GGUF file or a folder"))?
        };
        let options = EngineOptions { threads: args.threads, ..EngineOptions::default() };
        let engine = Engine::new(Arc::new(model), &options).map_err(|error| failed(&error, ""))?;
        Ok(Self { engine })
    }

    /// Writes an answer to standard output as it comes; Ctrl-C ends it. Returns what was written.
    async fn answer(&self, request: GenerateRequest) -> Result<String, GenerateError> {
        let (mut items, mut text) = (self.engine.stream(request), String::new());
        loop {
            let item = tokio::select! {
                item = items.next() => item,
                _ = tokio::signal::ctrl_c() => break,
            };
            match item {
                Some(Ok(StreamItem::Text(part))) => {
                    print!("{part}");
                    // A reader who has gone ends the program by its next write.
                    std::io::stdout().flush().ok();
                    text += &part;
                }
                Some(Ok(StreamItem::End(_))) | None => break,
                Some(Err(error)) => return Err(error),
            }
        }
        println!();
        Ok(text)
    }
}

/// The folders of a model and of its tokenizer.
///
/// # Errors
/// There is no tokenizer.
pub fn places(folder: &Path, tokenizer: Option<&Path>) -> Result<(PathBuf, PathBuf), Failure> {
    let model = trained_folder(folder);
    let own = [model.as_path(), folder].into_iter().find(|place| place.join(TOKENIZER_FILE).is_file());
    match tokenizer.or(own) {
        Some(tokenizer) => Ok((model.clone(), tokenizer.to_owned())),
        None => Err(Failure::message(
            format!("{} has no {TOKENIZER_FILE}", folder.display()),
            "a checkpoint has no tokenizer: give the folder of its `tokenizer` stage with --tokenizer",
        )),
    }
}

fn request(args: &SpeakerArgs, prompt: Prompt) -> GenerateRequest {
    GenerateRequest {
        max_new_tokens: args.max_tokens,
        sampling: SamplingOptions {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
        },
        stop: args.stop.clone(),
        seed: args.seed,
        ..GenerateRequest::new(prompt)
    }
}

/// Lets a model go on from a text.
///
/// # Errors
/// The model cannot be loaded, or the prompt is empty or too long.
pub fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Failure::run)?;
            text
        }
    };
    let speaker = Speaker::open(&args.speaker, ModelUse::Base)?;
    if std::io::stdout().is_terminal() {
        print!("{prompt}");
    }
    let answer = speaker.answer(request(&args.speaker, Prompt::Text(prompt)));
    super::runtime(1)?.block_on(answer).map(drop).map_err(|error| Failure::message(chain(&error), ""))
}

const HELP: &str = "/reset forgets the conversation, /exit ends it; Ctrl-C ends an answer";

/// Talks with a model, turn by turn; a turn is a line.
///
/// # Errors
/// The model cannot be loaded, or has no chat format.
pub fn chat(args: &ChatArgs) -> Result<(), Failure> {
    let speaker = Speaker::open(&args.speaker, ModelUse::Chat)?;
    let runtime = super::runtime(1)?;
    let ended = runtime.block_on(converse(args, &speaker));
    // A read of standard input may still be waiting for its line.
    runtime.shutdown_background();
    ended
}

async fn converse(args: &ChatArgs, speaker: &Speaker) -> Result<(), Failure> {
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    let system: Vec<Message> = args.system.iter().map(|text| message(Role::System, text)).collect();
    let mut turns: Vec<Message> = Vec::new();
    let shown = std::io::stdin().is_terminal();
    if shown {
        println!("{HELP}");
    }
    while let Some(line) = next_line(shown).await? {
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/reset" => turns.clear(),
            "/help" => println!("{HELP}"),
            line => {
                turns.push(message(Role::User, line));
                let answer = loop {
                    let messages = system.iter().chain(&turns).cloned().collect();
                    match speaker.answer(request(&args.speaker, Prompt::Messages(messages))).await {
                        // The oldest question goes with its answer.
                        Err(GenerateError::PromptTooLong { .. }) if turns.len() > 2 => drop(turns.drain(..2)),
                        answer => break answer,
                    }
                };
                let answer = answer.map_err(|error| Failure::message(chain(&error), ""))?;
                turns.push(message(Role::Assistant, &answer));
            }
        }
    }
    Ok(())
}

/// The next line of standard input; `None` at its end, or on Ctrl-C.
async fn next_line(shown: bool) -> Result<Option<String>, Failure> {
    if shown {
        print!("> ");
        std::io::stdout().flush().ok();
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|bytes| (bytes > 0).then_some(line))
    });
    tokio::select! {
        line = read => line.map_err(Failure::run)?.map_err(Failure::run),
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}
