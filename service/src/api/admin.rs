//! Endpoints of workflows, schedules, tokens, pools, notices, and hooks.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use futures::future::BoxFuture;
use jiff::Timestamp;
use ring::hmac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{Call, json, nothing, text};
use super::problem::Problem;
use crate::auth;
use crate::hex::{hex, unhex};
use crate::ledger::{Scope, Submitted};
use crate::run::{RunId, RunSpec, Trigger};
use crate::schedule::ScheduleConfig;
use crate::service::{PoolUse, Service};
use crate::supervisor::blocking;

type Answer = BoxFuture<'static, Result<Response, Problem>>;

/// Fire times that are shown.
const SHOWN_TIMES: usize = 5;

/// A schedule and what comes next.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ScheduleView {
    /// The workflow's name.
    pub(crate) name: String,
    /// The workflow's file.
    pub(crate) file: String,
    /// The `[schedule]` table.
    pub(crate) schedule: ScheduleConfig,
    /// It rests: its times pass by.
    pub(crate) paused: bool,
    /// The next times, in its time zone, with their offsets.
    pub(crate) next: Vec<String>,
    /// Its runs that have not ended.
    pub(crate) open_runs: Vec<RunId>,
}

/// A token, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TokenView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) scope: Scope,
    #[schemars(with = "String")]
    pub(crate) created_at: Timestamp,
    #[schemars(with = "Option<String>")]
    pub(crate) revoked_at: Option<Timestamp>,
}

/// A request for a token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// What people call it.
    pub(crate) name: String,
    /// What it allows.
    pub(crate) scope: Scope,
}

/// A new token.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NewToken {
    /// The token: it is shown this once.
    token: String,
}

pub(crate) fn workflows(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move { json(StatusCode::OK, &service.workflows.list().await) })
}

pub(crate) fn schedules(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move { json(StatusCode::OK, &schedule_views(&service).await?) })
}

pub(crate) async fn schedule_views(service: &Arc<Service>) -> Result<Vec<ScheduleView>, Problem> {
    let mut views = Vec::new();
    for file in service.workflows.list().await {
        let Some(shape) = file.shape else { continue };
        let Some(schedule) = shape.schedule else { continue };
        let (now, name) = (service.clock.now(), shape.name.clone());
        let (record, open_runs) = blocking(&service.ledger, move |ledger| {
            Ok((ledger.schedule(&name, now)?, ledger.open_runs(&name, Timestamp::MAX)?))
        })
        .await?;
        let next = schedule.parsed().map(|cron| cron.next_times(now, SHOWN_TIMES)).unwrap_or_default();
        let paused = record.paused;
        views.push(ScheduleView { name: shape.name, file: file.file, schedule, paused, next, open_runs });
    }
    Ok(views)
}

pub(crate) fn pause_schedule(service: Arc<Service>, call: Call) -> Answer {
    set_paused(service, call, true)
}

pub(crate) fn resume_schedule(service: Arc<Service>, call: Call) -> Answer {
    set_paused(service, call, false)
}

fn set_paused(service: Arc<Service>, call: Call, paused: bool) -> Answer {
    Box::pin(async move {
        set_schedule_paused(&service, &call.part("name"), paused).await?;
        Ok(nothing())
    })
}

/// Lets a schedule rest, or go on.
pub(crate) async fn set_schedule_paused(
    service: &Arc<Service>,
    name: &str,
    paused: bool,
) -> Result<(), Problem> {
    let view = find_schedule(service, name).await?;
    let now = service.clock.now();
    blocking(&service.ledger, move |ledger| {
        // Times that passed while it rested are not caught up with.
        ledger.schedule_seen(&view.name, now)?;
        ledger.set_schedule_paused(&view.name, paused)
    })
    .await?;
    Ok(())
}

async fn find_schedule(service: &Arc<Service>, name: &str) -> Result<ScheduleView, Problem> {
    let views = schedule_views(service).await?;
    let found = views.into_iter().find(|view| view.name == name);
    found.ok_or_else(|| Problem::not_found(format!("no workflow here has a schedule and the name `{name}`")))
}

pub(crate) fn tokens(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move { json(StatusCode::OK, &token_views(&service).await?) })
}

