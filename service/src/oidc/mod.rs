//! Signing in by OpenID Connect: the page by an authorization code with PKCE, programs by a signed token of
//! the same provider. Which values of a claim give which scope stands in `service.toml`.
//!
//! Nothing of it is kept in the ledger: sessions end with the service, and people sign in again.

mod claims;
mod login;
mod provider;
mod sessions;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeMap;
use std::time::Duration;

use openidconnect::core::{CoreAuthenticationFlow, CoreClient};
use openidconnect::{AuthType, AuthorizationCode, ClientId, ClientSecret, PkceCodeVerifier, RedirectUrl};
use openidconnect::{OAuth2TokenResponse, TokenResponse};
use serde_json::{Map, Value as Json};
use thiserror::Error;

pub(crate) use login::{LOGIN_COOKIE, LONGEST};
use login::{Login, Logins};
use provider::{Known, Provider};
use sessions::Sessions;

use crate::auth::Caller;
use crate::settings::OidcSettings;
use crate::words::chain;

/// Where the provider sends browsers back to.
pub(crate) const CALLBACK: &str = "/login/callback";

/// The claims of a token.
type Claims = Map<String, Json>;

/// Nobody is let in.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    /// The provider cannot be reached, or answers with something else.
    #[error("the identity provider does not answer as it should: {0}")]
    Provider(String),
    /// What was shown is not good.
    #[error("{0}")]
    Token(String),
    /// It is good, and allows nothing here.
    #[error("{0}")]
    NoScope(String),
}

/// Lets people and programs in whom a provider knows.
pub(crate) struct Oidc {
    settings: OidcSettings,
    secret: Option<ClientSecret>,
    redirect: RedirectUrl,
    provider: Provider,
    logins: Logins,
    sessions: Sessions,
}

/// Where a browser goes to sign in, and what it keeps meanwhile.
pub(crate) struct Begun {
    pub(crate) url: String,
    pub(crate) cookie: String,
}

