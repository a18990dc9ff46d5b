//! The workflow files that the service may run.

use std::collections::BTreeMap;
use std::env::JoinPathsError;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::run::{Amounts, StageShape};
use crate::schedule::{ScheduleConfig, TriggerConfig};
use crate::supervisor::LOG_FORMAT_VARIABLE;

/// The variable that tells a process that its overrides come from callers: those may not read the environment,
/// which has the service's secrets, and name only files under the folders that it lists.
pub const CALLERS_VARIABLE: &str = "CORPUSMITH_CALLERS_OVERRIDES";

/// What `pipeline check --json` says of a workflow without problems.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WorkflowShape {
    /// Its name.
    pub name: String,
    /// What it makes, in a sentence.
    #[serde(default)]
    pub description: String,
    /// The profile that was laid over the file.
    pub profile: String,
    /// The profiles that the file has.
    #[serde(default)]
    pub profiles: Vec<String>,
    /// The stages in order.
    pub stages: Vec<StageShape>,
    /// When it runs by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleConfig>,
    /// What else makes it run.
    #[serde(default)]
    pub trigger: TriggerConfig,
    /// What a run takes of the pools.
    #[serde(default)]
    pub run: RunDemands,
}

/// What a run takes of the pools: `[run]`, with its memory as a number.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
// Clients call the type of a run's `demands` `RunDemands`.
#[schemars(rename = "WorkflowDemands")]
pub struct RunDemands {
    /// Memory, in bytes; all that the service has where it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU threads; all that the service has where they are not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// Amounts of the pools that the operator has named.
    #[serde(default)]
    pub pools: Amounts,
    /// Without progress for so long it hangs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_after_seconds: Option<u64>,
}

/// A workflow file, as it is or with what is wrong with it.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct WorkflowFile {
    /// The file, relative to the folder of workflows.
    pub file: String,
    /// What it holds, when it has no problem.
    pub shape: Option<WorkflowShape>,
    /// Its problems, as `pipeline check` reports them.
    pub problems: Option<String>,
}

/// The folder of workflow files, and the program that reads them.
pub struct Workflows {
    folder: PathBuf,
    program: PathBuf,
    callers_folders: OsString,
    known: tokio::sync::Mutex<BTreeMap<String, (SystemTime, WorkflowFile)>>,
}

impl Workflows {
    /// Workflows of a folder on the data of another, checked by the program `pipeline`.
    ///
    /// # Errors
    /// The folders' paths cannot stand in a list of paths: one has a colon.
    pub fn new(folder: PathBuf, data: &Path, program: PathBuf) -> Result<Self, JoinPathsError> {
        let callers_folders = std::env::join_paths([data, &folder])?;
        Ok(Self { folder, program, callers_folders, known: tokio::sync::Mutex::default() })
    }

    /// What [`CALLERS_VARIABLE`] is for a process: the folders whose files callers may name.
    pub(crate) fn callers_folders(&self) -> &OsStr {
        &self.callers_folders
    }

    /// The path of a file inside the folder; none for names that lead out of it.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        let relative = Path::new(file);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let path = self.folder.join(relative);
        let toml = path.extension().is_some_and(|extension| extension == "toml");
        // A link may point elsewhere: what counts is where the file really is.
        let inside = path.canonicalize().ok()?.starts_with(self.folder.canonicalize().ok()?);
        (plain && toml && inside && path.is_file()).then_some(path)
    }

    /// All workflow files in order. Files that have not changed are not read again.
    pub async fn list(&self) -> Vec<WorkflowFile> {
        let mut names: Vec<String> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".toml"))
            .collect();
        names.sort();
        let mut files = Vec::new();
        for name in names {
            files.extend(self.file(&name).await);
        }
        let mut known = self.known.lock().await;
        known.retain(|name, _| files.iter().any(|file| file.file == *name));
        files
    }

    /// A workflow file; none if it is not in the folder.
    pub async fn file(&self, name: &str) -> Option<WorkflowFile> {
        let path = self.path(name)?;
        let changed = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        let mut known = self.known.lock().await;
        if let Some((at, file)) = known.get(name)
            && *at == changed
        {
            return Some(file.clone());
        }
        let file = match self.check(name, None, &[]).await {
            Ok(shape) => WorkflowFile { file: name.to_owned(), shape: Some(shape), problems: None },
            Err(problems) => WorkflowFile { file: name.to_owned(), shape: None, problems: Some(problems) },
        };
        known.insert(name.to_owned(), (changed, file.clone()));
        Some(file)
    }

    /// Checks a file with a profile and overrides.
    ///
    /// # Errors
    /// The problems, as `pipeline check` reports them.
    pub async fn check(
        &self,
        name: &str,
        profile: Option<&str>,
        set: &[String],
    ) -> Result<WorkflowShape, String> {
        let path = self.path(name).ok_or_else(|| format!("there is no workflow file `{name}`"))?;
        let mut command = Command::new(&self.program);
        command.arg("check").arg("--json").arg(&path).stdin(std::process::Stdio::null());
        // What it says of an error is shown to people.
        command.env(LOG_FORMAT_VARIABLE, "text").env(CALLERS_VARIABLE, &self.callers_folders);
        command.args(profile.iter().flat_map(|profile| ["--profile", profile]));
        command.args(set.iter().flat_map(|value| ["--set", value.as_str()]));
        let output = command
            .output()
            .await
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{} check printed no JSON: {error}", self.program.display()))
    }
}
