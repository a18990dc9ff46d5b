//! What the program says of itself while it works: its log, as text or as lines of JSON, and traces for an
//! OpenTelemetry collector.

mod json;
mod redact;
mod traces;

use std::io::{IsTerminal, Write};
use std::panic;
use std::sync::OnceLock;

use clap::ValueEnum;
use miette::{NarratableReportHandler, Report};
use serde_json::{Map, Value as Json, json};
use service::trace;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use json::JsonLog;
use redact::{Redacted, redacted};
use traces::Traces;

/// What the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line, with the run, stage, task and trace.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Log and traces, for as long as the program works.
pub struct Observing {
    traces: Option<Traces>,
}

impl Observing {
    /// Begins. Traces are collected where the variables of OpenTelemetry name a collector, and the command is
    /// `traced`.
    pub fn start(format: LogFormat, traced: bool) -> Self {
        let _ = FORMAT.set(format);
        let filter = EnvFilter::try_from_env("CORPUSMITH_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
        let log: Box<dyn Layer<Registry> + Send + Sync> = match format {
            LogFormat::Text => {
                tracing_subscriber::fmt::layer().with_writer(Redacted::stderr).with_filter(filter).boxed()
            }
            // Spans are taken in whatever is logged: events get run, stage and task from them.
            LogFormat::Json => {
                let spans = filter_fn(|metadata| metadata.is_span() && metadata.target() == trace::TARGET);
                JsonLog.with_filter(tracing_subscriber::filter::FilterExt::or(filter, spans)).boxed()
            }
        };
        let (traces, problem) = match traced.then(Traces::from_environment).flatten() {
            None => (None, None),
            Some(Ok(traces)) => (Some(traces), None),
            Some(Err(problem)) => (None, Some(problem)),
        };
        let mut layers = vec![log];
        layers.extend(traces.as_ref().map(Traces::layer));
        tracing_subscriber::registry().with(layers).init();
        if let Some(problem) = problem {
            tracing::warn!("no traces are sent: {problem}");
        }
        if format == LogFormat::Json {
            log_panics();
        }
        if !std::io::stderr().is_terminal() {
            // A secret that is broken over two lines would not be recognised.
            // Fails where a hook stands already.
            let _ = miette::set_hook(Box::new(|_| {
                Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build())
            }));
        }
        Self { traces }
    }

    /// Ends: what is not sent in a moment is lost.
    pub fn end(self) {
        if let Some(traces) = self.traces {
            traces.end();
        }
    }
}

/// Whether lines on standard error must be JSON.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// A line for people on standard error; an event where the log is JSON.
pub fn say(line: &str) {
    if is_json() {
        json::write("INFO", line, Map::new());
    } else {
        eprintln!("{line}");
    }
}

/// The report of the error with which the program ends.
pub fn report(report: &Report) {
    if !is_json() {
        eprintln!("{}", redacted(&format!("{report:?}")));
        return;
    }
    let mut told = String::new();
    if NarratableReportHandler::new().render_report(&mut told, &**report).is_err() {
        told = report.to_string();
    }
    json::write("ERROR", &report.to_string(), Map::from_iter([("report".to_owned(), json!(told.trim()))]));
}

/// A panic is an event too.
fn log_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("a panic");
        // A reader that went away: the hook before knows what to do.
        if message.contains("Broken pipe") {
            before(panic);
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        json::write("ERROR", message, Map::from_iter([("place".to_owned(), Json::String(place))]));
    }));
}

/// Writes a whole line at once: lines of several threads do not mix.
fn write_line(mut line: String) {
    line.push('\n');
    // Nobody can be told that standard error is gone.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
