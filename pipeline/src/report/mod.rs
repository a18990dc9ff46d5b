//! One self-contained HTML page a run: figures, plots and samples. No scripts, nothing from outside.

mod clusters;
mod comparison;
mod duplicates;
mod generated;
mod generators;
mod learning;
mod mixture;
mod outputs;
pub mod plot;
mod samples;
mod scaling_law;
mod scores;
mod topics;
mod training;

use std::fmt::Write;

use serde_json::Value as Json;

use crate::manifest::Manifest;
use crate::runner::Summary;
use crate::runner::progress::{group, size};
use crate::workflow::{StageNode, Workflow};
use outputs::Outputs;
use plot::{Bar, bars};

const STYLE: &str = include_str!("report.css");

/// Renders the page.
///
/// # Errors
/// An output that the page shows cannot be read.
pub async fn render(workflow: &Workflow, summary: &Summary) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    let title = format!("{} · {}", workflow.name, workflow.profile);
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><main>\
         <h1>{0}</h1><p>{1}</p>",
        escape(&title),
        escape(&workflow.description)
    )?;
    write_table(&mut page, workflow, summary)?;
    let outputs = Outputs::new(&summary.folder);
    for (id, status) in &summary.stages {
        let node = workflow.stages.iter().find(|node| node.id == *id);
        if let (Some(node), Some(manifest)) = (node, status.manifest()) {
            write_stage(&mut page, workflow, node, manifest, &outputs).await?;
        }
    }
    page.push_str("</main></body></html>\n");
    Ok(page)
}

fn write_table(page: &mut String, workflow: &Workflow, summary: &Summary) -> std::fmt::Result {
    page.push_str(
        "<table><thead><tr><th>stage</th><th>reads</th><th>rows in</th><th>rows out</th><th>seconds</th>\
         <th>peak memory</th><th>dropped and failed</th></tr></thead><tbody>",
    );
    for (id, status) in &summary.stages {
        let node = workflow.stages.iter().find(|node| node.id == *id);
        let reads = node.map(|node| node.upstream().join(", ")).unwrap_or_default();
        let Some(manifest) = status.manifest() else {
            write!(
                page,
                "<tr><td>{id}</td><td>{reads}</td><td colspan=\"5\">fused into its readers</td></tr>"
            )?;
            continue;
        };
        let lost = manifest.dropped.iter().chain(&manifest.quarantined);
        let lost = lost.map(|(reason, rows)| format!("{} {}", escape(reason), group(*rows)));
        write!(
            page,
            "<tr><td><a href=\"#{id}\">{id}</a></td><td>{reads}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{:.1}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            if manifest.rows_in > 0 { group(manifest.rows_in) } else { String::new() },
            group(manifest.rows_out),
            manifest.seconds,
            size(manifest.peak_memory_bytes),
            lost.collect::<Vec<_>>().join(", ")
        )?;
    }
    page.push_str("</tbody></table>");
    Ok(())
}

async fn write_stage(
    page: &mut String,
    workflow: &Workflow,
    node: &StageNode,
    manifest: &Manifest,
    outputs: &Outputs,
) -> std::fmt::Result {
    let folder = &outputs.stage(&node.id);
    let (id, kind) = (&node.id, node.kind.name);
    write!(
        page,
        "<section id=\"{id}\"><h2>{id} <small>{kind}</small></h2><p>{}</p>",
        escape(node.kind.summary)
    )?;
    let lost: Vec<Bar> = manifest
        .dropped
        .iter()
        .chain(&manifest.quarantined)
        .map(|(reason, rows)| Bar { label: reason.clone(), value: *rows as f64 })
        .collect();
    if !lost.is_empty() {
        page.push_str("<h3>Lost rows by reason</h3>");
        page.push_str(&bars(&lost));
    }
    match kind {
        "topics" => histogram(page, outputs, &node.id, "top_category", "Topics by top category").await,
        "score" => scores::write(page, outputs, node).await?,
        "retrieve" => {
            histogram(page, outputs, &node.id, "matched", "Pages by the query that found them").await;
            topics::write(page, outputs, node).await?;
        }
        "cluster" => clusters::write(page, outputs, workflow, node).await?,
        "minhash" | "exact_dedup" | "url_dedup" => duplicates::write(page, outputs, node, manifest).await?,
        "clean" => generated::write(page, outputs, node, manifest).await?,
        "prompts" => {
            histogram(page, outputs, &node.id, "audience", "Prompts by audience").await;
            histogram(page, outputs, &node.id, "style", "Prompts by style").await;
        }
        "generate" => histogram(page, outputs, &node.id, "finish_reason", "Answers by their end").await,
        "mix" => mixture::write(page, outputs, node, manifest).await?,
        "compare" => generators::write(page, outputs, node).await?,
        "compare_models" => comparison::write(page, folder)?,
        "scaling_law" => scaling_law::write(page, folder)?,
        "train_classifier" => training::write(page, folder)?,
        "pretrain" | "sft" | "dpo" => learning::write(page, folder),
        "evaluate" => learning::write_samples(page, folder),
        _ => {}
    }
    if !manifest.metrics.is_empty() {
        page.push_str("<h3>Figures</h3><dl>");
        for (name, value) in &manifest.metrics {
            let value = match value {
                Json::String(text) => text.clone(),
                other => format!("{other:#}"),
            };
            write!(page, "<dt>{}</dt><dd><pre>{}</pre></dd>", escape(name), escape(&value))?;
        }
        page.push_str("</dl>");
    }
    if let Some(rows) = samples::first_rows(folder, manifest) {
        page.push_str("<details><summary>Sample rows</summary>");
        for row in rows {
            page.push_str("<dl class=\"row\">");
            for (column, cell) in row {
                write!(page, "<dt>{}</dt><dd><pre>{}</pre></dd>", escape(&column), escape(&cell))?;
            }
            page.push_str("</dl>");
        }
        page.push_str("</details>");
    }
    page.push_str("</section>");
    Ok(())
}

async fn histogram(page: &mut String, outputs: &Outputs, stage: &str, column: &str, title: &str) {
    let counts = samples::counts(outputs, stage, column).await;
    if !counts.is_empty() {
        let counts: Vec<Bar> =
            counts.into_iter().map(|(label, rows)| Bar { label, value: rows as f64 }).collect();
        page.push_str(&format!("<h3>{}</h3>", escape(title)));
        page.push_str(&bars(&counts));
    }
}

/// Makes text safe inside HTML: outputs hold whatever the web held.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn markup_in_data_stays_text() {
        assert_eq!(escape("<script>\"&\u{0}"), "&lt;script&gt;&quot;&amp;\u{fffd}");
    }
}
