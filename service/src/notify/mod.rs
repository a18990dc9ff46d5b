//! Notices: a run failed, succeeded again after a failure, a schedule's time was missed, or a workflow file
//! became unusable.

mod channel;
mod email;
#[cfg(test)]
mod tests;
mod webhook;

use ring::hmac;
use serde::Serialize;

use channel::{Channel, Receiver};
use email::Email;
use webhook::Webhook;

pub use channel::ChannelView;

use crate::ledger::{Ended, Ledger, RunFilter};
use crate::run::{Run, RunId, RunState};
use crate::settings::NotifySettings;
use crate::supervisor::blocking;

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Notice {
    /// A run failed.
    RunFailed {
        /// The run.
        run: String,
        /// Its workflow.
        workflow: String,
        /// The stage that failed, where one did.
        stage: Option<String>,
        /// What went wrong.
        error: String,
        /// The run's page, at the stage that failed.
        link: String,
    },
    /// A run succeeded, after the one before failed.
    RunRecovered {
        /// The run.
        run: String,
        /// Its workflow.
        workflow: String,
        /// The run's page.
        link: String,
    },
    /// Times of a schedule passed while no service was there, and are not caught up with.
    ScheduleMissed {
        /// The schedule: the workflow's name.
        schedule: String,
        /// How many times.
        times: usize,
        /// The page of schedules.
        link: String,
    },
    /// A workflow file is none any more: its schedule and triggers rest.
    WorkflowBroken {
        /// The file.
        file: String,
        /// What is wrong, as `pipeline check` says it.
        problems: String,
        /// The page of workflows.
        link: String,
    },
    /// Somebody tries whether notices arrive.
    Test {
        /// The service's page.
        link: String,
    },
}

/// Sends notices.
pub struct Notifier {
    channels: Vec<Channel>,
    /// How the service's pages are reached.
    base: String,
    ledger: Ledger,
}

impl Notifier {
    /// A notifier as the settings say; without a receiver it only writes to the log.
    ///
    /// # Errors
    /// A variable that the settings name is not set, or a setting is wrong.
    pub fn new(
        settings: &NotifySettings,
        base: String,
        client: reqwest::Client,
        ledger: Ledger,
    ) -> Result<Self, String> {
        let read = |variable: &Option<String>| -> Result<Option<String>, String> {
            let Some(variable) = variable else { return Ok(None) };
            let value = std::env::var(variable)
                .map_err(|_| format!("`{variable}`, which [notify] names, is not set"))?;
            Ok(Some(value))
        };
        let key =
            read(&settings.webhook_key_env)?.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()));
        let webhook = read(&settings.webhook_url_env)?.map(|url| Webhook { url, key, client });
        let email = settings.email.as_ref().map(Email::new).transpose()?;
        let receivers = webhook.map(Receiver::Webhook).into_iter().chain(email.map(Receiver::Email));
        Ok(Self { channels: receivers.map(Channel::new).collect(), base, ledger })
    }

    /// How each way of notices fares.
    pub fn channels(&self) -> Vec<ChannelView> {
        self.channels.iter().map(Channel::view).collect()
    }

    /// Tells of a run's end, where that is worth telling.
    pub(crate) async fn run_ended(&self, run: &Run, ended: &Ended) {
        match ended {
            Ended::Failed { error, retry_after: None, .. } => {
                let stage = self.current(&run.id).await.and_then(|run| failed_stage(&run));
                self.run_failed(run, stage, error.clone()).await;
            }
            Ended::Succeeded if self.failed_before(run).await => {
                let (id, workflow) = (run.id.to_string(), run.workflow.clone());
                self.send(&Notice::RunRecovered { run: id, workflow, link: self.link(&run.id) }).await;
            }
            _ => {}
        }
    }

    /// Tells of a run whose process was lost, where that was once too often.
    pub(crate) async fn run_lost(&self, id: &RunId) {
        if let Some(run) = self.current(id).await.filter(|run| run.state == RunState::Failed) {
            let error = run.error.clone().unwrap_or_default();
            self.run_failed(&run, failed_stage(&run), error).await;
        }
    }

    async fn run_failed(&self, run: &Run, stage: Option<String>, error: String) {
        let link = match &stage {
            Some(stage) => format!("{}#stage-{stage}", self.link(&run.id)),
            None => self.link(&run.id),
        };
        let (run, workflow) = (run.id.to_string(), run.workflow.clone());
        self.send(&Notice::RunFailed { run, workflow, stage, error, link }).await;
    }

    fn link(&self, run: &RunId) -> String {
        format!("{}/runs/{run}", self.base)
    }

    async fn current(&self, id: &RunId) -> Option<Run> {
        let id = id.clone();
        blocking(&self.ledger, move |ledger| ledger.run(&id)).await.ok()
    }

    /// Tells of a workflow file that has problems.
    pub(crate) async fn workflow_broken(&self, file: &str, problems: &str) {
        let link = format!("{}/workflows", self.base);
        let (file, problems) = (file.to_owned(), problems.to_owned());
        self.send(&Notice::WorkflowBroken { file, problems, link }).await;
    }

    /// Tells of missed times.
    pub(crate) async fn schedule_missed(&self, schedule: &str, times: usize) {
        let link = format!("{}/schedules", self.base);
        self.send(&Notice::ScheduleMissed { schedule: schedule.to_owned(), times, link }).await;
    }

    /// Sends a notice for trying, by one way or by all.
    ///
    /// # Errors
    /// Why it did not arrive.
    pub async fn test(&self, name: Option<&str>) -> Result<(), String> {
        let wanted: Vec<&Channel> =
            self.channels.iter().filter(|channel| name.is_none_or(|name| channel.name() == name)).collect();
        if wanted.is_empty() {
            let which = name.map(|name| format!(" by {name}")).unwrap_or_default();
            return Err(format!("no receiver of notices{which} is set: see [notify] of service.toml"));
        }
        let notice = Notice::Test { link: self.base.clone() };
        let sent = wanted.iter().map(|channel| async {
            channel.send(&notice).await.map_err(|error| format!("{}: {error}", channel.name()))
        });
        let failed: Vec<String> =
            futures::future::join_all(sent).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    async fn failed_before(&self, run: &Run) -> bool {
        let filter = RunFilter {
            states: vec![RunState::Succeeded, RunState::Failed],
            workflow: Some(run.workflow.clone()),
            before: Some(run.id.clone()),
            limit: 1,
            ..RunFilter::default()
        };
        let page = blocking(&self.ledger, move |ledger| ledger.runs(&filter)).await;
        page.is_ok_and(|page| page.runs.iter().any(|before| before.state == RunState::Failed))
    }

    async fn send(&self, notice: &Notice) {
        tracing::warn!(notice = %serde_json::to_string(notice).unwrap_or_default(), "notice");
        // What fails is in the log, the figures and the page by then.
        futures::future::join_all(self.channels.iter().map(|channel| channel.send(notice))).await;
    }
}

/// The stage that failed: the one that the error names, or one that did not come to its end.
fn failed_stage(run: &Run) -> Option<String> {
    let error = run.error.as_deref().unwrap_or_default();
    let named = error.split_once("stage `").and_then(|(_, rest)| rest.split_once('`'));
    if let Some((stage, _)) = named.filter(|(stage, _)| run.stages.iter().any(|known| known.id == *stage)) {
        return Some(stage.to_owned());
    }
    let ended = run.progress.iter().find(|(_, stage)| stage.state == crate::run::StageState::Ended);
    ended.map(|(id, _)| id.clone())
}
