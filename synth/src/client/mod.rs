//! The model behind one or several OpenAI-compatible servers (`/v1/chat/completions`: vLLM, TGI,
//! llama-server, hosted ones).
//!
//! How a request goes: it waits for a free place at an endpoint (`endpoint`: concurrency that adapts, a
//! circuit breaker, the server's own `Retry-After`), holds its worst case out of the [`Budget`], is sent
//! once (`send`), and is sent again after a jittered wait if that can help (`retry`).
//!
//! **When servers are down.** An endpoint that fails `breaker_failures` times in a row is left alone for
//! `breaker_open_seconds`, then probed by one request at a time, the wait doubling up to a minute. When no
//! endpoint has been usable for `down_after_seconds`, every request ends with
//! [`ChatError::AllEndpointsDown`], which ends the run rather than rejecting the whole data set row by row.

mod budget;
mod endpoint;
mod options;
mod pool;
mod retry;
mod send;
mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::chat::{BudgetKind, ChatAnswer, ChatError, ChatModel, ChatRequest};

pub use budget::{Budget, BudgetOptions, Spent};
pub use options::{ClientError, ClientOptions, ServerKind};
pub use pool::{CircuitStatus, EndpointStatus};

use endpoint::Verdict;
use pool::Pool;
use send::Sender;

/// A [`ChatModel`] over HTTP.
pub struct OpenAiClient {
    options: ClientOptions,
    sender: Sender,
    pool: Pool,
    budget: Arc<Budget>,
}

impl OpenAiClient {
    /// Checks the options, reads the API key from its environment variable and prepares one HTTP client an
    /// endpoint. Nothing is sent yet.
    ///
    /// The budget may be shared with other clients.
    pub fn new(options: &ClientOptions, budget: Arc<Budget>) -> Result<Self, ClientError> {
        options.check()?;
        let urls = options.completion_urls()?;
        let sender = Sender::new(options, &urls)?;
        let pool = Pool::new(options, urls.iter().map(|(base_url, _)| base_url.clone()).collect());
        Ok(Self { options: options.clone(), sender, pool, budget })
    }

    /// How each endpoint fares, in the order of `base_urls`.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.pool.status()
    }

    /// The budget this client spends.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    async fn ask_until_answered(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError> {
        let body = wire::encode(request, self.options.server_kind);
        let mut avoid = None;
        let mut attempt = 1;
        loop {
            let slot = self.pool.acquire(avoid).await?;
            let hold = self.budget.hold(request).await?;
            let endpoint = slot.endpoint();
            let error = match self.sender.send_once(endpoint, body.clone()).await {
                Ok(mut answer) => {
                    hold.settle(&answer);
                    slot.finish(Verdict::Answered);
                    answer.attempts = attempt;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            drop(hold);
            slot.finish_failed(&error);
            if !error.is_retryable() {
                return Err(error);
            }
            if attempt >= self.options.max_attempts {
                return Err(ChatError::GaveUp { attempts: attempt, last: Box::new(error) });
            }
            let wait = retry::backoff(
                attempt,
                Duration::from_secs_f64(self.options.backoff_first_seconds),
                Duration::from_secs_f64(self.options.backoff_max_seconds),
                rand::random(),
            );
            tracing::debug!(attempt, wait_ms = wait.as_millis() as u64, %error, "asking again");
            tokio::time::sleep(wait).await;
            avoid = Some(endpoint);
            attempt += 1;
        }
    }
}

#[async_trait]
impl ChatModel for OpenAiClient {
    fn name(&self) -> &str {
        &self.options.model
    }

    fn max_in_flight(&self) -> usize {
        self.options.max_in_flight.saturating_mul(self.options.base_urls.len())
    }

    async fn ask(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError> {
        let asked = self.ask_until_answered(request);
        match self.budget.deadline() {
            None => asked.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, asked).await {
                Ok(result) => result,
                Err(_) => Err(self.budget.out_of(BudgetKind::Seconds, 0.0)),
            },
        }
    }
}
