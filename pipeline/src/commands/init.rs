//! `pipeline init`: the workflows that the program brings along, for who has only the binary.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::Failure;

macro_rules! workflows {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../workflows/", $name)))),*] };
}

/// The files of `workflows/`; the schema lets editors complete them.
const WORKFLOWS: [(&str, &str); 13] = workflows![
    "ablation.toml",
    "compare_generators.toml",
    "cosmopedia_v1.toml",
    "cosmopedia_v2.toml",
    "dpo.toml",
    "edu_classifier.toml",
    "fineweb.toml",
    "fineweb_edu.toml",
    "python_edu.toml",
    "scaling_law.toml",
    "sft.toml",
    "smollm_corpus.toml",
    "workflow.schema.json"
];

/// Writes the workflows into a folder's `workflows`. A file that is there already stays as it is.
///
/// # Errors
/// The folder cannot be made, or a file cannot be written.
pub(super) fn init(folder: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::message(
            format!("cannot write {}: {error}", path.display()),
            "give a folder that you may write to",
        )
    };
    let workflows = folder.join("workflows");
    std::fs::create_dir_all(&workflows).map_err(|error| failed(&workflows, error))?;
    for (name, text) in WORKFLOWS {
        let path = workflows.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).map_err(|error| failed(&path, error))?;
                println!("{}", path.display());
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                println!("{} is there already and stays", path.display());
            }
            Err(error) => return Err(failed(&path, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workflows_come_along_and_none_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("workflows/dpo.toml");
        std::fs::create_dir(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "mine").unwrap();
        assert!(init(folder.path()).is_ok());
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "mine");
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflows");
        for entry in std::fs::read_dir(repository).unwrap() {
            let entry = entry.unwrap();
            let written = folder.path().join("workflows").join(entry.file_name());
            if written != own {
                let both = (std::fs::read(entry.path()).unwrap(), std::fs::read(&written).unwrap());
                assert!(both.0 == both.1, "{}", written.display());
            }
        }
    }
}
