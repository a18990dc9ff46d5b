//! What a run may spend, as a hard limit: a request is only sent if its worst case still fits.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::options::{ClientError, MAX_SECONDS};
use crate::answer_log::Totals;
use crate::chat::{BudgetKind, ChatAnswer, ChatError, ChatRequest};

/// Tokens that a chat template may put around each message.
const TEMPLATE_TOKENS: u64 = 16;

/// Limits of a [`Budget`]. A limit that is not set does not bind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetOptions {
    /// Requests sent at most, failed ones among them.
    pub max_requests: Option<u64>,
    /// Tokens of prompts and answers at most.
    pub max_tokens: Option<u64>,
    /// US dollars at most, by the two prices below.
    pub max_usd: Option<f64>,
    /// US dollars for a million prompt tokens.
    pub usd_per_million_prompt_tokens: f64,
    /// US dollars for a million answer tokens.
    pub usd_per_million_completion_tokens: f64,
    /// Wall-clock seconds at most, from the making of the budget; requests in flight then are still waited
    /// for.
    pub max_duration_seconds: Option<f64>,
}

/// What was spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Requests sent.
    pub requests: u64,
    /// Tokens of prompts that were answered.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Tokens of requests that a server took and whose answer was lost on the way (a time-out, a cut
    /// connection, broken JSON). Nobody tells what these cost, so they count with their worst case.
    pub lost_tokens: u64,
    /// US dollars for all of them.
    pub usd: f64,
}

impl Spent {
    /// All tokens.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens + self.lost_tokens
    }
}

/// `1204 requests, 31022 prompt tokens, 80211 answer tokens, US$ 0.42`
impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, prompt_tokens, completion_tokens, lost_tokens, usd } = self;
        write!(f, "{requests} requests, {prompt_tokens} prompt tokens, {completion_tokens} answer tokens")?;
        if *lost_tokens > 0 {
            write!(f, ", up to {lost_tokens} tokens of lost answers")?;
        }
        if *usd > 0.0 {
            write!(f, ", US$ {usd:.2}")?;
        }
        Ok(())
    }
}

/// A budget, shared by all requests of a run.
///
/// The limits are hard: a request in flight holds its worst case (`max_new_tokens`, and a token for each
/// byte of its prompt), so that what comes back never exceeds a limit. Near the end, requests wait for
/// those in flight to give back what they did not need. A server may exceed it only by writing more than
/// `max_new_tokens`. A refused request (an HTTP status that is an error, no connection) costs nothing.
#[derive(Debug)]
pub struct Budget {
    options: BudgetOptions,
    started: Instant,
    state: Mutex<State>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    spent: Spent,
    held: Worst,
    holds: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Worst {
    tokens: u64,
    usd: f64,
}

enum Trial {
    Held,
    Wait,
    Exhausted(ChatError),
}

impl Budget {
    /// A budget of which nothing is spent.
    pub fn new(options: BudgetOptions) -> Result<Arc<Self>, ClientError> {
        Self::resuming(options, &Totals::default())
    }

    /// A budget of which earlier runs have spent what their log's answers cost. Time starts anew.
    pub fn resuming(options: BudgetOptions, earlier: &Totals) -> Result<Arc<Self>, ClientError> {
        let prices = [
            ("usd_per_million_prompt_tokens", options.usd_per_million_prompt_tokens),
            ("usd_per_million_completion_tokens", options.usd_per_million_completion_tokens),
            ("max_usd", options.max_usd.unwrap_or_default()),
        ];
        for (option, value) in prices {
            if !(value.is_finite() && value >= 0.0) {
                return Err(ClientError::BadNumber { option, value, rule: "0 or more" });
            }
        }
        if options.max_usd.is_some() && prices[0].1 + prices[1].1 == 0.0 {
            return Err(ClientError::NoPrice);
        }
        if let Some(value) = options.max_duration_seconds
            && !(0.0..=MAX_SECONDS).contains(&value)
        {
            return Err(ClientError::BadNumber {
                option: "max_duration_seconds",
                value,
                rule: "0 to a year of seconds",
            });
        }
        let budget = Self::starting_now(options);
        {
            let usd = budget.usd(earlier.prompt_tokens, earlier.completion_tokens);
            let mut state = budget.lock();
            state.spent.requests = earlier.requests;
            state.spent.prompt_tokens = earlier.prompt_tokens;
            state.spent.completion_tokens = earlier.completion_tokens;
            state.spent.usd = usd;
        }
        Ok(Arc::new(budget))
    }

    /// A budget without limits, which only counts.
    pub fn unlimited() -> Arc<Self> {
        Arc::new(Self::starting_now(BudgetOptions::default()))
    }

    fn starting_now(options: BudgetOptions) -> Self {
        Self { options, started: Instant::now(), state: Mutex::default(), settled: Notify::new() }
    }

