//! Files that appear whole or not at all: written under a temporary name, synced, renamed, and the
//! folder synced. Everything the runner writes goes through here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use thiserror::Error;

/// Writing failed.
#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
pub struct WriteError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that disk and run the same command again: finished work is kept"
        }
        io::ErrorKind::PermissionDenied => "; check who owns that folder",
        _ => "",
    }
}

impl WriteError {
    /// Names what was being done to which path.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

/// Adds the action and the path to an I/O error.
pub trait WriteContext<T> {
    /// Names what was being done to which path.
    ///
    /// # Errors
    /// The I/O error with its path.
    fn doing(self, action: &'static str, path: &Path) -> Result<T, WriteError>;
}

impl<T> WriteContext<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, WriteError> {
        self.map_err(|source| WriteError::new(action, path, source))
    }
}

/// Makes a folder and its parents, and syncs the folders that they are made in: what lies in a folder is
/// lost with its name.
///
/// # Errors
/// A folder cannot be made or synced.
pub fn make_folder(path: &Path) -> Result<(), WriteError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match fs::create_dir(path) {
        // Another thread was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.doing("make folder", path),
    }?;
    sync_folder(parent)
}

/// Writes a whole file.
///
/// # Errors
/// Any step fails; no half-written file stands under the final name.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let temporary = temporary_name(path);
    let mut file = File::create(&temporary).doing("create", &temporary)?;
    file.write_all(bytes).doing("write", &temporary)?;
    file.sync_all().doing("sync", &temporary)?;
    publish(&temporary, path)
}

/// Renames a complete, synced file or folder into place and syncs the parent.
///
/// # Errors
/// The rename or the sync fails.
pub fn publish(from: &Path, to: &Path) -> Result<(), WriteError> {
    fs::rename(from, to).doing("rename into", to)?;
    match to.parent() {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// What the names of unfinished files begin with.
pub const TEMPORARY: &str = ".tmp-";

/// This process among those that write into the same folder, see [`write_beside_others`].
static WRITER: OnceLock<String> = OnceLock::new();

/// From now on this process's unfinished files bear its name, so that several may make the same file. What a
/// killed one leaves is then nobody's to overwrite, and is removed by who publishes the folder.
pub fn write_beside_others(name: &str) {
    // Once named, a process keeps its name.
    let _ = WRITER.set(format!("{name}-"));
}

/// The name that a file has until it is complete.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(TEMPORARY);
    name.push(WRITER.get().map_or("", String::as_str));
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Writes a whole file, unless another process was first: then that one's stays.
///
/// # Errors
/// As [`write_file`].
pub fn write_first(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let temporary = temporary_name(path);
    let mut file = File::create(&temporary).doing("create", &temporary)?;
    file.write_all(bytes).doing("write", &temporary)?;
    file.sync_all().doing("sync", &temporary)?;
    match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        linked => linked.doing("name", path)?,
    }
    fs::remove_file(&temporary).doing("remove", &temporary)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes the unfinished files of a folder and of those in it, which killed processes have left.
///
/// # Errors
/// One cannot be removed.
pub fn remove_unfinished(folder: &Path) -> Result<(), WriteError> {
    for entry in fs::read_dir(folder).doing("read", folder)? {
        let entry = entry.doing("read", folder)?;
        let path = entry.path();
        if entry.file_type().doing("read", &path)?.is_dir() {
            remove_unfinished(&path)?;
        } else if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(&path).doing("remove", &path)?;
        }
    }
    Ok(())
}

/// Syncs a folder, so that a rename in it survives a power cut.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> Result<(), WriteError> {
    File::open(path).and_then(|folder| folder.sync_all()).doing("sync", path)
}

/// Syncs every file and folder under a folder.
///
/// # Errors
/// Any of them cannot be opened or synced.
pub fn sync_tree(path: &Path) -> Result<(), WriteError> {
    for entry in fs::read_dir(path).doing("read", path)? {
        let entry = entry.doing("read", path)?;
        let child = entry.path();
        if entry.file_type().doing("read", &child)?.is_dir() {
            sync_tree(&child)?;
        } else {
            File::open(&child).and_then(|file| file.sync_all()).doing("sync", &child)?;
        }
    }
    sync_folder(path)
}

/// Removes a folder if it is there.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove_folder(path: &Path) -> Result<(), WriteError> {
    // Another process may just be leaving a last word in it: an executor whose task is not wanted any more.
    let mut attempts = 10;
    loop {
        attempts -= 1;
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempts > 0 => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.doing("remove", path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_while_somebody_still_writes_into_it() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = folder.path().join(round.to_string());
            fs::create_dir(&path).unwrap();
            let files: Vec<PathBuf> = (0..100).map(|file| path.join(file.to_string())).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| files.iter().take_while(|file| fs::write(file, b"x").is_ok()).count());
                while fs::read_dir(&path).unwrap().count() < 5 {}
                remove_folder(&path).unwrap();
            });
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_file_appears_whole_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_first_to_write_a_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_first(&path, b"one").unwrap();
        write_first(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/.tmp-other-c"), b"").unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("b")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_error_names_the_path_and_the_mend() {
        let error =
            WriteError::new("write", Path::new("/full/x"), io::Error::from(io::ErrorKind::StorageFull));
        let text = error.to_string();
        assert!(text.contains("/full/x") && text.contains("make room"), "{text}");
    }
}
