//! One HTTP request, sent once, and what came of it.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url};

use super::options::{self, Address, ClientError, ClientOptions, OwnPrice};
use super::{retry, wire};
use crate::chat::{Api, ChatAnswer, ChatError};

/// Bytes of an error's body that are read.
const ERROR_BODY_BYTES: usize = 64 << 10;

struct Endpoint {
    address: Address,
    http: Client,
    authorization: Option<HeaderValue>,
    /// The key's text, only to blot it out of what the server says.
    key: Option<String>,
    key_env: Option<String>,
    price: OwnPrice,
}

pub(super) struct Sender {
    endpoints: Vec<Endpoint>,
    request_timeout: Duration,
    /// The longest silence that is borne; a shorter total limit makes it the shorter one.
    read_timeout: Duration,
    connect_timeout: Duration,
    max_body_bytes: usize,
}

impl Endpoint {
    fn new(endpoint: &options::Endpoint, options: &ClientOptions) -> Result<Self, ClientError> {
        let options::Endpoint { address, api_key_env, .. } = endpoint;
        let key = api_key_env.as_deref().map(read_key).transpose()?;
        let authorization = match (&key, api_key_env) {
            (Some(key), Some(name)) => {
                let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                    .map_err(|_| ClientError::KeyUnusable { name: name.clone() })?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        if authorization.is_some() && address.chat.scheme() == "http" && !net::is_loopback(&address.chat) {
            tracing::warn!(base_url = %address.base_url, "the API key goes unencrypted over http");
        }
        let problem = |detail| ClientError::Http { url: address.base_url.clone(), detail };
        let http = net::client_for(&address.chat)
            .map_err(|error| problem(error.to_string()))?
            .retry(reqwest::retry::never())
            .read_timeout(Duration::from_secs_f64(options.read_timeout_seconds))
            .connect_timeout(Duration::from_secs_f64(options.connect_timeout_seconds))
            .build()
            .map_err(|error| problem(net::innermost(&error)))?;
        let (address, key_env) = (address.clone(), api_key_env.clone());
        Ok(Self { address, http, authorization, key, key_env, price: endpoint.price })
    }

    /// Servers repeat refused keys in their errors; ours must not stand in a log, not even cut in half.
    fn blot(&self, body: Vec<u8>) -> Vec<u8> {
        match &self.key {
            Some(key) => String::from_utf8_lossy(&body).replace(key.as_str(), "[the key]").into_bytes(),
            None => body,
        }
    }
}

impl Sender {
    pub(super) fn new(options: &ClientOptions, endpoints: &[options::Endpoint]) -> Result<Self, ClientError> {
        let endpoints = endpoints.iter().map(|endpoint| Endpoint::new(endpoint, options));
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            request_timeout: Duration::from_secs_f64(options.request_timeout_seconds),
            read_timeout: Duration::from_secs_f64(options.read_timeout_seconds),
            connect_timeout: Duration::from_secs_f64(options.connect_timeout_seconds),
            max_body_bytes: options.max_body_bytes,
        })
    }

    /// Where an endpoint is.
    pub(super) fn address(&self, endpoint: usize) -> &Url {
        &self.endpoints[endpoint].address.chat
    }

    /// An endpoint's own price.
    pub(super) fn price(&self, endpoint: usize) -> OwnPrice {
        self.endpoints[endpoint].price
    }

    /// Sends `body` to an endpoint and reads the answer; `attempts` is 1 in it.
    pub(super) async fn send_once(
        &self,
        endpoint: usize,
        api: Api,
        body: Bytes,
    ) -> Result<ChatAnswer, ChatError> {
        let endpoint = &self.endpoints[endpoint];
        let Endpoint { address, http, authorization, .. } = endpoint;
        let base_url = &address.base_url;
        let url = match api {
            Api::Chat => &address.chat,
            Api::Completions => &address.completions,
        };
        let request_body_bytes = body.len();
        let mut request = http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .timeout(self.request_timeout)
            .body(body);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let sent = Instant::now();
        let mut response = request.send().await.map_err(|error| self.network_error(base_url, &error))?;
        if !response.status().is_success() {
            return Err(self.status_error(endpoint, response).await);
        }
        let mut answer_body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.network_error(base_url, &error))?
        {
            if answer_body.len() + chunk.len() > self.max_body_bytes {
                return Err(ChatError::BodyTooLarge {
                    url: base_url.clone(),
                    cap_bytes: self.max_body_bytes,
                });
            }
            answer_body.extend_from_slice(&chunk);
        }
        let mut answer = match wire::decode(&answer_body, request_body_bytes, base_url) {
            Ok(answer) => answer,
            Err(detail) => {
                let first_bytes = wire::first_bytes(&endpoint.blot(answer_body));
                return Err(ChatError::BadJson { url: base_url.clone(), detail, first_bytes });
            }
        };
        answer.latency_ms = u32::try_from(sent.elapsed().as_millis()).unwrap_or(u32::MAX);
        Ok(answer)
    }

    async fn status_error(&self, endpoint: &Endpoint, mut response: Response) -> ChatError {
        let status = response.status().as_u16();
        let retry_after_seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry::retry_after_seconds(value, SystemTime::now()));
        let mut body = Vec::new();
        // The status is what counts: a body that breaks off is shown as far as it came.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= ERROR_BODY_BYTES {
                break;
            }
        }
        let url = endpoint.address.base_url.clone();
        let said = wire::said(&endpoint.blot(body));
        match status {
            401 | 403 => ChatError::Unauthorized { url, status, key_env: endpoint.key_env.clone(), said },
            _ => ChatError::Status { url, status, said, retry_after_seconds },
        }
    }

    fn network_error(&self, base_url: &str, error: &reqwest::Error) -> ChatError {
        let url = base_url.to_owned();
        match (error.is_connect(), error.is_timeout()) {
            (true, true) => {
                let detail = format!("no connection within {} s", self.connect_timeout.as_secs_f64());
                ChatError::Unreachable { url, detail }
            }
            (true, false) => ChatError::Unreachable { url, detail: net::innermost(error) },
            (false, true) => ChatError::TimedOut {
                url,
                waited_seconds: self.request_timeout.min(self.read_timeout).as_secs_f64(),
            },
            (false, false) => ChatError::Cut { url, detail: net::innermost(error) },
        }
    }
}

fn read_key(name: &str) -> Result<String, ClientError> {
    match std::env::var(name) {
        Ok(key) if !key.trim().is_empty() => Ok(key.trim().to_owned()),
        Ok(_) | Err(std::env::VarError::NotPresent) => Err(ClientError::KeyMissing { name: name.to_owned() }),
        Err(std::env::VarError::NotUnicode(_)) => Err(ClientError::KeyUnusable { name: name.to_owned() }),
    }
}
