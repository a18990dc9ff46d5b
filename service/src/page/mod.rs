//! The web page, rendered here: no framework, nothing from elsewhere, readable without scripts. A small
//! script refreshes the parts that change.

mod access;
mod compare;
mod data;
mod graph;
mod login;
mod models;
mod notices;
mod run;
mod runs;
mod schedules;
mod search;
mod topics;
mod training;
mod workflows;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};
use serde_json::Value as Json;
use tracing::{Instrument, Span};

use crate::api::endpoint::{Call, text as answer};
use crate::api::problem::Problem;
use crate::ledger::{RunFilter, Scope};
use crate::oidc::CALLBACK;
use crate::service::Service;
use crate::supervisor::blocking;
use crate::trace;
use crate::web::{authorized, call_of, see_other};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The latest runs whose stages a page looks for.
const SHOWN_RUNS: usize = 200;

/// The type of pages.
const HTML: &str = "text/html; charset=utf-8";

/// What a page answers with.
type Page = Result<Response, Problem>;

/// The routes of all pages.
pub(crate) fn router() -> Router<Arc<Service>> {
    Router::new()
        .route("/", get(|| async { see_other("/runs") }))
        .route("/runs", get(page(Scope::Read, runs::list)))
        .route("/runs/{run}", get(page(Scope::Read, run::show)))
        .route("/runs/{run}/compare", get(page(Scope::Read, compare::show)))
        .route("/runs/{run}/cost", get(page(Scope::Read, run::cost)))
        .route("/runs/{run}/report", get(page(Scope::Read, run::report)))
        .route("/runs/{run}/{action}", post(page(Scope::Run, run::act)))
        .route(
            "/workflows",
            get(page(Scope::Read, workflows::list)).post(page(Scope::Run, workflows::submit)),
        )
        .route("/schedules", get(page(Scope::Read, schedules::list)))
        .route("/schedules/{name}/{action}", post(page(Scope::Run, schedules::act)))
        .route("/data", get(page(Scope::Read, data::browse)))
        .route("/search", get(page(Scope::Read, search::search)))
        .route("/training", get(page(Scope::Read, training::compare)))
        .route("/topics", get(page(Scope::Read, topics::show)))
        .route("/models", get(page(Scope::Read, models::list)).post(page(Scope::Run, models::ask)))
        .route("/tokens", get(page(Scope::Admin, access::tokens)).post(page(Scope::Admin, access::create)))
        .route("/tokens/{id}/revoke", post(page(Scope::Admin, access::revoke)))
        .route("/notices", get(page(Scope::Read, notices::list)))
        .route("/notices/{channel}/test", post(page(Scope::Admin, notices::test)))
        .route("/api", get(page(Scope::Read, access::api)))
        .route("/login", get(login::form).post(login::show_token))
        .route("/login/provider", get(login::begin))
        .route(CALLBACK, get(login::finish))
        .route("/logout", post(login::sign_out))
        .route("/assets/page.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route("/assets/page.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
}

/// The parts of a path by name.
type Parts = Path<BTreeMap<String, String>>;

/// A page for callers with a scope. Whoever has no token is led to the place to show one.
fn page<F>(
    scope: Scope,
    show: fn(Arc<Service>, Call) -> F,
) -> impl Fn(State<Arc<Service>>, Parts, Request) -> futures::future::BoxFuture<'static, Response>
+ Clone
+ Send
+ 'static
where
    F: Future<Output = Page> + Send + 'static,
{
    move |State(service), Path(path), request| {
        Box::pin(async move {
            let is_form = request.method() == Method::POST;
            let span = if is_form { trace::form(request.uri().path()) } else { Span::none() };
            let result = async {
                let call = call_of(path, request).await?;
                let caller = authorized(&service, &call.headers, scope).await?;
                show(service, Call { caller, ..call }).await
            };
            let response = match result.instrument(span.clone()).await {
                Ok(response) => response,
                Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => see_other("/login"),
                Err(problem) => error_page(&problem),
            };
            trace::answered(&span, response.status());
            response
        })
    }
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let mut response = answer(kind, text);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    response
}

fn error_page(problem: &Problem) -> Response {
    let body = html! {
        h1 { "That did not work" }
        pre.error { (problem.detail()) }
    };
    let mut response = layout("Error", "", &body);
    *response.status_mut() = problem.status();
    response
}

const PLACES: [(&str, &str); 9] = [
    ("/runs", "Runs"),
    ("/workflows", "Workflows"),
    ("/schedules", "Schedules"),
    ("/data", "Data"),
    ("/search", "Search"),
    ("/topics", "Topics"),
    ("/training", "Training"),
    ("/models", "Models"),
    ("/api", "API"),
];

/// The stages of these kinds in all runs' folders, each once: its path in the data folder, and its kind.
async fn stages_of(
    service: &Service,
    kinds: &'static [&'static str],
) -> Result<Vec<(String, String)>, Problem> {
    let filter = RunFilter { limit: SHOWN_RUNS, ..RunFilter::default() };
    let runs = blocking(&service.ledger, move |ledger| ledger.runs(&filter)).await?.runs;
    let mut stages: Vec<(String, String)> = Vec::new();
    for run in &runs {
        for stage in run.stages.iter().filter(|stage| kinds.contains(&stage.kind.as_str())) {
            let path = format!("runs/{}/{}", run.folder, stage.id);
            if !stages.iter().any(|(known, _)| *known == path) {
                stages.push((path, stage.kind.clone()));
            }
        }
    }
    Ok(stages)
}

/// The manifest of a finished stage.
fn manifest_of(stage: &std::path::Path) -> Option<Json> {
    serde_json::from_slice(&std::fs::read(stage.join("manifest.json")).ok()?).ok()
}

/// A whole page.
fn layout(title: &str, place: &str, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) " · Corpusmith" }
                link rel="stylesheet" href="/assets/page.css";
                script src="/assets/page.js" defer {}
            }
            body {
                a.skip href="#main" { "To the content" }
                header {
                    nav aria-label="Places" {
                        @for (path, name) in PLACES {
                            a href=(path) aria-current=[(path == place).then_some("page")] { (name) }
                        }
                    }
                }
                main id="main" { (body) }
            }
        }
    };
    answer(HTML, page.into_string())
}

/// The fields of a form.
fn form_of(call: &Call) -> BTreeMap<String, String> {
    let pairs = url::form_urlencoded::parse(&call.body);
    pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

/// A path with a query.
fn link(path: &str, query: &[(&str, &str)]) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(query.iter().filter(|(_, value)| !value.is_empty()));
    let query = pairs.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A number with thousands separated.
fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time to the second, in UTC.
fn moment(time: Timestamp) -> Markup {
    html! { time datetime=(time.to_string()) { (time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()) } }
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds as u64 {
        0..60 => format!("{seconds:.1} s"),
        s @ 60..3_600 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3_600, s % 3_600 / 60),
    }
}
