//! Tokens, and the API's description.

use std::sync::Arc;

use maud::html;

use super::{Page, form_of, layout, moment};
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::api::{TokenRequest, end_token, make_token, openapi, token_views};
use crate::ledger::Scope;
use crate::service::Service;
use crate::web::see_other;

pub(super) async fn tokens(service: Arc<Service>, _: Call) -> Page {
    show(&service, None).await
}

async fn show(service: &Arc<Service>, new: Option<String>) -> Page {
    let views = token_views(service).await?;
    let body = html! {
        h1 { "Tokens" }
        @if let Some(token) = new { p { "The new token, shown this once:" } pre { (token) } }
        table {
            thead { tr { th { "Name" } th { "Allows" } th { "Made" } th { "" } } }
            tbody {
                @for view in &views {
                    tr {
                        td { (view.name) } td { (view.scope.name()) } td { (moment(view.created_at)) }
                        td {
                            @if let Some(at) = view.revoked_at { span.quiet { "revoked " (moment(at)) } } @else {
                                form method="post" action={ "/tokens/" (view.id) "/revoke" } {
                                    button data-ask="Let this token in no more?" { "Revoke" }
                                }
                            }
                        }
                    }
                }
            }
        }
        h2 { "A new token" }
        form.row method="post" action="/tokens" {
            label { "Name" input name="name" required; }
            label { "Allows" select name="scope" { @for scope in Scope::ALL { option { (scope.name()) } } } }
            button { "Make it" }
        }
    };
    Ok(layout("Tokens", "/tokens", &body))
}

pub(super) async fn create(service: Arc<Service>, call: Call) -> Page {
    let fields = form_of(&call);
    let name = fields.get("name").map(|name| name.trim().to_owned()).unwrap_or_default();
    let scope = fields.get("scope").and_then(|scope| Scope::from_name(scope));
    let scope = scope.ok_or_else(|| Problem::bad_request("a token needs a scope"))?;
    let token = make_token(&service, TokenRequest { name, scope }).await?;
    show(&service, Some(token)).await
}

pub(super) async fn revoke(service: Arc<Service>, call: Call) -> Page {
    end_token(&service, call.part("id")).await?;
    Ok(see_other("/tokens"))
}

/// What the OpenAPI document says, for people.
pub(super) async fn api(_: Arc<Service>, _: Call) -> Page {
    let document = openapi::document();
    let empty = serde_json::Map::new();
    let paths = document["paths"].as_object().unwrap_or(&empty);
    let body = html! {
        h1 { "API" }
        p { a href="/api/openapi.json" { "The OpenAPI 3.1 document" } " · " a href="/tokens" { "Tokens" } " · " a href="/notices" { "Notices" } }
        form method="post" action="/logout" { button { "Sign out" } }
        @for (path, operations) in paths {
            @for (method, operation) in operations.as_object().unwrap_or(&empty) {
                section {
                    h2 { (method.to_uppercase()) " " code { (path) } }
                    p { (operation["summary"].as_str().unwrap_or_default()) " " span.quiet { (operation["description"].as_str().unwrap_or_default()) } }
                    @let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                    @if !parameters.is_empty() {
                        dl.facts {
                            @for parameter in &parameters {
                                dt { code { (parameter["name"].as_str().unwrap_or_default()) } }
                                dd { (parameter["description"].as_str().unwrap_or("part of the path")) }
                            }
                        }
                    }
                    @if let Some(body) = operation.pointer("/requestBody/content/application~1json/schema/$ref").and_then(|name| name.as_str()) {
                        @let pointer = body.trim_start_matches('#');
                        details id={ "body-" (operation["operationId"].as_str().unwrap_or_default()) } {
                            summary { "The body's schema" }
                            pre { (document.pointer(pointer).map(|schema| format!("{schema:#}")).unwrap_or_default()) }
                        }
                    }
                }
            }
        }
    };
    Ok(layout("API", "/api", &body))
}
