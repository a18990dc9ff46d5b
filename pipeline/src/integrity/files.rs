//! Comparing files with their digests.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use digests::Seal;

use crate::manifest::OutputFile;

/// How closely a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// It is read from end to end.
    Every,
    /// Its size is compared, and it is read only if it changed after this moment, when its digest was
    /// written. Storage that loses bits by itself is not noticed so.
    ChangedSince(SystemTime),
}

impl Care {
    /// Files that changed after the record of their digests; all files if the record's time is not known.
    pub fn since(record: &Path) -> Self {
        match record.metadata().and_then(|found| found.modified()) {
            Ok(time) => Self::ChangedSince(time),
            Err(_) => Self::Every,
        }
    }
}

/// What is wrong with a file; `None` if it is as it was written.
pub fn problem(folder: &Path, file: &OutputFile, care: Care) -> Option<String> {
    let path = folder.join(&file.path);
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("it is missing".to_owned()),
        Err(error) => return Some(format!("it cannot be read: {error}")),
    };
    if metadata.len() != file.bytes {
        return Some(format!("it has {} bytes, and {} were written", metadata.len(), file.bytes));
    }
    if let Care::ChangedSince(time) = care
        && metadata.modified().is_ok_and(|changed| changed <= time)
    {
        return None;
    }
    match digests::of_file(&path) {
        Ok(found) if found == file.blake3 => None,
        Ok(found) => Some(format!("its blake3 is {found}, and {} was written", file.blake3)),
        Err(error) => Some(format!("it cannot be read: {error}")),
    }
}

/// Writes down what a file is, under a hidden name beside it, for a stage that goes on later.
///
/// # Errors
/// The note cannot be written.
pub fn note(path: &Path, file: &OutputFile) -> Result<(), crate::durable::WriteError> {
    crate::durable::write_file(&note_of(path), &digests::seal(&serde_json::json!(file).to_string()))
}

/// What a file is by its note, if it still is that.
pub fn noted(path: &Path) -> Option<OutputFile> {
    let note = note_of(path);
    let bytes = std::fs::read(&note).ok().filter(|bytes| digests::check(bytes) == Seal::Whole)?;
    let file: OutputFile = serde_json::from_slice(&bytes).ok()?;
    problem(path.parent()?, &file, Care::Every).is_none().then_some(file)
}

/// Removes the note of a file that needs none any more.
pub fn forget(path: &Path) {
    // A note that stays says nothing untrue.
    let _ = std::fs::remove_file(note_of(path));
}

fn note_of(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_differ_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "content").unwrap();
        let blake3 = digests::of_file(&path).unwrap();
        let file = OutputFile { path: "a".to_owned(), bytes: 7, rows: None, blake3 };
        note(&path, &file).unwrap();
        assert_eq!(problem(folder.path(), &file, Care::Every), None);
        assert_eq!(noted(&path), Some(file.clone()));
        let told = |text: &str| {
            std::fs::write(&path, text).unwrap();
            problem(folder.path(), &file, Care::Every).unwrap()
        };
        forget(&path);
        assert_eq!(noted(&path), None);
        assert!(told("contend").contains("blake3"));
        assert!(told("cont").contains("4 bytes"));
        std::fs::remove_file(&path).unwrap();
        assert!(problem(folder.path(), &file, Care::Every).unwrap().contains("missing"));
    }

    #[test]
    fn what_did_not_change_since_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        let file = OutputFile { path: "a".to_owned(), bytes: 7, rows: None, blake3: "other".to_owned() };
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        assert_eq!(problem(folder.path(), &file, Care::ChangedSince(later)), None);
        assert!(problem(folder.path(), &file, Care::ChangedSince(SystemTime::UNIX_EPOCH)).is_some());
    }
}
