//! The files of a dataset on this machine.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};
use sha1::{Digest, Sha1};

use super::PublishError;
use crate::manifest::Manifest;
use crate::units::hex;

/// Bytes by which the hub tells text from other files (huggingface_hub `_commit_api.py`).
const SAMPLE_BYTES: u64 = 512;

/// A file to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Its path in the repository, with `/`.
    pub path: String,
    /// Where it is.
    pub local: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

impl LocalFile {
    fn fail(&self) -> impl Fn(std::io::Error) -> PublishError + '_ {
        |source| PublishError::File { path: self.local.clone(), source }
    }

    /// Its content, for small files.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn content(&self) -> Result<String, PublishError> {
        let bytes = std::fs::read(&self.local).map_err(self.fail())?;
        Ok(STANDARD.encode(bytes))
    }

    /// Its first bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn sample(&self) -> Result<String, PublishError> {
        let mut bytes = Vec::new();
        let file = File::open(&self.local).map_err(self.fail())?;
        file.take(SAMPLE_BYTES).read_to_end(&mut bytes).map_err(self.fail())?;
        Ok(STANDARD.encode(bytes))
    }

    /// Its name in the hub's storage of large files.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn sha256(&self) -> Result<String, PublishError> {
        let mut context = Context::new(&SHA256);
        self.each_piece(|piece| context.update(piece))?;
        Ok(hex(context.finish().as_ref()))
    }

    /// Its name in a Git repository.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn git_oid(&self) -> Result<String, PublishError> {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", self.bytes));
        self.each_piece(|piece| hasher.update(piece))?;
        Ok(hex(&hasher.finalize()))
    }

    fn each_piece(&self, mut use_piece: impl FnMut(&[u8])) -> Result<(), PublishError> {
        let mut file = File::open(&self.local).map_err(self.fail())?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).map_err(self.fail())? {
                0 => return Ok(()),
                read => use_piece(&piece[..read]),
            }
        }
    }
}

/// The files of a `dataset` stage's folder, by its manifest.
///
/// # Errors
/// The stage is not finished, or a file is not as the manifest says.
pub fn dataset_files(folder: &Path) -> Result<Vec<LocalFile>, PublishError> {
    let wrong = |why: String| PublishError::Dataset { path: folder.to_owned(), why };
    let manifest = Manifest::read(folder).map_err(|error| wrong(error.to_string()))?;
    let manifest = manifest
        .ok_or_else(|| wrong("there is no finished dataset; run the workflow to its end".to_owned()))?;
    if manifest.kind != "dataset" {
        return Err(wrong(format!(
            "this is a `{}` stage, and a `dataset` stage is published",
            manifest.kind
        )));
    }
    let file = |file: &crate::manifest::OutputFile| {
        let local = folder.join(&file.path);
        let bytes = local.metadata().map(|found| found.len());
        match bytes {
            Ok(bytes) if bytes == file.bytes => Ok(LocalFile { path: file.path.clone(), local, bytes }),
            Ok(bytes) => Err(wrong(format!(
                "{} has {bytes} bytes, and {} were written; remove the folder and run again",
                file.path, file.bytes
            ))),
            Err(source) => Err(PublishError::File { path: local, source }),
        }
    };
    manifest.files.iter().map(file).collect()
}
