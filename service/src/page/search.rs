//! Asking an index of pages: ranks, scores and snippets.

use std::sync::Arc;

use maud::{Markup, html};

use super::{Page, layout};
use crate::api::endpoint::Call;
use crate::ledger::RunFilter;
use crate::service::Service;
use crate::supervisor::blocking;

/// The kind of stages that make indexes.
const INDEX: &str = "index";

pub(super) async fn search(service: Arc<Service>, call: Call) -> Page {
    let filter = RunFilter { limit: 200, ..RunFilter::default() };
    let runs = blocking(&service.ledger, move |ledger| ledger.runs(&filter)).await?.runs;
    let mut indexes: Vec<String> = runs
        .iter()
        .flat_map(|run| {
            run.stages
                .iter()
                .filter(|stage| stage.kind == INDEX)
                .map(|stage| format!("runs/{}/{}", run.folder, stage.id))
        })
        .filter(|path| service.looking.confined(path).is_ok())
        .collect();
    indexes.sort();
    indexes.dedup();
    let (index, query) = (call.query("index").unwrap_or_default(), call.query("q").unwrap_or_default());
    let hits = if index.is_empty() || query.is_empty() {
        Ok(Vec::new())
    } else {
        let real = service.looking.confined(index)?;
        let arguments = ["-k".to_owned(), "20".to_owned(), "--".to_owned(), query.to_owned()];
        service.looking.look(&["search", "--index"], &real, &arguments).await
    };
    let body = html! {
        h1 { "Search" }
        form.row method="get" action="/search" {
            label { "Index" select name="index" { @for path in &indexes { option selected[path == index] { (path) } } } }
            label { "Words" input type="search" name="q" size="50" value=(query); }
            button { "Search" }
        }
        @if indexes.is_empty() { p.quiet { "No run has made an index yet." } }
        @match hits {
            Ok(hits) => {
                @for hit in &hits {
                    section {
                        h2 { (hit["rank"]) ". " (hit["doc_id"].as_str().unwrap_or_default()) " " span.quiet { "score " (hit["score"]) } }
                        @if let Some(url) = hit["url"].as_str() { p.quiet { (url) } }
                        p { (marked(hit["snippet"].as_str().unwrap_or_default())) }
                    }
                }
            }
            Err(problem) => { pre.error { (problem.detail()) } }
        }
    };
    Ok(layout("Search", "/search", &body))
}

/// A snippet whose matches stand between `**`.
fn marked(snippet: &str) -> Markup {
    html! {
        @for (number, part) in snippet.split("**").enumerate() {
            @if number % 2 == 1 { mark { (part) } } @else { (part) }
        }
    }
}
