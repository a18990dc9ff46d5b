//! Traces that go on in other processes: a request to the API, the run that it asks for, and the run's
//! process are one trace. The context travels as the W3C writes it (`traceparent`).
//!
//! Spans are made with `tracing`; whether anybody collects them is decided where the program starts.

use std::collections::HashMap;

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::api::endpoint::Endpoint;

/// The target of all spans that make up traces.
pub const TARGET: &str = "corpusmith::trace";

/// The header, and in capitals the environment variable, that carries a trace's context.
pub const HEADER: &str = "traceparent";

/// The variable that carries a trace's context to a process.
pub const VARIABLE: &str = "TRACEPARENT";

/// The context of the current span; none where traces are not collected.
pub fn current() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(HEADER)
}

/// Makes a span, which nobody has entered yet, part of the trace of this context; and writes the trace's id
/// into its field `trace_id`, for the log.
pub fn follow(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        let carrier = HashMap::from([(HEADER.to_owned(), traceparent.to_owned())]);
        // Fails where traces are not collected.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
    let context = span.context();
    let (known, given) = (context.span().span_context().trace_id(), traceparent.and_then(trace_id));
    if context.span().span_context().is_valid() {
        span.record("trace_id", known.to_string());
    } else if let Some(given) = given {
        span.record("trace_id", given);
    }
}

/// The trace's id in a context: `00-<trace>-<span>-<flags>`.
fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(id)
}

/// The span of a request that changes something. Looks are not traced: browsers and Prometheus look every
/// few seconds.
pub(crate) fn request(endpoint: &Endpoint, headers: &HeaderMap) -> Span {
    if endpoint.method == axum::http::Method::GET {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET,
        "request",
        otel.name = format!("{} {}", endpoint.method, endpoint.path),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %endpoint.method,
        http.route = endpoint.path,
        http.response.status_code = Empty,
        trace_id = Empty,
    );
    follow(&span, headers.get(HEADER).and_then(|value| value.to_str().ok()));
    span
}

/// The span of a form of the page.
pub(crate) fn form(path: &str) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        "form",
        otel.name = "POST page",
        otel.kind = "server",
        otel.status_code = Empty,
        url.path = path,
        http.response.status_code = Empty,
        trace_id = Empty,
    );
    follow(&span, None);
    span
}

/// Notes how a request was answered.
pub(crate) fn answered(span: &Span, status: axum::http::StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{trace}-00f067aa0ba902b7-01")), Some(trace));
        for wrong in ["", "00", "00-zz-1-01", "00-4bf9-00f067aa0ba902b7-01"] {
            assert_eq!(trace_id(wrong), None, "{wrong}");
        }
        assert_eq!(current(), None);
    }
}
