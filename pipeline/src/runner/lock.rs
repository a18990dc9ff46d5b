//! One process to a run's folder.
//!
//! Whoever holds the lock writes its name into it. A process that the service started carries an *epoch*:
//! how often the run was handed out. The process of a later epoch takes the folder over from one that was
//! given up and hangs; that one, should it wake, finds the other's name and writes nothing more.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::RunError;
use crate::durable::{self, WriteContext, WriteError};

const LOCK_FILE: &str = ".lock";

/// The variable by which the service tells its process the epoch.
pub const EPOCH_VARIABLE: &str = "CORPUSMITH_EPOCH";

/// How long a process that was given up may take to end by itself.
const KILL_AFTER: Duration = Duration::from_secs(5);
/// How long the service's process waits for the folder.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Who holds a run's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its machine.
    pub host: String,
    /// How often the run was handed out; 0 for people.
    pub epoch: u64,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl Holder {
    fn this(epoch: u64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { pid: std::process::id(), host: this_host(), epoch, since }
    }

    fn describe(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

fn this_host() -> String {
    sysinfo::System::host_name().unwrap_or_default()
}

/// Whether a process that finds the folder held gives up or insists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A person's: whoever came first stays.
    Polite,
    /// The service's, with the run's epoch: processes of earlier epochs have been given up.
    Supervised(u64),
}

impl Claim {
    /// The claim of a process that the service started.
    pub fn supervised() -> Self {
        let epoch = std::env::var(EPOCH_VARIABLE).ok().and_then(|epoch| epoch.parse().ok());
        Self::Supervised(epoch.unwrap_or_default())
    }
}

/// Keeps other processes out of a run's folder until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    file: File,
    fence: Fence,
}

impl RunLock {
    /// What stands before each step that others see.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The name goes with its holder; if it stays, the next one writes over it.
        let _ = self.file.set_len(0);
    }
}

/// Tells whether the folder is still this process's.
#[derive(Clone, Debug, Default)]
pub struct Fence(Option<(PathBuf, Holder)>);

impl Fence {
    /// That of another process, which holds the folder, for those who work for it.
    pub fn of(folder: &Path, holder: Holder) -> Self {
        Self(Some((folder.join(LOCK_FILE), holder)))
    }

    /// Whose folder it is.
    pub fn holder(&self) -> Option<&Holder> {
        self.0.as_ref().map(|(_, holder)| holder)
    }

    /// Fails if another process has taken the folder over.
    ///
    /// # Errors
    /// The other process.
    pub fn check(&self) -> Result<(), WriteError> {
        let Some((path, own)) = &self.0 else { return Ok(()) };
        let words = match std::fs::read(path).map(|bytes| serde_json::from_slice::<Holder>(&bytes)) {
            Ok(Ok(holder)) if holder == *own => return Ok(()),
            Ok(Ok(holder)) => format!("{} has taken this run over", holder.describe()),
            // Another one may be writing its name, or have made a lock of its own.
            Ok(Err(_)) => format!("{} does not say any more whose this run is", path.display()),
            Err(error) => format!("{} does not say any more whose this run is: {error}", path.display()),
        };
        let words = format!("{words}; this process writes nothing more");
        Err(WriteError::new("write into", path.parent().unwrap_or(path), std::io::Error::other(words)))
    }
}

/// Who works in a run's folder, if anybody does.
pub fn holder(folder: &Path) -> Option<Holder> {
    let path = folder.join(LOCK_FILE);
    // The name of one that was killed stays; nobody else's lock is in the way then.
    let holder = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
    let held = File::open(&path).ok()?.try_lock_shared().is_err();
    held.then_some(holder)
}

/// Locks a run's folder.
///
/// # Errors
/// Another process holds it.
pub fn lock(folder: &Path, claim: Claim) -> Result<RunLock, RunError> {
    durable::make_folder(folder)?;
    let path = folder.join(LOCK_FILE);
    let started = Instant::now();
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .doing("open", &path)?;
        if file.try_lock().is_ok() {
            let epoch = match claim {
                Claim::Polite => 0,
                Claim::Supervised(epoch) => epoch,
            };
            return hold(file, path, epoch);
        }
        let mut text = String::new();
        // A holder that is just writing its name is read the next time.
        let read = file.read_to_string(&mut text).ok();
        let holder = read.and_then(|_| serde_json::from_str::<Holder>(&text).ok());
        let held = |holder: Option<Holder>| {
            let by = holder.map_or_else(|| "another `pipeline`".to_owned(), |holder| holder.describe());
            Err(RunError::Locked { folder: folder.display().to_string(), holder: by })
        };
        let Claim::Supervised(epoch) = claim else {
            return held(holder);
        };
        if let Some(holder) = holder.as_ref().filter(|holder| holder.epoch < epoch && holder.epoch > 0) {
            let here = this_host() == holder.host;
            if here && started.elapsed() >= KILL_AFTER {
                kill(holder.pid);
            } else if !here && started.elapsed() >= PATIENCE {
                // Its machine cannot be reached: the name moves to a new file, and the other finds out.
                let aside = folder.join(".lock-abandoned");
                std::fs::rename(&path, &aside).doing("rename", &path)?;
                std::fs::remove_file(&aside).doing("remove", &aside)?;
                continue;
            }
        }
        if started.elapsed() >= PATIENCE + KILL_AFTER {
            return held(holder);
        }
        std::thread::sleep(LOOK);
    }
}

fn hold(mut file: File, path: PathBuf, epoch: u64) -> Result<RunLock, RunError> {
    let own = Holder::this(epoch);
    let text = serde_json::json!(own).to_string();
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write(&mut file).doing("write", &path)?;
    Ok(RunLock { file, fence: Fence(Some((path, own))) })
}

/// Ends a process that holds the lock, and so is the one that wrote its name there.
fn kill(pid: u32) {
    let pid = sysinfo::Pid::from_u32(pid);
    let mut system = sysinfo::System::new();
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
    if let Some(process) = system.process(pid) {
        process.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), Claim::Polite).unwrap();
        let error = lock(folder.path(), Claim::Polite).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert_eq!(holder(folder.path()).unwrap().pid, std::process::id());
        drop(first);
        assert_eq!(holder(folder.path()), None);
        lock(folder.path(), Claim::Polite).unwrap();
    }

    #[test]
    fn whoever_was_given_up_writes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path(), Claim::Supervised(1)).unwrap();
        first.fence().check().unwrap();
        // Another machine has moved the name to a new file.
        std::fs::remove_file(folder.path().join(LOCK_FILE)).unwrap();
        let second = lock(folder.path(), Claim::Supervised(2)).unwrap();
        second.fence().check().unwrap();
        let error = first.fence().check().unwrap_err().to_string();
        assert!(error.contains("has taken this run over"), "{error}");
        Fence::default().check().unwrap();
    }

    #[test]
    fn a_name_that_is_gone_is_not_ones_own() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock(folder.path(), Claim::Polite).unwrap();
        let path = folder.path().join(LOCK_FILE);
        for harm in [|path: &Path| std::fs::write(path, "{"), |path: &Path| std::fs::remove_file(path)] {
            harm(&path).unwrap();
            let error = lock.fence().check().unwrap_err().to_string();
            assert!(error.contains(".lock does not say any more whose this run is"), "{error}");
        }
    }
}
