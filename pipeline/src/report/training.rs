//! A trained classifier: its curve of precision and recall.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value as Json;

use super::plot::line;
use crate::stages::TRAIN_REPORT_FILE;

/// Adds the curves, on the pages held out and in cross-validation.
pub fn write(page: &mut String, folder: &Path) -> std::fmt::Result {
    let text = std::fs::read_to_string(folder.join(TRAIN_REPORT_FILE)).unwrap_or_default();
    let report: Json = serde_json::from_str(&text).unwrap_or_default();
    for (field, of) in
        [("held_out_curve", "on the pages held out"), ("cross_validated_curve", "in cross-validation")]
    {
        let curve = &report[field];
        let points: Vec<(f64, f64)> = curve["curve"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|point| Some((point["recall"].as_f64()?, point["precision"].as_f64()?)))
            .collect();
        if points.len() > 1 {
            let precision = curve["average_precision"].as_f64().unwrap_or_default();
            write!(
                page,
                "<h3>Precision by recall {of}</h3><p>Scores from {} count as positive: {} pages; \
                 average precision {precision:.3}.</p>{}",
                curve["positive_from"],
                curve["positives"],
                line(&points)
            )?;
        }
    }
    Ok(())
}
