//! Models that runs have made: figures, and a talk with those that are exported for it.

use std::sync::Arc;

use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value as Json;

use super::{Page, form_of, group, layout, link, manifest_of, stages_of};
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::chat::{Ask, MOST_TOKENS};
use crate::pools::size;
use crate::service::Service;
use crate::supervisor::blocking;

/// Kinds of stages that leave a model, and the one that measures them.
const KINDS: [&str; 6] = ["pretrain", "sft", "dpo", "export", "import_model", EVALUATE];
const EVALUATE: &str = "evaluate";
/// Tokens of an answer when the form does not say.
const USUAL_TOKENS: u64 = 200;

struct Model {
    path: String,
    kind: String,
    bytes: u64,
    parameters: Option<u64>,
    loss: Option<f64>,
    /// Checkpoints that were kept: `final`, `step-000020`.
    checkpoints: Vec<String>,
    /// Files that can be talked with, by their path in the data folder.
    ggufs: Vec<String>,
    /// Stages that measured it, with their figures.
    evaluations: Vec<(String, Vec<(String, f64)>)>,
}

pub(super) async fn list(service: Arc<Service>, call: Call) -> Page {
    Ok(show(&all(&service).await?, call.query("model").unwrap_or_default(), "", None))
}

/// Asks a model.
pub(super) async fn ask(service: Arc<Service>, call: Call) -> Page {
    let fields = form_of(&call);
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let (model, prompt) = (field("model"), field("prompt").trim());
    let tokens = field("tokens").parse().unwrap_or(USUAL_TOKENS).clamp(1, MOST_TOKENS);
    // Only what a finished stage has listed is started, not any file that bears the name.
    let models = all(&service).await?;
    let known = models.iter().any(|of| of.ggufs.iter().any(|path| path == model));
    if !known {
        return Err(Problem::not_found(format!("no run has exported `{model}`")));
    }
    let real = service.looking.confined(model)?;
    let ask = Ask { prompt: prompt.to_owned(), tokens, is_chat: field("as") != "text" };
    let answer = service.chats.ask(&real, &ask).await;
    Ok(show(&models, model, prompt, Some(answer)))
}

fn show(models: &[Model], chosen: &str, prompt: &str, answer: Option<Result<String, Problem>>) -> Response {
    let ggufs: Vec<&String> = models.iter().flat_map(|model| &model.ggufs).collect();
    let body = html! {
        h1 { "Models" }
        @if models.is_empty() { p.quiet { "No run has made a model yet." } } @else { (table(models)) }
        h2 { "Talk" }
        @if ggufs.is_empty() {
            p.quiet { "A model can be talked with once an " code { "export" } " stage with " code { "gguf" } " has written it." }
        } @else {
            form method="post" action="/models" {
                div.row {
                    label { "Model"
                        select name="model" { @for path in ggufs { option selected[path == chosen] { (path) } } }
                    }
                    label { "As" select name="as" { option value="chat" { "a question" } option value="text" { "a text to go on from" } } }
                    label { "Tokens at most" input type="number" name="tokens" min="1" max=(MOST_TOKENS) value=(USUAL_TOKENS); }
                }
                label { "What to say" textarea name="prompt" required { (prompt) } }
                p { button { "Send" } " " span.quiet { "The first answer takes longer: the model is loaded for it." } }
            }
        }
        @match answer {
            None => {}
            Some(Ok(answer)) => { h2 { "Answer" } pre.answer tabindex="0" aria-label="Answer" { (answer) } }
            Some(Err(problem)) => { h2 { "Answer" } pre.error { (problem.detail()) } }
        }
    };
    layout("Models", "/models", &body)
}

fn table(models: &[Model]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Models" {
            table {
                thead {
                    tr {
                        th { "Stage" } th { "Kind" } th.n { "Parameters" } th.n { "Size" } th.n { "Last loss" }
                        th { "Checkpoints" } th { "Evaluations" } th { "" }
                    }
                }
                tbody {
                    @for model in models {
                        tr {
                            td { a href=(link("/data", &[("path", &model.path)])) { (model.path) } }
                            td { (model.kind) }
                            td.n { @if let Some(count) = model.parameters { (group(count)) } }
                            td.n { (size(model.bytes)) }
                            td.n { @if let Some(loss) = model.loss { (format!("{loss:.3}")) } }
                            td { (model.checkpoints.join(", ")) }
                            td {
                                @for (stage, figures) in &model.evaluations {
                                    details {
                                        summary { (stage) }
                                        @for (name, value) in figures { div { (name) ": " (format!("{value:.4}")) } }
                                    }
                                }
                            }
                            td { @if let Some(path) = model.ggufs.first() { a href=(link("/models", &[("model", path)])) { "Talk" } } }
                        }
                    }
                }
            }
        }
    }
}

