//! One run: what it does, did, lost and cost.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderValue, header};
use maud::{Markup, html};
use serde_json::Value as Json;

use super::graph::{graph, state_name, timeline};
use super::runs::{state, trigger};
use super::{HTML, Page, duration, form_of, group, layout, link, manifest_of, moment};
use crate::api::endpoint::{Call, text};
use crate::api::problem::Problem;
use crate::pools::{self, MEMORY};
use crate::run::{Run, RunId, RunState, Wish};
use crate::service::Service;
use crate::supervisor::blocking;
use crate::web::see_other;

/// Reports bring their styles along, and nothing that runs.
const REPORT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox";

/// The end of the log that is shown.
const SHOWN_LOG_BYTES: u64 = 16 << 10;

pub(super) async fn show(service: Arc<Service>, call: Call) -> Page {
    let id = call.run();
    let (run, events) =
        blocking(&service.ledger, move |ledger| Ok((ledger.run(&id)?, ledger.events(&id)?))).await?;
    let log = log_end(&service.log_path(&run.id));
    let folder = service.runs_folder().join(&run.folder);
    let has_report = folder.join("report.html").is_file();
    let now = service.clock.now();
    let kind = if run.state.is_final() { "done" } else { "run" };
    let body = html! {
        h1 { (run.folder) " " span.quiet { (run.id) } }
        div data-live=(kind) data-events={ "/api/v1/runs/" (run.id) "/live" } {
            (facts(&run))
            (actions(&run))
            @if let Some(error) = &run.error { h2 { "Error" } pre.error { (error) } }
            h2 { "Stages" }
            (graph(&run))
            (stages(&run))
            (lost(&run))
            h2 { "Timeline" }
            (timeline(&run, now.as_millisecond()))
            h2 { "Outputs" }
            p {
                a href=(link("/data", &[("path", &format!("runs/{}", run.folder))])) { "Look into the outputs" }
                @if has_report { " · " a href={ "/runs/" (run.id) "/report" } { "Report" } }
                " · " a href={ "/runs/" (run.id) "/compare" } { "Compare with another run" }
                " · " a href={ "/runs/" (run.id) "/cost" } { "Cost, inputs and fingerprints" }
            }
            h2 { "What happened" }
            table {
                tbody {
                    @for (at, text) in &events { tr { td { (moment(*at)) } td { (text) } } }
                }
            }
            h2 { "Log" }
            pre tabindex="0" aria-label="The end of the log" { (log) }
        }
    };
    Ok(layout(&run.folder, "/runs", &body))
}

fn facts(run: &Run) -> Markup {
    html! {
        dl.facts {
            dt { "State" } dd { (state(run)) }
            dt { "File" } dd { (run.spec.file) }
            dt { "Made by" } dd { (trigger(&run.trigger)) }
            dt { "Asked for" } dd { (moment(run.created_at)) }
            @if let Some(started) = run.started_at {
                dt { "Started" } dd { (moment(started)) @if run.attempt > 1 { ", attempt " (run.attempt) } }
                @if let Some(ended) = run.ended_at {
                    dt { "Ended" }
                    dd { (moment(ended)) ", after " (duration(ended.duration_since(started).as_secs_f64())) }
                }
            }
            @if !run.spec.set.is_empty() { dt { "Set" } dd { code { (run.spec.set.join("  ")) } } }
            @if let Some(until) = &run.spec.until { dt { "Until" } dd { (until) } }
            dt { "Takes" }
            dd {
                @for (number, (pool, amount)) in run.demands.iter().enumerate() {
                    @if number > 0 { ", " }
                    @if pool == MEMORY { (pools::size(*amount)) " of memory" } @else { (amount) " " (pool) }
                }
            }
        }
    }
}

fn actions(run: &Run) -> Markup {
    let button = |action: &str, name: &str, ask: Option<&str>| {
        html! {
            form.inline method="post" action={ "/runs/" (run.id) "/" (action) } {
                button data-ask=[ask] { (name) }
            }
        }
    };
    html! {
        p {
            @match run.state {
                RunState::Queued | RunState::Running => {
                    (button("pause", "Pause", None))
                    (button("cancel", "Cancel", Some("Stop this run for good? What is finished stays.")))
                }
                RunState::Paused => {
                    (button("resume", "Resume", None))
                    (button("cancel", "Cancel", Some("Stop this run for good? What is finished stays.")))
                }
                RunState::Failed | RunState::Cancelled => {
                    (button("resume", "Go on", None))
                    (button("again", "Run again", None))
                    (button("delete", "Delete", Some("Forget this run and its log? Outputs stay.")))
                }
                RunState::Succeeded => {
                    (button("again", "Run again", None))
                    (button("delete", "Delete", Some("Forget this run and its log? Outputs stay.")))
                }
            }
        }
        @if run.state.is_final() {
            form.row method="post" action={ "/runs/" (run.id) "/from" } {
                label { "Run anew from a stage"
                    select name="stage" { @for stage in &run.stages { option { (stage.id) } } }
                }
                button { "Run" }
            }
        }
    }
}

