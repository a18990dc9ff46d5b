//! Looks into files of the data folder. Each look is a process of its own, `pipeline inspect`, with a limit
//! of time and limits of memory: a hostile file or query costs its look, never the service.

mod limits;

use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::api::problem::Problem;
use crate::supervisor::LOG_FORMAT_VARIABLE;

/// A look that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Looks at the same time.
const AT_ONCE: usize = 4;
/// Most that a look may print; one that prints more is ended.
const MOST_BYTES: u64 = 16 << 20;
const MOST_ERROR_BYTES: u64 = 64 << 10;

/// Looks into files of a folder.
pub(crate) struct Looking {
    program: PathBuf,
    root: PathBuf,
    slots: Semaphore,
}

/// An entry of a folder.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) is_folder: bool,
    pub(crate) bytes: u64,
}

impl Looking {
    pub(crate) fn new(program: PathBuf, root: PathBuf) -> Self {
        Self { program, root, slots: Semaphore::new(AT_ONCE) }
    }

    /// The real path of a relative one, which must lie inside the root: `..`, absolute paths and links that
    /// lead out are refused, and so is what the service keeps for itself.
    pub(crate) fn confined(&self, relative: &str) -> Result<PathBuf, Problem> {
        let refused = || Problem::not_found(format!("there is nothing at `{relative}`"));
        let path = Path::new(relative);
        let plain = path.components().all(|part| match part {
            Component::Normal(name) => !name.to_string_lossy().starts_with(".answers"),
            Component::CurDir => true,
            _ => false,
        });
        if !plain || path.starts_with("service") || relative.contains('\0') {
            return Err(refused());
        }
        let real = self.root.join(path).canonicalize().map_err(|_| refused())?;
        if !real.starts_with(&self.root) || real.starts_with(self.root.join("service")) {
            return Err(refused());
        }
        Ok(real)
    }

    /// The visible entries of a folder, folders first.
    pub(crate) fn entries(&self, relative: &str) -> Result<Vec<Entry>, Problem> {
        let folder = self.confined(relative)?;
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if relative.is_empty() { name.clone() } else { format!("{relative}/{name}") };
            if name.starts_with('.') || self.confined(&path).is_err() {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            entries.push(Entry { name, path, is_folder: metadata.is_dir(), bytes: metadata.len() });
        }
        entries.sort_by(|a, b| (b.is_folder, &a.name).cmp(&(a.is_folder, &b.name)));
        Ok(entries)
    }

    /// What `pipeline <command> <path> <arguments>` prints with `--json`, a value a line.
    pub(crate) async fn look(
        &self,
        command: &[&str],
        path: &Path,
        arguments: &[String],
    ) -> Result<Vec<Json>, Problem> {
        let _slot = self.slots.acquire().await.map_err(|error| Problem::internal(error.to_string()))?;
        let mut process = Command::new(&self.program);
        let words = command.iter().take_while(|word| !word.starts_with('-')).count();
        process.args(&command[..words]).arg("--json").args(&command[words..]).arg(path).args(arguments);
        // What it says of an error is shown to people.
        process.env(LOG_FORMAT_VARIABLE, "text");
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // What a query spills goes with the look, however that ends.
        let spill = tempfile::tempdir().map_err(|error| {
            Problem::internal(format!("there is no room for a temporary folder: {error}"))
        })?;
        process.env("TMPDIR", spill.path());
        limits::confine(&mut process, PATIENCE);
        let printed = match tokio::time::timeout(PATIENCE, printed(process)).await {
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(Problem::unprocessable(format!("the look took longer than {seconds} seconds")));
            }
            Ok(Err(error)) => return Err(Problem::internal(format!("the look cannot be started: {error}"))),
            Ok(Ok(printed)) => printed,
        };
        if printed.out.len() as u64 > MOST_BYTES {
            return Err(Problem::unprocessable(
                "there is too much to be shown: ask for fewer rows or columns",
            ));
        }
        if printed.was_killed {
            let most = limits::MEMORY_BYTES >> 30;
            return Err(Problem::unprocessable(format!(
                "the look was ended: it needed more than {most} GiB of memory, or too much of the processor"
            )));
        }
        if !printed.success {
            let report = String::from_utf8_lossy(&printed.err);
            // Where the data lies on this machine is nobody's business.
            let report = report.replace(&*self.root.to_string_lossy(), "");
            return Err(Problem::unprocessable(report.trim().to_owned()));
        }
        let lines = printed.out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).map_err(|error| Problem::internal(error.to_string())))
            .collect()
    }
}

