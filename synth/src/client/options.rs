//! What a user says about the servers.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

/// Which dialect of the OpenAI API the servers speak: it decides the names of sampling fields beyond
/// OpenAI's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerKind {
    /// vLLM, SGLang, TGI: `top_k` and `repetition_penalty`.
    #[default]
    Vllm,
    /// llama.cpp's server and those built on it: `top_k` and `repeat_penalty`.
    LlamaServer,
    /// OpenAI and others that refuse unknown fields: `top_k` and the repetition penalty are not sent.
    OpenAi,
}

/// Options of [`OpenAiClient`](super::OpenAiClient).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientOptions {
    /// Base URLs of the servers, each up to and with its version, for example `http://127.0.0.1:8000/v1`.
    /// Requests go to whichever has room.
    pub base_urls: Vec<String>,
    /// Name of the model, for requests that name none.
    pub model: String,
    /// Dialect the servers speak.
    pub server_kind: ServerKind,
    /// Name of the environment variable that holds the API key; none: no key is sent.
    pub api_key_env: Option<String>,
    /// Requests in flight at one endpoint at most.
    pub max_in_flight: usize,
    /// Requests in flight at one endpoint at first; the number then adapts: up with each answer, halved by
    /// HTTP 429, 503 and time-outs.
    pub start_in_flight: usize,
    /// Requests sent for one answer at most.
    pub max_attempts: u32,
    /// Longest wait for a whole answer, in seconds.
    pub request_timeout_seconds: f64,
    /// Longest wait for a connection, in seconds.
    pub connect_timeout_seconds: f64,
    /// Wait before the second attempt, in seconds (huggingface/cosmopedia, `generation/`); it doubles with
    /// each attempt, less up to half by chance.
    pub backoff_first_seconds: f64,
    /// Longest wait between two attempts, in seconds.
    pub backoff_max_seconds: f64,
    /// Longest `Retry-After` that is obeyed, in seconds; a longer one is cut to this.
    pub retry_after_max_seconds: f64,
    /// Longest answer taken, in bytes of its JSON.
    pub max_body_bytes: usize,
    /// Failures in a row after which an endpoint is left alone for a while.
    pub breaker_failures: u32,
    /// How long it is left alone the first time, in seconds.
    pub breaker_open_seconds: f64,
    /// Seconds without any usable endpoint after which requests fail for good and the run ends.
    pub down_after_seconds: f64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            base_urls: Vec::new(),
            model: String::new(),
            server_kind: ServerKind::default(),
            api_key_env: None,
            max_in_flight: 256,
            start_in_flight: 16,
            max_attempts: 6,
            request_timeout_seconds: 600.0,
            connect_timeout_seconds: 10.0,
            backoff_first_seconds: 4.0,
            backoff_max_seconds: 60.0,
            retry_after_max_seconds: 300.0,
            max_body_bytes: 16 << 20,
            breaker_failures: 8,
            breaker_open_seconds: 10.0,
            down_after_seconds: 120.0,
        }
    }
}

/// Why a client cannot be made: every variant is a wrong setting.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No server named.
    #[error("base_urls names no server: give at least one, for example http://127.0.0.1:8000/v1")]
    NoEndpoint,
    /// A base URL that is none.
    #[error(
        "base_urls holds {text:?}, which is no address: {problem}. An example of one: http://127.0.0.1:8000/v1"
    )]
    BadUrl {
        /// The text given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A number out of its range.
    #[error("{option} is {value}: it must be {rule}")]
    BadNumber {
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: f64,
        /// What it must be.
        rule: &'static str,
    },
    /// The environment variable for the key is not set, or empty.
    #[error(
        "the environment variable {name}, named by api_key_env, is not set: export {name}=… before the run"
    )]
    KeyMissing {
        /// Name of the variable.
        name: String,
    },
    /// The key holds characters no HTTP header can carry.
    #[error(
        "the key in the environment variable {name} holds a line break or another character that no HTTP header can carry: export it again"
    )]
    KeyUnusable {
        /// Name of the variable.
        name: String,
    },
    /// A spending limit without prices.
    #[error(
        "max_usd is set and both prices are 0: set usd_per_million_prompt_tokens and usd_per_million_completion_tokens"
    )]
    NoPrice,
    /// The HTTP client does not start.
    #[error(
        "cannot start the HTTP client for {url}: {detail}. For https, this machine needs its CA certificates (package ca-certificates)"
    )]
    Http {
        /// Base URL it was for.
        url: String,
        /// What it said.
        detail: String,
    },
}

