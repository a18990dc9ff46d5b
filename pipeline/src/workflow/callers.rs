//! What callers of the service may lay over a workflow. Its files are trusted and may name anything; a caller
//! with a token for runs may choose amounts and names, and files that the service shows to callers anyway.
//! Otherwise a path would read any file of the service's user, an address would be sent its keys, and the name
//! of a variable would read its secrets.

use std::path::{Component, Path, PathBuf};

use service::ledger_path;
use service::workflows::CALLERS_VARIABLE;

use super::problem::Problem;
use super::tree::{Node, Value};

/// Fields that name an environment variable end so.
const VARIABLE_FIELD: &str = "_env";

/// What lies under these folders a caller may name.
#[derive(Clone, Debug)]
pub struct Confinement {
    folders: Vec<PathBuf>,
}

impl Confinement {
    /// What the service says to its processes; none where overrides are those of whoever runs the program.
    pub fn from_environment() -> Option<Self> {
        let folders = std::env::var_os(CALLERS_VARIABLE)?;
        Some(Self::to(std::env::split_paths(&folders)))
    }

    fn to(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { folders: folders.into_iter().filter_map(|folder| folder.canonicalize().ok()).collect() }
    }

    /// Checks the texts that differ from those of the workflow without the caller's overrides: laid over it, or
    /// made of what was.
    pub fn check(&self, laid: &Node, without: Option<&Node>, problems: &mut Vec<Problem>) {
        self.walk("", laid, without, problems);
    }

    fn walk(&self, key: &str, laid: &Node, without: Option<&Node>, problems: &mut Vec<Problem>) {
        match &laid.value {
            Value::Table(table) => {
                let before = without.and_then(Node::as_table);
                for (key, entry) in table {
                    let before = before.and_then(|table| table.get(key)).map(|entry| &entry.node);
                    self.walk(key, &entry.node, before, problems);
                }
            }
            Value::Array(items) => {
                let before = without.map(|node| &node.value);
                for (i, item) in items.iter().enumerate() {
                    let before = match before {
                        Some(Value::Array(items)) => items.get(i),
                        _ => None,
                    };
                    self.walk(key, item, before, problems);
                }
            }
            Value::String(text) if without.and_then(Node::as_str) != Some(text) => {
                if let Some(problem) = self.text(key, text) {
                    problems.push(
                        Problem::at(&laid.place, format!("a caller may not choose {problem}"), "chosen here")
                            .help("take it in the workflow's file"),
                    );
                }
            }
            _ => {}
        }
    }

    /// What is wrong with a caller's text.
    fn text(&self, key: &str, text: &str) -> Option<String> {
        if key.ends_with(VARIABLE_FIELD) {
            return Some(format!("the environment variable that `{key}` reads"));
        }
        if text.contains("://") {
            return Some(format!("the address {text}"));
        }
        if self.leads_out(text) {
            let folders: Vec<String> =
                self.folders.iter().map(|folder| folder.display().to_string()).collect();
            return Some(format!("the path {text}: it is not under {}", folders.join(" or ")));
        }
        None
    }

    /// Whether a text, taken for a path or a pattern of paths, names something outside the folders.
    fn leads_out(&self, text: &str) -> bool {
        let climbs = Path::new(text).components().any(|part| part == Component::ParentDir)
            || (text.contains('/') && text.contains(".."));
        if climbs || text.starts_with('~') {
            return true;
        }
        let plain = &text[..text.find(['*', '?', '[', '{']).unwrap_or(text.len())];
        let path = Path::new(plain);
        // What exists of it: where a link leads counts, not its name.
        let exists = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .find_map(|path| path.canonicalize().ok());
        let Some(real) = exists else { return path.is_absolute() };
        // A folder, or a pattern with folders in it, reads all that lies below.
        let rest = &text[plain.len()..];
        let flat = match rest.is_empty() {
            true => !path.exists(),
            false => !rest.contains('/') && !rest.contains("**"),
        };
        !self.folders.iter().any(|folder| {
            let ledger = ledger_path(folder);
            let secret = ledger.parent().unwrap_or(&ledger);
            real.starts_with(folder) && !real.starts_with(secret) && (flat || !secret.starts_with(&real))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_stay_inside_the_folders() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        std::fs::create_dir_all(data.join("dump")).unwrap();
        std::fs::create_dir_all(data.join("service/logs")).unwrap();
        std::fs::write(root.path().join("secret.txt"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), data.join("link")).unwrap();
        let confinement = Confinement::to([data.clone()]);
        let inside = |text: &str| data.join(text).display().to_string();
        for text in [
            "CC-MAIN-2024-10",
            "HuggingFaceTB/SmolLM2-135M",
            "a sentence. And... another",
            "SELECT * FROM input WHERE score > 3",
            &inside("dump"),
            &inside("dump/*.parquet"),
            &inside("*.parquet"),
            &inside("not/there/yet.parquet"),
        ] {
            assert_eq!(confinement.text("path", text), None, "{text}");
        }
        for text in [
            "/etc/passwd",
            "/etc/*.conf",
            "/nowhere/x",
            "..",
            "../x",
            "a/../../x",
            "{x,../../etc/passwd}",
            "~/x",
            "/",
            "s3://bucket/key",
            "http://169.254.169.254/",
            &inside("../secret.txt"),
            &inside("link/secret.txt"),
            &inside("link/s*"),
            "Cargo.toml",
            &inside("service/logs"),
            &inside("*/ledger.sqlite"),
            &inside("**.sqlite"),
            &data.display().to_string(),
        ] {
            assert!(confinement.text("path", text).is_some(), "{text}");
        }
        assert!(confinement.text("api_key_env", "HOME").unwrap().contains("`api_key_env`"));
    }
}
