//! A client of the API, for the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::{Method, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use thiserror::Error;

use crate::run::{Run, RunId};

/// The variable that holds the token.
pub const TOKEN_VARIABLE: &str = "CORPUSMITH_TOKEN";

/// The variable that names a file with the certificate of the authority that signed the service's.
pub const CA_VARIABLE: &str = "CORPUSMITH_CA_FILE";

/// How long a service may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);

/// The service does not do what it was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// It cannot be reached, or breaks off.
    #[error("{url}: {reason}")]
    Unreachable {
        /// The service.
        url: String,
        /// Why.
        reason: String,
    },
    /// The authority's certificate cannot be used.
    #[error("{CA_VARIABLE} names {}, which is no certificate in PEM: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It says no.
    #[error("the service says: {detail} (status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What is wrong.
        detail: String,
    },
    /// It answers with something else than expected.
    #[error("{url} does not answer like a Corpusmith service: {reason}")]
    NoService {
        /// The service.
        url: String,
        /// What is strange.
        reason: String,
    },
}

/// A client of a service.
pub struct Client {
    url: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// A client of the service at `url`. With the certificate of an authority (a file of PEM), services
    /// whose certificates it signed are trusted, and no others.
    ///
    /// # Errors
    /// The machine cannot speak HTTP, or the authority's file is none.
    pub fn new(url: &str, token: Option<String>, authority: Option<&Path>) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/').to_owned();
        let problem = |reason: String| ClientError::Unreachable { url: url.clone(), reason };
        let parsed = reqwest::Url::parse(&url).map_err(|error| problem(error.to_string()))?;
        let builder = net::client_for(&parsed).map_err(|error| problem(error.to_string()))?;
        let builder = match authority.filter(|_| parsed.scheme() == "https") {
            Some(path) => {
                let trusted = authorities(path)?;
                let trusted: Result<Vec<_>, _> =
                    trusted.iter().map(|certificate| reqwest::Certificate::from_der(certificate)).collect();
                builder.tls_certs_only(trusted.map_err(|error| problem(error.to_string()))?)
            }
            None => builder,
        };
        let http = builder.connect_timeout(CONNECT).build().map_err(|error| problem(error.to_string()))?;
        Ok(Self { url, token, http })
    }

    /// Enters runs: the body of `POST /api/v1/runs`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn submit(&self, request: &Json, key: Option<&str>) -> Result<Vec<RunId>, ClientError> {
        let mut call = self.call(Method::POST, "/api/v1/runs").body(request.to_string());
        if let Some(key) = key {
            call = call.header("idempotency-key", key);
        }
        let answer: Json = self.json(call).await?;
        serde_json::from_value(answer["runs"].clone()).map_err(|error| self.strange(&error.to_string()))
    }

    /// Runs, the latest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn runs(&self, states: &str, limit: usize) -> Result<Vec<Run>, ClientError> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("state", states), ("limit", &limit.to_string())])
            .finish();
        let call = self.call(Method::GET, &format!("/api/v1/runs?{query}"));
        let answer: Json = self.json(call).await?;
        serde_json::from_value(answer["runs"].clone()).map_err(|error| self.strange(&error.to_string()))
    }

    /// A run.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn run(&self, id: &RunId) -> Result<Run, ClientError> {
        self.json(self.call(Method::GET, &format!("/api/v1/runs/{id}"))).await
    }

    /// Asks a run to `cancel`, `pause` or `resume`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ask(&self, id: &RunId, action: &str) -> Result<(), ClientError> {
        self.send(self.call(Method::POST, &format!("/api/v1/runs/{id}/{action}"))).await.map(drop)
    }

    /// A part of a run's log, and where the next begins.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn log(&self, id: &RunId, offset: u64) -> Result<(Vec<u8>, u64), ClientError> {
        let call = self.call(Method::GET, &format!("/api/v1/runs/{id}/log?offset={offset}"));
        let answer = self.send(call).await?;
        let next = answer.headers().get("x-next-offset").and_then(|value| value.to_str().ok());
        let next = next.and_then(|value| value.parse().ok()).unwrap_or(offset);
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(error))?;
        Ok((bytes.to_vec(), next))
    }

    /// Calls `each` with the run whenever it changes, until it ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&self, id: &RunId, mut each: impl FnMut(&Run)) -> Result<(), ClientError> {
        let answer = self.send(self.call(Method::GET, &format!("/api/v1/runs/{id}/live"))).await?;
        let mut stream = answer.bytes_stream();
        let mut pending = Vec::new();
        while let Some(part) = stream.next().await {
            pending.extend_from_slice(&part.map_err(|error| self.unreachable(error))?);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data: ") {
                    each(&serde_json::from_slice(data).map_err(|error| self.strange(&error.to_string()))?);
                }
            }
        }
        Ok(())
    }

    fn call(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let call = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => call.bearer_auth(token),
            None => call,
        }
    }

    async fn json<T: DeserializeOwned>(&self, call: reqwest::RequestBuilder) -> Result<T, ClientError> {
        let bytes = self.send(call).await?.bytes().await.map_err(|error| self.unreachable(error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(&error.to_string()))
    }

    async fn send(&self, call: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        let answer = call.send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.unwrap_or_default();
        let problem = serde_json::from_slice(&body).unwrap_or(json!({}));
        match problem["detail"].as_str() {
            Some(detail) => Err(ClientError::Refused { status: status.as_u16(), detail: detail.to_owned() }),
            None => Err(self.strange(&format!("status {status}"))),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        let reason = net::innermost(&error.without_url());
        ClientError::Unreachable { url: self.url.clone(), reason }
    }

    fn strange(&self, reason: &str) -> ClientError {
        ClientError::NoService { url: self.url.clone(), reason: reason.to_owned() }
    }
}

/// The certificates in a file of PEM; there is at least one.
pub(crate) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let wrong = |reason: String| ClientError::Authority { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("it holds none".to_owned())) } else { Ok(found) }
}
