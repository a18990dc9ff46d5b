//! What each subset gives to a corpus.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape;
use super::outputs::Outputs;
use super::plot::{Bar, bars};
use crate::manifest::Manifest;
use crate::runner::progress::{group, size};
use crate::stages::Given;
use crate::workflow::StageNode;

/// A subset in the corpus.
struct Present {
    subset: String,
    documents: u64,
    distinct: u64,
    heldout: u64,
    bytes: u64,
}

/// Adds a table of the subsets: what their stages have, and what the corpus has of it.
pub async fn write(
    page: &mut String,
    outputs: &Outputs,
    node: &StageNode,
    manifest: &Manifest,
) -> std::fmt::Result {
    write_tokens(page, manifest)?;
    let sql = "SELECT subset, count(*), count(DISTINCT id), sum(CASE WHEN split = 'heldout' THEN 1 ELSE 0 END), \
                 sum(octet_length(text)) FROM corpus GROUP BY subset ORDER BY subset";
    let Some(rows) = outputs.query(&[("corpus", &node.id)], sql).await else { return Ok(()) };
    let given = rows.map(|row| Present {
        subset: row.text(0),
        documents: row.number(1) as u64,
        distinct: row.number(2) as u64,
        heldout: row.number(3) as u64,
        bytes: row.number(4) as u64,
    });
    let sources = source_rows(outputs, node);
    let all = given.iter().map(|given| given.bytes).sum::<u64>().max(1) as f64;
    page.push_str(
        "<h3>What the subsets give</h3><table><thead><tr><th>subset</th><th>rows of its stage</th>\
         <th>documents of these</th><th>documents, repeats counted</th><th>epochs</th><th>held out</th>\
         <th>text</th><th>share</th></tr></thead><tbody>",
    );
    for Present { subset, documents, distinct, heldout, bytes } in &given {
        let epochs = (documents - heldout) as f64 / (distinct.saturating_sub(*heldout)).max(1) as f64;
        let of_stage = sources.get(subset).map(|rows| group(*rows)).unwrap_or_default();
        write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{of_stage}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{epochs:.2}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{:.1} %</td></tr>",
            escape(subset),
            group(*distinct),
            group(*documents),
            group(*heldout),
            size(*bytes),
            100.0 * *bytes as f64 / all
        )?;
    }
    page.push_str("</tbody></table><h3>Text by subset, in megabytes</h3>");
    let bar = |given: &Present| Bar { label: given.subset.clone(), value: given.bytes as f64 / 1e6 };
    page.push_str(&bars(&given.iter().map(bar).collect::<Vec<_>>()));
    Ok(())
}

/// A table of the tokens before and after, of a mixture by weights.
fn write_tokens(page: &mut String, manifest: &Manifest) -> std::fmt::Result {
    let given = Given::read(&manifest.metrics);
    if given.is_empty() {
        return Ok(());
    }
    let all = given.values().map(|given| given.tokens_taken).sum::<u64>().max(1) as f64;
    page.push_str(
        "<h3>Tokens by subset</h3><table><thead><tr><th>subset</th><th>weight</th><th>documents before</th>\
         <th>tokens before</th><th>documents taken</th><th>tokens taken</th><th>share</th><th>epochs</th></tr>\
         </thead><tbody>",
    );
    for (subset, given) in &given {
        write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td><td class=\"n\">{:.2}</td></tr>",
            escape(subset),
            given.weight,
            group(given.documents),
            group(given.tokens),
            group(given.documents_taken),
            group(given.tokens_taken),
            100.0 * given.tokens_taken as f64 / all,
            given.epochs(),
        )?;
    }
    page.push_str("</tbody></table>");
    Ok(())
}

/// Rows of the stage behind each subset.
fn source_rows(outputs: &Outputs, node: &StageNode) -> BTreeMap<String, u64> {
    let subsets = node.config["subsets"].as_object();
    let rows = |stage: &str| Manifest::read(&outputs.stage(stage)).ok().flatten().map(|found| found.rows_out);
    let of = |(name, subset): (&String, &serde_json::Value)| {
        Some((name.clone(), rows(subset["stage"].as_str()?)?))
    };
    subsets.into_iter().flatten().filter_map(of).collect()
}
