//! Workflow files, and starting one.

use std::sync::Arc;

use maud::html;

use super::{Page, form_of, layout};
use crate::api::combinations;
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::run::Trigger;
use crate::service::Service;
use crate::web::see_other;

pub(super) async fn list(service: Arc<Service>, _: Call) -> Page {
    let files = service.workflows.list().await;
    let body = html! {
        h1 { "Workflows" }
        @if files.is_empty() { p.quiet {
            "There is no workflow file in the service's folder of workflows. " code { "pipeline init" } " writes one; "
            code { "pipeline serve --workflows FOLDER" } " names another folder."
        } }
        @for file in &files {
            section {
                h2 { (file.file) }
                @if let Some(problems) = &file.problems { pre.error { (problems) } }
                @if let Some(shape) = &file.shape {
                    p { (shape.description) " " span.quiet { (shape.stages.len()) " stages" } }
                    form.row method="post" action="/workflows" {
                        input type="hidden" name="file" value=(file.file);
                        label { "Profile"
                            select name="profile" {
                                option { "sample" }
                                @for profile in shape.profiles.iter().filter(|profile| *profile != "sample") { option { (profile) } }
                            }
                        }
                        label { "Set (a line each)" input name="set" placeholder="vars.topics=24" size="28"; }
                        label { "For each (name=a,b)" input name="for" placeholder="dump=A,B" size="22"; }
                        label { "Name" input name="name" size="14"; }
                        button { "Run" }
                    }
                }
            }
        }
    };
    Ok(layout("Workflows", "/workflows", &body))
}

pub(super) async fn submit(service: Arc<Service>, call: Call) -> Page {
    let fields = form_of(&call);
    let field = |name: &str| fields.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let mut request = serde_json::json!({
        "file": field("file").unwrap_or_default(),
        "profile": field("profile"),
        "name": field("name"),
        "set": field("set").into_iter().flat_map(str::lines).collect::<Vec<_>>(),
    });
    if let Some((variable, values)) = field("for").and_then(|text| text.split_once('=')) {
        request["for"] = serde_json::json!({ variable: values.split(',').collect::<Vec<_>>() });
    }
    let request = serde_json::from_value(request).map_err(|error| Problem::bad_request(error.to_string()))?;
    let mut last = None;
    for spec in combinations(&request)? {
        let trigger = Trigger::manual(&call.caller.name);
        last = Some(service.submitter.submit(spec, trigger, None).await?);
    }
    Ok(match last {
        Some(submitted) => see_other(&format!("/runs/{}", submitted.id())),
        None => see_other("/runs"),
    })
}
