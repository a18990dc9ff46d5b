//! Generators on the same prompts, side by side.

use std::fmt::Write;

use super::escape;
use super::outputs::{Outputs, Row};
use super::plot::{Bar, bars};
use crate::runner::progress::group;
use crate::workflow::StageNode;

/// How a figure is written.
#[derive(Clone, Copy)]
enum Form {
    Number,
    Share,
    Score,
    Dollars,
}

/// The figures, a line each: the column, its words, its form.
const FIGURES: [(&str, &str, Form); 17] = [
    ("documents", "answers", Form::Number),
    ("tokens_mean", "tokens, mean", Form::Number),
    ("tokens_p50", "tokens, median", Form::Number),
    ("tokens_p95", "tokens, 95th of 100", Form::Number),
    ("cut_share", "cut by the length limit", Form::Share),
    ("refusal_share", "refusals", Form::Share),
    ("repetition_share", "repetitions", Form::Share),
    ("near_duplicate_share", "near-duplicates", Form::Share),
    ("kept", "kept by the clean-up", Form::Number),
    ("kept_share", "share kept", Form::Share),
    ("edu_score_mean", "educational score, mean", Form::Score),
    ("edu_share", "with a score of 3 and more", Form::Share),
    ("prompt_tokens", "prompt tokens", Form::Number),
    ("completion_tokens", "answer tokens", Form::Number),
    ("usd", "US$", Form::Dollars),
    ("latency_ms_mean", "milliseconds an answer", Form::Number),
    ("usd_per_kept", "US$ for 1,000 documents kept", Form::Dollars),
];

/// Adds to the section of a `compare` stage a table with a column for each generator, and plots of what is
/// kept and how good it is.
pub async fn write(page: &mut String, outputs: &Outputs, node: &StageNode) -> std::fmt::Result {
    let columns: Vec<&str> = FIGURES.iter().map(|(column, ..)| *column).collect();
    let sql = format!(
        "SELECT generator, model, {} FROM (SELECT *, CASE WHEN kept > 0 THEN 1000.0 * usd / kept END AS \
         usd_per_kept FROM figures) ORDER BY generator",
        columns.join(", ")
    );
    let Some(rows) = outputs.query(&[("figures", &node.id)], &sql).await else { return Ok(()) };
    let generators = rows.map(|row| (row.text(0), row.text(1), figures(row)));
    page.push_str("<h3>Side by side</h3><table><thead><tr><th></th>");
    for (generator, model, _) in &generators {
        write!(page, "<th>{}<br><small>{}</small></th>", escape(generator), escape(model))?;
    }
    page.push_str("</tr></thead><tbody>");
    for (line, (_, words, form)) in FIGURES.iter().enumerate() {
        if generators.iter().all(|(.., figures)| figures[line].is_none()) {
            continue;
        }
        write!(page, "<tr><td>{words}</td>")?;
        for (.., figures) in &generators {
            write!(
                page,
                "<td class=\"n\">{}</td>",
                figures[line].map(|value| form.of(value)).unwrap_or_default()
            )?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table>");
    for column in ["kept_share", "edu_score_mean"] {
        let Some(line) = FIGURES.iter().position(|(name, ..)| *name == column) else { continue };
        let bar = |(generator, _, figures): &(String, String, Vec<Option<f64>>)| {
            let value = (figures[line]? * 1000.0).round() / 1000.0;
            Some(Bar { label: generator.clone(), value })
        };
        let plotted: Vec<Bar> = generators.iter().filter_map(bar).collect();
        if !plotted.is_empty() {
            write!(page, "<h3>{}</h3>{}", FIGURES[line].1, bars(&plotted))?;
        }
    }
    Ok(())
}

/// The figures of one generator; none where no stage gave one.
fn figures(row: &Row<'_>) -> Vec<Option<f64>> {
    // Behind the generator's name and its model's.
    let of = |line: usize| (!row.text(line + 2).is_empty()).then(|| row.number(line + 2));
    (0..FIGURES.len()).map(of).collect()
}

impl Form {
    fn of(self, value: f64) -> String {
        match self {
            Self::Number => group(value.round() as u64),
            Self::Share => format!("{:.1} %", 100.0 * value),
            Self::Score => format!("{value:.2}"),
            Self::Dollars => format!("{value:.4}"),
        }
    }
}
