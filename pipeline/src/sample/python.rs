//! Python files as rows of Python-Edu's schema, before scoring.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sha1::{Digest, Sha1};

use super::archive::{Item, Wanted, read};
use super::batch::batches;
use super::package::Package;
use super::{OnReject, SampleError, SampleOptions};
use crate::units::hex;

/// A Python file, in the columns of Python-Edu (HuggingFaceTB/smollm-corpus, `python-edu`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonFile {
    /// SHA-1 of the file as a git blob, in hex.
    pub blob_id: String,
    /// Repository, `owner/name`.
    pub repo_name: &'static str,
    /// Path inside the package.
    pub path: String,
    /// SPDX identifier of its licence.
    pub license: &'static str,
    /// Length in bytes.
    pub length_bytes: i64,
    /// The file.
    pub text: String,
}

/// Iterator over the Python files of a package, in the archive's order; unpacks as it goes.
pub struct PythonFiles {
    items: Receiver<Result<Item, SampleError>>,
    package: Package,
    on_reject: OnReject,
}

/// The Python files in the source distribution of `package` at `sdist`. Files that are empty, too long or not UTF-8
/// are rejected.
///
/// The iterator ends with an error where the archive is missing, truncated, hostile or no gzipped tar file.
pub fn python_files(
    sdist: &Path,
    package: Package,
    options: &SampleOptions,
    on_reject: OnReject,
) -> PythonFiles {
    let path = Box::new(|path: &str| path.ends_with(".py"));
    let items = read(sdist, Wanted { path, max_file_bytes: options.max_python_file_bytes });
    PythonFiles { items, package, on_reject }
}

impl Iterator for PythonFiles {
    type Item = Result<PythonFile, SampleError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            return match self.items.recv().ok()? {
                Ok(Item::Rejected(reject)) => {
                    (self.on_reject)(reject);
                    continue;
                }
                Ok(Item::File(file)) => Some(Ok(PythonFile {
                    blob_id: git_blob_id(file.text.as_bytes()),
                    repo_name: self.package.spec().repo_name,
                    path: file.path,
                    license: self.package.spec().licence,
                    length_bytes: file.text.len() as i64,
                    text: file.text,
                })),
                Err(error) => Some(Err(error)),
            };
        }
    }
}

/// What `git hash-object` says.
fn git_blob_id(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

/// `blob_id, repo_name, path` strings, `length_bytes` i64, `text, license` strings; nothing is null.
pub fn python_file_schema() -> SchemaRef {
    let string = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        string("blob_id"),
        string("repo_name"),
        string("path"),
        Field::new("length_bytes", DataType::Int64, false),
        string("text"),
        string("license"),
    ]))
}

/// Gathers files into batches of [`python_file_schema`], `batch_rows` rows each but the last.
///
/// # Errors
/// The first error of `files` comes after the batch of what was read before it, and ends the iterator.
pub fn python_file_batches(
    files: impl Iterator<Item = Result<PythonFile, SampleError>>,
    batch_rows: usize,
) -> impl Iterator<Item = Result<RecordBatch, SampleError>> {
    batches(files, batch_rows, |files| {
        let string = |of: fn(&PythonFile) -> &str| {
            Arc::new(StringArray::from_iter_values(files.iter().map(of))) as ArrayRef
        };
        let columns = vec![
            string(|file| &file.blob_id),
            string(|file| file.repo_name),
            string(|file| &file.path),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|file| file.length_bytes))),
            string(|file| &file.text),
            string(|file| file.license),
        ];
        Ok(RecordBatch::try_new(python_file_schema(), columns)?)
    })
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::sdist;
    use super::*;
    use std::fs;
    use std::sync::Mutex;

    #[test]
    fn files_come_with_gits_blob_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.tar.gz");
        let files: [(&str, &[u8]); 4] = [
            ("p-1/a.py", b"hello\n"),
            ("p-1/b.txt", b"x"),
            ("p-1/c/d.py", b"# caf\xc3\xa9"),
            ("p-1/e.py", b""),
        ];
        fs::write(&path, sdist(&files)).unwrap();
        let rejects = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&rejects);
        let on_reject: OnReject = Arc::new(move |reject| seen.lock().unwrap().push(reject.reason));
        let files = python_files(&path, Package::Celery, &SampleOptions::default(), on_reject);
        let batches: Vec<RecordBatch> = python_file_batches(files, 10).collect::<Result<_, _>>().unwrap();
        assert_eq!(batches.len(), 1);
        let strings = |column: usize| {
            let array = batches[0].column(column).as_any().downcast_ref::<StringArray>().unwrap().clone();
            array.iter().map(|value| value.unwrap().to_owned()).collect::<Vec<_>>()
        };
        // `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(strings(0)[0], "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(strings(1), ["celery/celery"; 2]);
        assert_eq!(strings(2), ["a.py", "c/d.py"]);
        assert_eq!(strings(5), ["BSD-3-Clause"; 2]);
        let lengths = batches[0].column(3).as_any().downcast_ref::<Int64Array>().unwrap();
        assert_eq!(lengths.values(), &[6, 7]);
        assert_eq!(*rejects.lock().unwrap(), ["empty"]);
    }

    #[test]
    fn a_missing_archive_is_named() {
        let path = Path::new("/nonexistent/p.tar.gz");
        let mut files = python_files(path, Package::Django, &SampleOptions::default(), Arc::new(|_| ()));
        let error = files.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/p.tar.gz"), "{error}");
        assert!(files.next().is_none());
    }
}
