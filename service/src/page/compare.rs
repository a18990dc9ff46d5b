//! Two runs side by side, as `pipeline diff` tells.

use std::sync::Arc;

use maud::{Markup, html};
use serde_json::Value as Json;

use super::{Page, group, layout, link};
use crate::api::endpoint::Call;
use crate::ledger::RunFilter;
use crate::service::Service;
use crate::supervisor::blocking;

/// The latest runs that can be chosen.
const CHOICE: usize = 100;

pub(super) async fn show(service: Arc<Service>, call: Call) -> Page {
    let id = call.run();
    let (run, others) = blocking(&service.ledger, move |ledger| {
        let others = RunFilter { limit: CHOICE, ..Default::default() };
        Ok((ledger.run(&id)?, ledger.runs(&others)?.runs))
    })
    .await?;
    let mut folders: Vec<&str> =
        others.iter().map(|other| other.folder.as_str()).filter(|folder| *folder != run.folder).collect();
    folders.sort_unstable();
    folders.dedup();
    let with = call.query("with");
    let stages = match with {
        None => Vec::new(),
        Some(folder) => {
            let first = service.looking.confined(&format!("runs/{}", run.folder))?;
            let second = service.looking.confined(&format!("runs/{folder}"))?;
            service.looking.look(&["diff"], &first, &[second.display().to_string()]).await?
        }
    };
    let body = html! {
        h1 { (run.folder) " beside another run" }
        form.row method="get" {
            label { "The other run's folder"
                select name="with" { @for folder in folders { option selected[with == Some(folder)] { (folder) } } }
            }
            button { "Compare" }
        }
        @if let Some(other) = with { (compared([&run.folder, other], &stages)) }
    };
    Ok(layout("Compare", "/runs", &body))
}

fn compared(folders: [&str; 2], stages: &[Json]) -> Markup {
    let same = stages.iter().filter(|stage| stage["state"] == "same").count();
    html! {
        p { (same) " of " (stages.len()) " stages are the same." }
        (table("Stages", &["Stage", "", folders[0], folders[1]], 2, stages.iter().map(|stage| {
            let name = stage["stage"].as_str().unwrap_or_default();
            let rows = both(&stage["rows"], |rows| format!("{} rows", group(rows.as_u64().unwrap_or_default())));
            let [first, second] = match stage["state"].as_str() {
                Some("only_first") => [rows[0].clone(), "–".to_owned()],
                Some("only_second") => ["–".to_owned(), rows[1].clone()],
                _ => rows,
            };
            vec![html! { (name) }, html! { (state(stage)) }, html! { (first) }, html! { (second) }]
        })))
        @for stage in stages.iter().filter(|stage| stage["state"] == "different") { (difference(folders, stage)) }
    }
}

fn state(stage: &Json) -> &str {
    match stage["state"].as_str().unwrap_or_default() {
        "only_first" => "only in the first",
        "only_second" => "only in the second",
        other => other,
    }
}

/// What became different in a stage.
fn difference(folders: [&str; 2], stage: &Json) -> Markup {
    let name = stage["stage"].as_str().unwrap_or_default();
    let [first, second] = folders;
    let settings = entries(&stage["settings"]).map(|(path, values)| {
        let [a, b] = both(values, Json::to_string);
        vec![html! { code { (path) } }, html! { code { (a) } }, html! { code { (b) } }]
    });
    let lost = entries(&stage["lost"]).map(|(reason, rows)| {
        let [a, b] = both(rows, |rows| group(rows.as_u64().unwrap_or_default()));
        vec![html! { (reason) }, html! { (a) }, html! { (b) }]
    });
    let columns = entries(&stage["columns"]).filter(|(_, of)| of[0] != of[1]).map(|(column, of)| {
        let [a, b] = both(of, figures);
        vec![html! { (column) }, html! { (a) }, html! { (b) }]
    });
    html! {
        h2 { (name) }
        @if !stage["changes"].is_null() { (changes(folders, stage)) }
        (table("Settings", &["Setting", first, second], 3, settings))
        (table("Lost rows", &["Rows lost because of", first, second], 1, lost))
        (table("Columns", &["Column", first, second], 3, columns))
    }
}

