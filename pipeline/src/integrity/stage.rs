//! What there is to check of a stage's folder, and what a damaged file of it means.

use std::path::{Path, PathBuf};

use super::files::Care;
use super::{Damage, Kind, Step, files};
use crate::manifest::{self, Fingerprint, Manifest, ManifestError, OutputFile};
use crate::runner::stage_run::{TaskRecord, task_record_path};

/// A stage's folder, finished or begun.
#[derive(Clone, Debug)]
pub struct StageFolder {
    /// The folder.
    pub path: PathBuf,
    /// The stage's name.
    pub stage: String,
    /// What a finished stage's work is known by.
    fingerprint: Option<Fingerprint>,
    /// Whether its work is cut into tasks with a record each.
    has_tasks: bool,
}

/// A file and the folder that it belongs to.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The folder.
    pub folder: StageFolder,
    /// The file.
    pub file: OutputFile,
}

impl StageFolder {
    /// A finished stage's folder, by its manifest.
    pub fn finished(path: &Path, manifest: &Manifest) -> Self {
        Self {
            path: path.to_owned(),
            stage: manifest.stage.clone(),
            fingerprint: Some(manifest.fingerprint.clone()),
            has_tasks: path.join("tasks").is_dir(),
        }
    }

    /// The folder of a stage that is not at its end.
    pub fn begun(path: &Path, stage: &str) -> Self {
        let has_tasks = path.join("tasks").is_dir();
        Self { path: path.to_owned(), stage: stage.to_owned(), fingerprint: None, has_tasks }
    }

    /// What is to be done about a damaged file of the folder.
    pub fn step(&self, file: &str) -> Step {
        match task_of(file).filter(|_| self.has_tasks) {
            Some(task) => {
                let finished = self.fingerprint.clone().map(|print| (self.stage.clone(), print));
                Step::RedoTask { folder: self.path.clone(), finished, task }
            }
            None => Step::SetAside(self.path.clone()),
        }
    }

    /// A damaged file of the folder.
    pub fn damage(&self, file: &str, kind: Kind, found: String) -> Damage {
        let step = self.step(file);
        let run = self.path.parent().unwrap_or(&self.path).display();
        let anew = match &step {
            Step::RedoTask { task, .. } => format!("task {task} of stage `{}`", self.stage),
            _ => format!("stage `{}`", self.stage),
        };
        Damage {
            path: self.path.join(file),
            kind,
            stage: Some(self.stage.clone()),
            found,
            mend: format!("`pipeline repair {run}` puts it aside, and the next run makes {anew} anew"),
            step,
        }
    }

    /// What is wrong with one of the folder's files.
    pub fn check(&self, file: &OutputFile, care: Care) -> Option<Damage> {
        let found = files::problem(&self.path, file, care)?;
        Some(self.damage(&file.path, kind_of(&file.path), found))
    }
}

impl Expected {
    /// What is wrong with the file, read from end to end.
    pub fn check(&self) -> Option<Damage> {
        self.folder.check(&self.file, Care::Every)
    }
}

/// The version of a finished stage's manifest and the files that it names, or the damage that keeps its manifest from saying so.
///
/// # Errors
/// A later version wrote the manifest, or the disk failed.
pub fn of_finished(path: &Path, stage: &str) -> Result<Result<(u32, Vec<Expected>), Damage>, ManifestError> {
    match Manifest::read(path) {
        Ok(None) => Ok(Ok((manifest::FORMAT, Vec::new()))),
        Ok(Some(manifest)) => {
            let folder = StageFolder::finished(path, &manifest);
            let expect = |file: &OutputFile| Expected { folder: folder.clone(), file: file.clone() };
            Ok(Ok((manifest.format, manifest.all_files().map(expect).collect())))
        }
        Err(ManifestError::Damaged { problem, .. }) => {
            // Which tasks its work had is no longer certain.
            let folder = StageFolder { has_tasks: false, ..StageFolder::begun(path, stage) };
            Ok(Err(folder.damage(manifest::FILE_NAME, Kind::Manifest, problem)))
        }
        Err(error) => Err(error),
    }
}

/// The files of the finished tasks of a begun stage, and the records that are damaged.
///
/// # Errors
/// The folder cannot be read.
pub fn of_begun(path: &Path, stage: &str) -> std::io::Result<(Vec<Expected>, Vec<Damage>)> {
    let folder = StageFolder::begun(path, stage);
    let (mut expected, mut damaged) = (Vec::new(), Vec::new());
    if !folder.has_tasks {
        return Ok((expected, damaged));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path.join("tasks"))? {
        names.push(format!("tasks/{}", entry?.file_name().to_string_lossy()));
    }
    names.sort();
    for name in names {
        let Some(task) = task_of(&name) else { continue };
        match TaskRecord::read(&task_record_path(path, task)) {
            Ok(Some(record)) => {
                let of_task = record.files.iter().chain(&record.side_files);
                expected.extend(of_task.map(|file| Expected { folder: folder.clone(), file: file.clone() }));
            }
            Ok(None) => {}
            Err(problem) => damaged.push(folder.damage(&name, Kind::TaskRecord, problem)),
        }
    }
    Ok((expected, damaged))
}

/// The task that a file of a stage cut into tasks belongs to, by its name.
pub fn task_of(file: &str) -> Option<usize> {
    let (folder, name) = file.split_once('/')?;
    let name = name.split_once('.')?.0;
    match folder {
        "data" => name.split_once('-')?.0.parse().ok(),
        "tasks" | "dropped" | "quarantine" => name.parse().ok(),
        _ => None,
    }
}

fn kind_of(file: &str) -> Kind {
    match file.split_once('/') {
        Some(("data", name)) if name.ends_with(".parquet") => Kind::Shard,
        Some(("tasks", _)) => Kind::TaskRecord,
        Some(("dropped" | "quarantine", _)) => Kind::SideTable,
        _ => Kind::StageFile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_know_their_task() {
        assert_eq!(task_of("data/00012-00003.parquet"), Some(12));
        assert_eq!(task_of("dropped/00007.parquet"), Some(7));
        assert_eq!(task_of("tasks/00000.json"), Some(0));
        assert_eq!(task_of("data/train-00000-of-00001.parquet"), None);
        assert_eq!(task_of("data/.tmp-00000-00000.parquet"), None);
        assert_eq!(task_of("final/model.safetensors"), None);
    }
}
