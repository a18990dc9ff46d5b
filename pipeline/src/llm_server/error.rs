//! OpenAI's error object and its status codes
//! (<https://platform.openai.com/docs/guides/error-codes>).

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::infer::GenerateError;
use serde_json::{Value, json};

use super::answer::json_response;

use crate::runner::error::chain;

/// Why a request is not answered.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// A body that is no request at all.
    pub(super) fn body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field with a wrong value.
    pub(super) fn field(name: &str, message: impl std::fmt::Display) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, format!("`{name}` {message}"));
        Self { param: Some(name.to_owned()), ..error }
    }

    /// A field that asks for what this server does not do.
    pub(super) fn unsupported(name: &str, allowed: &str) -> Self {
        Self::field(name, format!("is not supported here; {allowed}")).code("unsupported_parameter")
    }

    /// A model that is not served.
    pub(super) fn model(asked: &str, served: &str) -> Self {
        let message = format!("the model `{asked}` is not served here; ask for `{served}`");
        let error = Self::new(StatusCode::NOT_FOUND, message).code("model_not_found");
        Self { param: Some("model".to_owned()), ..error }
    }

    /// A wrong or missing key.
    pub(super) fn key() -> Self {
        let message = "the API key is missing or wrong; send `Authorization: Bearer <key>`";
        Self::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
    }

    /// More requests than the server takes.
    pub(super) fn overloaded(max_in_flight: usize) -> Self {
        let message = format!("{max_in_flight} requests are in flight already; try again in a moment");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("server_overloaded")
    }

    /// A path that leads nowhere.
    pub(super) fn route(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is nothing at `{path}`"))
    }

    /// A path asked with the wrong method.
    pub(super) fn method(method: &str, path: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("`{path}` does not answer {method}"))
    }

    /// The error object.
    pub(super) fn to_json(&self) -> Value {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::BadOption { field, value, allowed } => {
                let name = if field == "max_new_tokens" { "max_tokens" } else { field };
                Self::field(name, format!("is {value}, but must be {allowed}"))
            }
            GenerateError::PromptTooLong { .. } | GenerateError::OverBudget { .. } => {
                Self::body(chain(&error)).code("context_length_exceeded")
            }
            GenerateError::EmptyPrompt | GenerateError::BadToken { .. } | GenerateError::NotAChatModel => {
                Self::body(chain(&error))
            }
            GenerateError::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
            GenerateError::NonFinite { .. } | GenerateError::Threads { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.to_json());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
