//! Who answers what.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::answer::{Head, Kind, json_response};
use super::error::ApiError;
use super::{Shared, request, stream, unix_seconds};

/// Largest body: several times what fits into the context as text.
const MAX_BODY_BYTES: usize = 2 << 20;

type Body = Result<Bytes, BytesRejection>;

/// All routes. Those of the API want the key, `/health` does not.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), check_key));
    api.route("/health", get(health))
        .fallback(|uri: Uri| async move { ApiError::route(uri.path()) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            ApiError::method(method.as_str(), uri.path())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(shared)
}

/// Digests are compared, so that the time tells nothing about the key.
async fn check_key(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(digest) = &shared.key_digest {
        let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if blake3::hash(key.as_bytes()) != *digest {
            return Err(ApiError::key());
        }
    }
    Ok(next.run(request).await)
}

async fn chat(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, ApiError> {
    answer(&shared, Kind::Chat, body).await
}

async fn completion(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, ApiError> {
    answer(&shared, Kind::Completion, body).await
}

async fn answer(shared: &Shared, kind: Kind, body: Body) -> Result<Response, ApiError> {
    let number = shared.next_number();
    let asked = request::read(kind, &body?, &shared.model_name, number)?;
    let slot = Arc::clone(&shared.slots)
        .try_acquire_owned()
        .map_err(|_| ApiError::overloaded(shared.max_in_flight))?;
    let created = unix_seconds(SystemTime::now());
    let head = Head { kind, number, created, model: shared.model_name.clone() };
    if asked.stream {
        return stream::respond(head, shared.engine.stream(asked.request), asked.include_usage, slot).await;
    }
    let generation = shared.engine.generate(asked.request).await?;
    Ok(json_response(StatusCode::OK, &head.whole(&generation)))
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    json_response(StatusCode::OK, &json!({"object": "list", "data": [model_json(&shared)]}))
}

async fn model(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    match id == shared.model_name {
        true => Ok(json_response(StatusCode::OK, &model_json(&shared))),
        false => Err(ApiError::model(&id, &shared.model_name)),
    }
}

fn model_json(shared: &Shared) -> Value {
    json!({
        "id": shared.model_name,
        "object": "model",
        "created": unix_seconds(shared.started),
        "owned_by": "corpusmith",
    })
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let body = json!({
        "status": "ok",
        "in_flight": shared.max_in_flight - shared.slots.available_permits(),
        "max_in_flight": shared.max_in_flight,
        "tokens": shared.engine.stats(),
    });
    json_response(StatusCode::OK, &body)
}