/// The models of all runs whose stages are finished.
async fn all(service: &Arc<Service>) -> Result<Vec<Model>, Problem> {
    let stages = stages_of(service, &KINDS).await?;
    let folder = service.runs_folder();
    // Files are read, so it is no work for a thread that answers.
    blocking(&service.ledger, move |_| {
        let read = |path: &str| manifest_of(&folder.join(path.trim_start_matches("runs/")));
        let (measures, finished): (Vec<_>, Vec<_>) = stages
            .into_iter()
            .filter_map(|(path, kind)| read(&path).map(|manifest| (path, kind, manifest)))
            .partition(|(_, kind, _)| kind == EVALUATE);
        let model = |(path, kind, manifest): &(String, String, Json)| {
            let upstream = |other: &str| reads(path, manifest, other);
            // An export has the parameters of the model that it hands on.
            let figure = |name: &str| {
                let own = std::iter::once(manifest);
                let before =
                    finished.iter().filter(|(other, ..)| upstream(other)).map(|(_, _, manifest)| manifest);
                own.chain(before).find_map(|manifest| manifest["metrics"][name].as_f64())
            };
            let files: Vec<(&str, u64)> = manifest["files"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|file| Some((file["path"].as_str()?, file["bytes"].as_u64()?)))
                .collect();
            let mut checkpoints: Vec<String> = files
                .iter()
                .filter_map(|(file, _)| file.strip_suffix("/model.safetensors"))
                .map(str::to_owned)
                .collect();
            checkpoints.sort();
            let evaluations = measures.iter().filter(|(other, _, manifest)| reads(other, manifest, path));
            Model {
                path: path.clone(),
                kind: kind.clone(),
                bytes: files.iter().map(|(_, bytes)| bytes).sum(),
                parameters: figure("parameters").map(|count| count as u64),
                loss: figure("final_loss"),
                checkpoints,
                ggufs: files
                    .iter()
                    .filter(|(file, _)| file.ends_with(".gguf"))
                    .map(|(file, _)| format!("{path}/{file}"))
                    .collect(),
                evaluations: evaluations
                    .map(|(stage, _, manifest)| (stage.clone(), numbers(&manifest["metrics"], "")))
                    .collect(),
            }
        };
        Ok(finished.iter().map(model).collect())
    })
    .await
    .map_err(Problem::from)
}

/// Whether the stage with this manifest reads another of the same run.
fn reads(path: &str, manifest: &Json, other: &str) -> bool {
    let (Some((run, _)), Some((other_run, other))) = (path.rsplit_once('/'), other.rsplit_once('/')) else {
        return false;
    };
    let inputs = manifest["inputs"].as_object().into_iter().flat_map(|inputs| inputs.values());
    let mut names =
        inputs.filter_map(Json::as_array).flatten().filter_map(|input| input.as_str()?.split(':').next());
    run == other_run && names.any(|name| name == other)
}

/// All numbers of a value, by the path of their names.
fn numbers(value: &Json, path: &str) -> Vec<(String, f64)> {
    match value {
        Json::Number(number) => vec![(path.to_owned(), number.as_f64().unwrap_or(f64::NAN))],
        Json::Object(fields) => {
            let name = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path} {name}") };
            fields.iter().flat_map(|(key, field)| numbers(field, &name(key))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_reads_another_of_its_own_run_only() {
        let manifest = json!({"inputs": {"model": ["model:abc"], "tokenizer": ["words:def"]}});
        assert!(reads("runs/a/sample/export", &manifest, "runs/a/sample/model"));
        assert!(reads("runs/a/sample/export", &manifest, "runs/a/sample/words"));
        assert!(!reads("runs/a/sample/export", &manifest, "runs/b/sample/model"));
        assert!(!reads("runs/a/sample/export", &manifest, "runs/a/sample/mod"));
    }

    #[test]
    fn figures_inside_objects_are_found() {
        let value = json!({"acc": 0.5, "by": {"web": 2, "name": "x"}});
        assert_eq!(numbers(&value, ""), [("acc".to_owned(), 0.5), ("by web".to_owned(), 2.0)]);
    }
}
