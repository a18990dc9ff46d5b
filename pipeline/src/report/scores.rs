//! Educational scores: how they are distributed, by dump, and pages of each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::escape;
use super::outputs::Outputs;
use super::plot::{Bar, bars};
use crate::inspect;
use crate::runner::inputs::schema_of;
use crate::workflow::StageNode;

/// Pages shown of each score.
const SHOWN_PAGES: usize = 2;

/// Characters shown of a page.
const SHOWN_CHARS: usize = 400;

/// Dumps shown one by one, the largest.
const SHOWN_DUMPS: usize = 8;

/// Adds the distribution over all pages, that of each dump, and samples.
pub async fn write(page: &mut String, outputs: &Outputs, node: &StageNode) -> std::fmt::Result {
    let scored = [("scored", node.id.as_str())];
    let columns = columns(&outputs.stage(&node.id));
    let by_dump = columns.iter().any(|name| name == "dump");
    let dump = if by_dump { "dump" } else { "''" };
    let sql = format!(
        "SELECT {dump} AS d, int_score, count(*) FROM scored GROUP BY d, int_score ORDER BY d, int_score"
    );
    let Some(rows) = outputs.query(&scored, &sql).await else { return Ok(()) };
    let (mut all, mut dumps): (BTreeMap<i64, f64>, BTreeMap<String, Vec<Bar>>) = Default::default();
    for (dump, score, pages) in rows.map(|row| (row.text(0), row.number(1) as i64, row.number(2))) {
        *all.entry(score).or_default() += pages;
        dumps.entry(dump).or_default().push(Bar { label: score.to_string(), value: pages });
    }
    page.push_str("<h3>Pages by educational score</h3>");
    let bar = |(score, pages): (i64, f64)| Bar { label: score.to_string(), value: pages };
    page.push_str(&bars(&all.into_iter().map(bar).collect::<Vec<_>>()));
    if dumps.len() > 1 {
        let pages = |bars: &[Bar]| bars.iter().map(|bar| bar.value).sum::<f64>();
        let mut dumps: Vec<(String, Vec<Bar>)> = dumps.into_iter().collect();
        dumps.sort_by(|a, b| pages(&b.1).total_cmp(&pages(&a.1)).then_with(|| a.0.cmp(&b.0)));
        for (dump, of_dump) in dumps.iter().take(SHOWN_DUMPS) {
            write!(page, "<h4>{}</h4>{}", escape(dump), bars(of_dump))?;
        }
    }
    let text = node.config["text_column"].as_str().unwrap_or("text");
    let id = node.config["id_column"].as_str().unwrap_or("id");
    if columns.iter().any(|name| name == text) {
        write_samples(page, outputs, &scored, id, text).await?;
    }
    Ok(())
}

fn columns(stage: &Path) -> Vec<String> {
    let files = inspect::parquet_files(stage).unwrap_or_default();
    let schema = files.first().and_then(|(path, _)| schema_of(path).ok());
    schema.iter().flat_map(|schema| schema.fields().iter().map(|field| field.name().clone())).collect()
}

async fn write_samples(
    page: &mut String,
    outputs: &Outputs,
    scored: &[(&str, &str)],
    id: &str,
    text: &str,
) -> std::fmt::Result {
    // The first pages by id: ids are digests or addresses, so these are as good as any.
    let sql = format!(
        "SELECT int_score, score, \"{id}\", substr(\"{text}\", 1, {SHOWN_CHARS}) FROM \
           (SELECT *, row_number() OVER (PARTITION BY int_score ORDER BY \"{id}\") AS place FROM scored) \
         WHERE place <= {SHOWN_PAGES} ORDER BY int_score DESC, place"
    );
    let Some(rows) = outputs.query(scored, &sql).await else { return Ok(()) };
    page.push_str("<details><summary>Pages of each score</summary>");
    for (score, raw, id, text) in rows.map(|row| (row.text(0), row.number(1), row.text(2), row.text(3))) {
        write!(
            page,
            "<dl class=\"row\"><dt>{score}</dt><dd>{raw:.2} · {}</dd><dt>text</dt><dd><pre>{}</pre></dd></dl>",
            escape(&id),
            escape(&text)
        )?;
    }
    page.push_str("</details>");
    Ok(())
}
