//! How each way of notices fares, and trying it.

use std::sync::Arc;

use maud::html;

use super::{Page, layout, moment};
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::service::Service;
use crate::web::see_other;

pub(super) async fn list(service: Arc<Service>, _: Call) -> Page {
    let channels = service.notifier.channels();
    let body = html! {
        h1 { "Notices" }
        @if channels.is_empty() { p.quiet { "Nobody is told: see [notify] of service.toml." } }
        @for channel in &channels {
            section {
                h2 { (channel.name) }
                dl.facts {
                    dt { "Arrived" } dd { (channel.delivered) }
                    dt { "Did not arrive" } dd { (channel.failed) }
                    @if let Some(at) = channel.last_at { dt { "The last" } dd { (moment(at)) } }
                }
                @if let Some(error) = &channel.last_error { pre.error { (error) } }
                form method="post" action={ "/notices/" (channel.name) "/test" } { button { "Send a test" } }
            }
        }
    };
    Ok(layout("Notices", "/notices", &body))
}

pub(super) async fn test(service: Arc<Service>, call: Call) -> Page {
    let name = call.part("channel");
    if service.notifier.channels().iter().all(|channel| channel.name != name) {
        return Err(Problem::not_found(format!("no receiver of notices by `{name}` is set")));
    }
    // A failure stands on the page that follows.
    let _ = service.notifier.test(Some(&name)).await;
    Ok(see_other("/notices"))
}
