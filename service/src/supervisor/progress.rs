//! What the lines of `pipeline run --json` say of a run's stages.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::run::{StageProgress, StageState};

/// Takes a line in; false if it says nothing of a stage.
pub(super) fn take(line: &str, now: Timestamp, stages: &mut BTreeMap<String, StageProgress>) -> bool {
    let Ok(event) = serde_json::from_str::<Json>(line) else {
        return false;
    };
    let (Some(name), Some(stage)) = (event["event"].as_str(), event["stage"].as_str()) else {
        return false;
    };
    let number = |key: &str| event[key].as_u64().unwrap_or_default();
    let counts = |key: &str| serde_json::from_value(event[key].clone()).unwrap_or_default();
    let progress = stages.entry(stage.to_owned()).or_default();
    match name {
        "stage_started" => {
            *progress = StageProgress {
                state: StageState::Running,
                started_ms: Some(now.as_millisecond()),
                ..StageProgress::default()
            };
        }
        "progress" => {
            progress.state = StageState::Running;
            progress.rows = number("rows");
            progress.total_rows = number("total_rows");
            progress.tokens = number("tokens");
            progress.seconds = event["seconds"].as_f64().unwrap_or_default();
        }
        "stage_finished" => {
            progress.state = StageState::Done;
            progress.rows_in = number("rows_in");
            progress.rows_out = number("rows_out");
            progress.rows = progress.rows.max(progress.rows_out);
            progress.dropped = counts("dropped");
            progress.failed = counts("quarantined");
            progress.seconds = event["seconds"].as_f64().unwrap_or_default();
            progress.peak_memory_bytes = number("peak_memory_bytes");
            progress.ended_ms = Some(now.as_millisecond());
        }
        "stage_up_to_date" => {
            progress.state = StageState::UpToDate;
            progress.rows_in = number("rows_in");
            progress.rows_out = number("rows_out");
            progress.dropped = counts("dropped");
            progress.failed = counts("quarantined");
        }
        _ => return false,
    }
    true
}

/// A figure that grows with whatever the stages do.
pub(super) fn work(stages: &BTreeMap<String, StageProgress>) -> u64 {
    let of = |stage: &StageProgress| {
        let ended = stage.state != StageState::Running;
        1 + u64::from(ended) + stage.rows + stage.rows_in + stage.tokens
    };
    stages.values().map(of).sum()
}

/// The process is gone: nothing works any more.
pub(super) fn end_all(now: Timestamp, stages: &mut BTreeMap<String, StageProgress>) {
    for progress in stages.values_mut().filter(|progress| progress.state == StageState::Running) {
        progress.state = StageState::Ended;
        progress.ended_ms = Some(now.as_millisecond());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_progress() {
        let mut stages = BTreeMap::new();
        let now = Timestamp::from_second(100).unwrap();
        assert!(take(r#"{"event":"stage_started","stage":"a"}"#, now, &mut stages));
        assert!(take(
            r#"{"event":"progress","stage":"a","rows":5,"total_rows":9,"seconds":2}"#,
            now,
            &mut stages
        ));
        assert_eq!(
            (stages["a"].rows, stages["a"].total_rows, stages["a"].state),
            (5, 9, StageState::Running)
        );
        let done =
            r#"{"event":"stage_finished","stage":"a","rows_out":7,"dropped":{"short":2},"seconds":3.5}"#;
        assert!(take(done, now, &mut stages));
        assert_eq!((stages["a"].rows_out, stages["a"].dropped["short"]), (7, 2));
        assert!(take(r#"{"event":"stage_up_to_date","stage":"b","rows_out":3}"#, now, &mut stages));
        assert_eq!(stages["b"].state, StageState::UpToDate);
        for noise in ["", "not json", "{}", r#"{"event":"run_finished"}"#, r#"{"event":"x","stage":"c"}"#] {
            assert!(!take(noise, now, &mut stages), "{noise}");
        }
        take(r#"{"event":"stage_started","stage":"d"}"#, now, &mut stages);
        end_all(now, &mut stages);
        assert_eq!(stages["d"].state, StageState::Ended);
    }
}
