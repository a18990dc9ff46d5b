//! Checks all that a run's folder keeps a digest of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::checkpoint::CheckpointError;
use rayon::prelude::*;
use synth::answer_log::AnswerLogError;
use thiserror::Error;

use super::stage::{Expected, of_begun, of_finished};
use super::{Damage, Kind, Step};
use crate::manifest::{self, ManifestError};
use crate::runner::ANSWERS_FOLDER;
use crate::runner::lock::{self, Holder};
use crate::stages::spending::{self, SpendingError};

/// What a look over a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Files that were compared with their digests.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is damaged, by path.
    pub damaged: Vec<Damage>,
    /// Stages whose manifests an older version wrote, which kept fewer digests.
    pub older: Vec<String>,
    /// Who works in the run. What it makes anew meanwhile may be named as damaged.
    pub holder: Option<Holder>,
}

/// A run could not be looked over.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The folder is none.
    #[error("{} is no run's folder: it holds no stage", .0.display())]
    NoRun(PathBuf),
    /// The disk failed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later version wrote a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A log of answers could not be read.
    #[error(transparent)]
    Answers(#[from] AnswerLogError),
    /// The threads could not be started.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// The folders of a run, by what they are.
#[derive(Debug, Default)]
struct Folders {
    finished: Vec<(PathBuf, String)>,
    begun: Vec<(PathBuf, String)>,
    answers: Vec<(PathBuf, String)>,
}

/// Compares a run's files with their digests, `threads` at a time. Files are read in pieces.
///
/// # Errors
/// See [`VerifyError`]; damage is no error, but in the report.
pub fn verify(run: &Path, threads: usize) -> Result<Report, VerifyError> {
    let folders = Folders::of(run)?;
    let mut report = Report { holder: rival(run), ..Report::default() };
    let mut expected = Vec::new();
    for (path, stage) in &folders.finished {
        let format = report.take(of_finished(path, stage)?, &mut expected);
        if format.is_some_and(|format| format < manifest::FORMAT) {
            report.older.push(stage.clone());
        }
    }
    for (path, stage) in &folders.begun {
        // Between its manifest and its last rename a stage is complete under this name.
        if path.join(manifest::FILE_NAME).exists() {
            report.take(of_finished(path, stage)?, &mut expected);
            continue;
        }
        let read = |source| VerifyError::Read { path: path.clone(), source };
        let (files, damaged) = of_begun(path, stage).map_err(read)?;
        expected.extend(files);
        report.damaged.extend(damaged);
        report.damaged.extend(checkpoints(path, stage, run));
    }
    report.files += expected.len() as u64;
    report.bytes += expected.iter().map(|expected| expected.file.bytes).sum::<u64>();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let damaged: Vec<Damage> = pool.install(|| expected.par_iter().filter_map(Expected::check).collect());
    report.damaged.extend(damaged);
    for (dir, stage) in &folders.answers {
        report.answers(run, dir, stage)?;
    }
    report.spending(run)?;
    report.damaged.sort_by(|a, b| a.path.cmp(&b.path));
    report.holder = report.holder.take().or_else(|| rival(run));
    Ok(report)
}

/// Who else works in a run's folder; a repair holds the lock itself.
fn rival(run: &Path) -> Option<Holder> {
    lock::holder(run).filter(|holder| holder.pid != std::process::id())
}

impl Report {
    /// Takes up a finished stage; the version of its manifest, if that is whole.
    fn take(
        &mut self,
        found: Result<(u32, Vec<Expected>), Damage>,
        expected: &mut Vec<Expected>,
    ) -> Option<u32> {
        self.files += 1;
        match found {
            Ok((format, files)) => {
                expected.extend(files);
                Some(format)
            }
            Err(damage) => {
                self.damaged.push(damage);
                None
            }
        }
    }

    fn answers(&mut self, run: &Path, dir: &Path, stage: &str) -> Result<(), VerifyError> {
        let read = |source| VerifyError::Read { path: dir.to_owned(), source };
        for entry in fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                self.files += 1;
                self.bytes += path.metadata().map_err(read)?.len();
            }
        }
        for segment in synth::answer_log::damage(dir)? {
            // The end of a log that is being written is torn at any moment.
            if segment.torn && self.holder.is_some() {
                continue;
            }
            let keeps =
                format!("`pipeline repair {}` keeps its {} whole answers", run.display(), segment.whole);
            let mend = match segment.torn {
                true => format!("{keeps}; so does the next run, which cuts the torn end off"),
                false => {
                    format!("{keeps} and puts the old file aside; the next run asks for the others again")
                }
            };
            self.damaged.push(Damage {
                path: segment.path,
                kind: Kind::AnswerLog,
                stage: Some(stage.to_owned()),
                found: segment.found,
                mend,
                step: Step::MendLog(dir.to_owned()),
            });
        }
        Ok(())
    }
}

