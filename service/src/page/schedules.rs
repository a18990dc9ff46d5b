//! Schedules and pools.

use std::sync::Arc;

use maud::html;

use super::{Page, layout};
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::api::{schedule_views, set_schedule_paused};
use crate::pools::{MEMORY, size};
use crate::service::Service;
use crate::web::see_other;

pub(super) async fn list(service: Arc<Service>, _: Call) -> Page {
    let views = schedule_views(&service).await?;
    let pools = service.pools().await?;
    let body = html! {
        h1 { "Schedules" }
        @if views.is_empty() { p.quiet { "No workflow file has a [schedule]." } }
        @for view in &views {
            section {
                h2 { (view.name) " " span.quiet { (view.file) } }
                dl.facts {
                    dt { "Cron" } dd { code { (view.schedule.cron) } " in " (view.schedule.timezone) }
                    dt { "Next" }
                    dd { @if view.paused { "rests" } @else { @for time in &view.next { div { (time) } } } }
                    dt { "Missed times" } dd { (format!("{:?}", view.schedule.catch_up).to_lowercase()) }
                    dt { "While one runs" } dd { (format!("{:?}", view.schedule.overlap).to_lowercase()) }
                    @if !view.open_runs.is_empty() {
                        dt { "Open runs" }
                        dd { @for run in &view.open_runs { div { a href={ "/runs/" (run) } { (run) } } } }
                    }
                }
                @let (action, words) = if view.paused { ("resume", "Go on") } else { ("pause", "Let it rest") };
                form method="post" action={ "/schedules/" (view.name) "/" (action) } { button { (words) } }
            }
        }
        h2 { "Pools" }
        table {
            thead { tr { th { "Pool" } th.n { "Held" } th.n { "All" } } }
            tbody {
                @for pool in &pools {
                    @let show = |amount: u64| if pool.name == MEMORY { size(amount) } else { amount.to_string() };
                    tr { td { (pool.name) } td.n { (show(pool.held)) } td.n { (show(pool.capacity)) } }
                }
            }
        }
    };
    Ok(layout("Schedules", "/schedules", &body))
}

pub(super) async fn act(service: Arc<Service>, call: Call) -> Page {
    let paused = match call.part("action").as_str() {
        "pause" => true,
        "resume" => false,
        other => return Err(Problem::not_found(format!("a schedule cannot be asked to `{other}`"))),
    };
    set_schedule_paused(&service, &call.part("name"), paused).await?;
    Ok(see_other("/schedules"))
}
