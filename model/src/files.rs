//! Publishing files and folders whole: a reader sees the old state or the new one, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An I/O failure with the path it happened at.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}; check that the path exists, is writable and has free space", path.display())]
pub struct FileError {
    /// What was tried, as a verb ("write", "rename", …).
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's answer.
    #[source]
    pub source: io::Error,
}

/// Turns an [`io::Error`] into a [`FileError`] in a `map_err`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError { action, path, source }
}

/// Flushes one file's bytes to the disk.
pub(crate) fn sync_file(path: &Path) -> Result<(), FileError> {
    // Opened for writing: some file systems refuse to sync a read-only handle.
    OpenOptions::new().write(true).open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

/// Flushes a folder's entries to the disk, so that a rename inside it survives a power cut.
pub(crate) fn sync_folder(path: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))?;
    }
    Ok(())
}

/// The folder that holds `path` (`.` for a bare name).
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The name under which `path` is written until it is complete.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    parent_of(path).join(format!(".partial-{name}"))
}

/// Moves a complete, synced temporary file or folder to its final name.
pub(crate) fn publish(temporary: &Path, target: &Path) -> Result<(), FileError> {
    fs::rename(temporary, target).map_err(failed("rename to", target))?;
    sync_folder(parent_of(target))
}

/// Writes `bytes` to `path` under a temporary name, syncs and renames.
///
/// # Errors
/// Any I/O failure, with its path.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = temporary_name(path);
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
    publish(&temporary, path)
}

/// Fills a fresh folder with `fill` and publishes it as `path`, replacing what stood there.
///
/// Every file directly inside is synced before the rename.
///
/// # Errors
/// Whatever `fill` returns, or an I/O failure converted into its error type.
pub fn write_folder<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(failed("create folder", parent))?;
    let temporary = temporary_name(path);
    remove_folder(&temporary)?;
    fs::create_dir(&temporary).map_err(failed("create folder", &temporary))?;
    fill(&temporary)?;
    for entry in fs::read_dir(&temporary).map_err(failed("list", &temporary))? {
        let entry = entry.map_err(failed("list", &temporary))?;
        if entry.path().is_file() {
            sync_file(&entry.path())?;
        }
    }
    sync_folder(&temporary)?;
    remove_folder(path)?;
    publish(&temporary, path)?;
    Ok(())
}

/// Removes a folder and everything in it; a missing one is fine.
///
/// The folder is first renamed, so that a kill in between never leaves half a folder under its name.
///
/// # Errors
/// Any I/O failure, with its path.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    let doomed = parent_of(path).join(format!(
        ".removed-{}",
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    ));
    for victim in [&doomed, path] {
        if !victim.exists() {
            continue;
        }
        if victim == path {
            fs::rename(path, &doomed).map_err(failed("rename", path))?;
        }
        fs::remove_dir_all(&doomed).map_err(failed("remove", &doomed))?;
    }
    Ok(())
}

/// Removes what a killed process left half-written or half-removed directly in `folder`.
///
/// # Errors
/// Any I/O failure, with its path.
pub fn remove_leftovers(folder: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".partial-") || name.starts_with(".removed-") {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let failed: Result<(), FileError> = write_folder(&target, |folder| {
            fs::write(folder.join("a"), b"half").unwrap();
            Err(FileError { action: "test", path: folder.into(), source: io::Error::other("stop") })
        });
        assert!(failed.is_err());
        assert!(!target.exists());
        for text in ["one", "two"] {
            write_folder::<FileError>(&target, |folder| write_whole(&folder.join("a"), text.as_bytes()))
                .unwrap();
            assert_eq!(fs::read_to_string(target.join("a")).unwrap(), text);
        }
        let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["out"]);
    }
}
