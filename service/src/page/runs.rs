//! The list of runs.

use std::sync::Arc;

use maud::{Markup, html};

use super::{Page, layout, link, moment};
use crate::api::endpoint::Call;
use crate::api::filter_of;
use crate::run::{Run, RunState, Trigger};
use crate::service::Service;
use crate::supervisor::blocking;

pub(super) async fn list(service: Arc<Service>, call: Call) -> Page {
    let filter = filter_of(&call)?;
    let page = blocking(&service.ledger, move |ledger| ledger.runs(&filter)).await?;
    let value = |name: &str| call.query(name).unwrap_or_default();
    let next = page.next.as_ref().map(|next| {
        let query = [
            ("state", value("state")),
            ("workflow", value("workflow")),
            ("q", value("q")),
            ("before", &next.0),
        ];
        link("/runs", &query)
    });
    let body = html! {
        h1 { "Runs" }
        form.row method="get" action="/runs" {
            label { "State"
                select name="state" {
                    option value="" { "all" }
                    @for state in RunState::ALL {
                        option value=(state.name()) selected[value("state") == state.name()] { (state.name()) }
                    }
                }
            }
            label { "Workflow" input name="workflow" value=(value("workflow")); }
            label { "Id, folder or error" input type="search" name="q" value=(value("q")); }
            button { "Show" }
        }
        div data-live="list" {
            @if page.runs.is_empty() {
                p.quiet { "No run here. " a href="/workflows" { "Start one." } }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Runs" {
                    table {
                        thead { tr { th { "Run" } th { "Workflow" } th { "State" } th { "Progress" } th { "Asked for" } th { "By" } } }
                        tbody { @for run in &page.runs { (row(run)) } }
                    }
                }
            }
            @if let Some(next) = next { p { a href=(next) { "Older runs" } } }
        }
    };
    Ok(layout("Runs", "/runs", &body))
}

fn row(run: &Run) -> Markup {
    let done = run.progress.values().filter(|stage| stage.rows_out > 0 || stage.ended_ms.is_some()).count();
    html! {
        tr {
            td { a href={ "/runs/" (run.id) } { (run.id) } }
            td { (run.folder) }
            td { (state(run)) }
            td {
                @if run.state == RunState::Running {
                    progress max=(run.stages.len()) value=(done) aria-label={ (done) " of " (run.stages.len()) " stages" } {}
                    " "
                }
                span.quiet { (done) "/" (run.stages.len()) " stages" }
            }
            td { (moment(run.created_at)) }
            td { (trigger(&run.trigger)) }
        }
    }
}

/// The state, and why it is so.
pub(super) fn state(run: &Run) -> Markup {
    html! {
        span class={ "state " (run.state.name()) } { (run.state.name()) }
        @if let Some(wish) = run.wish { span.quiet { ", " (wish.name()) " wished" } }
        @if let Some(reason) = run.waiting_for.as_ref().filter(|_| run.state == RunState::Queued) {
            div.quiet { (reason) }
        }
    }
}

/// What made a run.
pub(super) fn trigger(trigger: &Trigger) -> Markup {
    html! {
        @match trigger {
            Trigger::Manual { by, .. } => { (by) },
            Trigger::Schedule { schedule, slot } => { "schedule " (schedule) ", " (moment(*slot)) },
            Trigger::File { path } => { "file " (path) },
            Trigger::Run { run } => { "after " a href={ "/runs/" (run) } { (run) } },
            Trigger::Webhook { .. } => { "webhook" },
        }
    }
}
