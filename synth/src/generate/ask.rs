//! One row: its tries, from the log or from the model.

use std::sync::Arc;

use super::error::GenerateError;
use super::options::{GenerateOptions, WhenMissing};
use super::request::row_request;
use crate::Reject;
use crate::answer_log::{AnswerLog, AnswerLogError};
use crate::chat::{ChatAnswer, ChatModel, RequestKey};

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Model,
    Log,
}

/// How a row ended.
pub(super) enum Outcome {
    Answered {
        answer: ChatAnswer,
        attempts: u32,
        source: Source,
    },
    Rejected(Reject),
    /// The run ends with it.
    Fatal(GenerateError),
}

/// What asks rows; shared by all of them.
pub(super) struct Asker {
    pub(super) options: GenerateOptions,
    model: Arc<dyn ChatModel>,
    log: Option<Arc<AnswerLog>>,
}

impl Asker {
    pub(super) fn new(
        model: Arc<dyn ChatModel>,
        log: Option<Arc<AnswerLog>>,
        options: GenerateOptions,
    ) -> Self {
        Self { options, model, log }
    }

    /// Rows to ask at once.
    pub(super) fn max_in_flight(&self) -> usize {
        self.options.max_in_flight.min(self.model.max_in_flight()).max(1)
    }

    /// Asks until an answer is long enough.
    pub(super) async fn ask(&self, id: String, prompt: String) -> Outcome {
        let mut attempts = 0u32;
        let mut longest_tokens = 0;
        for number_of_try in 0..self.options.max_tries {
            let request = row_request(&self.options, self.model.name(), &id, &prompt, number_of_try);
            let key = request.key();
            let logged = match self.logged(key).await {
                Ok(logged) => logged,
                Err(error) => return Outcome::Fatal(GenerateError::Log { id, error }),
            };
            let (answer, source) = match logged {
                Some(answer) => (answer, Source::Log),
                None if self.options.when_missing == WhenMissing::Reject => {
                    let detail = format!(
                        "the answer log holds no answer to try {} of {}",
                        number_of_try + 1,
                        self.options.max_tries
                    );
                    return Outcome::Rejected(Reject { id, reason: "llm_not_in_log".into(), detail });
                }
                None => match self.model.ask(&request).await {
                    Ok(answer) => match self.keep(key, answer).await {
                        Ok(answer) => (answer, Source::Model),
                        Err(error) => return Outcome::Fatal(GenerateError::Log { id, error }),
                    },
                    Err(error) if error.stops_run() => {
                        return Outcome::Fatal(GenerateError::Stopped { id, error, answers: 0, rejected: 0 });
                    }
                    Err(error) => {
                        return Outcome::Rejected(Reject {
                            id,
                            reason: error.reason(),
                            detail: error.to_string(),
                        });
                    }
                },
            };
            attempts = attempts.saturating_add(answer.attempts);
            longest_tokens = longest_tokens.max(answer.completion_tokens);
            if answer.completion_tokens >= self.options.min_tokens {
                return Outcome::Answered { answer, attempts, source };
            }
        }
        let GenerateOptions { max_tries, min_tokens, .. } = self.options;
        let detail = format!(
            "the longest of {max_tries} answers has {longest_tokens} tokens, min_tokens is {min_tokens}"
        );
        Outcome::Rejected(Reject { id, reason: "llm_too_short".into(), detail })
    }

    async fn logged(&self, key: RequestKey) -> Result<Option<ChatAnswer>, AnswerLogError> {
        match &self.log {
            Some(log) if log.contains(&key)? => {
                let log = Arc::clone(log);
                let dir = log.dir().to_owned();
                tokio::task::spawn_blocking(move || log.get(&key))
                    .await
                    .unwrap_or(Err(AnswerLogError::WriterStopped { dir }))
            }
            _ => Ok(None),
        }
    }

    /// Logs an answer; from here on it is the log's answer that counts, so that two equal requests in
    /// flight give what a resumed run would read.
    async fn keep(&self, key: RequestKey, answer: ChatAnswer) -> Result<ChatAnswer, AnswerLogError> {
        match &self.log {
            Some(log) => log.append(&key, &answer).await,
            None => Ok(answer),
        }
    }
}
