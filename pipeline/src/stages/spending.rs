//! What a run has spent on language models, stage by stage, in a file beside their answer logs: a log knows
//! the answers that came, this file also the requests whose answers were lost, and prices as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use digests::Seal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use synth::client::{Budget, BudgetOptions, ClientError, Spent};
use thiserror::Error;

use crate::durable::{self, WriteError};

/// The file's name in the folder of the answer logs.
pub const FILE_NAME: &str = "spent.json";

/// How often it is written while requests go on. A process that is killed forgets lost answers of this time.
const EVERY: Duration = Duration::from_secs(5);

/// `[limits]`: what all stages of a run together may spend on language models. They hold over all processes
/// that work on the run, but for the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Requests sent at most; no limit when left out.
    pub max_requests: Option<u64>,
    /// Tokens of prompts and answers at most; no limit when left out.
    pub max_tokens: Option<u64>,
    /// US dollars at most, by the prices of the stages; no limit when left out.
    pub max_usd: Option<f64>,
    /// Wall-clock seconds of one process at most; answers on their way are waited for. No limit when left
    /// out.
    pub max_duration_seconds: Option<f64>,
}

/// Why what was spent is not known.
#[derive(Debug, Error)]
pub enum SpendingError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not as it was written.
    #[error(
        "{path} is damaged ({problem}): it says what the run has spent. `pipeline repair` puts it aside; then the answer logs alone say so, and requests \
         whose answers were lost are forgotten"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        problem: String,
    },
    /// A limit is wrong.
    #[error("in [limits], {0}")]
    Limits(#[from] ClientError),
}

/// What the stages of a run have spent, and the budget inside which theirs lie.
#[derive(Debug)]
pub struct Spending {
    path: PathBuf,
    of_run: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stages: BTreeMap<String, Spent>,
    written: Option<Instant>,
    /// Whether the file lacks something.
    changed: bool,
    /// The first time that it could not be written: nobody knows what is on a disk that once failed.
    failure: Option<WriteError>,
}

impl Spending {
    /// Reads what earlier processes left in the folder of the answer logs.
    ///
    /// # Errors
    /// [`SpendingError`].
    pub fn open(answers_folder: &Path, limits: &LimitsConfig) -> Result<Self, SpendingError> {
        let path = answers_folder.join(FILE_NAME);
        let of_run = Budget::of_run(BudgetOptions {
            max_requests: limits.max_requests,
            max_tokens: limits.max_tokens,
            max_usd: limits.max_usd,
            max_duration_seconds: limits.max_duration_seconds,
            ..BudgetOptions::default()
        })?;
        let stages = read(&path)?;
        for spent in stages.values() {
            of_run.add_earlier(spent);
        }
        Ok(Self { path, of_run, state: Mutex::new(State { stages, ..State::default() }) })
    }

    /// The run's budget.
    pub fn of_run(&self) -> &Arc<Budget> {
        &self.of_run
    }

    /// What a stage spent in earlier processes, by `earlier` from what was noted of it.
    pub fn resume(&self, stage: &str, earlier: impl FnOnce(Spent) -> Spent) -> Spent {
        let mut state = self.state();
        let noted = state.stages.get(stage).copied().unwrap_or_default();
        let spent = earlier(noted);
        self.of_run.add_earlier(&spent.since(&noted));
        state.changed |= spent != noted;
        state.stages.insert(stage.to_owned(), spent);
        spent
    }

    /// Notes what a stage has spent by now. Written at most every few seconds; a failure shows at the end.
    pub fn note(&self, stage: &str, spent: Spent) {
        self.put(&mut self.state(), stage, spent, false);
    }

