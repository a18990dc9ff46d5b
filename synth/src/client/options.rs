//! What a user says about the servers.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use crate::estimate::Price;

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

/// One server, where the others' settings do not fit it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointOptions {
    /// Base URL up to and with its version, for example `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// Its share of the requests beside the other servers', which have 1: of two servers with room, one of
    /// weight 2 has twice as many requests in flight.
    pub weight: f64,
    /// Requests in flight at it at most; as for the others when left out.
    pub max_in_flight: Option<usize>,
    /// Name of the environment variable that holds its API key; as for the others when left out.
    pub api_key_env: Option<String>,
    /// US dollars for a million tokens of its prompts; as for the others when left out.
    pub usd_per_million_prompt_tokens: Option<f64>,
    /// US dollars for a million tokens of its answers; as for the others when left out.
    pub usd_per_million_completion_tokens: Option<f64>,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            weight: 1.0,
            max_in_flight: None,
            api_key_env: None,
            usd_per_million_prompt_tokens: None,
            usd_per_million_completion_tokens: None,
        }
    }
}

/// Options of [`OpenAiClient`](super::OpenAiClient).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientOptions {
    /// Base URLs of the servers, each up to and with its version, for example `http://127.0.0.1:8000/v1`.
    /// Requests go to whichever has room.
    pub base_urls: Vec<String>,
    /// Further servers, with settings of their own.
    pub endpoints: Vec<EndpointOptions>,
    /// Name of the model, for requests that name none.
    pub model: String,
    /// Dialect the servers speak.
    pub server_kind: ServerKind,
    /// Name of the environment variable that holds the API key; none: no key is sent.
    pub api_key_env: Option<String>,
    /// Requests in flight at one endpoint at most.
    pub max_in_flight: usize,
    /// Requests in flight at one endpoint at first; the number then adapts: up with each answer, down by
    /// half of what HTTP 429, 503 and time-outs are of the recent requests, and by a fifth when answers have
    /// become slow.
    pub start_in_flight: usize,
    /// Answers have become slow when their recent time a token is over this many times the best seen at the
    /// endpoint. Generous, since a server that batches slows each answer while it speeds up all of them.
    pub slow_factor: f64,
    /// Requests sent for one answer at most.
    pub max_attempts: u32,
    /// Longest wait for a whole answer, in seconds.
    pub request_timeout_seconds: f64,
    /// Longest silence while a response comes, in seconds. Servers are silent until the whole answer is
    /// written, so it bounds that as well.
    pub read_timeout_seconds: f64,
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
            endpoints: Vec::new(),
            model: String::new(),
            server_kind: ServerKind::default(),
            api_key_env: None,
            max_in_flight: 256,
            start_in_flight: 16,
            slow_factor: 5.0,
            max_attempts: 6,
            request_timeout_seconds: 600.0,
            read_timeout_seconds: 600.0,
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
    #[error(
        "neither base_urls nor endpoints names a server: give at least one, for example http://127.0.0.1:8000/v1"
    )]
    NoEndpoint,
    /// A base URL that is none.
    #[error(
        "{text:?}, given as a server's base URL, is no address: {problem}. An example of one: http://127.0.0.1:8000/v1"
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
    /// An extra field that the program has to set itself.
    #[error("extra holds {field:?}, which it may not: {problem}")]
    BadExtra {
        /// The field.
        field: String,
        /// Why not.
        problem: &'static str,
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
        in_range(self.slow_factor, 1.0..=f64::MAX, "slow_factor", "1 or more")?;
        for endpoint in &self.endpoints {
            in_range(endpoint.weight, 1e-3..=1e3, "an endpoint's weight", "from 0.001 to 1000")?;
            let places = endpoint.max_in_flight.unwrap_or(1);
            in_range(places as f64, 1.0..=f64::MAX, "an endpoint's max_in_flight", "1 or more")?;
            for price in [endpoint.usd_per_million_prompt_tokens, endpoint.usd_per_million_completion_tokens]
            {
                in_range(price.unwrap_or_default(), 0.0..=f64::MAX, "an endpoint's price", "0 or more")?;
            }
        }
        in_range(self.max_body_bytes as f64, 1024.0..=f64::MAX, "max_body_bytes", "1024 or more")?;
        for (option, value) in [
            ("request_timeout_seconds", self.request_timeout_seconds),
            ("read_timeout_seconds", self.read_timeout_seconds),
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

    /// All servers, each with what holds for it.
    pub(super) fn all_endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        if self.base_urls.is_empty() && self.endpoints.is_empty() {
            return Err(ClientError::NoEndpoint);
        }
        let plain =
            self.base_urls.iter().map(|url| EndpointOptions { url: url.clone(), ..Default::default() });
        plain
            .chain(self.endpoints.iter().cloned())
            .map(|endpoint| {
                Ok(Endpoint {
                    address: Address::parse(&endpoint.url)?,
                    weight: endpoint.weight,
                    max_in_flight: endpoint.max_in_flight.unwrap_or(self.max_in_flight),
                    api_key_env: endpoint.api_key_env.or_else(|| self.api_key_env.clone()),
                    price: OwnPrice {
                        usd_per_million_prompt_tokens: endpoint.usd_per_million_prompt_tokens,
                        usd_per_million_completion_tokens: endpoint.usd_per_million_completion_tokens,
                    },
                })
            })
            .collect()
    }
}

