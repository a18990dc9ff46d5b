//! Drawings of a run: the graph of its stages, and when each worked.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{duration, group};
use crate::run::{Run, StageProgress, StageShape, StageState};

const BOX_WIDTH: i32 = 168;
const BOX_HEIGHT: i32 = 44;
const GAP_X: i32 = 40;
const GAP_Y: i32 = 16;

/// The class of a state.
pub(super) fn state_name(state: StageState) -> &'static str {
    match state {
        StageState::Waiting => "waiting",
        StageState::Running => "running",
        StageState::Done => "done",
        StageState::UpToDate => "up_to_date",
        StageState::Ended => "ended",
    }
}

/// The graph, in columns from left to right: a stage stands right of all that it reads.
pub(super) fn graph(run: &Run) -> Markup {
    let places = places(&run.stages);
    let most = |pick: fn(&(i32, i32)) -> i32| places.values().map(pick).max().unwrap_or(0) + 1;
    let width = most(|place| place.0) * (BOX_WIDTH + GAP_X);
    let height = most(|place| place.1) * (BOX_HEIGHT + GAP_Y);
    let corner = |id: &str| {
        let (column, row) = places.get(id).copied().unwrap_or_default();
        (column * (BOX_WIDTH + GAP_X) + 4, row * (BOX_HEIGHT + GAP_Y) + 4)
    };
    let edge = |from: &str, to: &str| {
        let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
        let (x1, y1, y2) = (x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2);
        let middle = x2 - GAP_X / 2;
        format!("M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}")
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label="The graph of the stages" {
            svg width=(width) height=(height) role="img" aria-label="Stages and what each reads; the table below says the same" {
                @for stage in &run.stages {
                    @for from in &stage.reads {
                        path.edge d=(edge(from, &stage.id)) {}
                    }
                }
                @for stage in &run.stages {
                    @let (x, y) = corner(&stage.id);
                    @let progress = run.progress.get(&stage.id);
                    @let state = progress.map_or(StageState::Waiting, |progress| progress.state);
                    rect class={ "box " (state_name(state)) } x=(x) y=(y) width=(BOX_WIDTH) height=(BOX_HEIGHT) rx="5" {}
                    text x=(x + 10) y=(y + 18) { (shortened(&stage.id)) }
                    text.faint x=(x + 10) y=(y + 34) { (under(progress)) }
                }
            }
        }
    }
}

fn under(progress: Option<&StageProgress>) -> String {
    match progress {
        None => "waits".to_owned(),
        Some(progress) => match progress.state {
            StageState::Waiting => "waits".to_owned(),
            StageState::Running if progress.total_rows > 0 => {
                format!("{} of {}", group(progress.rows), group(progress.total_rows))
            }
            StageState::Running => format!("{} rows so far", group(progress.rows)),
            StageState::Done | StageState::UpToDate => format!("{} rows", group(progress.rows_out)),
            StageState::Ended => "stopped".to_owned(),
        },
    }
}

fn shortened(text: &str) -> String {
    const MOST: usize = 22;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}

/// Column and row of each stage.
fn places(stages: &[StageShape]) -> BTreeMap<&str, (i32, i32)> {
    let mut places: BTreeMap<&str, (i32, i32)> = BTreeMap::new();
    let mut filled: BTreeMap<i32, i32> = BTreeMap::new();
    for stage in stages {
        let before = stage.reads.iter().filter_map(|id| places.get(id.as_str())).map(|place| place.0);
        let column = before.max().map_or(0, |column| column + 1);
        let row = filled.entry(column).or_default();
        places.insert(&stage.id, (column, *row));
        *row += 1;
    }
    places
}

/// When each stage worked, on one axis.
pub(super) fn timeline(run: &Run, now_ms: i64) -> Markup {
    const LEFT: f64 = 190.0;
    const WIDTH: f64 = 700.0;
    const ROW: f64 = 22.0;
    let mut spans: Vec<(&str, StageState, i64, i64)> = run
        .progress
        .iter()
        .filter_map(|(id, progress)| {
            let start = progress.started_ms?;
            Some((id.as_str(), progress.state, start, progress.ended_ms.unwrap_or(now_ms).max(start)))
        })
        .collect();
    spans.sort_by_key(|span| span.2);
    let (Some(first), Some(last)) = (spans.iter().map(|s| s.2).min(), spans.iter().map(|s| s.3).max()) else {
        return html! { p.quiet { "No stage has begun." } };
    };
    let scale = WIDTH / (last - first).max(1) as f64;
    let x = |ms: i64| LEFT + (ms - first) as f64 * scale;
    let height = ROW * spans.len() as f64 + 24.0;
    html! {
        div.scroll tabindex="0" role="region" aria-label="The timeline of the stages" {
            svg width=(LEFT + WIDTH + 90.0) height=(height) role="img" aria-label="When each stage worked" {
                @for (row, (id, state, start, end)) in spans.iter().enumerate() {
                    @let y = ROW * row as f64;
                    text x="0" y=(y + 15.0) { (shortened(id)) }
                    rect class={ "bar " (state_name(*state)) } x=(format!("{:.1}", x(*start))) y=(y + 3.0)
                        width=(format!("{:.1}", (x(*end) - x(*start)).max(1.5))) height=(ROW - 7.0) rx="2" {}
                    text.faint x=(format!("{:.1}", x(*end) + 5.0)) y=(y + 15.0) {
                        (duration((*end - *start) as f64 / 1_000.0))
                    }
                }
                text.faint x=(LEFT) y=(height - 5.0) { "0" }
                text.faint x=(LEFT + WIDTH - 40.0) y=(height - 5.0) { (duration((last - first) as f64 / 1_000.0)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_stands_right_of_what_it_reads() {
        let shape = |id: &str, reads: &[&str]| StageShape {
            id: id.to_owned(),
            kind: "k".to_owned(),
            reads: reads.iter().map(|id| (*id).to_owned()).collect(),
        };
        let stages = [shape("a", &[]), shape("b", &[]), shape("c", &["a"]), shape("d", &["c", "b"])];
        let places = places(&stages);
        assert_eq!(places["a"], (0, 0));
        assert_eq!(places["b"], (0, 1));
        assert_eq!(places["c"], (1, 0));
        assert_eq!(places["d"], (2, 0));
    }
}
