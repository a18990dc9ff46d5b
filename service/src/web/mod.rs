//! The HTTP side: routes, who may take them, and what every answer carries.

mod guard;
mod rate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use tracing::Instrument;

use crate::api::ENDPOINTS;
use crate::api::endpoint::{Access, Call, Endpoint};
use crate::api::problem::Problem;
use crate::auth::Caller;
use crate::ledger::Scope;
use crate::oidc;
use crate::page;
use crate::service::Service;
use crate::trace;

/// Greatest body of a request.
const MOST_BODY_BYTES: usize = 1 << 20;

/// The cookie of the page, for browsers.
pub(crate) const COOKIE: &str = "corpusmith_token";

/// The cookie of browsers that signed in at an identity provider.
pub(crate) const SESSION_COOKIE: &str = "corpusmith_session";

/// All routes.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let mut router = Router::new();
    for endpoint in ENDPOINTS {
        let answer = move |State(service): State<Arc<Service>>,
                           path: Path<BTreeMap<String, String>>,
                           request: Request| async move {
            match dispatch(service, endpoint, path.0, request).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(),
            }
        };
        router = router.route(endpoint.path, on(method_of(&endpoint.method), answer));
    }
    let guard = Arc::new(guard::Guard::new(&service.options));
    router
        .merge(page::router())
        .fallback(|request: Request| async move {
            Problem::not_found(format!("there is nothing at `{}`", request.uri().path())).into_response()
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let said = format!("`{}` does not answer {}", request.uri().path(), request.method());
            Problem::method_not_allowed(said).into_response()
        })
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .with_state(service)
}

fn method_of(method: &Method) -> MethodFilter {
    match *method {
        Method::POST => MethodFilter::POST,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

async fn dispatch(
    service: Arc<Service>,
    endpoint: &'static Endpoint,
    path: BTreeMap<String, String>,
    request: Request,
) -> Result<Response, Problem> {
    let span = trace::request(endpoint, request.headers());
    let answered = async {
        let call = call_of(path, request).await?;
        let call = match endpoint.access {
            Access::Scoped(scope) => {
                Call { caller: authorized(&service, &call.headers, scope).await?, ..call }
            }
            Access::Open | Access::Signed => call,
        };
        (endpoint.handler)(service, call).await
    };
    let result = answered.instrument(span.clone()).await;
    trace::answered(&span, result.as_ref().map_or_else(Problem::status, Response::status));
    result
}

/// Reads a request, from anybody so far. The body is read even of one that will be refused: a connection that
/// closes on unread bytes takes the answer with it.
pub(crate) async fn call_of(path: BTreeMap<String, String>, request: Request) -> Result<Call, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let query = url::form_urlencoded::parse(query.as_bytes());
    let query = query.map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MOST_BODY_BYTES)
        .await
        .map_err(|_| Problem::too_large(format!("a body has at most {MOST_BODY_BYTES} bytes")))?;
    let caller = Caller { name: "anybody".to_owned(), scope: Scope::Read };
    Ok(Call { caller, path, query, headers: parts.headers, body })
}

/// The caller, who must be allowed what the scope allows.
pub(crate) async fn authorized(
    service: &Arc<Service>,
    headers: &HeaderMap,
    scope: Scope,
) -> Result<Caller, Problem> {
    match caller_of(service, headers).await? {
        None => Err(Problem::unauthorized(
            "show a token: `Authorization: Bearer <token>`; `pipeline token create` makes one",
        )),
        Some(caller) if caller.scope < scope => Err(Problem::forbidden(format!(
            "this needs the scope `{}`; {} has `{}`",
            scope.name(),
            caller.name,
            caller.scope.name()
        ))),
        Some(caller) => Ok(caller),
    }
}

/// Who asks: by the header, or by one of the page's cookies. A header that is wrong is not made good by a
/// cookie.
async fn caller_of(service: &Arc<Service>, headers: &HeaderMap) -> Result<Option<Caller>, Problem> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    if let Some(oidc) = &service.oidc {
        match bearer {
            Some(token) if oidc::looks_signed(token) => return Ok(Some(oidc.bearer(token).await?)),
            Some(_) => {}
            None => {
                let session = cookie_of(headers, SESSION_COOKIE);
                if let Some(caller) = session.and_then(|secret| oidc.session(secret)) {
                    return Ok(Some(caller));
                }
            }
        }
    }
    let token = bearer.or_else(|| cookie_of(headers, COOKIE)).map(str::to_owned);
    let asked = service.clone();
    let caller = tokio::task::spawn_blocking(move || asked.gate.caller(token.as_deref())).await;
    Ok(caller.map_err(|error| Problem::internal(error.to_string()))??)
}

/// A cookie.
pub(crate) fn cookie_of<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

/// Who is at the other end of the connection.
fn peer(request: &Request) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0)
}

/// An empty answer that leads elsewhere.
pub(crate) fn see_other(path: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(path) = path.parse() {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}
