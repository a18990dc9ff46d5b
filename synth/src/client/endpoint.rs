//! One endpoint: how many requests it bears, and whether it works at all. Pure state, the time is given.

use std::time::Duration;

use tokio::time::Instant;

use super::options::{ClientOptions, Endpoint};

/// Longest time a broken endpoint is left alone between two probes.
const LONGEST_OPEN: Duration = Duration::from_secs(60);

/// Of an endpoint that has answered before, so much garbage in a row is taken for the fault of single requests,
/// times the requests that it may have in flight: each of those may be tried several times.
const GARBAGE_A_PLACE: f64 = 16.0;

/// Answers that took less are never too slow: no queue is to be shortened there.
const SHORTEST_SLOW: Duration = Duration::from_secs(1);
/// Weight of the newest request in the recent time a token and in the recent share of refusals.
const NEWEST: f64 = 1.0 / 32.0;
/// What the best time a token grows by with each answer, so that a best of other days is forgotten within
/// thousands of answers.
const FORGETTING: f64 = 1.0002;

/// How one request at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// With an answer of so many tokens, after so long.
    Answered { latency: Duration, tokens: u32 },
    /// The endpoint works and refused this one request (HTTP 400 and the like).
    Refused,
    /// The endpoint works and wants fewer requests (HTTP 429), for so long if it said so.
    Overloaded(Option<Duration>),
    /// It takes nothing more for now (HTTP 503, 529), for so long if it said so: too many requests, or a
    /// broken endpoint.
    Unavailable(Option<Duration>),
    /// No answer in time: too many requests, or a broken endpoint.
    TimedOut,
    /// The endpoint failed (other HTTP 5xx, no connection, a cut one), and wants to be left alone for so long if
    /// it said so.
    Failed(Option<Duration>),
    /// It sent what is no answer, and called it one.
    Garbage,
}

/// Whether an endpoint takes a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Readiness {
    /// Now; the number is the share of its places in use, over its weight.
    Now(f64),
    /// At that time.
    At(Instant),
    /// When a request in flight ends.
    WhenFree,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Circuit {
    /// Works.
    Closed,
    /// Left alone until then; `wait` is how long it was left alone.
    Open { until: Instant, wait: Duration },
    /// One request tries it.
    Probing { wait: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Growth {
    /// One more place with each answer, until the first sign of overload.
    Doubling,
    /// One more place with each full round of answers.
    Additive,
}

/// Settings of [`EndpointState`].
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    max_in_flight: f64,
    start_in_flight: f64,
    weight: f64,
    slow_factor: f64,
    breaker_failures: u32,
    breaker_open: Duration,
    retry_after_max: Duration,
}

impl Tuning {
    pub(super) fn new(options: &ClientOptions, endpoint: &Endpoint) -> Self {
        Self {
            max_in_flight: endpoint.max_in_flight as f64,
            start_in_flight: options.start_in_flight.min(endpoint.max_in_flight) as f64,
            weight: endpoint.weight,
            slow_factor: options.slow_factor,
            breaker_failures: options.breaker_failures,
            breaker_open: Duration::from_secs_f64(options.breaker_open_seconds),
            retry_after_max: Duration::from_secs_f64(options.retry_after_max_seconds),
        }
    }
}

/// How fast answers come: seconds a token, smoothed over the last of them, and the least that was.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    recent: f64,
    best: f64,
}

/// Concurrency and circuit breaker of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    tuning: Tuning,
    limit: f64,
    growth: Growth,
    last_cut: Option<Instant>,
    pace: Option<Pace>,
    /// Share of the recent requests that were signs of overload; all of them, before anything is known.
    overload: f64,
    paused_until: Option<Instant>,
    circuit: Circuit,
    failures_in_a_row: u32,
    garbage_in_a_row: u32,
    pub(super) in_flight: usize,
    pub(super) answered: u64,
    pub(super) failed: u64,
}