/// A server with what holds for it.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    pub(super) weight: f64,
    pub(super) max_in_flight: usize,
    pub(super) api_key_env: Option<String>,
    pub(super) price: OwnPrice,
}

/// A server's prices where they are not those of the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnPrice {
    usd_per_million_prompt_tokens: Option<f64>,
    usd_per_million_completion_tokens: Option<f64>,
}

impl OwnPrice {
    /// The price at this server where `others` holds for those that name none.
    pub(super) fn or(self, others: Price) -> Price {
        let prompt = self.usd_per_million_prompt_tokens;
        let completion = self.usd_per_million_completion_tokens;
        Price {
            usd_per_million_prompt_tokens: prompt.unwrap_or(others.usd_per_million_prompt_tokens),
            usd_per_million_completion_tokens: completion.unwrap_or(others.usd_per_million_completion_tokens),
        }
    }
}

/// Where a server is asked.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Its base URL, without a slash at the end.
    pub(super) base_url: String,
    pub(super) chat: Url,
    pub(super) completions: Url,
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

impl Address {
    fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |problem: String| ClientError::BadUrl { text: text.to_owned(), problem };
        let base_url = text.trim_end_matches('/').to_owned();
        let at =
            |path: &str| Url::parse(&format!("{base_url}/{path}")).map_err(|error| bad(error.to_string()));
        let chat = at("chat/completions")?;
        if !matches!(chat.scheme(), "http" | "https") {
            return Err(bad(format!("its scheme is {:?}, not http or https", chat.scheme())));
        }
        if !chat.username().is_empty() || chat.password().is_some() {
            // The URL stands in errors and in the `endpoint` column, so it may hold no secret.
            return Err(ClientError::BadUrl {
                text: format!("{}://…", chat.scheme()),
                problem: "it holds a user name or password; put the key into an environment variable and name that in api_key_env".into(),
            });
        }
        if chat.query().is_some() || chat.fragment().is_some() {
            return Err(bad("it holds a ? or #".into()));
        }
        Ok(Self { completions: at("completions")?, base_url, chat })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(text: &str) -> Result<Vec<Endpoint>, ClientError> {
        ClientOptions { base_urls: vec![text.into()], ..ClientOptions::default() }.all_endpoints()
    }

    #[test]
    fn base_urls_are_checked() {
        let Address { base_url, chat, completions } = endpoints("http://h:1/v1/").unwrap().remove(0).address;
        assert_eq!(base_url, "http://h:1/v1");
        assert_eq!(
            (chat.as_str(), completions.as_str()),
            ("http://h:1/v1/chat/completions", "http://h:1/v1/completions")
        );
        for text in ["", "h:1/v1", "ftp://h/v1", "http://h/v1?key=1", "/v1"] {
            assert!(matches!(endpoints(text), Err(ClientError::BadUrl { .. })), "{text}");
        }
        let secret = endpoints("https://me:hunter2@h/v1").unwrap_err().to_string();
        assert!(secret.contains("api_key_env") && !secret.contains("hunter2"), "{secret}");
        assert!(matches!(ClientOptions::default().all_endpoints(), Err(ClientError::NoEndpoint)));
    }

    #[test]
    fn an_endpoint_of_its_own_takes_the_rest_from_the_others() {
        let own = EndpointOptions { url: "http://b/v1".into(), weight: 2.0, ..EndpointOptions::default() };
        let options = ClientOptions {
            base_urls: vec!["http://a/v1".into()],
            endpoints: vec![own.clone(), EndpointOptions { max_in_flight: Some(3), ..own }],
            max_in_flight: 7,
            api_key_env: Some("KEY".into()),
            ..ClientOptions::default()
        };
        let all = options.all_endpoints().unwrap();
        let found: Vec<_> = all.iter().map(|endpoint| (endpoint.weight, endpoint.max_in_flight)).collect();
        assert_eq!(found, [(1.0, 7), (2.0, 7), (2.0, 3)]);
        assert!(all.iter().all(|endpoint| endpoint.api_key_env.as_deref() == Some("KEY")));
    }

    #[test]
    fn numbers_are_checked() {
        ClientOptions::default().check().unwrap();
        for options in [
            ClientOptions { max_in_flight: 0, ..ClientOptions::default() },
            ClientOptions { max_attempts: 0, ..ClientOptions::default() },
            ClientOptions { request_timeout_seconds: f64::NAN, ..ClientOptions::default() },
            ClientOptions { down_after_seconds: -1.0, ..ClientOptions::default() },
            ClientOptions {
                endpoints: vec![EndpointOptions { weight: 0.0, ..EndpointOptions::default() }],
                ..ClientOptions::default()
            },
        ] {
            assert!(matches!(options.check(), Err(ClientError::BadNumber { .. })), "{options:?}");
        }
    }
}