impl Oidc {
    /// As the settings say; `base` is how people reach the service. Asks nobody yet.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub(crate) fn new(settings: &OidcSettings, base: &str) -> Result<Self, String> {
        settings.check()?;
        let secret = settings.client_secret_env.as_deref().map(|variable| {
            let secret = std::env::var(variable).unwrap_or_default();
            match secret.trim() {
                "" => Err(format!("`{variable}`, which [oidc] names, is not set")),
                secret => Ok(ClientSecret::new(secret.to_owned())),
            }
        });
        let redirect = RedirectUrl::new(format!("{}{CALLBACK}", base.trim_end_matches('/')))
            .map_err(|error| format!("--public-url is no URL ({error}), and [oidc] sends browsers there"))?;
        Ok(Self {
            secret: secret.transpose()?,
            redirect,
            provider: Provider::new(&settings.issuer)?,
            logins: Logins::new()?,
            sessions: Sessions::new(settings.session()),
            settings: settings.clone(),
        })
    }

    /// The provider's host, for people.
    pub(crate) fn name(&self) -> &str {
        self.provider.name()
    }

    /// How long a session lasts.
    pub(crate) fn session_length(&self) -> Duration {
        self.settings.session()
    }

    /// Looks whether the provider can be reached, so that the log says it early.
    pub(crate) async fn greet(&self) {
        if let Err(error) = self.provider.known().await {
            tracing::warn!(%error, "nobody can sign in until the provider answers");
        }
    }

    /// Begins to sign a browser in.
    ///
    /// # Errors
    /// The provider does not answer.
    pub(crate) async fn begin(&self) -> Result<Begun, Refusal> {
        let known = self.provider.known().await?;
        let login = Login::new();
        let client = self.client(&known);
        let (state, nonce) = (login.state.clone(), login.nonce.clone());
        let mut request = client.authorize_url(CoreAuthenticationFlow::AuthorizationCode, || state, || nonce);
        for scope in &self.settings.request_scopes {
            request = request.add_scope(openidconnect::Scope::new(scope.clone()));
        }
        let (url, ..) = request.set_pkce_challenge(login.challenge()).url();
        Ok(Begun { url: url.into(), cookie: self.logins.seal(&login) })
    }

    /// Ends it: what the provider sent the browser back with, and what the browser kept. The secret of the
    /// session's cookie.
    ///
    /// # Errors
    /// It was not this browser that began, the provider refuses, or its token is not good.
    pub(crate) async fn finish(
        &self,
        query: &BTreeMap<String, String>,
        cookie: Option<&str>,
    ) -> Result<String, Refusal> {
        let value = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let login = self.logins.open(value("state"), cookie)?;
        if !value("error").is_empty() {
            let words = format!("{} {}", value("error"), value("error_description"));
            return Err(Refusal::Token(format!("the identity provider refuses: {}", words.trim())));
        }
        // RFC 9207: an answer of another provider is not handed to this one.
        if query.contains_key("iss") && value("iss") != self.provider.issuer() {
            return Err(Refusal::Token("the answer comes from another identity provider".to_owned()));
        }
        let known = self.provider.known().await?;
        let http = provider::Http;
        let client = self.client(&known);
        let exchange = client
            .exchange_code(AuthorizationCode::new(value("code").to_owned()))
            .map_err(|error| Refusal::Provider(error.to_string()))?;
        let verifier = PkceCodeVerifier::new(login.verifier.clone());
        let answer = exchange.set_pkce_verifier(verifier).request_async(&http).await;
        let answer = answer.map_err(|error| Refusal::Provider(chain(&error)))?;
        let id_token = answer
            .id_token()
            .ok_or_else(|| Refusal::Provider("it sends no ID token".to_owned()))?
            .to_string();
        let mut claims = self.verified(&id_token, verify::Kind::Id(&login.nonce)).await?;
        if claims::values(&claims, &self.settings.claim).is_none()
            && let Some(url) = known.user_info()
        {
            let more = provider::user_info(&url, answer.access_token().secret()).await?;
            // OpenID Connect Core 5.3.2: the answer may be about somebody else.
            if more.get("sub") == claims.get("sub") {
                for (name, value) in more {
                    claims.entry(name).or_insert(value);
                }
            }
        }
        let caller = self.caller(&claims)?;
        tracing::info!(name = caller.name, scope = caller.scope.name(), "signed in");
        self.sessions.open(caller).map_err(Refusal::Provider)
    }

    /// Who shows a session's cookie.
    pub(crate) fn session(&self, secret: &str) -> Option<Caller> {
        self.sessions.caller(secret)
    }

    /// Ends a session.
    pub(crate) fn sign_out(&self, secret: &str) {
        self.sessions.close(secret);
    }

    /// Who shows a token of the provider.
    ///
    /// # Errors
    /// It is not good, or allows nothing.
    pub(crate) async fn bearer(&self, token: &str) -> Result<Caller, Refusal> {
        let claims = self.verified(token, verify::Kind::Bearer).await?;
        self.caller(&claims)
    }

    /// The claims of a token, if it is good. An unknown key is looked for at the provider, which may have
    /// changed its keys.
    async fn verified(&self, token: &str, kind: verify::Kind<'_>) -> Result<Claims, Refusal> {
        let known = self.provider.known().await?;
        let check = |known: &Known| verify::verify(token, kind, &self.settings, &known.metadata);
        match check(&known) {
            Err(verify::Failed::Key(reason)) => match self.provider.newer_than(&known).await? {
                Some(newer) => check(&newer).map_err(Into::into),
                None => Err(verify::Failed::Key(reason).into()),
            },
            other => other.map_err(Into::into),
        }
    }

    fn caller(&self, claims: &Claims) -> Result<Caller, Refusal> {
        let name = claims::name(claims);
        match claims::scope(claims, &self.settings) {
            Some(scope) => Ok(Caller { name, scope }),
            None => Err(Refusal::NoScope(format!(
                "{name} is known to the identity provider, but no value of `{}` ({}) gives a scope here; \
                 see [oidc] of service.toml",
                self.settings.claim,
                claims::values(claims, &self.settings.claim).unwrap_or_default().join(", ")
            ))),
        }
    }

    fn client(&self, known: &Known) -> provider::Client {
        let id = ClientId::new(self.settings.client_id.clone());
        let client = CoreClient::from_provider_metadata(known.metadata.clone(), id, self.secret.clone());
        let auth = if known.takes_basic() { AuthType::BasicAuth } else { AuthType::RequestBody };
        client.set_redirect_uri(self.redirect.clone()).set_auth_type(auth)
    }
}

/// Whether a token could be one of a provider: three parts with dots between.
pub(crate) fn looks_signed(token: &str) -> bool {
    token.split('.').count() == 3
}