impl EndpointState {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self {
            limit: tuning.start_in_flight,
            tuning,
            growth: Growth::Doubling,
            last_cut: None,
            pace: None,
            overload: 1.0,
            paused_until: None,
            circuit: Circuit::Closed,
            failures_in_a_row: 0,
            garbage_in_a_row: 0,
            in_flight: 0,
            answered: 0,
            failed: 0,
        }
    }

    /// Requests it bears now.
    pub(super) fn places(&self) -> usize {
        self.limit as usize
    }

    /// Whether its circuit is closed, that is, whether it works as far as we know.
    pub(super) fn works(&self) -> bool {
        self.circuit == Circuit::Closed
    }

    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        if let Some(until) = self.paused_until
            && until > now
        {
            return Readiness::At(until);
        }
        match self.circuit {
            Circuit::Open { until, .. } if until > now => Readiness::At(until),
            Circuit::Open { .. } => Readiness::Now(0.0),
            Circuit::Probing { .. } => Readiness::WhenFree,
            Circuit::Closed if self.in_flight < self.places() => {
                // With the request at hand, so that weights count from the first one on.
                Readiness::Now((self.in_flight + 1) as f64 / (self.limit * self.tuning.weight))
            }
            Circuit::Closed => Readiness::WhenFree,
        }
    }

    /// Takes a place; only after [`Readiness::Now`].
    pub(super) fn take(&mut self) {
        self.in_flight += 1;
        if let Circuit::Open { wait, .. } = self.circuit {
            self.circuit = Circuit::Probing { wait };
        }
    }

    /// Gives a place back without a verdict: the request was given up.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Circuit::Probing { wait } = self.circuit {
            self.circuit = Circuit::Open { until: now, wait };
        }
    }

    /// Gives a place back and learns from how the request, sent at `sent`, ended.
    pub(super) fn finish(&mut self, sent: Instant, verdict: Verdict, now: Instant) {
        let was_full = self.in_flight + 1 >= self.places();
        self.in_flight = self.in_flight.saturating_sub(1);
        let overloaded =
            matches!(verdict, Verdict::Overloaded(_) | Verdict::Unavailable(_) | Verdict::TimedOut);
        self.overload += (f64::from(u8::from(overloaded)) - self.overload) * NEWEST;
        match verdict {
            Verdict::Answered { latency, tokens } => {
                self.answered += 1;
                self.garbage_in_a_row = 0;
                self.heal();
                if self.is_slow(latency, tokens) {
                    self.cut(0.8, sent, now);
                } else if was_full {
                    self.grow();
                }
            }
            Verdict::Refused => {
                self.failed += 1;
                self.heal();
            }
            Verdict::Overloaded(pause) => {
                self.failed += 1;
                self.heal();
                self.cut(1.0 - self.overload / 2.0, sent, now);
                self.pause(pause, now);
            }
            Verdict::TimedOut => {
                self.cut(1.0 - self.overload / 2.0, sent, now);
                self.fail(now);
            }
            Verdict::Unavailable(pause) => {
                self.cut(1.0 - self.overload / 2.0, sent, now);
                self.pause(pause, now);
                self.fail(now);
            }
            Verdict::Failed(pause) => {
                self.pause(pause, now);
                self.fail(now);
            }
            Verdict::Garbage => {
                self.garbage_in_a_row = self.garbage_in_a_row.saturating_add(1);
                let borne = GARBAGE_A_PLACE * self.tuning.max_in_flight.max(4.0);
                if self.answered > 0 && f64::from(self.garbage_in_a_row) <= borne {
                    self.failed += 1;
                    self.heal();
                } else {
                    self.fail(now);
                }
            }
        }
    }

    fn heal(&mut self) {
        self.failures_in_a_row = 0;
        self.circuit = Circuit::Closed;
    }

    fn fail(&mut self, now: Instant) {
        self.failed += 1;
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let wait = match self.circuit {
            Circuit::Probing { wait } => (wait * 2).min(LONGEST_OPEN.max(self.tuning.breaker_open)),
            Circuit::Closed if self.failures_in_a_row >= self.tuning.breaker_failures => {
                self.tuning.breaker_open
            }
            // A request sent before the circuit opened says nothing new.
            Circuit::Closed | Circuit::Open { .. } => return,
        };
        self.circuit = Circuit::Open { until: now + wait, wait };
    }

    fn grow(&mut self) {
        let step = match self.growth {
            Growth::Doubling => 1.0,
            Growth::Additive => 1.0 / self.limit,
        };
        self.limit = (self.limit + step).min(self.tuning.max_in_flight);
    }

    /// Learns from an answer's time and says whether answers have become too slow.
    fn is_slow(&mut self, latency: Duration, tokens: u32) -> bool {
        let a_token = latency.as_secs_f64() / f64::from(tokens.max(1));
        let pace = self.pace.get_or_insert(Pace { recent: a_token, best: a_token });
        pace.recent += (a_token - pace.recent) * NEWEST;
        pace.best = (pace.best * FORGETTING).min(pace.recent);
        latency >= SHORTEST_SLOW && pace.recent > self.tuning.slow_factor * pace.best
    }

    /// Cuts the places to a share, once for all requests that were in flight together. An overloaded endpoint
    /// loses half of what it refuses of late, as DCTCP does (Alizadeh et al., 2010): half of its places when
    /// it refuses all, few when single requests fail by chance, which halving would starve.
    fn cut(&mut self, share: f64, sent: Instant, now: Instant) {
        self.growth = Growth::Additive;
        if self.last_cut.is_none_or(|cut| sent >= cut) {
            self.limit = (self.limit * share).max(1.0);
            self.last_cut = Some(now);
        }
    }

    fn pause(&mut self, pause: Option<Duration>, now: Instant) {
        if let Some(pause) = pause {
            let until = now + pause.min(self.tuning.retry_after_max);
            self.paused_until = Some(self.paused_until.map_or(until, |already| already.max(until)));
        }
    }
}

#[cfg(test)]
mod tests;
