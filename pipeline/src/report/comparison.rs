//! What variants of a recipe come to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value as Json;

use super::escape;
use super::plot::{Bar, bars};
use crate::stages::COMPARISON_FILE;

/// Adds a table of all figures and, of each accuracy, a plot of the means.
pub fn write(page: &mut String, folder: &Path) -> std::fmt::Result {
    let text = std::fs::read_to_string(folder.join(COMPARISON_FILE)).unwrap_or_default();
    let comparison: BTreeMap<String, BTreeMap<String, Json>> =
        serde_json::from_str(&text).unwrap_or_default();
    let Some(variants) = comparison.values().next() else { return Ok(()) };
    page.push_str("<h3>Figures, mean and standard deviation over seeds</h3><table><thead><tr><th></th>");
    for variant in variants.keys() {
        write!(page, "<th>{}</th>", escape(variant))?;
    }
    page.push_str("</tr></thead><tbody>");
    for (figure, spreads) in &comparison {
        write!(page, "<tr><td>{}</td>", escape(figure))?;
        for spread in spreads.values() {
            let mean = spread["mean"].as_f64().unwrap_or(f64::NAN);
            let deviation = spread["deviation"].as_f64();
            let deviation = deviation.map(|deviation| format!(" ± {deviation:.4}")).unwrap_or_default();
            write!(page, "<td class=\"n\">{mean:.4}{deviation}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table>");
    let is_shown = |figure: &str| figure.ends_with("acc_norm") || figure.ends_with("bits_per_byte");
    for (figure, spreads) in comparison.iter().filter(|(figure, _)| is_shown(figure)) {
        let bar = |(variant, spread): (&String, &Json)| Bar {
            label: variant.clone(),
            value: (spread["mean"].as_f64().unwrap_or_default() * 1e4).round() / 1e4,
        };
        write!(page, "<h3>{}</h3>{}", escape(figure), bars(&spreads.iter().map(bar).collect::<Vec<_>>()))?;
    }
    Ok(())
}
