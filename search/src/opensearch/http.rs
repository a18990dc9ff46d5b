//! Requests to a server, tried again while its refusals pass.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Url};
use serde_json::Value as Json;

use super::OpenSearchOptions;
use crate::error::ServerError;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Characters of a server's words that an error repeats.
const QUOTED_CHARS: usize = 300;

/// Whether a later try may be answered.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 502..=504)
}

/// A client of one server.
#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    max_tries: u32,
}

/// A body to send.
#[derive(Clone)]
enum Body {
    None,
    Json(Json),
    /// Newline-delimited JSON, as `_bulk` and `_msearch` take it.
    Lines(bytes::Bytes),
}

impl Http {
    pub(super) fn new(options: &OpenSearchOptions) -> Result<Self, ServerError> {
        let mut base = Url::parse(&options.url)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.host_str().is_some())
            .ok_or_else(|| ServerError::Option {
                field: "url",
                why: format!("`{}` is no http or https URL", options.url),
            })?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = net::client_for(&base)
            .map_err(|error| ServerError::Option { field: "url", why: error.to_string() })?
            .retry(reqwest::retry::never())
            .timeout(Duration::from_secs_f64(options.timeout_seconds))
            .build()
            .map_err(|error| ServerError::Unreachable { url: base.to_string(), detail: error.to_string() })?;
        let authorization = options.credentials_env.as_deref().map(credentials).transpose()?;
        Ok(Self { client, base, authorization, max_tries: options.max_tries })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Json, ServerError> {
        self.send(Method::GET, path, Body::None).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Json, ServerError> {
        self.send(Method::POST, path, Body::None).await
    }

    pub(super) async fn put(&self, path: &str, body: Json) -> Result<Json, ServerError> {
        self.send(Method::PUT, path, Body::Json(body)).await
    }

    pub(super) async fn post_lines(&self, path: &str, body: String) -> Result<Json, ServerError> {
        self.send(Method::POST, path, Body::Lines(body.into())).await
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Json, ServerError> {
        let mut tries = self.tries();
        loop {
            match self.send_once(method.clone(), path, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal { error, passing: false, .. }) => return Err(error),
                Err(Refusal { error, retry_after, .. }) => tries.wait_after(error, retry_after).await?,
            }
        }
    }

    async fn send_once(&self, method: Method, path: &str, body: Body) -> Result<Json, Refusal> {
        let url = self
            .base
            .join(path)
            .map_err(|error| Refusal::final_of(self.strange(path, &error.to_string())))?;
        let mut request: RequestBuilder = self.client.request(method, url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request = match body {
            Body::None => request,
            Body::Json(json) => request.json(&json),
            Body::Lines(lines) => request.header(CONTENT_TYPE, "application/x-ndjson").body(lines),
        };
        let broken = |error: reqwest::Error| Refusal {
            error: ServerError::Unreachable { url: self.url(path), detail: net::innermost(&error) },
            passing: true,
            retry_after: None,
        };
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let body = response.bytes().await.map_err(broken)?;
        if status.is_success() {
            let parsed = serde_json::from_slice(&body);
            return parsed.map_err(|error| Refusal::final_of(self.strange(path, &error.to_string())));
        }
        let reason = reason_of(&body);
        Err(Refusal {
            error: self.refused(path, status.as_u16(), reason),
            passing: is_passing(status.as_u16()),
            retry_after,
        })
    }

    /// Counts the tries of one request.
    pub(super) fn tries(&self) -> Tries {
        Tries { left: self.max_tries - 1, wait: FIRST_WAIT }
    }

    pub(super) fn refused(&self, path: &str, status: u16, reason: String) -> ServerError {
        ServerError::Refused { url: self.url(path), status, reason }
    }

    pub(super) fn strange(&self, path: &str, problem: &str) -> ServerError {
        ServerError::Strange { url: self.url(path), problem: problem.to_owned() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

struct Refusal {
    error: ServerError,
    passing: bool,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn final_of(error: ServerError) -> Self {
        Self { error, passing: false, retry_after: None }
    }
}

/// The tries that a request has left.
pub(super) struct Tries {
    left: u32,
    wait: Duration,
}

impl Tries {
    /// Waits before the next try; the error itself when none is left.
    pub(super) async fn wait_after(
        &mut self,
        error: ServerError,
        retry_after: Option<Duration>,
    ) -> Result<(), ServerError> {
        if self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        tracing::warn!(%error, "trying again");
        tokio::time::sleep(retry_after.unwrap_or(self.wait).min(LONGEST_WAIT)).await;
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        Ok(())
    }
}

fn credentials(name: &str) -> Result<HeaderValue, ServerError> {
    let missing = || ServerError::Credentials { name: name.to_owned() };
    let secret = std::env::var(name).ok().filter(|secret| !secret.trim().is_empty()).ok_or_else(missing)?;
    let secret = secret.trim();
    let header = match secret.starts_with("ApiKey ") || secret.starts_with("Bearer ") {
        true => secret.to_owned(),
        false => format!("Basic {}", base64(secret.as_bytes())),
    };
    let mut value = HeaderValue::try_from(header).map_err(|_| missing())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Base64 with padding (RFC 4648), for the `Basic` scheme.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            match place <= three.len() {
                true => text.push(char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

/// What a server says about a refusal: `error.reason` with its type, or the start of the body.
fn reason_of(body: &[u8]) -> String {
    let parsed: Json = serde_json::from_slice(body).unwrap_or_default();
    let text = match describe(&parsed["error"]) {
        Some(text) => text,
        None => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(QUOTED_CHARS).collect()
}

/// Type and reason of an error object.
pub(super) fn describe(error: &Json) -> Option<String> {
    let kind = error["type"].as_str();
    let reason = error["reason"].as_str().or_else(|| error.as_str());
    match (kind, reason) {
        (Some(kind), Some(reason)) => Some(format!("{kind}: {reason}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("a:ü", "YTrDvA=="),
        ];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn a_url_that_is_none_is_named() {
        for url in ["", "localhost:9200", "ftp://host", "http://"] {
            let error = Http::new(&OpenSearchOptions::new(url, "pages")).err().unwrap();
            assert!(error.to_string().contains("`url`"), "{url}: {error}");
        }
        let http = Http::new(&OpenSearchOptions::new("http://host/prefix", "pages")).unwrap();
        assert_eq!(http.base.join("pages/_count").unwrap().as_str(), "http://host/prefix/pages/_count");
    }
}
