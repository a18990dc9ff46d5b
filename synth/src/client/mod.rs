//! The model behind one or several OpenAI-compatible servers (`/v1/chat/completions`: vLLM, TGI,
//! llama-server, hosted ones).
//!
//! Both ways of asking are spoken, chats and completions ([`crate::chat::Api`]); answers are never streamed.
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
mod capped;
mod endpoint;
mod options;
mod pool;
mod retry;
mod send;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument;

use crate::chat::{ChatAnswer, ChatError, ChatModel, ChatRequest, span};

pub use budget::{Budget, BudgetOptions, Spent};
pub use capped::Capped;
pub use options::{ClientError, ClientOptions, EndpointOptions, ServerKind};
pub use pool::{CircuitStatus, EndpointStatus};
pub use wire::check_extra;

use pool::Pool;
use send::Sender;

/// A [`ChatModel`] over HTTP.
pub struct OpenAiClient {
    options: ClientOptions,
    sender: Sender,
    pool: Pool,
    budget: Arc<Budget>,
    max_in_flight: usize,
}

impl OpenAiClient {
    /// Checks the options, reads the API key from its environment variable and prepares one HTTP client an
    /// endpoint. Nothing is sent yet.
    ///
    /// The budget may be shared with other clients.
    pub fn new(options: &ClientOptions, budget: Arc<Budget>) -> Result<Self, ClientError> {
        options.check()?;
        let endpoints = options.all_endpoints()?;
        let sender = Sender::new(options, &endpoints)?;
        let pool = Pool::new(options, &endpoints);
        let max_in_flight =
            endpoints.iter().fold(0, |sum: usize, endpoint| sum.saturating_add(endpoint.max_in_flight));
        Ok(Self { options: options.clone(), sender, pool, budget, max_in_flight })
    }

    /// How each endpoint fares, in the order of `base_urls` and `endpoints`.
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
            let slot = self.budget.in_time(self.pool.acquire(avoid)).await??;
            let endpoint = slot.endpoint();
            let price = self.sender.price(endpoint);
            let hold = self.budget.in_time(self.budget.hold(request, price)).await??;
            // Once it is sent it is paid for, so that no time limit but its own ends it.
            let server = self.sender.address(endpoint);
            let span = span::of_request(&self.options.model, &request.model, attempt, Some(server));
            let sent =
                self.sender.send_once(endpoint, request.api, body.clone()).instrument(span.clone()).await;
            if sent.is_ok() {
                span.record("http.response.status_code", 200);
            }
            span::end(&span, &sent);
            let error = match sent {
                Ok(mut answer) => {
                    hold.settle(&answer);
                    slot.finish_answered(&answer);
                    answer.attempts = attempt;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            hold.settle_failed(&error);
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
            self.budget.in_time(tokio::time::sleep(wait)).await?;
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
        self.max_in_flight
    }

    async fn ask(&self, request: &ChatRequest) -> Result<ChatAnswer, ChatError> {
        self.ask_until_answered(request).await
    }
}