impl Report {
    fn spending(&mut self, run: &Path) -> Result<(), VerifyError> {
        let path = run.join(ANSWERS_FOLDER).join(spending::FILE_NAME);
        self.bytes += path.metadata().map_or(0, |file| file.len());
        self.files += u64::from(path.exists());
        match spending::read(&path) {
            Ok(_) => {}
            Err(SpendingError::Damaged { path, problem }) => self.damaged.push(Damage {
                step: Step::SetAside(path.clone()),
                path,
                kind: Kind::Spending,
                stage: None,
                found: problem,
                mend: format!(
                    "`pipeline repair {}` puts it aside; then the answer logs alone say what was spent, and requests \
                     whose answers were lost are forgotten",
                    run.display()
                ),
            }),
            Err(SpendingError::Read { source, .. }) => return Err(VerifyError::Read { path, source }),
            Err(SpendingError::Limits(_)) => {}
        }
        Ok(())
    }
}

impl Folders {
    fn of(run: &Path) -> Result<Self, VerifyError> {
        let read = |source| VerifyError::Read { path: run.to_owned(), source };
        let mut folders = Self::default();
        for entry in fs::read_dir(run).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !path.is_dir() {
                continue;
            }
            if let Some(begun) = name.strip_prefix(".partial-") {
                let stage = begun.rsplit_once('-').map_or(begun, |(stage, _)| stage).to_owned();
                folders.begun.push((path, stage));
            } else if name == ANSWERS_FOLDER {
                for entry in fs::read_dir(&path).map_err(read)? {
                    let log = entry.map_err(read)?.path();
                    let stage = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    if log.is_dir() {
                        folders.answers.push((log, stage));
                    }
                }
            } else if !name.starts_with('.') && path.join(manifest::FILE_NAME).exists() {
                folders.finished.push((path, name));
            }
        }
        let Self { finished, begun, answers } = &folders;
        if finished.is_empty() && begun.is_empty() && answers.is_empty() {
            return Err(VerifyError::NoRun(run.to_owned()));
        }
        Ok(folders)
    }
}

/// What is damaged of a training that is not at its end: checkpoints, without which it goes on from the one
/// before, and its records, without which it would have to begin anew.
fn checkpoints(folder: &Path, stage: &str, run: &Path) -> Vec<Damage> {
    let mut damaged = Vec::new();
    let mut queue = vec![folder.to_owned()];
    while let Some(current) = queue.pop() {
        let entries = fs::read_dir(&current).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        folders.sort();
        let mut newest = None;
        let first = damaged.len();
        for path in folders {
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")) {
                queue.push(path);
                continue;
            }
            match model::checkpoint::read_state(&path) {
                Ok(state) => newest = Some((path, state)),
                Err(error) => damaged.push(Damage {
                    step: Step::SetAside(path.clone()),
                    path,
                    kind: Kind::Checkpoint,
                    stage: Some(stage.to_owned()),
                    found: error.to_string(),
                    mend: format!(
                        "`pipeline repair {}` puts it aside; training goes on from the one before it",
                        run.display()
                    ),
                }),
            }
        }
        // One before a whole one stays for the run, which alone knows whether it belongs to the output.
        for damage in &mut damaged[first..] {
            if newest.as_ref().is_some_and(|(path, _)| damage.path < *path) {
                damage.step = Step::None;
                damage.mend = "the next run removes it; if it belongs to the output, training goes back to \
                               the one before it and makes it anew"
                    .to_owned();
            }
        }
        let checked = newest.as_ref().map(|(_, state)| model::checkpoint::check_records(&current, state));
        if let Some(Err(CheckpointError::Record { path, step })) = checked {
            damaged.push(Damage {
                path,
                kind: Kind::StageFile,
                stage: Some(stage.to_owned()),
                found: format!("it does not begin with what was written before step {step}"),
                mend: format!(
                    "put a copy of it in its place; or `pipeline repair {}` puts the training aside, which then \
                     begins anew",
                    run.display()
                ),
                step: Step::SetAside(folder.to_owned()),
            });
        }
    }
    damaged
}

/// Checks the ledger of a service.
///
/// # Errors
/// There is none in that folder.
pub fn verify_ledger(data: &Path) -> Result<Vec<Damage>, String> {
    let path = service::ledger_path(data);
    let problems = service::ledger_check::problems(&path)?;
    let damage = |found| Damage {
        path: path.clone(),
        kind: Kind::Ledger,
        stage: None,
        found,
        mend: format!(
            "stop the service, keep a copy, and put a backup of {} in its place; runs keep their folders whatever \
             becomes of the ledger",
            path.display()
        ),
        step: Step::None,
    };
    Ok(problems.into_iter().map(damage).collect())
}