pub(crate) async fn token_views(service: &Arc<Service>) -> Result<Vec<TokenView>, Problem> {
    let tokens = blocking(&service.ledger, |ledger| ledger.tokens()).await?;
    let view = |token: crate::ledger::TokenRecord| TokenView {
        id: token.id,
        name: token.name,
        scope: token.scope,
        created_at: token.created_at,
        revoked_at: token.revoked_at,
    };
    Ok(tokens.into_iter().map(view).collect())
}

pub(crate) fn create_token(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let token = make_token(&service, call.json()?).await?;
        json(StatusCode::CREATED, &NewToken { token })
    })
}

/// Makes a token.
pub(crate) async fn make_token(service: &Arc<Service>, request: TokenRequest) -> Result<String, Problem> {
    let TokenRequest { name, scope } = request;
    if name.is_empty() || name.len() > 100 {
        return Err(Problem::bad_request("a token's name has 1 to 100 bytes"));
    }
    let now = service.clock.now();
    Ok(blocking(&service.ledger, move |ledger| auth::create_token(ledger, &name, scope, now)).await?)
}

pub(crate) fn revoke_token(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        end_token(&service, call.part("id")).await?;
        Ok(nothing())
    })
}

/// Lets a token in no more.
pub(crate) async fn end_token(service: &Arc<Service>, id: String) -> Result<(), Problem> {
    let (name, now) = (id.clone(), service.clock.now());
    if !blocking(&service.ledger, move |ledger| ledger.revoke_token(&id, now)).await? {
        return Err(Problem::not_found(format!("there is no token `{name}` that lets anybody in")));
    }
    service.gate.forget();
    Ok(())
}

pub(crate) fn pools(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move {
        let pools: Vec<PoolUse> = service.pools().await?;
        json(StatusCode::OK, &pools)
    })
}

pub(crate) fn channels(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move { json(StatusCode::OK, &service.notifier.channels()) })
}

pub(crate) fn test_notice(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        service.notifier.test(call.query("channel")).await.map_err(Problem::conflict)?;
        Ok(nothing())
    })
}

/// A signed request from elsewhere starts the workflow. The same body twice starts it once.
pub(crate) fn hook(service: Arc<Service>, call: Call) -> Answer {
    Box::pin(async move {
        let name = call.part("workflow");
        // Whether there is such a workflow is nobody's business without the signature.
        let refused = || {
            Problem::unauthorized(
                "the signature is missing or wrong: `X-Corpusmith-Signature: sha256=<HMAC of the body>`",
            )
        };
        let files = service.workflows.list().await;
        let found = files
            .into_iter()
            .find_map(|file| file.shape.filter(|shape| shape.name == name).map(|shape| (file.file, shape)));
        let (file, shape) = found.ok_or_else(refused)?;
        let variable = shape.trigger.webhook_key_env.ok_or_else(refused)?;
        let key = std::env::var(&variable).map_err(|_| {
            tracing::error!(workflow = name, variable, "the key of the webhook is not set");
            refused()
        })?;
        let shown = call.headers.get("x-corpusmith-signature").and_then(|value| value.to_str().ok());
        let shown =
            shown.and_then(|text| text.strip_prefix("sha256=")).and_then(unhex).ok_or_else(refused)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        hmac::verify(&key, &call.body, &shown).map_err(|_| refused())?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &call.body);
        let spec = RunSpec { file, ..RunSpec::default() };
        let key = format!("hook:{name}:{}", hex(digest.as_ref()));
        let submitted = service.submitter.submit(spec, Trigger::webhook(), Some(key)).await?;
        let status = match submitted {
            Submitted::New(_) => StatusCode::CREATED,
            Submitted::Known(_) => StatusCode::OK,
        };
        json(status, submitted.id())
    })
}

pub(crate) fn health(_: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move { Ok(text("text/plain; charset=utf-8", "ok\n")) })
}

pub(crate) fn ready(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move {
        blocking(&service.ledger, |ledger| ledger.ping()).await?;
        Ok(text("text/plain; charset=utf-8", "ready\n"))
    })
}

pub(crate) fn metrics(service: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move {
        let body = crate::metrics::render(&service).await?;
        Ok(text("text/plain; version=0.0.4; charset=utf-8", body))
    })
}

pub(crate) fn openapi(_: Arc<Service>, _: Call) -> Answer {
    Box::pin(async move { json(StatusCode::OK, &super::openapi::document()) })
}
