//! What an endpoint is: one row of a table from which the routes, the checks and the OpenAPI document
//! are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::future::BoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::auth::Caller;
use crate::ledger::Scope;
use crate::run::RunId;
use crate::service::Service;

/// Answers a call.
pub(crate) type Handler = fn(Arc<Service>, Call) -> BoxFuture<'static, Result<Response, Problem>>;

/// The schema of a body.
pub(crate) type BodySchema = fn(&mut SchemaGenerator) -> Schema;

/// An endpoint.
pub(crate) struct Endpoint {
    /// GET, POST, …
    pub(crate) method: Method,
    /// The path, with names in braces.
    pub(crate) path: &'static str,
    /// A name that no other endpoint has.
    pub(crate) id: &'static str,
    /// What it does.
    pub(crate) summary: &'static str,
    /// What a caller must be allowed.
    pub(crate) access: Access,
    /// What may stand in the query.
    pub(crate) query: &'static [(&'static str, &'static str)],
    /// The body that it takes.
    pub(crate) body: Option<BodySchema>,
    /// The body that it answers with; none where it is not JSON.
    pub(crate) answer: Option<BodySchema>,
    /// The status of a good answer.
    pub(crate) status: u16,
    /// Whether it takes the header `Idempotency-Key`, and answers a repeated request alike with status 200.
    pub(crate) takes_key: bool,
    /// What does it.
    pub(crate) handler: Handler,
}

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Open,
    /// Callers with this scope.
    Scoped(Scope),
    /// Whoever signs the request.
    Signed,
}

/// A request, with the caller known.
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) path: BTreeMap<String, String>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// A part of the path.
    pub(crate) fn part(&self, name: &str) -> String {
        self.path.get(name).cloned().unwrap_or_default()
    }

    /// The run that the path names.
    pub(crate) fn run(&self) -> RunId {
        RunId(self.part("run"))
    }

    /// A value of the query that is not empty.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A number of the query.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Problem> {
        match self.query(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| Problem::bad_request(format!("`{name}` is no number: {text}")))
            }
        }
    }

    /// The JSON body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body)
            .map_err(|error| Problem::bad_request(format!("the body is not what is taken here: {error}")))
    }
}

/// The schema of a type.
pub(crate) fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let text = serde_json::to_string(body).map_err(|error| Problem::internal(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// An answer without a body.
pub(crate) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An answer of another type.
pub(crate) fn text(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
