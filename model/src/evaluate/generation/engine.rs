//! Answers of a model that runs here.

use super::{AnswerRequest, Form, Generator};
use crate::evaluate::EvaluateError;
use crate::export::{ModelUse, inference_model};
use crate::infer::{Engine, EngineOptions, GenerateRequest, Message, Model, Prompt, Role, SamplingOptions};
use futures::StreamExt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Requests handed to the engine ahead of their turn: it never waits for the next one.
const AHEAD: usize = 128;
/// Likeliest tokens among which one is drawn. The published set-ups keep all; at their temperatures (0.2) what
/// lies beyond weighs nothing, and sorting it would cost as much as the model.
const TOP_K: u32 = 1_024;

/// [`Generator`] over the inference engine, which answers many requests at once and reads their common beginnings
/// once.
#[derive(Debug)]
pub struct EngineGenerator {
    engine: Engine,
}

impl EngineGenerator {
    /// Answers with `model`.
    ///
    /// # Errors
    /// [`EvaluateError::Scorer`] if the engine does not start.
    pub fn new(model: Arc<Model>, options: &EngineOptions) -> Result<Self, EvaluateError> {
        let engine = Engine::new(model, options).map_err(|error| EvaluateError::Scorer(Box::new(error)))?;
        Ok(Self { engine })
    }

    /// Answers with the trained model in `model_dir` and the tokenizer in `tokenizer_dir` (see [`inference_model`]). It
    /// is asked in chat form where the tokenizer brings a chat template.
    ///
    /// # Errors
    /// [`EvaluateError`] if the model cannot be read, or does not fit the tokenizer.
    pub fn of_checkpoint(
        model_dir: &Path,
        tokenizer_dir: &Path,
        options: &EngineOptions,
    ) -> Result<Self, EvaluateError> {
        let model_use = match has_chat_template(tokenizer_dir) {
            true => ModelUse::Chat,
            false => ModelUse::Base,
        };
        let model = inference_model(model_use, model_dir, tokenizer_dir)
            .map_err(|error| EvaluateError::Scorer(Box::new(error)))?;
        Self::new(Arc::new(model), options)
    }

    /// The engine, for its statistics.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn request(&self, request: &AnswerRequest) -> GenerateRequest {
        let tokenizer = self.engine.model().tokenizer();
        let prompt = match request.form {
            Form::Chat if tokenizer.has_chat_template() => {
                Prompt::Messages(vec![Message { role: Role::User, content: request.prompt.clone() }])
            }
            Form::Chat | Form::Text => Prompt::Tokens(tokenizer.encode_plain(&request.prompt)),
        };
        GenerateRequest {
            max_new_tokens: request.max_new_tokens,
            sampling: SamplingOptions {
                temperature: request.temperature,
                top_p: request.top_p,
                top_k: TOP_K,
                min_p: 0.0,
                repetition_penalty: 1.0,
            },
            stop: request.stop.clone(),
            seed: request.seed,
            ..GenerateRequest::new(prompt)
        }
    }
}

/// Whether the tokenizer's configuration has a template; a missing or malformed one has none.
fn has_chat_template(tokenizer_dir: &Path) -> bool {
    let text = std::fs::read_to_string(tokenizer_dir.join("tokenizer_config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    crate::chat::template_of(&config).is_some()
}

impl Generator for EngineGenerator {
    fn answers(
        &mut self,
        requests: &[AnswerRequest],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<String>>, EvaluateError> {
        let ask = |(index, request): (usize, &AnswerRequest)| {
            let answer = self.engine.generate(self.request(request));
            async move { (index, answer.await) }
        };
        let mut asked = futures::stream::iter(requests.iter().enumerate().map(ask)).buffer_unordered(AHEAD);
        let mut answers = vec![String::new(); requests.len()];
        let mut done = 0;
        futures::executor::block_on(async {
            while let Some((index, answer)) = asked.next().await {
                answers[index] = answer.map_err(|error| EvaluateError::Scorer(Box::new(error)))?.text;
                done += 1;
                if progress(done).is_break() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .map(|ended| ended.map(|()| answers))
    }
}
