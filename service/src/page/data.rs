//! The data browser: folders, and the rows, columns and figures of Parquet files.

use std::sync::Arc;

use maud::{Markup, html};
use serde_json::Value as Json;

use super::{Page, group, layout, link};
use crate::api::endpoint::Call;
use crate::api::problem::Problem;
use crate::pools::size;
use crate::service::Service;

/// Rows of a page.
const PAGE_ROWS: u64 = 20;
/// Characters of a cell in the table of rows; a row of its own shows all.
const CELL_CHARS: usize = 600;

/// Rows that a search in a table shows.
const MOST_FOUND: usize = 50;

/// What is shown of a table.
const VIEWS: [(&str, &str); 5] =
    [("rows", "Rows"), ("columns", "Columns"), ("find", "Find"), ("sql", "SQL"), ("trace", "Trace")];

pub(super) async fn browse(service: Arc<Service>, call: Call) -> Page {
    let path = call.query("path").unwrap_or("runs").trim_end_matches('/').to_owned();
    let real = service.looking.confined(&path)?;
    let entries = if real.is_dir() { service.looking.entries(&path)? } else { Vec::new() };
    let is_table = has_parquet(&real);
    let view = call.query("view").unwrap_or("rows");
    let body = html! {
        h1 { (crumbs(&path)) }
        @if is_table {
            p {
                @for (name, words) in VIEWS {
                    @if name == view { strong { (words) } " · " } @else {
                        a href=(link("/data", &[("path", &path), ("view", name)])) { (words) } " · "
                    }
                }
                span.quiet { "one process a look, with a time limit" }
            }
            @match view {
                "columns" => { (columns(&service, &real).await?) }
                "find" => { (find(&service, &real, &path, &call).await?) }
                "sql" => { (sql(&service, &real, &path, &call).await?) }
                "trace" => { (trace(&service, &path, &call).await?) }
                _ => { (rows(&service, &real, &path, &call).await?) }
            }
        }
        @if !entries.is_empty() {
            h2 { "Files" }
            table {
                tbody {
                    @for entry in &entries {
                        tr {
                            td {
                                @if entry.is_folder || entry.name.ends_with(".parquet") {
                                    a href=(link("/data", &[("path", &entry.path)])) { (entry.name) @if entry.is_folder { "/" } }
                                } @else { (entry.name) }
                            }
                            td.n { @if !entry.is_folder { (size(entry.bytes)) } }
                        }
                    }
                }
            }
        }
    };
    Ok(layout(&path, "/data", &body))
}

fn has_parquet(path: &std::path::Path) -> bool {
    let parquet = |path: &std::path::Path| path.extension().is_some_and(|extension| extension == "parquet");
    let inside = |folder: &std::path::Path| {
        std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| parquet(&entry.path()))
    };
    parquet(path) || inside(path) || inside(&path.join("data"))
}

fn crumbs(path: &str) -> Markup {
    let parts: Vec<&str> = path.split('/').collect();
    html! {
        @for at in 0..parts.len() {
            @if at > 0 { " / " }
            a href=(link("/data", &[("path", &parts[..=at].join("/"))])) { (parts[at]) }
        }
    }
}

async fn rows(service: &Service, real: &std::path::Path, path: &str, call: &Call) -> Result<Markup, Problem> {
    let from = call.number("from", 0)?;
    let whole = call.query("whole").is_some();
    let count = if whole { 1 } else { PAGE_ROWS };
    let arguments = ["--sample".to_owned(), count.to_string(), "--offset".to_owned(), from.to_string()];
    let (rows, all) = tokio::try_join!(
        service.looking.look(&["inspect"], real, &arguments),
        service.looking.look(&["inspect", "--count"], real, &[])
    )?;
    let all = all.first().and_then(|line| line["rows"].as_u64()).unwrap_or_default();
    if whole {
        let row = rows.into_iter().next().unwrap_or_default();
        return Ok(html! { p { "Row " (group(from)) " of " (group(all)) } (document(&row)) });
    }
    let at = |from: u64| link("/data", &[("path", path), ("from", &from.to_string())]);
    let until = from + rows.len() as u64;
    Ok(html! {
        p { "Rows " (group(from)) " to " (group(until)) " of " (group(all)) "  "
            @if from > 0 { a href=(at(from.saturating_sub(PAGE_ROWS))) { "Before" } " " }
            @if until < all { a href=(at(until)) { "Next" } }
        }
        form.row method="get" action="/data" {
            input type="hidden" name="path" value=(path);
            label { "Go to row" input type="number" name="from" min="0" max=(all) value=(from); }
            button { "Go" }
        }
        (table(&rows, Some((path, from))))
    })
}

