//! What the tasks of a stage that asks a language model share: its answer log, which one process may have
//! open once; its servers, whose strength is found out but once; and its budget, which holds for all of them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use synth::answer_log::AnswerLog;
use synth::client::{Budget, OpenAiClient};
use synth::generate::Progress;
use tokio::sync::OnceCell;

use super::blocking;
use super::llm::LlmConfig;
use super::spending::{LimitsConfig, Spending};
use crate::durable::WriteError;
use crate::runner::ANSWERS_FOLDER;
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::progress::group;

/// The sessions of a run's stages, by the stage's name, and what they may spend together.
#[derive(Default)]
pub struct LlmSessions {
    limits: LimitsConfig,
    spending: OnceCell<Arc<Spending>>,
    stages: Mutex<HashMap<String, Arc<OnceCell<Arc<Session>>>>>,
}

/// A stage's answer log, servers and budget.
pub struct Session {
    pub(super) log: Arc<AnswerLog>,
    /// None for the embedded model, which is loaded only while it is used.
    pub(super) client: Option<Arc<OpenAiClient>>,
    pub(super) budget: Arc<Budget>,
    stage: String,
    spending: Arc<Spending>,
    max_usd: Option<f64>,
    told: OnceCell<()>,
    answers: AtomicU64,
    from_log: AtomicU64,
    rejected: AtomicU64,
}

impl LlmSessions {
    /// Those of a run with these limits.
    pub fn new(limits: LimitsConfig) -> Self {
        Self { limits, ..Self::default() }
    }

    fn cell(&self, stage: &str) -> Arc<OnceCell<Arc<Session>>> {
        // Under the lock is but a map insert, which a panic elsewhere leaves whole.
        let mut cells = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        cells.entry(stage.to_owned()).or_default().clone()
    }

    /// Notes durably what a stage has spent, at its end or the run's.
    ///
    /// # Errors
    /// It cannot be written, or could not while the stage ran.
    pub fn note_spending(&self, stage: &str) -> Result<(), WriteError> {
        let Some(session) = self.opened(stage) else { return Ok(()) };
        session.spending.note_end(stage, session.budget.spent())
    }

    async fn spending(&self, ctx: &StageContext) -> Result<Arc<Spending>, StageError> {
        let open = || async {
            let (folder, limits, opener) =
                (ctx.env.run_folder.join(ANSWERS_FOLDER), self.limits.clone(), ctx.clone());
            let open = move || Spending::open(&folder, &limits).map_err(|e| opener.input(e.to_string()));
            Ok(Arc::new(blocking(&ctx.stage, open).await?))
        };
        self.spending.get_or_try_init(open).await.cloned()
    }

    /// The stage's session, if a task of it has begun.
    pub(super) fn opened(&self, stage: &str) -> Option<Arc<Session>> {
        self.cell(stage).get().cloned()
    }

    /// The stage's session; the first task opens it.
    pub(super) async fn session(
        &self,
        ctx: &StageContext,
        config: &LlmConfig,
    ) -> Result<Arc<Session>, StageError> {
        let cell = self.cell(&ctx.stage);
        cell.get_or_try_init(|| Session::open(ctx, config)).await.cloned()
    }
}

impl Session {
    async fn open(ctx: &StageContext, config: &LlmConfig) -> Result<Arc<Self>, StageError> {
        let (folder, opener) = (ctx.answers_folder(), ctx.clone());
        let open = move || AnswerLog::open(folder).map_err(|error| opener.failed(&error));
        let log = Arc::new(blocking(&ctx.stage, open).await?);
        // What earlier runs paid for counts: a limit is one of the stage, not of a process.
        let spending = ctx.env.llm.spending(ctx).await?;
        let options = config.budget_options();
        let earlier = spending.resume(&ctx.stage, |noted| noted.with_log(&log.totals(), options.price()));
        let budget = Budget::resuming(options, &earlier, Some(spending.of_run().clone()))
            .map_err(|error| ctx.input(error.to_string()))?;
        let client = if config.is_embedded() {
            None
        } else {
            let client = OpenAiClient::new(&config.client_options(), budget.clone())
                .map_err(|error| ctx.input(error.to_string()))?;
            Some(Arc::new(client))
        };
        Ok(Arc::new(Self {
            log,
            client,
            budget,
            stage: ctx.stage.clone(),
            spending,
            max_usd: config.max_usd,
            told: OnceCell::new(),
            answers: AtomicU64::new(0),
            from_log: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }))
    }

    /// Says something of the stage, for the first of its tasks alone.
    pub(super) async fn tell_once<F>(&self, tell: impl FnOnce() -> F) -> Result<(), StageError>
    where
        F: Future<Output = Result<(), StageError>>,
    {
        self.told.get_or_try_init(tell).await.copied()
    }

    /// Adds what a task has done since it said so the last time.
    pub(super) fn add(&self, before: &Progress, now: &Progress) {
        self.answers.fetch_add(now.answers - before.answers, Ordering::Relaxed);
        self.from_log.fetch_add(now.from_log - before.from_log, Ordering::Relaxed);
        self.rejected.fetch_add(now.rejected - before.rejected, Ordering::Relaxed);
    }

    /// Rows that are done, answered or rejected.
    pub(super) fn rows(&self) -> u64 {
        self.answers.load(Ordering::Relaxed) + self.rejected.load(Ordering::Relaxed)
    }

    /// `1,204 answers (300 from the log), 812,003 tokens, US$ 1.24 of 5.00`
    pub(super) fn note(&self) -> String {
        let answers = self.answers.load(Ordering::Relaxed);
        let from_log = self.from_log.load(Ordering::Relaxed);
        let mut note = format!("{} answers", group(answers));
        if from_log > 0 {
            note.push_str(&format!(" ({} from the log)", group(from_log)));
        }
        note.push_str(", ");
        note.push_str(&self.spend());
        note
    }

    /// Notes now and then what the stage has spent, for later processes.
    pub(super) fn note_spending(&self) {
        self.spending.note(&self.stage, self.budget.spent());
    }

    /// `812,003 tokens, US$ 1.24 of 5.00`: all that the stage has cost, in this run and before.
    pub(super) fn spend(&self) -> String {
        let spent = self.budget.spent();
        let mut text = format!("{} tokens", group(spent.tokens()));
        if spent.usd > 0.0 {
            text.push_str(&format!(", US$ {:.2}", spent.usd));
            if let Some(max) = self.max_usd {
                text.push_str(&format!(" of {max:.2}"));
            }
        }
        text
    }
}
