//! One run and its process, from start to end.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde_json::Value as Json;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::child::{Places, RunProcess, Signal};
use super::{Supervisor, blocking, progress};
use crate::ledger::{Ended, Heartbeat};
use crate::run::{Run, StageProgress, Wish};
use crate::trace;

/// What `pipeline` exits with when its input was wrong: another attempt would end alike.
const WRONG_INPUT: i32 = 2;

/// The end of a log that is kept as the run's error.
const MOST_ERROR_BYTES: usize = 4_096;
/// The end of a log in which the report is looked for: as an event it stands in one long line.
const MOST_READ_BYTES: u64 = 64 << 10;

/// The first retry comes after this; each later one after twice as long.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(10);
const LAST_RETRY: SignedDuration = SignedDuration::from_hours(1);

/// Why a process was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Wished(Wish),
    TimedOut,
    Stalled,
    ServiceEnds,
}

struct Stopping {
    reason: Reason,
    since: Instant,
}

/// How the process of a run came to its end.
enum Close {
    Exited(Option<i32>, Option<Reason>),
    /// Somebody else has the run.
    Lost,
    NotStarted(String),
}

impl Supervisor {
    /// Works on a run to the end of its process: a span of the trace of the request that asked for it.
    pub(super) async fn attend(&self, run: Run) {
        let span = tracing::info_span!(
            target: trace::TARGET,
            "run",
            otel.name = format!("run {}", run.workflow),
            otel.status_code = Empty,
            run = %run.id,
            workflow = run.workflow,
            attempt = run.attempt,
            outcome = Empty,
            trace_id = Empty,
        );
        trace::follow(&span, run.trigger.traceparent());
        self.attend_traced(run).instrument(span).await;
    }

    async fn attend_traced(&self, run: Run) {
        let log = self.options.logs_folder.join(format!("{}.log", run.id));
        let mut stages = run.progress.clone();
        let log_before = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let close = match self.start(&run, &log) {
            Ok(process) => self.follow(&run, process, &mut stages).await,
            Err(error) => Close::NotStarted(error),
        };
        let now = self.clock.now();
        let ended = match close {
            Close::Lost => {
                tracing::warn!(run = %run.id, epoch = run.epoch, "handed to another process; this one was stopped");
                return;
            }
            Close::Exited(Some(0), _) => Ended::Succeeded,
            Close::Exited(_, Some(Reason::Wished(wish))) => Ended::Stopped(wish),
            Close::Exited(_, Some(Reason::ServiceEnds)) => Ended::Released,
            Close::Exited(exit_code, Some(Reason::TimedOut)) => {
                let seconds = run.spec.timeout_seconds.unwrap_or_default();
                self.failed(&run, exit_code, format!("it took longer than its {seconds} seconds"))
            }
            Close::Exited(exit_code, Some(Reason::Stalled)) => {
                let seconds = run.spec.stalled_after_seconds.unwrap_or_default();
                self.failed(&run, exit_code, format!("its stages counted nothing for {seconds} seconds"))
            }
            Close::Exited(exit_code, None) => {
                let error = last_words(&log, log_before).unwrap_or_else(|| match exit_code {
                    Some(code) => format!("its process ended with exit code {code} and said nothing"),
                    None => "its process was killed".to_owned(),
                });
                self.failed(&run, exit_code, error)
            }
            Close::NotStarted(error) => self.failed(&run, None, error),
        };
        let (outcome, is_good) = match &ended {
            Ended::Succeeded => ("succeeded", true),
            Ended::Failed { .. } => ("failed", false),
            Ended::Stopped(wish) => (wish.name(), true),
            Ended::Released => ("released", true),
        };
        Span::current().record("outcome", outcome);
        if !is_good {
            Span::current().record("otel.status_code", "ERROR");
        }
        progress::end_all(now, &mut stages);
        let (id, epoch, state) = (run.id.clone(), run.epoch, ended.clone());
        let written = blocking(&self.ledger, move |ledger| {
            ledger.heartbeat(&id, epoch, Some(&stages))?;
            ledger.end(&id, epoch, &state, now)
        })
        .await;
        match written {
            Ok(true) => self.notifier.run_ended(&run, &ended).await,
            Ok(false) => tracing::warn!(run = %run.id, "ended, and was handed to another process before"),
            Err(error) => tracing::error!(run = %run.id, %error, "its end cannot be written to the ledger"),
        }
    }

    fn start(&self, run: &Run, log: &Path) -> Result<RunProcess, String> {
        let file = &run.spec.file;
        let workflow =
            self.workflows.path(file).ok_or_else(|| format!("the workflow file `{file}` is gone"))?;
        let options = &self.options;
        let places = Places {
            program: &options.program,
            workflow: &workflow,
            runs_folder: &options.runs_folder,
            log: log.to_owned(),
            json_log: options.json_log,
            callers_folders: self.workflows.callers_folders(),
        };
        RunProcess::start(run, &places)
            .map_err(|error| format!("cannot start {}: {error}", options.program.display()))
    }

