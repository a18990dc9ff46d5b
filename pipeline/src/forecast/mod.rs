//! What a run will probably take, told before it starts: rows, time, disk, requests, tokens, money.
//!
//! Rows are handed along the graph. A stage that knows from its config what it will make (34,000
//! topics, 1,000 pages each) says so in [`Stage::expect`](crate::stages::Stage::expect). For the rest,
//! what an earlier run measured is scaled: the share of rows that a stage kept, its time and its bytes
//! a row. An earlier run is one of this profile or, failing that, of the same workflow's other
//! profiles: so a run of the sample tells what the published scale takes on this machine.

pub mod cluster;
mod past;

use std::collections::BTreeMap;

pub use past::{Past, Spread};
use synth::estimate::Estimate;

use crate::workflow::{OutputMode, StageNode};

/// What the stages before a stage, and its own earlier runs, tell of it.
pub struct Before<'a> {
    rows: BTreeMap<&'a str, Option<f64>>,
    inputs: BTreeMap<&'a str, Vec<&'a Past>>,
    /// Its last run.
    pub past: Option<&'a Past>,
}

impl Before<'_> {
    /// Rows of all the stages in a role together; `None` when they are not known.
    pub fn rows(&self, role: &str) -> Option<f64> {
        self.rows.get(role).copied().flatten()
    }

    /// The spread of a column over the last run's rows.
    pub fn spread(&self, column: &str) -> Option<Spread> {
        self.past?.spread(column)
    }

    /// The spread of a column over what the first of the stages in a role made last.
    pub fn input_spread(&self, role: &str, column: &str) -> Option<Spread> {
        self.inputs.get(role)?.first()?.spread(column)
    }
}

/// What a stage can say of its own work; what it leaves out is scaled from its last run.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Rows it will write.
    pub rows: Option<f64>,
    /// How many times the work of the last run this is, where that is not its rows.
    pub work: Option<f64>,
    /// Whether the last run's time says anything about this one.
    pub other_machine: bool,
    /// What it will ask of a language model.
    pub asks: Option<Estimate>,
    /// Hours on one GPU of the kind that the figures were published for (H100).
    pub gpu_hours: Option<f64>,
}

/// What is expected of one stage.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Rows written.
    pub rows: Option<f64>,
    /// Time on this machine, in seconds.
    pub seconds: Option<f64>,
    /// Size of the output, in bytes.
    pub disk_bytes: Option<f64>,
    /// Requests to a language model.
    pub asks: Option<Estimate>,
    /// Hours on one GPU.
    pub gpu_hours: Option<f64>,
    /// The profile whose run the rates come from.
    pub measured_in: Option<String>,
}

/// Follows the rows through the graph, stage by stage in its order.
#[derive(Default)]
pub struct Forecaster<'a> {
    rows: BTreeMap<&'a str, Option<f64>>,
    pasts: BTreeMap<&'a str, Past>,
}

impl<'a> Forecaster<'a> {
    /// What is there already.
    pub fn done(&mut self, node: &'a StageNode, past: Past) {
        self.rows.insert(&node.id, Some(past.manifest.rows_out as f64));
        self.pasts.insert(&node.id, past);
    }

    /// What a stage will probably take.
    pub fn expect(&mut self, node: &'a StageNode, past: Option<Past>) -> Outlook {
        let outlook = self.outlook(node, past.as_ref());
        self.rows.insert(&node.id, outlook.rows);
        if let Some(past) = past {
            self.pasts.insert(&node.id, past);
        }
        outlook
    }

