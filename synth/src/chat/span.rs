//! The span of one request to a model, under the names of OpenTelemetry's conventions for generative models.
//! It holds figures and kinds, nothing that was asked or said.

use reqwest::Url;
use tracing::Span;
use tracing::field::Empty;

use super::{ChatAnswer, ChatError};

/// A span for the trace: what it is called after `chat`, the model, which attempt it is, and the server where
/// there is one.
pub fn of_request(name: &str, model: &str, attempt: u32, server: Option<&Url>) -> Span {
    tracing::info_span!(
        target: "corpusmith::trace",
        "llm request",
        otel.name = format!("chat {name}"),
        otel.kind = server.map(|_| "client"),
        otel.status_code = Empty,
        gen_ai.operation.name = "chat",
        gen_ai.request.model = model,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        server.address = server.and_then(Url::host_str),
        server.port = server.and_then(Url::port_or_known_default),
        http.response.status_code = Empty,
        error.type = Empty,
        attempt,
    )
}

/// Notes on the span how the request ended.
pub fn end(span: &Span, result: &Result<ChatAnswer, ChatError>) {
    match result {
        Ok(answer) => {
            span.record("gen_ai.usage.input_tokens", answer.prompt_tokens);
            span.record("gen_ai.usage.output_tokens", answer.completion_tokens);
        }
        Err(error) => {
            span.record("otel.status_code", "ERROR").record("error.type", error.reason());
            if let Some(status) = error.status() {
                span.record("http.response.status_code", status);
            }
        }
    }
}
