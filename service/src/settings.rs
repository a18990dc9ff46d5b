//! `service.toml`: what an operator sets once.

use std::path::Path;
use std::time::Duration;

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
    /// A provider of OpenID Connect by which people and programs sign in.
    pub oidc: Option<OidcSettings>,
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
    /// People who get each notice by e-mail.
    pub email: Option<EmailSettings>,
}

/// A mail server, and who gets notices by it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    /// The server: `smtps://host` (TLS, port 465), `smtp://host` (STARTTLS, port 587), or
    /// `smtp://host?tls=none` (port 25), which takes a password on this machine only.
    pub server: String,
    /// This service's name at the server, where it asks for one.
    #[serde(default)]
    pub user: Option<String>,
    /// The environment variable that holds the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// The sender: `Corpusmith <corpusmith@example.org>`.
    pub from: String,
    /// The receivers.
    pub to: Vec<String>,
}

/// What is forgotten when.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Ended runs leave the ledger after so many days, with their logs; never when left out. Outputs are
    /// not touched: the next run of the same workflow finds them.
    pub days: Option<u32>,
}

/// A provider of OpenID Connect, and whom of those whom it knows to let in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcSettings {
    /// The provider's URL: its description lies below it, at `/.well-known/openid-configuration`.
    pub issuer: String,
    /// This service's name at the provider.
    pub client_id: String,
    /// The environment variable that holds this service's secret at the provider, where it has one.
    #[serde(default)]
    pub client_secret_env: Option<String>,
    /// The claim that decides: `groups`, `email`, `realm_access.roles`, …
    #[serde(default = "groups")]
    pub claim: String,
    /// Values of the claim that allow to look. `*` is everybody whom the provider knows; with `claim =
    /// "email"`, `*@example.org` is everybody with such an address.
    #[serde(default)]
    pub read: Vec<String>,
    /// Values of the claim that allow to start, stop and delete runs.
    #[serde(default)]
    pub run: Vec<String>,
    /// Values of the claim that allow to make and revoke tokens.
    #[serde(default)]
    pub admin: Vec<String>,
    /// What the provider is asked to tell, beside `openid`.
    #[serde(default = "profile_and_email")]
    pub request_scopes: Vec<String>,
    /// For whom tokens of programs are made (`aud`); `client_id` by default.
    #[serde(default)]
    pub audience: Option<String>,
    /// How long somebody stays signed in.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 720))]
    pub session_hours: u32,
}

fn groups() -> String {
    "groups".to_owned()
}

fn profile_and_email() -> Vec<String> {
    ["profile", "email"].map(str::to_owned).to_vec()
}

fn eight() -> u32 {
    8
}

impl OidcSettings {
    pub(crate) fn check(&self) -> Result<(), String> {
        let url = url::Url::parse(&self.issuer)
            .map_err(|error| format!("`issuer` of [oidc] is no URL: {error}"))?;
        if url.scheme() != "https" && !net::is_loopback(&url) {
            return Err(
                "`issuer` of [oidc] is not https: whoever is on the way could let anybody in".to_owned()
            );
        }
        if [&self.read, &self.run, &self.admin].iter().all(|list| list.is_empty()) {
            return Err(
                "[oidc] lets nobody in: name values of the claim in `read`, `run` or `admin`".to_owned()
            );
        }
        if !(1..=720).contains(&self.session_hours) {
            return Err("`session_hours` of [oidc] is 1 to 720".to_owned());
        }
        Ok(())
    }

    pub(crate) fn session(&self) -> Duration {
        Duration::from_secs(3_600 * u64::from(self.session_hours))
    }
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
