//! A language model in this process: the one that comes with the program, or a GGUF file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use model::infer::{
    Engine, EngineOptions, GenerateRequest, Message, Model, ModelOptions, Prompt, SamplingOptions,
};
use synth::chat::{Api, ChatAnswer, ChatError, ChatModel, ChatRequest, FinishReason, Role, span};
use tracing::Instrument;

use super::{External, asset_external, file_external};
use crate::assets::Asset;
use crate::runner::context::StageContext;
use crate::runner::error::{StageError, chain};

/// The name of the model that comes with the program.
pub const EMBEDDED_MODEL: &str = "SmolLM2-135M-Instruct";

/// Memory of the embedded model: its weights, the caches of its sequences and of shared beginnings.
const EMBEDDED_MEMORY_BYTES: u64 = 1300 << 20;

/// Memory of another model to the size of its file: mostly the caches of 32 sequences.
const MEMORY_TO_FILE: u64 = 10;

/// Hex digits of a file's digest in its model's name.
const NAME_DIGITS: usize = 12;

/// Which model is loaded.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// The one that comes with the program.
    Embedded,
    /// A GGUF file.
    File(&'a Path),
}

impl Weights<'_> {
    /// The memory that the model takes.
    pub(super) fn memory_bytes(self) -> u64 {
        match self {
            Self::Embedded => EMBEDDED_MEMORY_BYTES,
            Self::File(path) => {
                let size = path.metadata().map(|file| file.len()).unwrap_or_default();
                EMBEDDED_MEMORY_BYTES.max(size * MEMORY_TO_FILE)
            }
        }
    }

    /// The model's digest.
    ///
    /// # Errors
    /// It has not been fetched, or the file cannot be read.
    pub(super) fn external(self, ctx: &StageContext) -> Result<External, StageError> {
        match self {
            Self::Embedded => asset_external(ctx, Asset::Smollm2Instruct),
            Self::File(path) => file_external(ctx, path),
        }
    }
}

/// The models in use by their files, and whether these were named: the same file by both ways is two models,
/// since each has a name of its own.
type Loaded = HashMap<(PathBuf, bool), Weak<EmbeddedModel>>;

/// The model, loaded once for the stages that use it at the same time.
pub(super) async fn load(
    ctx: &StageContext,
    weights: Weights<'_>,
    sequences: usize,
) -> Result<Arc<dyn ChatModel>, StageError> {
    static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);
    let (path, file) = match weights {
        Weights::Embedded => (ctx.asset(Asset::Smollm2Instruct)?, false),
        Weights::File(path) => (path.to_owned(), true),
    };
    let (threads, ctx) = (ctx.env.threads, ctx.clone());
    let load = move || {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        let key = (path, file);
        if let Some(model) = loaded.get(&key).and_then(Weak::upgrade) {
            return Ok(model);
        }
        let name = if file { name_of_file(&ctx, &key.0)? } else { EMBEDDED_MODEL.to_owned() };
        let weights =
            Model::load(&key.0, &ModelOptions::default()).map_err(|error| ctx.input(chain(&error)))?;
        let options = EngineOptions { max_sequences: sequences.max(1), threads, ..EngineOptions::default() };
        let engine = Engine::new(Arc::new(weights), &options).map_err(|error| ctx.failed(&error))?;
        let model = Arc::new(EmbeddedModel { engine, name, sequences: sequences.max(1) });
        loaded.insert(key, Arc::downgrade(&model));
        Ok(model)
    };
    let model = super::blocking("llm", load).await?;
    Ok(model)
}

/// `smollm2-360m-instruct-q8_0@3f2a90c1d2e4`: answers are kept under a model's name, so a file that has been
/// replaced must have another.
fn name_of_file(ctx: &StageContext, path: &Path) -> Result<String, StageError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let External { digest, .. } = file_external(ctx, path)?;
    Ok(format!("{stem}@{}", digest.get(..NAME_DIGITS).unwrap_or(&digest)))
}

/// A model in this process behind the trait that the prompting crate asks through.
struct EmbeddedModel {
    engine: Engine,
    name: String,
    sequences: usize,
}

#[async_trait]
impl ChatModel for EmbeddedModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn max_in_flight(&self) -> usize {
        // A few more than run at once, so that a free place is filled between two steps.
        self.sequences + self.sequences / 2
    }

    async fn ask(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError> {
        let span = span::of_request("embedded", &self.name, 1, None);
        let result = self.answer(request).instrument(span.clone()).await;
        span::end(&span, &result);
        result
    }
}

impl EmbeddedModel {
    async fn answer(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError> {
        let started = Instant::now();
        let text = |message: &synth::chat::Message| message.content.clone();
        let messages: Vec<Message> = request
            .messages
            .iter()
            .map(|message| Message {
                role: match message.role {
                    Role::System => model::infer::Role::System,
                    Role::User => model::infer::Role::User,
                    Role::Assistant => model::infer::Role::Assistant,
                },
                content: message.content.clone(),
            })
            .collect();
        let mut job = match request.api {
            Api::Chat => GenerateRequest::chat(messages),
            // As servers are asked: one text below the other.
            Api::Completions => {
                let texts: Vec<String> = request.messages.iter().map(text).collect();
                GenerateRequest::new(Prompt::Text(texts.join("\n\n")))
            }
        };
        job.max_new_tokens = request.max_new_tokens as usize;
        job.sampling = SamplingOptions {
            temperature: request.temperature as f32,
            top_p: request.top_p as f32,
            top_k: request.top_k,
            min_p: request.min_p as f32,
            repetition_penalty: request.repetition_penalty as f32,
        };
        job.stop = request.stop.clone();
        job.seed = request.seed;
        let answer = self
            .engine
            .generate(job)
            .await
            .map_err(|error| ChatError::Model { model: self.name.clone(), detail: chain(&error) })?;
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        Ok(ChatAnswer {
            text: answer.text,
            finish_reason: FinishReason::from(answer.finish_reason.as_str().to_owned()),
            prompt_tokens: count(answer.prompt_tokens),
            completion_tokens: count(answer.completion_tokens),
            model: self.name.clone(),
            endpoint: "embedded".to_owned(),
            attempts: 1,
            latency_ms: u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX),
        })
    }
}