fn stages(run: &Run) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Stages" {
            table {
                thead {
                    tr {
                        th { "Stage" } th { "Kind" } th { "Reads" } th { "State" } th.n { "Rows in" } th.n { "Rows out" }
                        th.n { "Rate" } th.n { "Time" } th.n { "Peak memory" }
                    }
                }
                tbody {
                    @for stage in &run.stages {
                        @let progress = run.progress.get(&stage.id).cloned().unwrap_or_default();
                        @let path = format!("runs/{}/{}", run.folder, stage.id);
                        tr id={ "stage-" (stage.id) } {
                            td { a href=(link("/data", &[("path", &path)])) { (stage.id) } }
                            td { (stage.kind) }
                            td { (stage.reads.join(", ")) }
                            td {
                                span class={ "state " (state_name(progress.state)) } { (state_name(progress.state).replace('_', " ")) }
                                @if progress.state == crate::run::StageState::Running && progress.total_rows > 0 {
                                    " " progress max=(progress.total_rows) value=(progress.rows) aria-label={ (progress.rows) " of " (progress.total_rows) " rows" } {}
                                }
                            }
                            td.n { @if progress.rows_in > 0 { (group(progress.rows_in)) } }
                            td.n { (group(progress.rows_out.max(progress.rows))) }
                            td.n { @if progress.seconds > 0.0 && progress.rows > 0 { (group((progress.rows as f64 / progress.seconds) as u64)) "/s" } }
                            td.n { @if progress.seconds > 0.0 { (duration(progress.seconds)) } }
                            td.n { @if progress.peak_memory_bytes > 0 { (pools::size(progress.peak_memory_bytes)) } }
                        }
                    }
                }
            }
        }
    }
}

fn lost(run: &Run) -> Markup {
    let mut rows: Vec<(&str, &str, &str, u64)> = Vec::new();
    for (stage, progress) in &run.progress {
        rows.extend(
            progress
                .dropped
                .iter()
                .map(|(reason, count)| (stage.as_str(), "dropped", reason.as_str(), *count)),
        );
        rows.extend(
            progress.failed.iter().map(|(reason, count)| (stage.as_str(), "failed", reason.as_str(), *count)),
        );
    }
    html! {
        @if !rows.is_empty() {
            h2 { "Rows that left the line" }
            div.scroll tabindex="0" role="region" aria-label="Lost rows" {
                table {
                    thead { tr { th { "Stage" } th { "Reason" } th { "" } th.n { "Rows" } } }
                    tbody {
                        @for (stage, what, reason, count) in rows {
                            tr { td { (stage) } td { (reason) } td { (what) } td.n { (group(count)) } }
                        }
                    }
                }
            }
        }
    }
}

fn log_end(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(bytes.saturating_sub(SHOWN_LOG_BYTES)))?;
        let mut end = Vec::new();
        file.take(SHOWN_LOG_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    match read() {
        Ok(bytes) if !bytes.is_empty() => String::from_utf8_lossy(&bytes).into_owned(),
        _ => "Nothing was logged.".to_owned(),
    }
}

/// A button was pressed.
pub(super) async fn act(service: Arc<Service>, call: Call) -> Page {
    let (id, now) = (call.run(), service.clock.now());
    let here = format!("/runs/{id}");
    match call.part("action").as_str() {
        "cancel" => blocking(&service.ledger, move |ledger| ledger.wish(&id, Wish::Cancel, now)).await?,
        "pause" => blocking(&service.ledger, move |ledger| ledger.wish(&id, Wish::Pause, now)).await?,
        "resume" => blocking(&service.ledger, move |ledger| ledger.resume(&id, now)).await?,
        "delete" => {
            service.forget(id).await?;
            return Ok(see_other("/runs"));
        }
        "again" => return again(&service, &call, id, None).await,
        "from" => {
            let stage = form_of(&call).remove("stage");
            return again(&service, &call, id, stage).await;
        }
        other => return Err(Problem::not_found(format!("a run cannot be asked to `{other}`"))),
    }
    Ok(see_other(&here))
}

async fn again(service: &Arc<Service>, call: &Call, id: RunId, from: Option<String>) -> Page {
    let run = blocking(&service.ledger, move |ledger| ledger.run(&id)).await?;
    let mut spec = run.spec;
    spec.from = from;
    let trigger = crate::run::Trigger::manual(&call.caller.name);
    let submitted = service.submitter.submit(spec, trigger, None).await?;
    Ok(see_other(&format!("/runs/{}", submitted.id())))
}

