//! Notices: a run failed, succeeded again after a failure, or a schedule's time was missed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::hmac;
use serde::Serialize;

use crate::hex::hex;
use crate::ledger::{Ended, Ledger, RunFilter};
use crate::run::{Run, RunState};
use crate::settings::NotifySettings;
use crate::supervisor::blocking;

/// A receiver that does not answer in this time has not got the notice.
const PATIENCE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

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
        /// The run's page.
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
    /// Somebody tries whether notices arrive.
    Test {
        /// The service's page.
        link: String,
    },
}

/// Sends notices.
pub struct Notifier {
    url: Option<String>,
    key: Option<hmac::Key>,
    /// How the service's pages are reached.
    base: String,
    client: reqwest::Client,
    ledger: Ledger,
    failures: AtomicU64,
}

impl Notifier {
    /// A notifier as the settings say; without an address it only writes to the log.
    ///
    /// # Errors
    /// A variable that the settings name is not set.
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
        let url = read(&settings.webhook_url_env)?;
        let key =
            read(&settings.webhook_key_env)?.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()));
        Ok(Self { url, key, base, client, ledger, failures: AtomicU64::new(0) })
    }

    /// Notices that could not be delivered.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Tells of a run's end, where that is worth telling.
    pub(crate) async fn run_ended(&self, run: &Run, ended: &Ended) {
        let link = format!("{}/runs/{}", self.base, run.id);
        let (id, workflow) = (run.id.to_string(), run.workflow.clone());
        match ended {
            Ended::Failed { error, retry_after: None, .. } => {
                let current = blocking(&self.ledger, {
                    let id = run.id.clone();
                    move |ledger| ledger.run(&id)
                })
                .await;
                let stage = current.ok().and_then(|run| failed_stage(&run));
                self.send(&Notice::RunFailed { run: id, workflow, stage, error: error.clone(), link }).await;
            }
            Ended::Succeeded if self.failed_before(run).await => {
                self.send(&Notice::RunRecovered { run: id, workflow, link }).await;
            }
            _ => {}
        }
    }

    /// Tells of missed times.
    pub(crate) async fn schedule_missed(&self, schedule: &str, times: usize) {
        let link = format!("{}/schedules", self.base);
        self.send(&Notice::ScheduleMissed { schedule: schedule.to_owned(), times, link }).await;
    }

    /// Sends a notice for trying.
    ///
    /// # Errors
    /// Why it did not arrive.
    pub async fn test(&self) -> Result<(), String> {
        match &self.url {
            None => Err("no receiver is set: see [notify] of service.toml".to_owned()),
            Some(url) => self.post(url, &Notice::Test { link: self.base.clone() }).await,
        }
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
        let Some(url) = &self.url else { return };
        if let Err(error) = self.post(url, notice).await {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "a notice was not delivered");
        }
    }

    async fn post(&self, url: &str, notice: &Notice) -> Result<(), String> {
        let body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(Duration::from_secs(u64::from(attempt) * 2)).await;
            let mut request =
                self.client.post(url).timeout(PATIENCE).header("content-type", "application/json");
            if let Some(key) = &self.key {
                request = request.header("x-corpusmith-signature", signature(key, &body));
            }
            match request.body(body.clone()).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = format!("the receiver answered {}", answer.status()),
                // The address may hold a secret: it is not shown.
                Err(error) => last = error.without_url().to_string(),
            }
        }
        Err(last)
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

/// `sha256=` and the HMAC of a body, in hexadecimal digits.
pub(crate) fn signature(key: &hmac::Key, body: &[u8]) -> String {
    format!("sha256={}", hex(hmac::sign(key, body).as_ref()))
}