impl ClientOptions {
    /// Checks that every number lies in its range.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        for (option, value) in [
            ("max_in_flight", self.max_in_flight as f64),
            ("start_in_flight", self.start_in_flight as f64),
            ("max_attempts", f64::from(self.max_attempts)),
            ("breaker_failures", f64::from(self.breaker_failures)),
        ] {
            in_range(value, 1.0..=f64::MAX, option, "1 or more")?;
        }
        in_range(self.max_body_bytes as f64, 1024.0..=f64::MAX, "max_body_bytes", "1024 or more")?;
        for (option, value) in [
            ("request_timeout_seconds", self.request_timeout_seconds),
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("backoff_first_seconds", self.backoff_first_seconds),
            ("backoff_max_seconds", self.backoff_max_seconds),
            ("retry_after_max_seconds", self.retry_after_max_seconds),
            ("breaker_open_seconds", self.breaker_open_seconds),
            ("down_after_seconds", self.down_after_seconds),
        ] {
            in_range(value, 0.001..=MAX_SECONDS, option, "at least 0.001 and at most a year of seconds")?;
        }
        Ok(())
    }

    /// For each base URL: its text without a slash at the end, and the address that completes chats.
    pub(super) fn completion_urls(&self) -> Result<Vec<(String, Url)>, ClientError> {
        if self.base_urls.is_empty() {
            return Err(ClientError::NoEndpoint);
        }
        self.base_urls.iter().map(|text| completion_url(text)).collect()
    }
}

/// Upper bound of every time setting: it keeps `Duration` and `Instant` sums from overflowing.
pub(super) const MAX_SECONDS: f64 = 366.0 * 86_400.0;

fn in_range(
    value: f64,
    range: RangeInclusive<f64>,
    option: &'static str,
    rule: &'static str,
) -> Result<(), ClientError> {
    // NaN lies in no range.
    if range.contains(&value) { Ok(()) } else { Err(ClientError::BadNumber { option, value, rule }) }
}

fn completion_url(text: &str) -> Result<(String, Url), ClientError> {
    let bad = |problem: String| ClientError::BadUrl { text: text.to_owned(), problem };
    let base = text.trim_end_matches('/');
    let url = Url::parse(&format!("{base}/chat/completions")).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("its scheme is {:?}, not http or https", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The URL stands in errors and in the `endpoint` column, so it may hold no secret.
        return Err(ClientError::BadUrl {
            text: format!("{}://…", url.scheme()),
            problem: "it holds a user name or password; put the key into an environment variable and name that in api_key_env".into(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it holds a ? or #".into()));
    }
    Ok((base.to_owned(), url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Result<Vec<(String, Url)>, ClientError> {
        ClientOptions { base_urls: vec![text.into()], ..ClientOptions::default() }.completion_urls()
    }

    #[test]
    fn base_urls_are_checked() {
        let (base, url) = urls("http://h:1/v1/").unwrap().remove(0);
        assert_eq!((base.as_str(), url.as_str()), ("http://h:1/v1", "http://h:1/v1/chat/completions"));
        for text in ["", "h:1/v1", "ftp://h/v1", "http://h/v1?key=1", "/v1"] {
            assert!(matches!(urls(text), Err(ClientError::BadUrl { .. })), "{text}");
        }
        let secret = urls("https://me:hunter2@h/v1").unwrap_err().to_string();
        assert!(secret.contains("api_key_env") && !secret.contains("hunter2"), "{secret}");
        assert!(matches!(ClientOptions::default().completion_urls(), Err(ClientError::NoEndpoint)));
    }

    #[test]
    fn numbers_are_checked() {
        ClientOptions::default().check().unwrap();
        for options in [
            ClientOptions { max_in_flight: 0, ..ClientOptions::default() },
            ClientOptions { max_attempts: 0, ..ClientOptions::default() },
            ClientOptions { request_timeout_seconds: f64::NAN, ..ClientOptions::default() },
            ClientOptions { down_after_seconds: -1.0, ..ClientOptions::default() },
        ] {
            assert!(matches!(options.check(), Err(ClientError::BadNumber { .. })), "{options:?}");
        }
    }
}
