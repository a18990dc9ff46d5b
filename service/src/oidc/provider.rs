//! What the provider says of itself, and its keys.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openidconnect::core::{CoreClientAuthMethod, CoreProviderMetadata};
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse, IssuerUrl};
use openidconnect::{EndpointMaybeSet, EndpointNotSet, EndpointSet, http};
use thiserror::Error;
use tokio::sync::Mutex;
use url::Url;

use super::{Claims, Refusal};
use crate::words::chain;

/// Description and keys are asked for again after so long.
const FRESH: Duration = Duration::from_secs(3_600);
/// An unknown key makes the provider be asked at most so often: anybody can show a token with one.
const BETWEEN: Duration = Duration::from_secs(30);
/// A provider that failed is left alone for so long.
const REST: Duration = Duration::from_secs(3);
/// A provider that does not answer in this time does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Greatest answer of a provider.
const MOST_BYTES: usize = 1 << 20;

/// A client of the code flow.
pub(super) type Client = openidconnect::core::CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// What is known of the provider, with its keys.
pub(super) struct Known {
    pub(super) metadata: CoreProviderMetadata,
    at: Instant,
}

impl Known {
    /// Whether the client's secret may stand in a header; else it stands in the body.
    pub(super) fn takes_basic(&self) -> bool {
        let methods = self.metadata.token_endpoint_auth_methods_supported();
        methods.is_none_or(|methods| methods.contains(&CoreClientAuthMethod::ClientSecretBasic))
    }

    pub(super) fn user_info(&self) -> Option<Url> {
        self.metadata.userinfo_endpoint().map(|url| url.url().clone())
    }
}

/// What was learned last: a description, or why there is none.
#[derive(Default)]
struct Learned {
    known: Option<Arc<Known>>,
    failed: Option<(Instant, String)>,
}

pub(super) struct Provider {
    issuer: IssuerUrl,
    learned: Mutex<Learned>,
    between: Duration,
}

impl Provider {
    pub(super) fn new(issuer: &str) -> Result<Self, String> {
        let issuer = IssuerUrl::new(issuer.to_owned())
            .map_err(|error| format!("`issuer` of [oidc] is no URL: {error}"))?;
        Ok(Self { issuer, learned: Mutex::default(), between: BETWEEN })
    }

    #[cfg(test)]
    pub(super) fn asked_every(self, between: Duration) -> Self {
        Self { between, ..self }
    }

    pub(super) fn issuer(&self) -> &str {
        self.issuer.as_str()
    }

    pub(super) fn name(&self) -> &str {
        self.issuer.url().host_str().unwrap_or_default()
    }

    /// What is known, asked for where it is old.
    pub(super) async fn known(&self) -> Result<Arc<Known>, Refusal> {
        let mut learned = self.learned.lock().await;
        match &learned.known {
            Some(known) if known.at.elapsed() < FRESH => Ok(known.clone()),
            old => {
                let old = old.clone();
                match (self.learn(&mut learned).await, old) {
                    // A provider that is away for a while takes nobody's access.
                    (Err(_), Some(old)) => Ok(old),
                    (result, _) => result,
                }
            }
        }
    }

    /// What is known now, if it is, or may be, newer.
    pub(super) async fn newer_than(&self, old: &Arc<Known>) -> Result<Option<Arc<Known>>, Refusal> {
        let mut learned = self.learned.lock().await;
        match &learned.known {
            Some(known) if !Arc::ptr_eq(known, old) => Ok(Some(known.clone())),
            Some(known) if known.at.elapsed() < self.between => Ok(None),
            _ => self.learn(&mut learned).await.map(Some),
        }
    }

    async fn learn(&self, learned: &mut Learned) -> Result<Arc<Known>, Refusal> {
        if let Some((at, reason)) = &learned.failed
            && at.elapsed() < REST
        {
            return Err(Refusal::Provider(reason.clone()));
        }
        match CoreProviderMetadata::discover_async(self.issuer.clone(), &Http).await {
            Ok(metadata) => {
                let known = Arc::new(Known { metadata, at: Instant::now() });
                *learned = Learned { known: Some(known.clone()), failed: None };
                Ok(known)
            }
            Err(error) => {
                let reason = chain(&error);
                learned.failed = Some((Instant::now(), reason.clone()));
                Err(Refusal::Provider(reason))
            }
        }
    }
}

/// A request to the provider came to nothing.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct HttpFailed(String);

/// The guarded clients, as the protocol's library wants them. Redirects are not followed.
pub(super) struct Http;

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpFailed;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpFailed>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(send(request))
    }
}

async fn send(request: HttpRequest) -> Result<HttpResponse, HttpFailed> {
    let url = Url::parse(&request.uri().to_string()).map_err(|error| HttpFailed(error.to_string()))?;
    let shown = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
    let failed = |reason: String| HttpFailed(format!("{shown}: {reason}"));
    if url.scheme() != "https" && !net::is_loopback(&url) {
        return Err(failed("the address is not https, and secrets travel there".to_owned()));
    }
    let network = |error: reqwest::Error| failed(net::innermost(&error.without_url()));
    let client = net::client_for(&url).map_err(|error| failed(error.to_string()))?;
    let client = client.timeout(PATIENCE).build().map_err(network)?;
    let request = reqwest::Request::try_from(request).map_err(network)?;
    let mut answer = client.execute(request).await.map_err(network)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(network)? {
        if body.len() + part.len() > MOST_BYTES {
            return Err(failed(format!("the answer has more than {MOST_BYTES} bytes")));
        }
        body.extend_from_slice(&part);
    }
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// What the provider tells of the owner of an access token.
pub(super) async fn user_info(url: &Url, token: &str) -> Result<Claims, Refusal> {
    let provider = |reason: String| Refusal::Provider(reason);
    let request = http::Request::get(url.as_str())
        .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
        .header(http::header::ACCEPT, "application/json")
        .body(Vec::new())
        .map_err(|error| provider(error.to_string()))?;
    let answer = send(request).await.map_err(|error| provider(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(provider(format!("{} answers {}", url.path(), answer.status())));
    }
    serde_json::from_slice(answer.body()).map_err(|error| provider(format!("{}: {error}", url.path())))
}
