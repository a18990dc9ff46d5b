//! The process of a run. It leads a process group of its own, so that a stop reaches all that it
//! started, and ends by itself when the service is gone: it sees its standard input close.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::pools::{MEMORY, THREADS};
use crate::run::Run;
use crate::trace;
use crate::workflows::CALLERS_VARIABLE;

/// The variable that tells the process its epoch.
const EPOCH_VARIABLE: &str = "CORPUSMITH_EPOCH";

/// The variable that tells the process its run's id.
pub const RUN_VARIABLE: &str = "CORPUSMITH_RUN_ID";

/// The variable by which `pipeline run` is sent to a service.
const SERVER_VARIABLE: &str = "CORPUSMITH_SERVER";

/// The variable that tells a process what its log looks like.
pub(crate) const LOG_FORMAT_VARIABLE: &str = "CORPUSMITH_LOG_FORMAT";

/// The variable that tells the process what to log.
const LOG_VARIABLE: &str = "CORPUSMITH_LOG";

/// Longest line of progress that is kept; the rest of it is left out.
const MOST_LINE_BYTES: usize = 1 << 20;

/// How a process is stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// Finish the shards in flight.
    Interrupt,
    /// At once.
    Kill,
}

pub(super) struct RunProcess {
    child: Child,
    group: i32,
    /// Closes when the service ends, however it ends.
    _alive: Option<ChildStdin>,
    lines: ProgressLines,
}

/// The lines that the process prints.
#[derive(Default)]
pub(super) struct ProgressLines(Option<Lines<BufReader<ChildStdout>>>);

/// Where runs and their logs are.
pub(super) struct Places<'a> {
    pub(super) program: &'a Path,
    pub(super) workflow: &'a Path,
    pub(super) runs_folder: &'a Path,
    pub(super) log: PathBuf,
    pub(super) json_log: bool,
    /// The folders whose files callers may name.
    pub(super) callers_folders: &'a OsStr,
}

impl RunProcess {
    pub(super) fn start(run: &Run, places: &Places<'_>) -> io::Result<Self> {
        let log = append(&places.log)?;
        let mut command = Command::new(places.program);
        command
            .arg("run")
            .arg(places.workflow)
            .args(["--json", "--supervised", "--runs"])
            .arg(places.runs_folder);
        let spec = &run.spec;
        command.args(spec.profile.iter().flat_map(|profile| ["--profile", profile]));
        command.args(spec.set.iter().flat_map(|value| ["--set", value.as_str()]));
        command.args(spec.name.iter().flat_map(|name| ["--as", name]));
        command.args(spec.until.iter().flat_map(|stage| ["--until", stage]));
        // Only the first process makes the stage anew; later ones go on from where that was.
        let from = spec.from.iter().filter(|_| run.epoch == 1);
        command.args(from.flat_map(|stage| ["--from", stage]));
        for (pool, option) in [(MEMORY, "--memory-limit"), (THREADS, "--threads")] {
            if let Some(amount) = run.demands.get(pool) {
                command.arg(option).arg(amount.to_string());
            }
        }
        command.env(EPOCH_VARIABLE, run.epoch.to_string());
        command.env(RUN_VARIABLE, &run.id.0).env(CALLERS_VARIABLE, places.callers_folders);
        command.env(LOG_FORMAT_VARIABLE, if places.json_log { "json" } else { "text" });
        // Its spans go on where those of the service are.
        match trace::current() {
            Some(context) => command.env(trace::VARIABLE, context),
            None => command.env_remove(trace::VARIABLE),
        };
        // It does the work itself, wherever its service's caller sends runs to.
        command.env_remove(SERVER_VARIABLE);
        if std::env::var_os(LOG_VARIABLE).is_none() {
            command.env(LOG_VARIABLE, "info");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let group = child.id().map_or(0, |id| id as i32);
        let alive = child.stdin.take();
        let lines = ProgressLines(child.stdout.take().map(|out| BufReader::new(out).lines()));
        Ok(Self { child, group, _alive: alive, lines })
    }

    /// What the process prints; once.
    pub(super) fn take_lines(&mut self) -> ProgressLines {
        std::mem::take(&mut self.lines)
    }

    /// Waits for the end; the exit code, or none where a signal ended it. What it started ends with it.
    pub(super) async fn wait(&mut self) -> io::Result<Option<i32>> {
        let status = self.child.wait().await?;
        self.signal(Signal::Kill);
        self.group = 0;
        Ok(status.code())
    }

    pub(super) fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Interrupt => libc::SIGINT,
            Signal::Kill => libc::SIGKILL,
        };
        if self.group > 0 {
            // SAFETY: no memory is involved. The group is that of a child that has just ended at most, so
            // its number is not used again.
            unsafe { libc::kill(-self.group, number) };
        }
    }
}

impl ProgressLines {
    /// The next line of progress; never again after the last.
    pub(super) async fn next(&mut self) -> String {
        if let Some(lines) = &mut self.0 {
            match lines.next_line().await {
                Ok(Some(line)) if line.len() <= MOST_LINE_BYTES => return line,
                Ok(Some(_)) => return String::new(),
                Ok(None) | Err(_) => self.0 = None,
            }
        }
        std::future::pending().await
    }

    /// Lines that were printed before the end and not read yet.
    pub(super) async fn rest(self) -> Vec<String> {
        let mut rest = Vec::new();
        if let Some(mut lines) = self.0 {
            while let Ok(Some(line)) = lines.next_line().await {
                rest.push(line);
            }
        }
        rest
    }
}

impl Drop for RunProcess {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}

fn append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
