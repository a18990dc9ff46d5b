//! What became of generated texts, and samples of each format.

use std::fmt::Write;

use super::escape;
use super::outputs::Outputs;
use super::plot::{Bar, bars};
use crate::inspect::generated::{BIN_TOKENS, GroupStatistics, of_run};
use crate::manifest::Manifest;
use crate::runner::progress::group;
use crate::workflow::StageNode;

/// Texts shown of a format.
const SAMPLES: usize = 20;

/// Texts looked at for the samples, over all formats.
const LOOKED_AT: u64 = 20_000;

/// Adds to the section of a `clean` stage: kept and dropped by audience and format, the lengths of
/// what was kept, and samples.
pub async fn write(
    page: &mut String,
    outputs: &Outputs,
    node: &StageNode,
    manifest: &Manifest,
) -> std::fmt::Result {
    let Some(generate) = node.inputs.get("generated").and_then(|ids| ids.first()) else { return Ok(()) };
    match of_run(outputs.session(), &outputs.stage(generate), &outputs.stage(&node.id)).await {
        Ok(groups) => {
            write_groups(page, &groups)?;
            write_lengths(page, &groups);
        }
        Err(error) => tracing::warn!(%error, "the statistics of {} are left out", node.id),
    }
    write_samples(page, outputs, node, manifest.rows_out).await
}

fn write_groups(page: &mut String, groups: &[GroupStatistics]) -> std::fmt::Result {
    page.push_str(
        "<h3>By audience and format</h3><table><thead><tr><th>audience</th><th>format</th><th>generated</th>\
         <th>kept</th><th>mean tokens</th><th>dropped</th></tr></thead><tbody>",
    );
    for statistics in groups {
        let dropped: Vec<String> = statistics
            .dropped
            .iter()
            .map(|(reason, n)| format!("{} {}", escape(reason), group(*n)))
            .collect();
        write!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td>{}</td></tr>",
            escape(&statistics.audience),
            escape(&statistics.format),
            group(statistics.generated),
            group(statistics.kept),
            statistics.mean_tokens.map(|mean| format!("{mean:.0}")).unwrap_or_default(),
            dropped.join(", ")
        )?;
    }
    page.push_str("</tbody></table>");
    Ok(())
}

/// The histograms of all groups, laid over each other.
fn write_lengths(page: &mut String, groups: &[GroupStatistics]) {
    let mut lengths = std::collections::BTreeMap::new();
    for (from, texts) in groups.iter().flat_map(|statistics| &statistics.histogram) {
        *lengths.entry(*from).or_insert(0) += texts;
    }
    let bar = |(from, texts): (u32, u64)| Bar {
        label: format!("{from}–{} tokens", from + BIN_TOKENS - 1),
        value: texts as f64,
    };
    page.push_str("<h3>Lengths of the texts kept</h3>");
    page.push_str(&bars(&lengths.into_iter().map(bar).collect::<Vec<_>>()));
}

/// Ids are hashes, so a range of them is a sample; the whole table need not be sorted.
async fn write_samples(
    page: &mut String,
    outputs: &Outputs,
    node: &StageNode,
    texts: u64,
) -> std::fmt::Result {
    let share = (LOOKED_AT as f64 / texts.max(1) as f64).min(1.0);
    let last = format!("{:08x}", (share * f64::from(u32::MAX)) as u32);
    let sql = format!(
        "SELECT format, audience, text FROM (SELECT format, audience, text, \
           row_number() OVER (PARTITION BY format ORDER BY id) AS place FROM texts \
           WHERE left(id, 8) <= '{last}') WHERE place <= {SAMPLES} ORDER BY format, place"
    );
    let Some(rows) = outputs.query(&[("texts", &node.id)], &sql).await else { return Ok(()) };
    let samples = rows.map(|row| (row.text(0), row.text(1), row.text(2)));
    for format in samples.chunk_by(|a, b| a.0 == b.0) {
        write!(page, "<details><summary>{} samples: {}</summary>", format.len(), escape(&format[0].0))?;
        for (_, audience, text) in format {
            write!(
                page,
                "<dl class=\"row\"><dt>{}</dt><dd><pre>{}</pre></dd></dl>",
                escape(audience),
                escape(text)
            )?;
        }
        page.push_str("</details>");
    }
    Ok(())
}
