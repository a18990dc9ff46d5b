//! What became different between two runs of a workflow, stage by stage and row by row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value as Json;

use super::distribution::Distribution;
use super::manifests;
use super::rows_diff::{RowChanges, compare_rows};
use crate::manifest::Manifest;

/// A value in the one run and in the other.
pub type Both<T> = [T; 2];

/// How a stage of the two runs compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The same bytes.
    Same,
    /// Other bytes.
    Different,
    /// Only the first run has finished it.
    OnlyFirst,
    /// Only the second run has finished it.
    OnlySecond,
}

/// A stage of the two runs.
#[derive(Debug, Serialize)]
pub struct StageDiff {
    /// Its name.
    pub stage: String,
    /// How it compares.
    pub state: State,
    /// Rows written.
    pub rows: Both<u64>,
    /// Settings that are not the same, by path: `max_repeats`, `llm.model`.
    pub settings: BTreeMap<String, Both<Json>>,
    /// Dropped and failed rows by reason, where the numbers are not the same.
    pub lost: BTreeMap<String, Both<u64>>,
    /// Rows by their ids; `None` where the stage leaves no table with an id.
    pub changes: Option<RowChanges>,
    /// Columns whose values are distributed otherwise.
    pub columns: BTreeMap<String, Both<Distribution>>,
}

/// Compares the runs in two folders. Columns in `ignored` do not make rows different.
///
/// # Errors
/// A text that names what cannot be read.
pub fn diff(first: &Path, second: &Path, ignored: &BTreeSet<String>) -> Result<Vec<StageDiff>, String> {
    let stages = |folder: &Path| {
        let found = manifests(folder);
        if found.is_empty() {
            return Err(format!("{} is not the folder of a run", folder.display()));
        }
        Ok(found.into_iter().map(|manifest| (manifest.stage.clone(), manifest)).collect::<BTreeMap<_, _>>())
    };
    let (of_first, of_second) = (stages(first)?, stages(second)?);
    let names: BTreeSet<&String> = of_first.keys().chain(of_second.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let manifests = [of_first.get(name), of_second.get(name)];
            let mut found = of_manifests(name, manifests);
            if let (State::Different, [Some(a), Some(b)]) = (found.state, manifests)
                && a.shards().next().is_some()
                && b.shards().next().is_some()
            {
                let tables = [first, second].map(|run| run.join(name));
                (found.changes, found.columns) = compare_rows(&tables, ignored)?;
            }
            Ok(found)
        })
        .collect()
}

/// What the manifests alone tell.
fn of_manifests(name: &str, manifests: Both<Option<&Manifest>>) -> StageDiff {
    let state = match manifests {
        [Some(a), Some(b)] if a.content == b.content => State::Same,
        [Some(_), Some(_)] => State::Different,
        [_, None] => State::OnlyFirst,
        [None, _] => State::OnlySecond,
    };
    let mut settings = BTreeMap::new();
    let mut lost: BTreeMap<String, Both<u64>> = BTreeMap::new();
    if let [Some(a), Some(b)] = manifests {
        compare_settings("", &a.config, &b.config, &mut settings);
        for (side, manifest) in [a, b].into_iter().enumerate() {
            for (reason, rows) in manifest.dropped.iter().chain(&manifest.quarantined) {
                lost.entry(reason.clone()).or_default()[side] += rows;
            }
        }
        lost.retain(|_, rows| rows[0] != rows[1]);
    }
    let rows = manifests.map(|manifest| manifest.map_or(0, |manifest| manifest.rows_out));
    StageDiff { stage: name.to_owned(), state, rows, settings, lost, changes: None, columns: BTreeMap::new() }
}

fn compare_settings(path: &str, a: &Json, b: &Json, found: &mut BTreeMap<String, Both<Json>>) {
    match (a, b) {
        (Json::Object(of_a), Json::Object(of_b)) => {
            let keys: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let value = |of: &serde_json::Map<String, Json>| of.get(key).cloned().unwrap_or(Json::Null);
                compare_settings(&path, &value(of_a), &value(of_b), found);
            }
        }
        (a, b) if a != b => {
            found.insert(path.to_owned(), [a.clone(), b.clone()]);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_compared_by_path() {
        let mut found = BTreeMap::new();
        let (a, b) = (json!({"x": 1, "llm": {"model": "m", "k": 2}}), json!({"x": 1, "llm": {"model": "n"}}));
        compare_settings("", &a, &b, &mut found);
        let want = [("llm.k", [json!(2), Json::Null]), ("llm.model", [json!("m"), json!("n")])];
        assert_eq!(found, want.map(|(path, both)| (path.to_owned(), both)).into());
    }
}