    async fn follow(
        &self,
        run: &Run,
        mut process: RunProcess,
        stages: &mut BTreeMap<String, StageProgress>,
    ) -> Close {
        let mut lines = process.take_lines();
        let started = Instant::now();
        let timeout = run.spec.timeout_seconds.map(Duration::from_secs);
        let patience = run.spec.stalled_after_seconds.map(Duration::from_secs);
        let mut moved = (progress::work(stages), Instant::now());
        let mut alive = Instant::now();
        let mut changed = true;
        let mut stopping: Option<Stopping> = None;
        let mut beat = tokio::time::interval(self.options.beat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let exit_code = loop {
            tokio::select! {
                line = lines.next() => {
                    changed |= progress::take(&line, self.clock.now(), stages);
                    continue;
                }
                exit = process.wait() => break exit.ok().flatten(),
                _ = beat.tick() => {}
                () = self.stop.cancelled(), if stopping.is_none() => {}
            }
            let work = progress::work(stages);
            if work != moved.0 {
                moved = (work, Instant::now());
            }
            let (id, epoch, news) = (run.id.clone(), run.epoch, changed.then(|| stages.clone()));
            let wish = match blocking(&self.ledger, move |ledger| ledger.heartbeat(&id, epoch, news.as_ref()))
                .await
            {
                Ok(Heartbeat::Held(wish)) => {
                    (alive, changed) = (Instant::now(), false);
                    wish
                }
                Ok(Heartbeat::Lost) => return Close::Lost,
                // Others will take the run for lost: it must not go on here then.
                Err(error) if alive.elapsed() >= self.options.lease => {
                    tracing::error!(run = %run.id, %error, "no sign of life could be given; stopped");
                    return Close::Lost;
                }
                Err(_) => None,
            };
            let reason = match wish {
                _ if self.stop.is_cancelled() => Some(Reason::ServiceEnds),
                Some(wish) => Some(Reason::Wished(wish)),
                None if timeout.is_some_and(|timeout| started.elapsed() >= timeout) => Some(Reason::TimedOut),
                None if patience.is_some_and(|patience| moved.1.elapsed() >= patience) => {
                    Some(Reason::Stalled)
                }
                None => None,
            };
            match (&mut stopping, reason) {
                (None, Some(reason)) => {
                    process.signal(Signal::Interrupt);
                    stopping = Some(Stopping { reason, since: Instant::now() });
                }
                (Some(stopping), reason) => {
                    // A pause may become a stop for good.
                    if let Some(reason @ Reason::Wished(_)) = reason {
                        stopping.reason = reason;
                    }
                    if stopping.since.elapsed() >= self.options.grace {
                        process.signal(Signal::Kill);
                    }
                }
                (None, None) => {}
            }
        };
        for line in lines.rest().await {
            progress::take(&line, self.clock.now(), stages);
        }
        Close::Exited(exit_code, stopping.map(|stopping| stopping.reason))
    }

    fn failed(&self, run: &Run, exit_code: Option<i32>, error: String) -> Ended {
        let again = run.attempt <= run.spec.retries && exit_code != Some(WRONG_INPUT);
        let doubled = FIRST_RETRY.saturating_mul(1 << run.attempt.saturating_sub(1).min(16));
        Ended::Failed { exit_code, error, retry_after: again.then(|| doubled.min(LAST_RETRY)) }
    }
}

/// What the process wrote last to its log: the report of its error.
fn last_words(log: &Path, from: u64) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(MOST_READ_BYTES)))).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_READ_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    if let Some(report) = text.lines().rev().find_map(reported) {
        return Some(report);
    }
    let text = tail(&text, MOST_ERROR_BYTES);
    // Lines of progress before it say nothing of the error.
    let report = text.rfind("  × ").or_else(|| text.find("thread '")).map_or(text, |at| &text[at..]);
    let report = report.trim();
    (!report.is_empty()).then(|| report.to_owned())
}

/// The report of an error, where logs are JSON and this line holds one.
fn reported(line: &str) -> Option<String> {
    let event: Json = serde_json::from_str(line).ok()?;
    let report = event["report"].as_str().filter(|_| event["level"] == "ERROR")?;
    Some(tail(report.trim(), MOST_ERROR_BYTES).to_owned())
}

/// The last bytes of a text, from a whole letter on.
fn tail(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_in_logs_of_both_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let said = |text: &str| {
            std::fs::write(&log, text).unwrap();
            last_words(&log, 0).unwrap_or_default()
        };
        assert_eq!(said("pages: started\n  × no rows\n  help: look\n"), "× no rows\n  help: look");
        let long = "x".repeat(10_000);
        let lines = format!(
            "{{\"level\":\"INFO\",\"message\":\"{long}\"}}\n{{\"level\":\"ERROR\",\"report\":\"no rows {long}\"}}\n"
        );
        assert!(said(&lines).ends_with(&long[..4_000]) && said(&lines).len() == MOST_ERROR_BYTES);
        assert_eq!(said("{\"level\":\"ERROR\",\"report\":\"no rows\"}\n{\"level\":\"INFO\"}\n"), "no rows");
        // What is no error's has a field of this name too.
        let counted = "{\"level\":\"INFO\",\"report\":\"12 topics\"}";
        assert_eq!(said(counted), counted);
        assert_eq!(said("3\n{\"level\":\"INFO\"}"), "3\n{\"level\":\"INFO\"}");
        assert!(said(&format!("é{}", "é".repeat(4_000))).len() <= MOST_ERROR_BYTES);
    }
}
