//! A scaling law beside the runs that it is fitted to.

use std::fmt::Write;
use std::path::Path;

use model::scaling_law::{Law, MOST_EXPONENT, Point};
use serde_json::Value as Json;

use super::plot::line;
use crate::runner::progress::group;
use crate::stages::LAW_FILE;

/// Places at which the law's curve is drawn.
const PLACES: usize = 60;

/// Adds the runs with what the law says of them, and its curve over tokens for each size.
pub fn write(page: &mut String, folder: &Path) -> std::fmt::Result {
    let text = std::fs::read_to_string(folder.join(LAW_FILE)).unwrap_or_default();
    let file: Json = serde_json::from_str(&text).unwrap_or_default();
    let runs: Vec<Point> = serde_json::from_value(file["runs"].clone()).unwrap_or_default();
    let Ok(law) = serde_json::from_value::<Law>(file["fit"]["law"].clone()) else { return Ok(()) };
    page.push_str(
        "<h3>Runs and law</h3><table><thead><tr><th>parameters</th><th>tokens</th><th>held-out loss</th>\
         <th>the law's</th></tr></thead><tbody>",
    );
    for run in &runs {
        let (parameters, tokens) = (group(run.parameters as u64), group(run.tokens as u64));
        let said = law.loss(run.parameters, run.tokens);
        write!(
            page,
            "<tr><td class=\"n\">{parameters}</td><td class=\"n\">{tokens}</td><td class=\"n\">{:.4}</td>\
             <td class=\"n\">{said:.4}</td></tr>",
            run.loss
        )?;
    }
    page.push_str("</tbody></table>");
    if law.parameters.is_some_and(|term| term.exponent > 0.99 * MOST_EXPONENT) {
        page.push_str(
            "<p>The sizes hardly differ in loss after so few tokens: of parameters these runs say nothing.</p>",
        );
    }
    let mut sizes: Vec<f64> = runs.iter().map(|run| run.parameters).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let ends =
        runs.iter().fold((f64::MAX, 0.0_f64), |(low, high), run| (low.min(run.tokens), high.max(run.tokens)));
    let step = (ends.1 / ends.0).powf(1.0 / PLACES as f64);
    for size in sizes {
        let tokens = (0..=PLACES).map(|place| ends.0 * step.powi(place as i32));
        let curve: Vec<(f64, f64)> = tokens.map(|tokens| (tokens.round(), law.loss(size, tokens))).collect();
        let size = group(size as u64);
        write!(page, "<h3>The law's loss by tokens, at {size} parameters</h3>{}", line(&curve))?;
    }
    Ok(())
}