    /// What was spent so far.
    pub fn spent(&self) -> Spent {
        self.lock().spent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only sums are kept under the lock: they are whole even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` if time is left, and gives it up when none is.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ChatError> {
        let Some(seconds) = self.options.max_duration_seconds else {
            return Ok(work.await);
        };
        let deadline = self.started + Duration::from_secs_f64(seconds);
        let out_of_time = || self.out_of(BudgetKind::Seconds, 0.0);
        if Instant::now() >= deadline {
            return Err(out_of_time());
        }
        tokio::time::timeout_at(deadline, work).await.map_err(|_| out_of_time())
    }

    /// The error that says that a limit is reached; `needed` is in the limit's unit.
    pub(super) fn out_of(&self, kind: BudgetKind, needed: f64) -> ChatError {
        let spent = self.spent();
        let (limit, used) = match kind {
            BudgetKind::Requests => {
                (self.options.max_requests.map(|limit| limit as f64), spent.requests as f64)
            }
            BudgetKind::Tokens => (self.options.max_tokens.map(|limit| limit as f64), spent.tokens() as f64),
            BudgetKind::Usd => (self.options.max_usd, cents(spent.usd)),
            BudgetKind::Seconds => {
                (self.options.max_duration_seconds, self.started.elapsed().as_secs_f64().floor())
            }
        };
        let needed = if kind == BudgetKind::Usd { cents(needed) } else { needed };
        let limit = limit.unwrap_or_default();
        ChatError::BudgetExhausted { kind, limit, used, needed, spent: spent.to_string() }
    }

    fn usd(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.options.usd_per_million_prompt_tokens
            + completion_tokens as f64 * self.options.usd_per_million_completion_tokens)
            / 1e6
    }

    fn worst(&self, request: &ChatRequest) -> Worst {
        let prompt_tokens: u64 =
            request.messages.iter().map(|message| message.content.len() as u64 + TEMPLATE_TOKENS).sum();
        let completion_tokens = u64::from(request.max_new_tokens);
        Worst { tokens: prompt_tokens + completion_tokens, usd: self.usd(prompt_tokens, completion_tokens) }
    }

    /// Counts a request and holds its worst case; waits while that depends on requests in flight.
    pub(super) async fn hold(&self, request: &ChatRequest) -> Result<Hold<'_>, ChatError> {
        let worst = self.worst(request);
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Registered before the look, so that nothing settled in between is missed.
            settled.as_mut().enable();
            match self.try_hold(worst) {
                Trial::Held => {
                    return Ok(Hold { budget: self, worst, state: HoldState::Sent });
                }
                Trial::Exhausted(error) => return Err(error),
                Trial::Wait => settled.await,
            }
        }
    }

    fn try_hold(&self, worst: Worst) -> Trial {
        let mut state = self.lock();
        let State { spent, held, holds } = &mut *state;
        let tokens = spent.tokens();
        let short = if self.options.max_requests.is_some_and(|max| spent.requests >= max) {
            // A request sent is spent, whatever becomes of it: waiting gives nothing back.
            drop(state);
            return Trial::Exhausted(self.out_of(BudgetKind::Requests, 1.0));
        } else if self.options.max_tokens.is_some_and(|max| tokens + held.tokens + worst.tokens > max) {
            Some((BudgetKind::Tokens, worst.tokens as f64))
        } else if self.options.max_usd.is_some_and(|max| spent.usd + held.usd + worst.usd > max) {
            Some((BudgetKind::Usd, worst.usd))
        } else {
            None
        };
        match short {
            None => {
                spent.requests += 1;
                held.tokens += worst.tokens;
                held.usd += worst.usd;
                *holds += 1;
                Trial::Held
            }
            Some(_) if *holds > 0 => Trial::Wait,
            Some((kind, needed)) => {
                drop(state);
                Trial::Exhausted(self.out_of(kind, needed))
            }
        }
    }
}

/// Dollars to a hundredth of a cent, for people.
fn cents(usd: f64) -> f64 {
    (usd * 1e4).round() / 1e4
}

/// The worst case of one request in flight. Dropped without a word, it is spent: the request was on its way,
/// and nobody tells what became of it.
pub(super) struct Hold<'a> {
    budget: &'a Budget,
    worst: Worst,
    state: HoldState,
}

/// What is known of a request's cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HoldState {
    /// Nothing.
    Sent,
    /// It is counted, or there was none.
    Settled,
}

impl Hold<'_> {
    /// Counts what the answer cost in truth.
    pub(super) fn settle(mut self, answer: &ChatAnswer) {
        self.state = HoldState::Settled;
        let (prompt_tokens, completion_tokens) =
            (u64::from(answer.prompt_tokens), u64::from(answer.completion_tokens));
        let mut state = self.budget.lock();
        state.spent.prompt_tokens += prompt_tokens;
        state.spent.completion_tokens += completion_tokens;
        state.spent.usd += self.budget.usd(prompt_tokens, completion_tokens);
    }

    /// Counts what a request without an answer may have cost.
    pub(super) fn settle_failed(mut self, error: &ChatError) {
        match error {
            ChatError::TimedOut { .. }
            | ChatError::Cut { .. }
            | ChatError::BadJson { .. }
            | ChatError::BodyTooLarge { .. } => {}
            _ => self.state = HoldState::Settled,
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.budget.lock();
            if self.state == HoldState::Sent {
                state.spent.lost_tokens += self.worst.tokens;
                state.spent.usd += self.worst.usd;
            }
            state.holds -= 1;
            state.held.tokens -= self.worst.tokens;
            // Sums of dollars carry rounding; with nothing in flight there is nothing held.
            state.held.usd = if state.holds == 0 { 0.0 } else { state.held.usd - self.worst.usd };
        }
        self.budget.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
