//! `pipeline diff`: what became different between two runs.

use serde_json::Value as Json;

use super::Failure;
use crate::cli::DiffArgs;
use crate::inspect::diff::{Both, StageDiff, State, diff};
use crate::inspect::distribution::Distribution;
use crate::inspect::rows_diff::Ids;
use crate::runner::progress::group;

/// Compares two runs.
///
/// # Errors
/// A folder is no run, or a file of it cannot be read.
pub fn run(args: &DiffArgs) -> Result<(), Failure> {
    let ignored = args.ignore.iter().cloned().collect();
    let stages = diff(&args.first, &args.second, &ignored)
        .map_err(|message| Failure::message(message, "give two folders such as runs/cosmopedia_v2/sample"))?;
    for stage in &stages {
        if args.json {
            println!("{}", serde_json::json!(stage));
        } else if stage.state != State::Same {
            show(stage);
        }
    }
    if !args.json {
        let same = stages.iter().filter(|stage| stage.state == State::Same).count();
        println!("{same} of {} stages are the same", stages.len());
    }
    Ok(())
}

fn show(stage: &StageDiff) {
    let [first, second] = stage.rows.map(group);
    match stage.state {
        State::OnlyFirst => println!("{}: only in the first run, {first} rows", stage.stage),
        State::OnlySecond => println!("{}: only in the second run, {second} rows", stage.stage),
        _ => println!("{}: {first} → {second} rows", stage.stage),
    }
    for (path, both) in &stage.settings {
        println!("    setting  {path}: {}", both_of(both, Json::to_string));
    }
    if let Some(changes) = &stage.changes {
        for (what, ids) in
            [("added", &changes.added), ("removed", &changes.removed), ("changed", &changes.changed)]
        {
            show_ids(what, ids);
        }
        println!("    same     {} rows", group(changes.same));
    }
    for (reason, both) in &stage.lost {
        println!("    lost     {reason}: {}", both_of(both, |rows| group(*rows)));
    }
    for (column, [first, second]) in &stage.columns {
        let (first, second) = (figures(first), figures(second));
        if first != second {
            println!("    column   {column}: {first} → {second}");
        }
    }
}

fn both_of<T>(both: &Both<T>, text: impl Fn(&T) -> String) -> String {
    let [first, second] = both;
    format!("{} → {}", text(first), text(second))
}

fn show_ids(what: &str, ids: &Ids) {
    if ids.rows > 0 {
        let more = if ids.rows > ids.examples.len() as u64 { ", …" } else { "" };
        println!("    {what:<8} {} rows: {}{more}", group(ids.rows), ids.examples.join(", "));
    }
}

/// `mean 12.5 (p10 3, p50 12, p90 20), 1 null`.
fn figures(of: &Distribution) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
    let nulls = if of.nulls > 0 { format!(", {} null", group(of.nulls)) } else { String::new() };
    let [mean, p10, p50, p90] = [of.mean, of.p10, of.p50, of.p90].map(number);
    format!("mean {mean} (p10 {p10}, p50 {p50}, p90 {p90}){nulls}")
}

/// Four digits that count.
fn short(value: f64) -> String {
    let whole_digits = value.abs().max(1.0).log10().floor() as i32;
    let scale = 10_f64.powi((3 - whole_digits).max(0));
    format!("{}", (value * scale).round() / scale)
}
