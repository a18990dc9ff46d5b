//! What a run may spend, as a hard limit: a request is only sent if its worst case still fits.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::options::{ClientError, MAX_SECONDS, OwnPrice};
use super::wire;
use crate::answer_log::Totals;
use crate::chat::{BudgetKind, BudgetScope, ChatAnswer, ChatError, ChatRequest};
use crate::estimate::Price;

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

impl BudgetOptions {
    /// The two prices.
    #[must_use]
    pub fn price(&self) -> Price {
        Price {
            usd_per_million_prompt_tokens: self.usd_per_million_prompt_tokens,
            usd_per_million_completion_tokens: self.usd_per_million_completion_tokens,
        }
    }

    fn check(&self) -> Result<(), ClientError> {
        for (option, value) in [
            ("usd_per_million_prompt_tokens", self.usd_per_million_prompt_tokens),
            ("usd_per_million_completion_tokens", self.usd_per_million_completion_tokens),
            ("max_usd", self.max_usd.unwrap_or_default()),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(ClientError::BadNumber { option, value, rule: "0 or more" });
            }
        }
        match self.max_duration_seconds {
            Some(value) if !(0.0..=MAX_SECONDS).contains(&value) => Err(ClientError::BadNumber {
                option: "max_duration_seconds",
                value,
                rule: "0 to a year of seconds",
            }),
            _ => Ok(()),
        }
    }
}

/// What was spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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

    /// What earlier processes spent: as one of them noted it, and what the answer log has beyond that note.
    #[must_use]
    pub fn with_log(self, log: &Totals, price: Price) -> Self {
        let prompt_tokens = self.prompt_tokens.max(log.prompt_tokens);
        let completion_tokens = self.completion_tokens.max(log.completion_tokens);
        let beyond =
            dollars(price, prompt_tokens - self.prompt_tokens, completion_tokens - self.completion_tokens);
        Self {
            requests: self.requests.max(log.requests),
            prompt_tokens,
            completion_tokens,
            lost_tokens: self.lost_tokens,
            usd: self.usd + beyond,
        }
    }

    /// What was spent beyond an earlier sum.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            prompt_tokens: self.prompt_tokens - earlier.prompt_tokens,
            completion_tokens: self.completion_tokens - earlier.completion_tokens,
            lost_tokens: self.lost_tokens - earlier.lost_tokens,
            usd: self.usd - earlier.usd,
        }
    }

    fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.prompt_tokens += more.prompt_tokens;
        self.completion_tokens += more.completion_tokens;
        self.lost_tokens += more.lost_tokens;
        self.usd += more.usd;
    }
}

