//! Curves of training: loss, learning rate and evaluations of one or several runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use maud::{Markup, html};
use serde_json::Value as Json;

use super::{Page, layout};
use crate::api::endpoint::Call;
use crate::ledger::RunFilter;
use crate::service::Service;
use crate::supervisor::blocking;

/// Kinds of stages that train.
const TRAINING: [&str; 3] = ["pretrain", "sft", "dpo"];
/// Points of a drawn curve.
const MOST_POINTS: usize = 600;
/// Runs that are drawn beside each other.
const MOST_RUNS: usize = 4;
/// The records that training leaves, a JSON object a line.
const RECORDS: [&str; 2] = ["loss.jsonl", "evaluations.jsonl"];

/// Curves by the name of the figure: (step, value).
type Curves = BTreeMap<String, Vec<(f64, f64)>>;

pub(super) async fn compare(service: Arc<Service>, call: Call) -> Page {
    let filter = RunFilter { limit: 200, ..RunFilter::default() };
    let runs = blocking(&service.ledger, move |ledger| ledger.runs(&filter)).await?.runs;
    let mut stages: Vec<String> = Vec::new();
    for run in &runs {
        for stage in run.stages.iter().filter(|stage| TRAINING.contains(&stage.kind.as_str())) {
            let path = format!("runs/{}/{}", run.folder, stage.id);
            if !stages.contains(&path) {
                stages.push(path);
            }
        }
    }
    let asked = call.query("stages").map(|paths| paths.split(',').map(str::to_owned).collect::<Vec<_>>());
    let shown: Vec<String> = asked.unwrap_or_else(|| stages.iter().take(1).cloned().collect());
    let mut all: Vec<(String, Curves)> = Vec::new();
    for path in shown.iter().take(MOST_RUNS) {
        // A stage at work keeps its records in a folder of another name.
        let real = service.runs_folder().join(path.trim_start_matches("runs/"));
        if stages.contains(path) {
            let curves = tokio::task::spawn_blocking(move || read(&real)).await.unwrap_or_default();
            all.push((path.clone(), curves));
        }
    }
    let mut names: Vec<&String> = all.iter().flat_map(|(_, curves)| curves.keys()).collect();
    names.sort();
    names.dedup();
    let body = html! {
        h1 { "Training" }
        @if stages.is_empty() { p.quiet { "No run trains a model yet." } }
        ul {
            @for path in &stages {
                @let chosen = shown.contains(path);
                @let others: Vec<&String> = shown.iter().filter(|other| *other != path).collect();
                @let with: Vec<&str> = others.iter().map(|p| p.as_str()).chain((!chosen).then_some(path.as_str())).collect();
                li {
                    a href=(super::link("/training", &[("stages", &with.join(","))])) { @if chosen { "Leave out" } @else { "Show" } }
                    " " (path)
                }
            }
        }
        div data-live="list" {
            div.columns {
                @for name in names {
                    section { h2 { (name) } (plot(&all, name)) }
                }
            }
        }
    };
    Ok(layout("Training", "/training", &body))
}

/// The curves of a stage, finished or at work.
fn read(stage: &Path) -> Curves {
    let name = stage.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut folders = vec![stage.to_owned()];
    let at_work = format!(".partial-{name}-");
    for entry in stage.parent().and_then(|run| std::fs::read_dir(run).ok()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&at_work) {
            folders.insert(0, entry.path());
        }
    }
    let mut curves = Curves::new();
    for record in RECORDS {
        let Some(text) = folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(record)).ok())
        else {
            continue;
        };
        for line in text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()) {
            let Some(step) = line["step"].as_f64() else { continue };
            numbers(&line, "", &mut |figure, value| {
                if figure != "step" {
                    curves.entry(figure.to_owned()).or_default().push((step, value));
                }
            });
        }
    }
    for points in curves.values_mut() {
        let every = points.len().div_ceil(MOST_POINTS).max(1);
        let last = points.len().saturating_sub(1);
        let kept = points.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last);
        *points = kept.map(|(_, point)| *point).collect();
    }
    curves.retain(|_, points| points.len() > 1);
    curves
}

/// All numbers of a record, those inside objects by the path of their names.
fn numbers(value: &Json, path: &str, each: &mut impl FnMut(&str, f64)) {
    match value {
        Json::Number(number) => each(path, number.as_f64().unwrap_or(f64::NAN)),
        Json::Object(fields) => {
            for (name, field) in fields {
                let inner = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
                numbers(field, &inner, each);
            }
        }
        _ => {}
    }
}

fn plot(all: &[(String, Curves)], name: &str) -> Markup {
    const WIDTH: f64 = 440.0;
    const HEIGHT: f64 = 210.0;
    const LEFT: f64 = 60.0;
    const BOTTOM: f64 = 22.0;
    let points = || {
        all.iter().filter_map(|(_, curves)| curves.get(name)).flatten().filter(|point| point.1.is_finite())
    };
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        points()
            .map(pick)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((x0, x1), (y0, y1)) = (bounds(|p| p.0), bounds(|p| p.1));
    let place = |value: f64, low: f64, high: f64| if high > low { (value - low) / (high - low) } else { 0.5 };
    let path = |curve: &[(f64, f64)]| {
        let mut path = String::new();
        for (x, y) in curve.iter().filter(|point| point.1.is_finite()) {
            let x = LEFT + place(*x, x0, x1) * (WIDTH - LEFT - 8.0);
            let y = HEIGHT - BOTTOM - place(*y, y0, y1) * (HEIGHT - BOTTOM - 8.0);
            path += &format!("{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
        }
        path
    };
    let label = |value: f64| {
        if value.abs() >= 0.01 || value == 0.0 { format!("{value:.3}") } else { format!("{value:.1e}") }
    };
    html! {
        svg width=(WIDTH) height=(HEIGHT + 16.0 * all.len() as f64) role="img" aria-label={ (name) " by step" } {
            line.axis x1=(LEFT) y1="4" x2=(LEFT) y2=(HEIGHT - BOTTOM) {}
            line.axis x1=(LEFT) y1=(HEIGHT - BOTTOM) x2=(WIDTH) y2=(HEIGHT - BOTTOM) {}
            text.faint x="0" y="14" { (label(y1)) }
            text.faint x="0" y=(HEIGHT - BOTTOM) { (label(y0)) }
            text.faint x=(LEFT) y=(HEIGHT - 6.0) { (x0) }
            text.faint x=(WIDTH - 60.0) y=(HEIGHT - 6.0) { (x1) }
            @for (number, (path_name, curves)) in all.iter().enumerate() {
                @if let Some(curve) = curves.get(name) { path class={ "curve c" (number % MOST_RUNS) } d=(path(curve)) {} }
                text class={ "c" (number % MOST_RUNS) } x=(LEFT) y=(HEIGHT + 12.0 + 16.0 * number as f64) { (path_name) }
            }
        }
    }
}