/// What a process printed.
struct Printed {
    out: Vec<u8>,
    err: Vec<u8>,
    success: bool,
    /// A limit ended it.
    was_killed: bool,
}

/// Reads what a process prints, up to a little more than is shown. Then the pipe closes, and the process ends.
async fn printed(mut command: Command) -> std::io::Result<Printed> {
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let read_out = async {
        match stdout {
            Some(stdout) => stdout.take(MOST_BYTES + 1).read_to_end(&mut out).await.map(drop),
            None => Ok(()),
        }
    };
    let read_err = async {
        match stderr {
            Some(stderr) => stderr.take(MOST_ERROR_BYTES).read_to_end(&mut err).await.map(drop),
            None => Ok(()),
        }
    };
    tokio::try_join!(read_out, read_err)?;
    let status = child.wait().await?;
    Ok(Printed { out, err, success: status.success(), was_killed: status.signal().is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks with a program of a shell's words, which gets `look`'s arguments.
    async fn look_with(words: &str) -> Result<Vec<Json>, Problem> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{words}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let looking = Looking::new(program, folder.path().to_owned());
        looking.look(&["inspect"], folder.path(), &[]).await
    }

    #[tokio::test]
    async fn a_look_has_limits_and_a_folder_of_its_own() {
        let said = look_with(
            r#"echo "\"$(ulimit -d) $(ulimit -c) $CORPUSMITH_LOOK_MEMORY\""; echo "\"$TMPDIR\""; touch "$TMPDIR/left""#,
        )
        .await
        .unwrap();
        assert_eq!(said[0], format!("{} 0 {}", limits::MEMORY_BYTES >> 10, limits::PLAN_MEMORY_BYTES));
        assert!(!Path::new(said[1].as_str().unwrap()).exists());
    }

    #[tokio::test]
    async fn a_look_that_a_limit_ends_says_so() {
        let problem = look_with("kill -ABRT $$").await.unwrap_err();
        assert!(format!("{problem:?}").contains("more than 2 GiB of memory"), "{problem:?}");
    }

    #[test]
    fn no_path_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data").canonicalize().unwrap_or_else(|_| {
            std::fs::create_dir_all(folder.path().join("data/runs/a")).unwrap();
            folder.path().join("data").canonicalize().unwrap()
        });
        std::fs::create_dir_all(root.join("service")).unwrap();
        std::fs::write(root.join("service/ledger.sqlite"), "secret").unwrap();
        std::fs::write(folder.path().join("outside.txt"), "secret").unwrap();
        std::fs::write(root.join("runs/a/x.parquet"), "x").unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside.txt"), root.join("runs/link")).unwrap();
        std::os::unix::fs::symlink(root.join("service"), root.join("runs/inner")).unwrap();
        let looking = Looking::new(PathBuf::from("pipeline"), root.clone());
        for good in ["", "runs", "runs/a/x.parquet", "./runs"] {
            assert!(looking.confined(good).is_ok(), "{good}");
        }
        let mut refused = 0;
        let outside = folder.path().join("outside.txt").display().to_string();
        let ups: Vec<String> = (1..=12).map(|n| "../".repeat(n)).collect();
        let tails = ["etc/passwd", "outside.txt", "service/ledger.sqlite", "proc/self/environ", ""];
        let starts = ["", "runs/", "runs/a/", "./", "runs/./", "/", "//", "runs//"];
        for (start, up) in starts.iter().flat_map(|start| ups.iter().map(move |up| (start, up))) {
            for tail in tails {
                assert!(looking.confined(&format!("{start}{up}{tail}")).is_err(), "{start}{up}{tail}");
                refused += 1;
            }
        }
        for wrong in [
            "runs/link",
            "runs/inner",
            "runs/inner/ledger.sqlite",
            "service",
            "service/ledger.sqlite",
            "runs/\0",
            &outside,
            "/etc/passwd",
            "runs/a/.answers",
            ".answers",
        ] {
            assert!(looking.confined(wrong).is_err(), "{wrong:?}");
            refused += 1;
        }
        assert!(refused > 480);
        let names: Vec<String> =
            looking.entries("runs").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a"]);
    }
}
