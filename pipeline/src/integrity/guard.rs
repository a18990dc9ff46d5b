//! What a run checks of finished work before it builds on it.
//!
//! A file that a stage is about to read is compared with its digest once in a process. Of a stage that is
//! up to date the sizes are compared, and what changed after its manifest was written is read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::Damage;
use super::files::Care;
use super::stage::StageFolder;
use crate::manifest::{Manifest, OutputFile};

/// The files whose content this process has compared with their digests, or written itself.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<Mutex<HashSet<PathBuf>>>);

impl Guard {
    // Under the lock is but a set insert, which a panic elsewhere leaves whole.
    fn known(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process wrote the stage's files.
    pub fn written(&self, folder: &Path, manifest: &Manifest) {
        let paths = manifest.files.iter().map(|file| folder.join(&file.path));
        self.known().extend(paths);
    }

    /// Compares a finished stage's output files, or some of them, with their digests. It reads them: call it
    /// outside of async code.
    ///
    /// # Errors
    /// The first damaged file.
    pub fn check_read(
        &self,
        folder: &Path,
        manifest: &Manifest,
        wanted: impl Fn(&OutputFile) -> bool,
    ) -> Result<(), Box<Damage>> {
        let stage = StageFolder::finished(folder, manifest);
        let unknown: Vec<&OutputFile> = {
            let known = self.known();
            let files = manifest.files.iter().filter(|file| wanted(file));
            files.filter(|file| !known.contains(&folder.join(&file.path))).collect()
        };
        let damaged = unknown.par_iter().find_map_first(|file| stage.check(file, Care::Every));
        if let Some(damage) = damaged {
            return Err(Box::new(damage));
        }
        self.known().extend(unknown.into_iter().map(|file| folder.join(&file.path)));
        Ok(())
    }

    /// Looks over a stage that is up to date.
    ///
    /// # Errors
    /// The first damaged file.
    pub fn check_unread(&self, folder: &Path, manifest: &Manifest) -> Result<(), Box<Damage>> {
        let stage = StageFolder::finished(folder, manifest);
        let care = Care::since(&folder.join(crate::manifest::FILE_NAME));
        let files: Vec<&OutputFile> = manifest.all_files().collect();
        match files.par_iter().find_map_first(|file| stage.check(file, care)) {
            Some(damage) => Err(Box::new(damage)),
            None => Ok(()),
        }
    }
}
