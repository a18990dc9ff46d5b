//! Clusters of duplicates: their sizes, and the largest with what was kept.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape;
use super::outputs::Outputs;
use super::plot::{Bar, bars};
use crate::manifest::Manifest;
use crate::runner::progress::group;
use crate::workflow::StageNode;

/// Clusters shown one by one.
const SHOWN_CLUSTERS: usize = 5;

/// Characters shown of a kept text.
const SHOWN_CHARS: usize = 600;

/// Above this many rows the clusters are left out: the page reads all of them.
const MOST_ROWS: u64 = 5_000_000;

/// Adds the share removed and, where the dropped rows were kept, the clusters.
pub async fn write(
    page: &mut String,
    outputs: &Outputs,
    node: &StageNode,
    manifest: &Manifest,
) -> std::fmt::Result {
    let dropped: u64 = manifest.dropped.values().sum();
    let share = dropped as f64 / manifest.rows_in.max(1) as f64;
    write!(
        page,
        "<p>{} of {} rows removed ({:.2} %).</p>",
        group(dropped),
        group(manifest.rows_in),
        100.0 * share
    )?;
    let side_table = format!("{}/dropped", node.id);
    if dropped == 0 || manifest.rows_in > MOST_ROWS || !outputs.stage(&side_table).is_dir() {
        return Ok(());
    }
    let sql = "SELECT split_part(detail, ' is kept', 1) AS kept, count(*) + 1 AS rows, min(id) AS other \
               FROM lost GROUP BY kept ORDER BY rows DESC, kept";
    let Some(clusters) = outputs.query(&[("lost", &side_table)], sql).await else { return Ok(()) };
    let clusters = clusters.map(|row| (row.text(0), row.number(1) as u64, row.text(2)));
    page.push_str("<h3>Clusters by their number of rows</h3>");
    page.push_str(&bars(&sizes(clusters.iter().map(|(_, rows, _)| *rows))));
    let largest = &clusters[..clusters.len().min(SHOWN_CLUSTERS)];
    let texts = texts(outputs, node, largest.iter().map(|(kept, ..)| kept.as_str())).await;
    page.push_str("<details><summary>The largest clusters</summary>");
    for (kept, rows, other) in largest {
        write!(
            page,
            "<dl class=\"row\"><dt>{} rows</dt><dd>{} is kept, {} is among the others</dd>",
            group(*rows),
            escape(kept),
            escape(other)
        )?;
        if let Some(text) = texts.get(kept) {
            write!(page, "<dt>text</dt><dd><pre>{}</pre></dd>", escape(text))?;
        }
        page.push_str("</dl>");
    }
    page.push_str("</details>");
    Ok(())
}

/// How many clusters have 2, 3–4, 5–8, 9–16 … rows.
fn sizes(rows: impl Iterator<Item = u64>) -> Vec<Bar> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for rows in rows {
        *counts.entry(rows.next_power_of_two()).or_insert(0) += 1;
    }
    let bar = |(most, clusters): (u64, u64)| {
        let label = if most <= 2 { most.to_string() } else { format!("{}–{most}", most / 2 + 1) };
        Bar { label, value: clusters as f64 }
    };
    counts.into_iter().map(bar).collect()
}

/// The beginnings of the kept rows' texts, by id.
async fn texts<'a>(
    outputs: &Outputs,
    node: &StageNode,
    ids: impl Iterator<Item = &'a str>,
) -> BTreeMap<String, String> {
    let column = |field: &str| node.config.get(field).and_then(|name| name.as_str());
    let text = column("text_column").or_else(|| column("column")).or_else(|| column("url_column"));
    let (Some(id), Some(text)) = (column("id_column"), text) else { return BTreeMap::new() };
    let ids: Vec<String> = ids.map(|id| format!("'{}'", id.replace('\'', "''"))).collect();
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let sql = format!(
        "SELECT CAST({0} AS VARCHAR), left({1}, {SHOWN_CHARS}) FROM data WHERE CAST({0} AS VARCHAR) IN ({2})",
        quote(id),
        quote(text),
        ids.join(", ")
    );
    let rows = outputs.query(&[("data", &node.id)], &sql).await;
    rows.map(|rows| rows.map(|row| (row.text(0), row.text(1)))).unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn sizes_are_counted_by_powers_of_two() {
        let bars = sizes([2, 2, 3, 4, 5, 8, 9, 16, 17].into_iter());
        let bars: Vec<(&str, f64)> = bars.iter().map(|bar| (bar.label.as_str(), bar.value)).collect();
        assert_eq!(bars, [("2", 2.0), ("3–4", 2.0), ("5–8", 2.0), ("9–16", 2.0), ("17–32", 1.0)]);
    }
}