fn dollars(price: Price, prompt_tokens: u64, completion_tokens: u64) -> f64 {
    (prompt_tokens as f64 * price.usd_per_million_prompt_tokens
        + completion_tokens as f64 * price.usd_per_million_completion_tokens)
        / 1e6
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

/// A budget, shared by all requests of a stage. It may lie inside that of a run, which its stages share: then
/// a request must fit into both.
///
/// The limits are hard: a request in flight holds its worst case (its longest answer, and a token for each
/// byte of its prompt), so that what comes back never exceeds a limit. Near the end, requests wait for
/// those in flight to give back what they did not need. A server may exceed it only by writing more than
/// it was asked for. A refused request (an HTTP status that is an error, no connection) costs nothing.
#[derive(Debug)]
pub struct Budget {
    options: BudgetOptions,
    of_run: Option<Arc<Budget>>,
    scope: BudgetScope,
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
        Self::resuming(options, &Spent::default(), None)
    }

    /// A stage's budget of which earlier processes have spent something, inside a run's. Time starts anew.
    pub fn resuming(
        options: BudgetOptions,
        earlier: &Spent,
        of_run: Option<Arc<Self>>,
    ) -> Result<Arc<Self>, ClientError> {
        options.check()?;
        if options.max_usd.is_some() && options.price() == Price::default() {
            return Err(ClientError::NoPrice);
        }
        let mut budget = Self::starting_now(options, BudgetScope::Stage);
        budget.of_run = of_run;
        budget.lock().spent = *earlier;
        Ok(Arc::new(budget))
    }

    /// A run's budget, inside which those of its stages lie. It has no prices: they count with their own.
    pub fn of_run(options: BudgetOptions) -> Result<Arc<Self>, ClientError> {
        options.check()?;
        Ok(Arc::new(Self::starting_now(options, BudgetScope::Run)))
    }

    /// A budget without limits, which only counts.
    pub fn unlimited() -> Arc<Self> {
        Arc::new(Self::starting_now(BudgetOptions::default(), BudgetScope::Stage))
    }

    fn starting_now(options: BudgetOptions, scope: BudgetScope) -> Self {
        let (state, settled) = (Mutex::default(), Notify::new());
        Self { options, of_run: None, scope, started: Instant::now(), state, settled }
    }

    /// Counts what earlier processes spent.
    pub fn add_earlier(&self, spent: &Spent) {
        self.lock().spent.add(spent);
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
        let ends = [Some(self), self.of_run.as_deref()].into_iter().flatten().filter_map(|budget| {
            let seconds = budget.options.max_duration_seconds?;
            Some((budget.started + Duration::from_secs_f64(seconds), budget))
        });
        let Some((deadline, budget)) = ends.min_by_key(|(deadline, _)| *deadline) else {
            return Ok(work.await);
        };
        let out_of_time = || budget.out_of(BudgetKind::Seconds, 0.0);
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
        ChatError::BudgetExhausted { kind, scope: self.scope, limit, used, needed, spent: spent.to_string() }
    }

    /// Counts a request and holds its worst case, at a server's own price or the stage's; waits while that
    /// depends on requests in flight.
    pub(super) async fn hold(&self, request: &ChatRequest, price: OwnPrice) -> Result<Hold<'_>, ChatError> {
        let price = price.or(self.options.price());
        let prompt_tokens: u64 =
            request.messages.iter().map(|message| message.content.len() as u64 + TEMPLATE_TOKENS).sum();
        let completion_tokens = wire::longest_answer(request);
        let worst = Worst {
            tokens: prompt_tokens + completion_tokens,
            usd: dollars(price, prompt_tokens, completion_tokens),
        };
        // The stage's first: while it waits for the run's, other stages lose nothing by that.
        let of_stage = self.hold_worst(worst).await?;
        let of_run = match &self.of_run {
            Some(run) => Some(run.hold_worst(worst).await?),
            None => None,
        };
        let mut hold = Hold { of_stage, of_run, price };
        hold.set(Cost::Unknown);
        Ok(hold)
    }

    async fn hold_worst(&self, worst: Worst) -> Result<Share<'_>, ChatError> {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Registered before the look, so that nothing settled in between is missed.
            settled.as_mut().enable();
            match self.try_hold(worst) {
                Trial::Held => return Ok(Share { budget: self, worst, cost: Cost::Unsent }),
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

/// The worst case of one request in flight, in its stage's budget and its run's. Dropped without a word, it is
/// spent: the request was on its way, and nobody tells what became of it.
pub(super) struct Hold<'a> {
    of_stage: Share<'a>,
    of_run: Option<Share<'a>>,
    price: Price,
}

/// A request's worst case in one budget.
struct Share<'a> {
    budget: &'a Budget,
    worst: Worst,
    cost: Cost,
}

/// What is known of a request's cost.
#[derive(Clone, Copy)]
enum Cost {
    /// It was not sent.
    Unsent,
    /// Nothing.
    Unknown,
    /// It was refused.
    Nothing,
    /// It was answered.
    Known(Spent),
}

impl Hold<'_> {
    fn set(&mut self, cost: Cost) {
        for share in [Some(&mut self.of_stage), self.of_run.as_mut()].into_iter().flatten() {
            share.cost = cost;
        }
    }

    /// Counts what the answer cost in truth.
    pub(super) fn settle(mut self, answer: &ChatAnswer) {
        let (prompt_tokens, completion_tokens) =
            (u64::from(answer.prompt_tokens), u64::from(answer.completion_tokens));
        let usd = dollars(self.price, prompt_tokens, completion_tokens);
        self.set(Cost::Known(Spent { prompt_tokens, completion_tokens, usd, ..Spent::default() }));
    }

    /// Counts what a request without an answer may have cost.
    pub(super) fn settle_failed(mut self, error: &ChatError) {
        match error {
            ChatError::TimedOut { .. }
            | ChatError::Cut { .. }
            | ChatError::BadJson { .. }
            | ChatError::BodyTooLarge { .. } => {}
            _ => self.set(Cost::Nothing),
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.budget.lock();
            match self.cost {
                Cost::Unsent => state.spent.requests -= 1,
                Cost::Unknown => {
                    state.spent.lost_tokens += self.worst.tokens;
                    state.spent.usd += self.worst.usd;
                }
                Cost::Nothing => {}
                Cost::Known(spent) => state.spent.add(&spent),
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