    /// Notes what a stage has spent at its end.
    ///
    /// # Errors
    /// The file cannot be written, or could not at an earlier [`note`](Self::note).
    pub fn note_end(&self, stage: &str, spent: Spent) -> Result<(), WriteError> {
        let mut state = self.state();
        self.put(&mut state, stage, spent, true);
        state.failure.take().map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that an older sum never replaces a newer one.
    fn put(&self, state: &mut State, stage: &str, spent: Spent, at_once: bool) {
        state.changed |= state.stages.insert(stage.to_owned(), spent) != Some(spent);
        let lately = state.written.is_some_and(|written| written.elapsed() < EVERY);
        if !state.changed || (lately && !at_once) {
            return;
        }
        (state.written, state.changed) = (Some(Instant::now()), false);
        let json = serde_json::json!({ "stages": state.stages });
        if let Err(error) = durable::write_file(&self.path, &digests::seal(&format!("{json:#}"))) {
            state.failure.get_or_insert(error);
        }
    }
}

#[derive(Deserialize)]
struct File {
    stages: BTreeMap<String, Spent>,
}

/// What the stages of a run have spent; nothing where no file is.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn read(path: &Path) -> Result<BTreeMap<String, Spent>, SpendingError> {
    let damaged = |problem: String| SpendingError::Damaged { path: path.to_owned(), problem };
    match std::fs::read(path) {
        Ok(bytes) if digests::check(&bytes) == Seal::Whole => {
            let file: File = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            Ok(file.stages)
        }
        Ok(_) => Err(damaged("it does not match its digest".into())),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => Err(SpendingError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_known_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = |max_tokens| {
            let limits = LimitsConfig { max_tokens, ..LimitsConfig::default() };
            Spending::open(folder.path(), &limits)
        };
        let first = open(None).unwrap();
        assert_eq!(first.resume("topics", |noted| noted), Spent::default());
        let spent =
            Spent { requests: 3, completion_tokens: 40, lost_tokens: 5, usd: 0.5, ..Spent::default() };
        first.note("topics", spent);
        // The second within a few seconds waits for the end.
        first.note("topics", Spent { requests: 4, ..spent });
        assert_eq!(read(&folder.path().join(FILE_NAME)).unwrap()["topics"].requests, 3);
        first.note("topics", Spent { requests: 5, ..spent });
        first.note_end("topics", Spent { requests: 5, ..spent }).unwrap();

        let second = open(Some(100)).unwrap();
        assert_eq!(second.of_run().spent().tokens(), 45);
        let now = second.resume("topics", |noted| Spent { completion_tokens: 60, ..noted });
        assert_eq!((now.requests, now.lost_tokens, second.of_run().spent().tokens()), (5, 5, 65));
    }

    #[test]
    fn a_failed_write_shows_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let answers = folder.path().join("answers");
        let spending = Spending::open(&answers, &LimitsConfig::default()).unwrap();
        // A file in the folder's place.
        std::fs::write(&answers, "").unwrap();
        spending.note("a", Spent { requests: 1, ..Spent::default() });
        std::fs::remove_file(&answers).unwrap();
        std::fs::create_dir(&answers).unwrap();
        let error = spending.note_end("a", Spent { requests: 2, ..Spent::default() }).unwrap_err();
        assert!(error.to_string().contains("answers"), "{error}");
        spending.note_end("a", Spent { requests: 3, ..Spent::default() }).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spending = Spending::open(folder.path(), &LimitsConfig::default()).unwrap();
        spending.note_end("a", Spent::default()).unwrap();
        let path = folder.path().join(FILE_NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"requests\": 0", "\"requests\": 7")).unwrap();
        let error = Spending::open(folder.path(), &LimitsConfig::default()).unwrap_err().to_string();
        assert!(
            error.contains("spent.json is damaged") && error.contains("`pipeline repair` puts it aside"),
            "{error}"
        );
    }

    #[test]
    fn wrong_limits_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let limits = LimitsConfig { max_usd: Some(-1.0), ..LimitsConfig::default() };
        let error = Spending::open(folder.path(), &limits).unwrap_err().to_string();
        assert!(error.contains("[limits]") && error.contains("max_usd is -1"), "{error}");
    }
}
