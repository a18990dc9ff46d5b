//! All endpoints: which takes the next request, and when none will.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::endpoint::{EndpointState, Readiness, Tuning, Verdict};
use super::options::{ClientOptions, Endpoint};
use crate::chat::{ChatAnswer, ChatError};

/// A waiter looks again after this long whatever happens, so that a lost wake-up costs a second at most.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// How one endpoint fares.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStatus {
    /// Its base URL.
    pub url: String,
    /// Requests it bears at once, as found out so far.
    pub places: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Answers that came from it.
    pub answered: u64,
    /// Requests that failed at it.
    pub failed: u64,
    /// Its circuit breaker.
    pub circuit: CircuitStatus,
}

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitStatus {
    /// The endpoint works, as far as we know.
    Closed,
    /// It failed several times in a row and is left alone but for single probes.
    Open,
}

pub(super) struct Pool {
    urls: Vec<String>,
    down_after: Duration,
    state: Mutex<PoolState>,
    changed: Notify,
}

struct PoolState {
    endpoints: Vec<EndpointState>,
    /// Since when no circuit is closed.
    down_since: Option<Instant>,
    last_failure: String,
}

enum Choice {
    Endpoint(usize),
    WaitUntil(Instant),
}

impl Pool {
    pub(super) fn new(options: &ClientOptions, endpoints: &[Endpoint]) -> Self {
        let urls = endpoints.iter().map(|endpoint| endpoint.address.base_url.clone()).collect();
        let state = |endpoint| EndpointState::new(Tuning::new(options, endpoint));
        let endpoints = endpoints.iter().map(state).collect();
        Self {
            urls,
            down_after: Duration::from_secs_f64(options.down_after_seconds),
            state: Mutex::new(PoolState { endpoints, down_since: None, last_failure: String::new() }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // Every change under the lock is a few plain assignments: the state is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free place, at another endpoint than `avoid` if one is free, and takes it.
    pub(super) async fn acquire(&self, avoid: Option<usize>) -> Result<Slot<'_>, ChatError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between look and wait is missed.
            changed.as_mut().enable();
            let now = Instant::now();
            match self.choose(avoid, now) {
                Ok(Choice::Endpoint(endpoint)) => {
                    // There may be more places: pass the word on.
                    self.changed.notify_one();
                    return Ok(Slot { pool: self, endpoint, sent: now, state: SlotState::Held });
                }
                Err(error) => {
                    self.changed.notify_one();
                    return Err(error);
                }
                Ok(Choice::WaitUntil(until)) => {
                    // Out of time or out of sleep: either way look again.
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
    }

    fn choose(&self, avoid: Option<usize>, now: Instant) -> Result<Choice, ChatError> {
        let mut state = self.lock();
        let mut wake = now + LONGEST_NAP;
        if let Some(since) = state.down_since {
            let end = since + self.down_after;
            if now >= end {
                return Err(ChatError::AllEndpointsDown {
                    down_seconds: (now - since).as_secs_f64(),
                    endpoints: self.urls.join(", "),
                    last: state.last_failure.clone(),
                });
            }
            wake = wake.min(end);
        }
        let mut best: Option<(usize, (u8, f64))> = None;
        for (index, endpoint) in state.endpoints.iter().enumerate() {
            match endpoint.readiness(now) {
                Readiness::Now(load) => {
                    let rank = (u8::from(avoid == Some(index)), load);
                    if best.is_none_or(|(_, least)| rank < least) {
                        best = Some((index, rank));
                    }
                }
                Readiness::At(at) => wake = wake.min(at),
                Readiness::WhenFree => {}
            }
        }
        match best {
            Some((index, _)) => {
                state.endpoints[index].take();
                Ok(Choice::Endpoint(index))
            }
            None => Ok(Choice::WaitUntil(wake)),
        }
    }

    fn finish(&self, endpoint: usize, sent: Instant, verdict: Option<Verdict>, failure: Option<&ChatError>) {
        let now = Instant::now();
        {
            let mut state = self.lock();
            match verdict {
                Some(verdict) => state.endpoints[endpoint].finish(sent, verdict, now),
                None => state.endpoints[endpoint].give_up(now),
            }
            if let Some(failure) = failure {
                state.last_failure = failure.to_string();
            }
            if state.endpoints.iter().any(EndpointState::works) {
                state.down_since = None;
            } else if state.down_since.is_none() {
                state.down_since = Some(now);
                tracing::warn!(endpoints = %self.urls.join(", "), last = %state.last_failure, "no LLM endpoint works; probing");
            }
        }
        self.changed.notify_one();
    }

    pub(super) fn status(&self) -> Vec<EndpointStatus> {
        let state = self.lock();
        self.urls
            .iter()
            .zip(&state.endpoints)
            .map(|(url, endpoint)| EndpointStatus {
                url: url.clone(),
                places: endpoint.places(),
                in_flight: endpoint.in_flight,
                answered: endpoint.answered,
                failed: endpoint.failed,
                circuit: if endpoint.works() { CircuitStatus::Closed } else { CircuitStatus::Open },
            })
            .collect()
    }
}

/// A place at an endpoint. Dropped without a verdict, it counts as given up.
pub(super) struct Slot<'a> {
    pool: &'a Pool,
    endpoint: usize,
    sent: Instant,
    state: SlotState,
}

/// Whether a slot still holds its place.
enum SlotState {
    Held,
    GivenBack,
}

impl Slot<'_> {
    pub(super) fn endpoint(&self) -> usize {
        self.endpoint
    }

    pub(super) fn finish_answered(mut self, answer: &ChatAnswer) {
        self.state = SlotState::GivenBack;
        let latency = Duration::from_millis(u64::from(answer.latency_ms));
        let verdict = Verdict::Answered { latency, tokens: answer.completion_tokens };
        self.pool.finish(self.endpoint, self.sent, Some(verdict), None);
    }

    pub(super) fn finish_failed(mut self, error: &ChatError) {
        self.state = SlotState::GivenBack;
        self.pool.finish(self.endpoint, self.sent, Some(verdict_of(error)), Some(error));
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if matches!(self.state, SlotState::Held) {
            self.pool.finish(self.endpoint, self.sent, None, None);
        }
    }
}

/// What a failure says about the endpoint it came from.
fn verdict_of(error: &ChatError) -> Verdict {
    match error {
        ChatError::Status { status, retry_after_seconds, .. } => {
            let pause = retry_after_seconds.map(Duration::from_secs_f64);
            match status {
                429 => Verdict::Overloaded(pause),
                408 => Verdict::TimedOut,
                503 | 529 => Verdict::Unavailable(pause),
                500..=599 => Verdict::Failed(pause),
                _ => Verdict::Refused,
            }
        }
        ChatError::TimedOut { .. } => Verdict::TimedOut,
        ChatError::Unreachable { .. } | ChatError::Cut { .. } => Verdict::Failed(None),
        ChatError::BadJson { .. } => Verdict::Garbage,
        _ => Verdict::Refused,
    }
}
