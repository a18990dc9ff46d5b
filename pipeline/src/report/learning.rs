//! A model in training: its loss, and what it was measured by on the way. A model that was measured: what it writes.

use std::collections::BTreeMap;
use std::path::Path;

use model::pretrain::{EVALUATIONS_FILE, LOSS_FILE};
use serde_json::Value as Json;

use super::escape;
use super::plot::line;
use crate::stages::evaluate::SAMPLES_FILE;

/// Adds the curve of the loss, and one of each figure taken as training went.
pub fn write(page: &mut String, folder: &Path) {
    curve(page, "Loss", &points(&read(&folder.join(LOSS_FILE)), "loss"));
    let evaluations = read(&folder.join(EVALUATIONS_FILE));
    let names: BTreeMap<&String, &Json> = evaluations.iter().filter_map(Json::as_object).flatten().collect();
    for name in names.into_keys().filter(|name| !["step", "tokens"].contains(&name.as_str())) {
        curve(page, name, &points(&evaluations, name));
    }
}

/// Adds what a model wrote behind the beginnings that it was given.
pub fn write_samples(page: &mut String, folder: &Path) {
    let samples = read(&folder.join(SAMPLES_FILE));
    if samples.is_empty() {
        return;
    }
    page.push_str("<h3>What it writes</h3>");
    for sample in samples {
        let text = |field: &str| escape(sample[field].as_str().unwrap_or_default());
        page.push_str(&format!("<pre><strong>{}</strong>{}</pre>", text("prompt"), text("text")));
    }
}

fn read(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn points(lines: &[Json], field: &str) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line[field].as_f64()?))).collect()
}

fn curve(page: &mut String, name: &str, points: &[(f64, f64)]) {
    if points.len() > 1 {
        page.push_str(&format!("<h3>{} by step</h3>{}", escape(name), line(points)));
    }
}
