//! Figures for Prometheus, in its text format.

use std::fmt::Write;
use std::sync::Arc;

use crate::api::problem::Problem;
use crate::ledger::RunFilter;
use crate::run::RunState;
use crate::service::Service;
use crate::supervisor::blocking;

/// All figures.
pub(crate) async fn render(service: &Arc<Service>) -> Result<String, Problem> {
    let running = RunFilter { states: vec![RunState::Running], limit: 1_000, ..RunFilter::default() };
    let (counts, running) =
        blocking(&service.ledger, move |ledger| Ok((ledger.counts()?, ledger.runs(&running)?.runs))).await?;
    let mut page = Page::default();
    page.head("corpusmith_runs", "gauge", "Runs in the ledger by state.");
    for state in RunState::ALL {
        let count = counts.get(&state).copied().unwrap_or_default();
        page.line("corpusmith_runs", &[("state", state.name())], count as f64);
    }
    page.head("corpusmith_pool_capacity", "gauge", "What there is of each pool (memory in bytes).");
    let pools = service.pools_beside(&running);
    for pool in &pools {
        page.line("corpusmith_pool_capacity", &[("pool", &pool.name)], pool.capacity as f64);
    }
    page.head("corpusmith_pool_held", "gauge", "What running runs hold of each pool.");
    for pool in &pools {
        page.line("corpusmith_pool_held", &[("pool", &pool.name)], pool.held as f64);
    }
    page.head("corpusmith_stage_rows", "gauge", "Rows that a stage of a running run has done.");
    for run in &running {
        let id = &run.id.0;
        for (stage, progress) in &run.progress {
            // Two runs of one workflow are two series.
            let labels = [("workflow", run.workflow.as_str()), ("run", id), ("stage", stage)];
            page.line("corpusmith_stage_rows", &labels, progress.rows as f64);
        }
    }
    page.head("corpusmith_notices_failed_total", "counter", "Notices that could not be delivered.");
    let channels = service.notifier.channels();
    for channel in &channels {
        page.line("corpusmith_notices_failed_total", &[("channel", channel.name)], channel.failed as f64);
    }
    page.head("corpusmith_notices_delivered_total", "counter", "Notices that arrived.");
    for channel in &channels {
        page.line(
            "corpusmith_notices_delivered_total",
            &[("channel", channel.name)],
            channel.delivered as f64,
        );
    }
    page.head("corpusmith_notifier_up", "gauge", "Whether the last notice arrived (1 until one was sent).");
    for channel in &channels {
        let up = u8::from(channel.last_error.is_none());
        page.line("corpusmith_notifier_up", &[("channel", channel.name)], f64::from(up));
    }
    if let Some(certificates) = &service.certificates {
        let name = "corpusmith_tls_certificate_expires_timestamp_seconds";
        page.head(name, "gauge", "When the served certificate expires, in seconds since 1970.");
        page.line(name, &[], certificates.expires().as_second() as f64);
    }
    Ok(page.0)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, about: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {about}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
