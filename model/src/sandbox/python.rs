//! Which interpreter runs the programs, and what it must be able to read.

#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

use super::SandboxError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An interpreter.
#[derive(Clone, Debug)]
pub(super) struct Python {
    /// Its file, links followed.
    pub executable: PathBuf,
    /// Files that are mapped when it runs: itself, the loader, libraries.
    pub mapped: BTreeSet<PathBuf>,
    /// Folders (and archives) it takes modules from.
    pub modules: BTreeSet<PathBuf>,
}

/// Run outside of the sandbox: a line `kind path` each.
const ASK: &str = "
import os, sys
assert sys.version_info[0] == 3, sys.version
print('executable', os.path.realpath(sys.executable))
for path in sys.path:
    if path:
        print('modules', path)
for line in open('/proc/self/maps'):
    fields = line.split(None, 5)
    if len(fields) == 6 and fields[5].startswith('/'):
        print('mapped', fields[5].rstrip())
";

impl Python {
    /// Asks the interpreter `python` about itself.
    pub(super) fn find(python: &Path) -> Result<Self, SandboxError> {
        let bad = |problem: String| SandboxError::Python { python: python.to_owned(), problem };
        // `-I`: neither the environment nor the working directory adds folders.
        let asked = Command::new(python).args(["-I", "-B", "-c", ASK]).current_dir("/").output();
        let asked = asked.map_err(|error| bad(error.to_string()))?;
        if !asked.status.success() {
            let words = String::from_utf8_lossy(&asked.stderr);
            return Err(bad(words.lines().last().unwrap_or("it fails without a word").to_owned()));
        }
        let (mut executable, mut mapped, mut modules) = (None, BTreeSet::new(), BTreeSet::new());
        for line in String::from_utf8_lossy(&asked.stdout).lines() {
            match line.split_once(' ') {
                Some(("executable", path)) => executable = Some(PathBuf::from(path)),
                Some(("modules", path)) => modules.extend([PathBuf::from(path)]),
                Some(("mapped", path)) => mapped.extend([PathBuf::from(path)]),
                _ => {}
            }
        }
        let executable = executable.ok_or_else(|| bad("it does not know its own file".to_owned()))?;
        mapped.insert(executable.clone());
        Ok(Self { executable, mapped, modules })
    }
}