/// Rows added, removed and changed, each kind with the ids of a few.
fn changes(folders: [&str; 2], stage: &Json) -> Markup {
    let name = stage["stage"].as_str().unwrap_or_default();
    let changes = &stage["changes"];
    let kinds = [
        ("removed", "only in the first", 0),
        ("added", "only in the second", 1),
        ("changed", "in both, with other values", 1),
    ];
    html! {
        ul {
            li { (group(changes["same"].as_u64().unwrap_or_default())) " rows are the same" }
            @for (kind, words, side) in kinds {
                @let rows = changes[kind]["rows"].as_u64().unwrap_or_default();
                @let ids: Vec<&str> = changes[kind]["examples"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
                @let folder = format!("runs/{}/{name}", folders[side]);
                @if rows > 0 {
                    li {
                        (group(rows)) " rows are " (words) ": "
                        @for (number, id) in ids.iter().enumerate() {
                            @if number > 0 { ", " }
                            a href=(link("/data", &[("path", &folder), ("view", "trace"), ("id", id)])) { (id) }
                        }
                        @if rows > ids.len() as u64 { ", …" }
                    }
                }
            }
        }
    }
}

/// `mean 12.5, a tenth below 3, half below 12, a tenth above 20, 1 null`.
fn figures(of: &Json) -> String {
    let number = |name: &str| of[name].as_f64().map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
    let nulls = match of["nulls"].as_u64() {
        Some(nulls) if nulls > 0 => format!(", {} null", group(nulls)),
        _ => String::new(),
    };
    let [mean, p10, p50, p90] = ["mean", "p10", "p50", "p90"].map(number);
    format!("mean {mean}, a tenth below {p10}, half below {p50}, a tenth above {p90}{nulls}")
}

fn entries(of: &Json) -> impl Iterator<Item = (&String, &Json)> {
    of.as_object().into_iter().flatten()
}

fn both(values: &Json, text: impl Fn(&Json) -> String) -> [String; 2] {
    [text(&values[0]), text(&values[1])]
}

/// A table whose columns from `numbers` on hold numbers; nothing where it has no rows.
fn table(name: &str, header: &[&str], numbers: usize, rows: impl Iterator<Item = Vec<Markup>>) -> Markup {
    let rows: Vec<_> = rows.collect();
    let class = |column: usize| (column >= numbers).then_some("n");
    html! {
        @if !rows.is_empty() {
            div.scroll tabindex="0" role="region" aria-label=(name) {
                table {
                    thead { tr { @for (number, title) in header.iter().enumerate() { th class=[class(number)] { (title) } } } }
                    tbody {
                        @for row in rows {
                            tr { @for (number, cell) in row.into_iter().enumerate() { td class=[class(number)] { (cell) } } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_is_shown_with_what_became_different() {
        let tenth = json!({"values": 3, "nulls": 0, "mean": 2.0, "p10": 1.0, "p50": 2.0, "p90": 3.0});
        let mut other = tenth.clone();
        other["nulls"] = json!(4);
        let stages = [
            json!({"stage": "read", "state": "same", "rows": [3, 3]}),
            json!({"stage": "old", "state": "only_first", "rows": [7, 0]}),
            json!({
                "stage": "filter", "state": "different", "rows": [3000, 2],
                "settings": {"least": [1, 2]}, "lost": {"too_short": [0, 1]},
                "changes": {
                    "same": 1, "added": {"rows": 0, "examples": []},
                    "removed": {"rows": 2, "examples": ["<b>"]}, "changed": {"rows": 0, "examples": []},
                },
                "columns": {"id": [tenth, tenth], "score": [tenth, other]},
            }),
        ];
        let page = compared(["a/sample", "b/sample"], &stages).into_string();
        for words in [
            "1 of 3 stages are the same.",
            "<td class=\"n\">7 rows</td><td class=\"n\">–</td>",
            "3,000 rows",
            "<code>least</code>",
            "<td>too_short</td><td class=\"n\">0</td><td class=\"n\">1</td>",
            "2 rows are only in the first",
            "path=runs%2Fa%2Fsample%2Ffilter",
            "&lt;b&gt;</a>, …",
            "a tenth above 3.0000, 4 null",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        assert!(!page.contains("<td>id</td>"), "a column that is the same");
    }
}
