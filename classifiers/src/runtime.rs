//! ONNX Runtime, loaded from a shared library at run time.

use ort::environment::Environment;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use thiserror::Error;

/// The environment of this process. It is kept for ever: ONNX Runtime allows
/// one a process, and its threads must not outlive it.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Why ONNX Runtime could not be loaded.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// There is no file at the path.
    #[error(
        "ONNX Runtime: {}: {source}. Fetch it with `pipeline assets pull`, or give the path of libonnxruntime",
        path.display()
    )]
    Missing {
        /// The path asked for.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file is no shared library, not ONNX Runtime, or too old.
    #[error(
        "ONNX Runtime: {} cannot be used: {reason}. Expected the shared library of ONNX Runtime 1.{minimum} or later \
         for this platform ({} {}); `pipeline assets pull` fetches one",
        path.display(), std::env::consts::OS, std::env::consts::ARCH
    )]
    Unusable {
        /// The path asked for.
        path: PathBuf,
        /// What the loader said.
        reason: String,
        /// The lowest minor version that works.
        minimum: u32,
    },
    /// Another library is in use; a process can hold one.
    #[error(
        "ONNX Runtime: {} is asked for, but this process already uses {}; set one path for all stages",
        requested.display(), loaded.display()
    )]
    OtherLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The path asked for.
        requested: PathBuf,
    },
}

/// A handle on the loaded ONNX Runtime. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
}

impl Runtime {
    /// Loads the shared library at `library`, once a process: a second call
    /// with the same file returns the same runtime, one with another file is
    /// refused. After a failed load another path may be tried.
    ///
    /// # Errors
    /// When the file is missing, is not ONNX Runtime, or is too old.
    pub fn load(library: &Path) -> Result<Self, RuntimeError> {
        let unusable = |reason: String| RuntimeError::Unusable {
            path: library.to_owned(),
            reason,
            minimum: ort::MINOR_VERSION,
        };
        // Resolved first: the loader would look for a relative path elsewhere.
        let resolved = library
            .canonicalize()
            .map_err(|source| RuntimeError::Missing { path: library.to_owned(), source })?;
        if !resolved.is_file() {
            return Err(unusable("it is not a file".into()));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, environment)) = loaded.as_ref() {
            if *path != resolved {
                return Err(RuntimeError::OtherLoaded {
                    loaded: path.clone(),
                    requested: library.to_owned(),
                });
            }
            return Ok(Self { environment: environment.clone(), library: resolved });
        }
        let environment = ort::init_from(&resolved)
            .map_err(|error| unusable(error.to_string()))?
            .with_name("corpusmith")
            .with_telemetry(false)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        tracing::debug!(library = %resolved.display(), info = ort::info(), "ONNX Runtime loaded");
        *loaded = Some((resolved.clone(), environment.clone()));
        Ok(Self { environment, library: resolved })
    }

    /// The library in use.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The `ort` environment, for other ONNX sessions in this process.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Runtime").field("library", &self.library).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TEST_RUNTIME, test_asset};

    #[test]
    fn a_missing_library_names_the_path_and_the_command() {
        let error = Runtime::load(Path::new("/no/such/libonnxruntime.so")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/no/such/libonnxruntime.so"), "{text}");
        assert!(text.contains("pipeline assets pull"), "{text}");
    }

    #[test]
    fn a_wrong_file_is_refused_and_the_right_one_still_loads() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = folder.path().join("libonnxruntime.so");
        std::fs::write(&wrong, b"not a library").unwrap();
        let error = Runtime::load(&wrong).unwrap_err();
        assert!(matches!(error, RuntimeError::Unusable { .. } | RuntimeError::OtherLoaded { .. }), "{error}");
        assert!(error.to_string().contains("libonnxruntime.so"), "{error}");
        let Some(right) = test_asset(TEST_RUNTIME) else {
            return;
        };
        let first = Runtime::load(&right).unwrap();
        assert_eq!(Runtime::load(&right).unwrap().library(), first.library());
        let other = Runtime::load(&wrong).unwrap_err();
        assert!(matches!(other, RuntimeError::OtherLoaded { .. }), "{other}");
    }
}