/// The report that the run left, as it is.
pub(super) async fn report(service: Arc<Service>, call: Call) -> Page {
    let id = call.run();
    let run = blocking(&service.ledger, move |ledger| ledger.run(&id)).await?;
    let missing = || Problem::not_found("the run has left no report yet");
    let path =
        service.looking.confined(&format!("runs/{}/report.html", run.folder)).map_err(|_| missing())?;
    let page = tokio::fs::read(path).await.map_err(|_| missing())?;
    let mut response = text(HTML, page);
    let policy = HeaderValue::from_static(REPORT_POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// What the run's answers of language models cost, and what each stage was made from.
pub(super) async fn cost(service: Arc<Service>, call: Call) -> Page {
    let id = call.run();
    let run = blocking(&service.ledger, move |ledger| ledger.run(&id)).await?;
    let folder = service.looking.confined(&format!("runs/{}", run.folder))?;
    let (stages, at) = (run.stages.clone(), folder.clone());
    let (manifests, spent) = blocking(&service.ledger, move |_| {
        let read =
            stages.iter().filter_map(|stage| Some((stage.id.clone(), manifest_of(&at.join(&stage.id))?)));
        let manifests: Vec<(String, Json)> = read.collect();
        Ok((manifests, spent_of(&at)))
    })
    .await?;
    let logs = match folder.join(".answers").is_dir() {
        true => service.looking.look(&["answers", "stats"], &folder, &[]).await?,
        false => Vec::new(),
    };
    let mut dollars = 0.0;
    let rows: Vec<(String, u64, u64, u64, f64)> = logs
        .iter()
        .map(|line| {
            let log = Path::new(line["log"].as_str().unwrap_or_default());
            let stage = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let count = |name: &str| line["stats"]["totals"][name].as_u64().unwrap_or_default();
            let manifest = manifests.iter().find(|(id, _)| *id == stage).map(|(_, manifest)| manifest);
            let (prompt, answer) = (count("prompt_tokens"), count("completion_tokens"));
            let noted = spent["stages"][&stage]["usd"].as_f64();
            let price = noted.unwrap_or_else(|| manifest.map_or(0.0, |of| price(of, prompt, answer)));
            dollars += price;
            (stage, count("requests"), prompt, answer, price)
        })
        .collect();
    let body = html! {
        h1 { (run.folder) ": cost, inputs and fingerprints" }
        h2 { "Cost" }
        @if rows.is_empty() { p.quiet { "The run has kept no answers of language models." } } @else {
            p { "US$ " (format!("{dollars:.2}")) " by the prices in the workflow, over all runs in this folder." }
            table {
                thead {
                    tr { th { "Stage" } th.n { "Requests" } th.n { "Prompt tokens" } th.n { "Answer tokens" } th.n { "US$" } }
                }
                tbody {
                    @for (stage, requests, prompt, answer, price) in &rows {
                        tr {
                            td { (stage) } td.n { (group(*requests)) } td.n { (group(*prompt)) }
                            td.n { (group(*answer)) } td.n { (format!("{price:.4}")) }
                        }
                    }
                }
            }
        }
        h2 { "Inputs and fingerprints" }
        div.scroll tabindex="0" role="region" aria-label="Inputs and fingerprints" {
            table {
                thead { tr { th { "Stage" } th { "Fingerprint" } th { "Content" } th { "Inputs" } } }
                tbody {
                    @for (stage, manifest) in &manifests {
                        tr {
                            td { (stage) }
                            td { code { (short(manifest["fingerprint"].as_str().unwrap_or_default())) } }
                            td { code { (short(manifest["content"].as_str().unwrap_or_default())) } }
                            td {
                                @for (name, inputs) in manifest["inputs"].as_object().into_iter().flatten() {
                                    @for input in inputs.as_array().into_iter().flatten() {
                                        @let (id, content) = input.as_str().unwrap_or_default().split_once(':').unwrap_or_default();
                                        div { (name) ": " (id) " " code { (short(content)) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(layout("Cost", "/runs", &body))
}

/// What the run noted of its spending: it knows lost answers, and prices as they were.
fn spent_of(run: &Path) -> Json {
    let bytes = std::fs::read(run.join(".answers/spent.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// US dollars, by the two prices of the stage's model.
fn price(manifest: &Json, prompt_tokens: u64, answer_tokens: u64) -> f64 {
    let of = |name: &str| manifest["metrics"][name].as_f64().unwrap_or_default() / 1e6;
    of("usd_per_million_prompt_tokens") * prompt_tokens as f64
        + of("usd_per_million_completion_tokens") * answer_tokens as f64
}

/// The beginning of a digest.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::price;

    #[test]
    fn each_kind_of_token_has_its_price() {
        let metrics = json!({"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 3.0});
        let manifest = json!({"metrics": metrics});
        assert!((price(&manifest, 2_000_000, 1_000_000) - 5.0).abs() < 1e-9);
        assert!(price(&json!({}), 5, 5).abs() < 1e-9);
    }
}