/// A table of rows; with a place, each has a link to itself.
fn table(rows: &[Json], place: Option<(&str, u64)>) -> Markup {
    let mut columns: Vec<&str> = Vec::new();
    for row in rows.iter().filter_map(Json::as_object) {
        for column in row.keys() {
            if !columns.contains(&column.as_str()) {
                columns.push(column);
            }
        }
    }
    html! {
        div.scroll tabindex="0" role="region" aria-label="Rows" {
            table {
                thead {
                    tr {
                        @if place.is_some() { th.n { "Row" } }
                        @for column in &columns { th { (column) } }
                    }
                }
                tbody {
                    @for (number, row) in rows.iter().enumerate() {
                        tr {
                            @if let Some((path, from)) = place {
                                @let at = (from + number as u64).to_string();
                                td.n { a href=(link("/data", &[("path", path), ("from", &at), ("whole", "1")])) { (at) } }
                            }
                            @for column in &columns { td.cell { div { (cell(&row[*column])) } } }
                        }
                    }
                }
            }
        }
    }
}

fn cell(value: &Json) -> String {
    let text = text(value);
    match text.char_indices().nth(CELL_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A row by itself. Long texts stand side by side, so that a prompt can be read beside its seed page and
/// what was generated.
fn document(row: &Json) -> Markup {
    let empty = serde_json::Map::new();
    let fields = row.as_object().unwrap_or(&empty);
    let is_long = |value: &Json| value.as_str().is_some_and(|text| text.len() > 200);
    html! {
        dl.facts {
            @for (column, value) in fields.iter().filter(|(_, value)| !is_long(value)) { dt { (column) } dd { (text(value)) } }
        }
        div.columns {
            @for (column, value) in fields.iter().filter(|(_, value)| is_long(value)) {
                section { h2 { (column) } pre tabindex="0" { (text(value)) } }
            }
        }
    }
}

/// Rows whose texts hold all of some words.
async fn find(service: &Service, real: &std::path::Path, path: &str, call: &Call) -> Result<Markup, Problem> {
    let (words, column) = (call.query("q").unwrap_or_default(), call.query("column").unwrap_or_default());
    let columns = service.looking.look(&["inspect", "--columns"], real, &[]).await?;
    let texts: Vec<&str> = columns
        .iter()
        .filter(|column| column["type"].as_str().is_some_and(|kind| kind.contains("Utf8")))
        .filter_map(|column| column["column"].as_str())
        .collect();
    let chosen: Vec<&str> =
        texts.iter().copied().filter(|name| column.is_empty() || *name == column).collect();
    let rows = if words.trim().is_empty() || chosen.is_empty() {
        Ok(Vec::new())
    } else {
        let query = query_for(&chosen, words);
        service.looking.look(&["inspect"], real, &["--sql".to_owned(), query]).await
    };
    Ok(html! {
        form.row method="get" action="/data" {
            input type="hidden" name="path" value=(path);
            input type="hidden" name="view" value="find";
            label { "Words" input type="search" name="q" size="40" value=(words); }
            label { "In"
                select name="column" {
                    option value="" { "all texts" }
                    @for name in &texts { option value=(name) selected[*name == column] { (name) } }
                }
            }
            button { "Find" }
        }
        @match rows {
            Ok(rows) => {
                @if !words.is_empty() { p { (rows.len()) " rows" @if rows.len() == MOST_FOUND { " and perhaps more" } } }
                (table(&rows, None))
            }
            Err(problem) => { pre.error { (problem.detail()) } }
        }
    })
}

/// The query for rows in which some of the columns holds each of the words.
fn query_for(columns: &[&str], words: &str) -> String {
    let name = |column: &str| format!("\"{}\"", column.replace('"', "\"\""));
    // `strpos` takes a word as it is: `%` and `_` stand for themselves.
    let has = |column: &&str, word: &str| {
        format!("strpos(lower({}), lower('{}')) > 0", name(column), word.replace('\'', "''"))
    };
    let each: Vec<String> = words
        .split_whitespace()
        .map(|word| columns.iter().map(|column| has(column, word)).collect::<Vec<_>>().join(" OR "))
        .map(|any| format!("({any})"))
        .collect();
    format!("SELECT * FROM data WHERE {} LIMIT {MOST_FOUND}", each.join(" AND "))
}

async fn columns(service: &Service, real: &std::path::Path) -> Result<Markup, Problem> {
    let columns = service.looking.look(&["inspect", "--columns"], real, &[]).await?;
    let sampled =
        columns.iter().filter_map(|column| column["sampled_rows"].as_u64()).max().unwrap_or_default();
    Ok(html! {
        div.scroll tabindex="0" role="region" aria-label="Columns" {
            table {
                thead {
                    tr {
                        th { "Column" } th { "Type" } th.n { "Nulls" } th { "Smallest" } th { "Largest" }
                        th.n { "In the files" } th.n { "Uncompressed" }
                    }
                }
                tbody {
                    @for column in &columns {
                        @let bytes = |key: &str| size(column[key].as_u64().unwrap_or_default());
                        tr {
                            td { (text(&column["column"])) } td { (text(&column["type"])) }
                            td.n { (text(&column["nulls"])) }
                            td.cell { div { (text(&column["smallest"])) } } td.cell { div { (text(&column["largest"])) } }
                            td.n { (bytes("compressed_bytes")) } td.n { (bytes("bytes")) }
                        }
                    }
                }
            }
        }
        h2 { "Distributions" }
        p.quiet { "of " (group(sampled)) " rows from ten places" }
        div.columns {
            @for column in &columns {
                section {
                    h3 { (text(&column["column"])) " " span.quiet { (text(&column["bins_of"])) } }
                    (bars(&column["bins"]))
                }
            }
        }
    })
}

fn bars(bins: &Json) -> Markup {
    let empty = Vec::new();
    let bins = bins.as_array().unwrap_or(&empty);
    let most = bins.iter().filter_map(|bin| bin["rows"].as_u64()).max().unwrap_or(1).max(1);
    html! {
        svg width="380" height=(bins.len() * 20 + 4) role="img" aria-label="How the values are distributed" {
            @for (row, bin) in bins.iter().enumerate() {
                @let rows = bin["rows"].as_u64().unwrap_or_default();
                @let width = rows * 150 / most;
                text x="0" y=(row * 20 + 15) { (cell(&bin["label"]).chars().take(20).collect::<String>()) }
                rect.bar x="150" y=(row * 20 + 4) width=(width.max(1)) height="13" {}
                text.faint x=(156 + width) y=(row * 20 + 15) { (group(rows)) }
            }
        }
    }
}

async fn sql(service: &Service, real: &std::path::Path, path: &str, call: &Call) -> Result<Markup, Problem> {
    let asked = call.query("q").unwrap_or("SELECT * FROM data LIMIT 20");
    let answer = match call.query("q") {
        None => Ok(Vec::new()),
        Some(query) => {
            service.looking.look(&["inspect"], real, &["--sql".to_owned(), query.to_owned()]).await
        }
    };
    Ok(html! {
        form method="get" action="/data" {
            input type="hidden" name="path" value=(path);
            input type="hidden" name="view" value="sql";
            label { "A query over the table data. It reads nothing else and changes nothing."
                textarea name="q" { (asked) }
            }
            p { button { "Ask" } }
        }
        p.quiet { "Words: SELECT id, text FROM data WHERE text ILIKE '%photosynthesis%' LIMIT 20" }
        @match answer {
            Ok(rows) => { (table(&rows[..rows.len().min(1_000)], None)) }
            Err(problem) => { pre.error { (problem.detail()) } }
        }
    })
}

/// A document's way through the stages of its run.
async fn trace(service: &Service, path: &str, call: &Call) -> Result<Markup, Problem> {
    let id = call.query("id").unwrap_or_default();
    // runs/<workflow>/<name>/<stage>/…
    let run: Vec<&str> = path.split('/').take(3).collect();
    let lines = match (id.is_empty(), run.as_slice()) {
        (false, ["runs", _, _]) => {
            let folder = service.looking.confined(&run.join("/"))?;
            service.looking.look(&["trace"], &folder, &[id.to_owned()]).await
        }
        _ => Ok(Vec::new()),
    };
    Ok(html! {
        form.row method="get" action="/data" {
            input type="hidden" name="path" value=(path);
            input type="hidden" name="view" value="trace";
            label { "Id of a document, topic or prompt" input name="id" size="50" value=(id); }
            button { "Follow" }
        }
        @match lines {
            Ok(lines) => { @for line in &lines { section { h2 { (text(&line["stage"])) } (document(line)) } } }
            Err(problem) => { pre.error { (problem.detail()) } }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::query_for;

    #[test]
    fn names_and_words_cannot_leave_their_quotes() {
        let query = query_for(&["a\"b"], "it's 50%");
        assert!(query.contains("strpos(lower(\"a\"\"b\"), lower('it''s')) > 0) AND (strpos("), "{query}");
        assert!(query.contains("lower('50%')"), "{query}");
    }
}