    fn outlook(&self, node: &StageNode, past: Option<&Past>) -> Outlook {
        let rows_of = |ids: &[String]| {
            ids.iter().map(|id| self.rows.get(id.as_str()).copied().flatten()).sum::<Option<f64>>()
        };
        let pasts_of = |ids: &[String]| ids.iter().filter_map(|id| self.pasts.get(id.as_str())).collect();
        let before = Before {
            rows: node.inputs.iter().map(|(role, ids)| (role.as_str(), rows_of(ids))).collect(),
            inputs: node.inputs.iter().map(|(role, ids)| (role.as_str(), pasts_of(ids))).collect(),
            past,
        };
        let own = node.stage.expect(&before);
        let rows_in = node.kind.inputs.first().and_then(|input| before.rows(input.role));
        let kept = past.and_then(Past::rows_out_per_row_in);
        let same_kind = past.filter(|past| past.manifest.kind == node.kind.name);
        // A stage that reads no other makes what it made, unless it is told otherwise.
        let again =
            same_kind.filter(|past| node.kind.inputs.is_empty() && past.manifest.config == node.config);
        let again = again.map(|past| past.manifest.rows_out as f64);
        let rows = own.rows.or_else(|| Some(rows_in? * kept?)).or(again);

        let times = own.work.or_else(|| {
            let past = same_kind?;
            // Work follows what comes in, or what goes out where nothing comes in.
            match (rows_in, past.manifest.rows_in) {
                (Some(rows_in), 1..) => Some(rows_in / past.manifest.rows_in as f64),
                _ => Some(rows? / past.manifest.rows_out.max(1) as f64),
            }
        });
        let written = node.output == OutputMode::Materialize;
        Outlook {
            rows,
            seconds: same_kind
                .filter(|_| !own.other_machine)
                .and_then(|past| Some(past.manifest.seconds * times?)),
            disk_bytes: past.filter(|_| written).and_then(|past| Some(past.bytes_per_row_out()? * rows?)),
            asks: own.asks,
            gpu_hours: own.gpu_hours,
            measured_in: past.map(|past| past.profile.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::WorkflowText;

    fn outlooks(text: &str) -> BTreeMap<String, Outlook> {
        let text = WorkflowText { text: text.to_owned(), ..WorkflowText::default() };
        let workflow = text.workflow().unwrap();
        let mut forecaster = Forecaster::default();
        workflow.stages.iter().map(|node| (node.id.clone(), forecaster.expect(node, None))).collect()
    }

    #[test]
    fn rows_and_cost_follow_from_the_configs_alone() {
        let outlooks = outlooks(
            r#"
            name = "w"
            [stage.pages]
            kind = "read"
            paths = ["hf://datasets/a/b/*.parquet"]
            expected_rows = 520000000
            [stage.topics]
            kind = "topics"
            target = 34000
            [stage.index]
            kind = "index"
            input = "pages"
            [stage.retrieve]
            kind = "retrieve"
            inputs = { topics = "topics", index = "index", pages = "pages" }
            [stage.prompts]
            kind = "prompts"
            inputs = { seeds = "retrieve", topics = "topics" }
            [stage.generate]
            kind = "generate"
            input = "prompts"
            [stage.generate.llm]
            base_urls = ["http://localhost:8000/v1"]
            model = "m"
            usd_per_million_completion_tokens = 0.5
            "#,
        );
        assert_eq!(outlooks["pages"].rows, Some(520e6));
        assert_eq!(outlooks["topics"].rows, Some(34e3));
        assert_eq!(outlooks["retrieve"].rows, Some(34e6));
        assert_eq!(outlooks["prompts"].rows, Some(34e6));
        let asks = outlooks["generate"].asks.clone().unwrap();
        assert_eq!(asks.requests.expected, 34e6);
        // 718 tokens an answer, as published: 24.4 billion tokens.
        assert!((24.3e9..24.5e9).contains(&asks.answer_tokens.expected), "{asks:?}");
        assert!((asks.usd.expected - asks.answer_tokens.expected / 2e6).abs() < 1.0, "{asks:?}");
        // Over 10,000 H100 hours for 25 billion tokens [huggingface/cosmopedia].
        assert!((9_700.0..9_800.0).contains(&outlooks["generate"].gpu_hours.unwrap()));
        assert_eq!(outlooks["generate"].seconds, None);
    }
}
