//! `service.toml`: what an operator sets once.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::run::Amounts;

/// The service's settings. All have defaults; without a file all hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Named pools that hold across all runs, for example `{ llm = 2, disk = 1 }`. `memory` and `threads`
    /// come from the command line.
    pub pools: Amounts,
    /// Who is told what.
    pub notify: NotifySettings,
    /// What is forgotten when.
    pub retention: RetentionSettings,
}

/// Who is told when a run fails, succeeds again, or a schedule's time is missed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NotifySettings {
    /// The environment variable that holds an address to which each notice is posted as JSON.
    pub webhook_url_env: Option<String>,
    /// The environment variable that holds a key: notices are signed with it (HMAC-SHA256, header
    /// `X-Corpusmith-Signature: sha256=…`).
    pub webhook_key_env: Option<String>,
}

/// What is forgotten when.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Ended runs leave the ledger after so many days, with their logs; never when left out. Outputs are
    /// not touched: the next run of the same workflow finds them.
    pub days: Option<u32>,
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong, with the place.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.toml");
        std::fs::write(&path, "[pools]\nllm = 2\n[retention]\ndays = 30\n").unwrap();
        let settings = Settings::read(&path).unwrap();
        assert_eq!((settings.pools["llm"], settings.retention.days), (2, Some(30)));
        std::fs::write(&path, "[pool]\nllm = 2\n").unwrap();
        let error = Settings::read(&path).unwrap_err();
        assert!(
            error.contains("service.toml") && error.contains("line 1") && error.contains("pool"),
            "{error}"
        );
    }
}
