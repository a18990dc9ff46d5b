//! Short questions to a language model (topics, outlines), the answer log first.

use std::sync::Arc;

use synth::answer_log::AnswerLog;
use synth::chat::{ChatAnswer, ChatModel, ChatRequest, FinishReason, Message};
use synth::topics::{AskFailure, without_cut_line};

use super::llm::{self, LlmConfig};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;

/// How an answer is sampled.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Divisor of the scores of tokens that are there already.
    pub repetition_penalty: f64,
    /// Seed from which those of the attempts derive.
    pub seed: u64,
}

/// Asks one request at a time; clones share the model and the log.
pub struct Asker {
    model: Arc<dyn ChatModel>,
    log: Arc<AnswerLog>,
    config: LlmConfig,
    sampling: Sampling,
    ctx: StageContext,
}

impl Asker {
    /// Connects to the model and opens the stage's answer log.
    ///
    /// # Errors
    /// The model cannot be loaded, or the log is in use or damaged.
    pub async fn connect(
        ctx: &StageContext,
        config: &LlmConfig,
        sampling: Sampling,
    ) -> Result<Self, StageError> {
        Ok(Self {
            model: config.connect(ctx).await?,
            log: llm::answer_log(ctx)?,
            config: config.clone(),
            sampling,
            ctx: ctx.clone(),
        })
    }

    /// The answer's text, without a last line that its length limit cut. `id` names what is asked
    /// about among the failed rows.
    ///
    /// # Errors
    /// [`AskFailure`].
    pub async fn ask(&self, id: &str, prompt: &str, attempt: u32) -> Result<String, AskFailure> {
        let mut chat = ChatRequest::new(self.model.name(), vec![Message::user(prompt)]);
        chat.max_new_tokens = self.sampling.max_new_tokens;
        chat.temperature = self.sampling.temperature;
        chat.repetition_penalty = self.sampling.repetition_penalty;
        chat.api = self.config.api;
        chat.extra = self.config.extra.clone();
        // Each attempt samples anew, and is a request of its own in the log.
        chat.seed = self.sampling.seed.wrapping_mul(1009).wrapping_add(u64::from(attempt));
        let key = chat.key();
        let everything = |text: String| AskFailure::Everything { source: text.into() };
        if let Some(answer) = self.log.get(&key).map_err(|error| everything(error.to_string()))? {
            return Ok(whole_lines(&answer));
        }
        if self.ctx.stopping() {
            return Err(everything("stopped; answers that came are kept".to_owned()));
        }
        match self.model.ask(&chat).await {
            Ok(answer) => {
                self.ctx.progress.add_tokens(answer.completion_tokens.into());
                if let Some(session) = self.ctx.env.llm.opened(&self.ctx.stage) {
                    session.note_spending();
                    self.ctx.progress.set_note(session.spend());
                }
                let answer =
                    self.log.append(&key, &answer).await.map_err(|error| everything(error.to_string()))?;
                Ok(whole_lines(&answer))
            }
            Err(error) if error.stops_run() => Err(everything(error.to_string())),
            Err(error) => {
                let sink = self.ctx.ledger.quarantine_sink();
                sink(id.to_owned(), "llm_failed".to_owned(), error.to_string());
                Err(AskFailure::ThisRequest { reason: error.to_string() })
            }
        }
    }
}

/// An answer that was cut by its length ends in a broken line, which is no item of a list.
fn whole_lines(answer: &ChatAnswer) -> String {
    match answer.finish_reason {
        FinishReason::Length => without_cut_line(&answer.text).to_owned(),
        _ => answer.text.clone(),
    }
}
