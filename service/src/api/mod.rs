//! The HTTP API: one table of endpoints, from which the routes and the OpenAPI document are made.

pub(crate) mod admin;
pub(crate) mod endpoint;
pub mod openapi;
pub mod problem;
pub(crate) mod runs;

pub(crate) use admin::{
    TokenRequest, end_token, make_token, schedule_views, set_schedule_paused, token_views,
};
pub(crate) use runs::{combinations, filter_of};

use axum::http::Method;

use crate::ledger::Scope;
use crate::notify::ChannelView;
use crate::run::{Run, RunId};
use crate::service::PoolUse;
use crate::workflows::WorkflowFile;
use endpoint::{Access, Endpoint, schema_of};

const READ: Access = Access::Scoped(Scope::Read);
const RUN: Access = Access::Scoped(Scope::Run);
const ADMIN: Access = Access::Scoped(Scope::Admin);

/// An endpoint without a query, body and JSON answer.
const PLAIN: Endpoint = Endpoint {
    method: Method::GET,
    path: "",
    id: "",
    summary: "",
    access: READ,
    query: &[],
    body: None,
    answer: None,
    status: 200,
    takes_key: false,
    handler: admin::health,
};

/// All endpoints.
pub(crate) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/api/v1/runs",
        id: "list_runs",
        summary: "Lists runs, the latest first.",
        query: &[
            ("state", "Only runs in these states, separated by commas."),
            ("workflow", "Only runs of this workflow."),
            ("q", "Only runs with this in their id, folder or error."),
            ("before", "Only runs older than this one: `next` of the page before."),
            ("limit", "At most so many: 50, or up to 1,000."),
        ],
        answer: Some(schema_of::<runs::RunsPage>),
        handler: runs::list,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/runs",
        id: "submit_run",
        summary: "Enters runs of a workflow. With the header `Idempotency-Key`, a repeated request enters nothing \
                  new and is answered alike, with status 200.",
        access: RUN,
        body: Some(schema_of::<runs::RunRequest>),
        answer: Some(schema_of::<runs::Entered>),
        status: 201,
        takes_key: true,
        handler: runs::submit,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/runs/{run}",
        id: "get_run",
        summary: "Shows a run.",
        answer: Some(schema_of::<Run>),
        handler: runs::show,
        ..PLAIN
    },
    Endpoint {
        method: Method::DELETE,
        path: "/api/v1/runs/{run}",
        id: "delete_run",
        summary: "Forgets a run that has ended, and its log. Its outputs are not touched.",
        access: RUN,
        status: 204,
        handler: runs::forget,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/runs/{run}/cancel",
        id: "cancel_run",
        summary: "Stops a run for good: shards in flight are finished, then its processes are killed.",
        access: RUN,
        status: 204,
        handler: runs::cancel,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/runs/{run}/pause",
        id: "pause_run",
        summary: "Stops a run until it is resumed.",
        access: RUN,
        status: 204,
        handler: runs::pause,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/runs/{run}/resume",
        id: "resume_run",
        summary: "Lets a paused, failed or cancelled run go on from where it was.",
        access: RUN,
        status: 204,
        handler: runs::resume,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/runs/{run}/events",
        id: "list_events",
        summary: "Tells what happened to a run.",
        answer: Some(schema_of::<Vec<runs::EventEntry>>),
        handler: runs::events,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/runs/{run}/live",
        id: "watch_run",
        summary: "Server-sent events: `run`, with the whole run, whenever it changes. Ends with the run.",
        handler: runs::live,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/runs/{run}/log",
        id: "get_log",
        summary: "A part of the run's log as text; the header `X-Next-Offset` tells where the next begins.",
        query: &[("offset", "The first byte.")],
        handler: runs::log,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/workflows",
        id: "list_workflows",
        summary: "Lists the workflow files: what they hold, or what is wrong with them.",
        answer: Some(schema_of::<Vec<WorkflowFile>>),
        handler: admin::workflows,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/schedules",
        id: "list_schedules",
        summary: "Lists the schedules with their next five times.",
        answer: Some(schema_of::<Vec<admin::ScheduleView>>),
        handler: admin::schedules,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/schedules/{name}/pause",
        id: "pause_schedule",
        summary: "Lets a schedule rest: its times pass by.",
        access: RUN,
        status: 204,
        handler: admin::pause_schedule,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/schedules/{name}/resume",
        id: "resume_schedule",
        summary: "Lets a schedule go on. Times that passed while it rested are not caught up with.",
        access: RUN,
        status: 204,
        handler: admin::resume_schedule,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/pools",
        id: "list_pools",
        summary: "Shows what there is of each pool, and what runs hold of it.",
        answer: Some(schema_of::<Vec<PoolUse>>),
        handler: admin::pools,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/tokens",
        id: "list_tokens",
        summary: "Lists the tokens, without their secrets.",
        access: ADMIN,
        answer: Some(schema_of::<Vec<admin::TokenView>>),
        handler: admin::tokens,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/tokens",
        id: "create_token",
        summary: "Makes a token. It is shown this once.",
        access: ADMIN,
        body: Some(schema_of::<admin::TokenRequest>),
        answer: Some(schema_of::<admin::NewToken>),
        status: 201,
        handler: admin::create_token,
        ..PLAIN
    },
    Endpoint {
        method: Method::DELETE,
        path: "/api/v1/tokens/{id}",
        id: "revoke_token",
        summary: "Revokes a token.",
        access: ADMIN,
        status: 204,
        handler: admin::revoke_token,
        ..PLAIN
    },
    Endpoint {
        path: "/api/v1/notify",
        id: "list_channels",
        summary: "Shows how each way of notices fares: what arrived, what did not, and why.",
        answer: Some(schema_of::<Vec<ChannelView>>),
        handler: admin::channels,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/notify/test",
        id: "test_notice",
        summary: "Sends a notice, to see whether it arrives.",
        access: ADMIN,
        query: &[("channel", "Only by `webhook` or `email`; by all that are set otherwise.")],
        status: 204,
        handler: admin::test_notice,
        ..PLAIN
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/hooks/{workflow}",
        id: "call_hook",
        summary: "Starts a workflow with `[trigger] webhook_key_env`, once for each body. The header \
                  `X-Corpusmith-Signature: sha256=…` holds the HMAC-SHA256 of the body.",
        access: Access::Signed,
        answer: Some(schema_of::<RunId>),
        status: 201,
        handler: admin::hook,
        ..PLAIN
    },
    Endpoint {
        path: "/api/openapi.json",
        id: "get_openapi",
        summary: "This document.",
        access: Access::Open,
        handler: admin::openapi,
        ..PLAIN
    },
    Endpoint {
        path: "/health",
        id: "get_health",
        summary: "Answers as long as the service lives.",
        access: Access::Open,
        handler: admin::health,
        ..PLAIN
    },
    Endpoint {
        path: "/ready",
        id: "get_ready",
        summary: "Answers when the ledger does.",
        access: Access::Open,
        handler: admin::ready,
        ..PLAIN
    },
    Endpoint {
        path: "/metrics",
        id: "get_metrics",
        summary: "Figures for Prometheus.",
        handler: admin::metrics,
        ..PLAIN
    },
];
