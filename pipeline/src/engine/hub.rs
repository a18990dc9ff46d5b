//! The Hugging Face hub as an object store: listing by its API, reading by ranges through its
//! redirects. `HF_ENDPOINT` names another hub, `HF_TOKEN` unlocks gated datasets.
//!
//! Paths are `datasets/<owner>/<name>[@<revision>]/<path in the repository>`; the last part of the
//! path may hold `*` and `?`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path as StorePath;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use reqwest::header;
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use super::scan::FileSlice;
use super::source::wildcard;

/// The hub where `HF_ENDPOINT` names no other.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Attempts of a request that failed for a reason that may pass.
const ATTEMPTS: u32 = 5;

/// The hub does not answer as needed.
#[derive(Debug, Error)]
pub enum HubError {
    /// Not the form of a dataset's path.
    #[error("`hf://{0}` is not a dataset path; write hf://datasets/<owner>/<name>/<path>")]
    Path(String),
    /// `HF_ENDPOINT` is no URL.
    #[error("HF_ENDPOINT `{0}` is not an http(s) URL")]
    Endpoint(String),
    /// No connection, or a cut one.
    #[error("{url}: {source}; check the network, or HF_ENDPOINT")]
    Request {
        /// What was asked.
        url: String,
        /// Why it failed.
        source: reqwest::Error,
    },
    /// An answer other than success.
    #[error("{url} answered {status}{}", status_help(*status))]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: u16,
    },
}

fn status_help(status: u16) -> &'static str {
    match status {
        401 | 403 => "; the dataset is private or gated: set HF_TOKEN to a token that may read it",
        404 => "; there is no such dataset or path",
        429 => "; too many requests: wait, or set HF_TOKEN",
        _ => "",
    }
}

/// A file that the hub lists.
pub struct HubFile {
    /// Where it is.
    pub slice: FileSlice,
    /// Its ETag (the content's hash) and size.
    pub digest: String,
}

/// A hub.
#[derive(Clone)]
pub struct Hub {
    endpoint: Url,
    client: reqwest::Client,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub({})", self.endpoint)
    }
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)
    }
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: u64,
    oid: String,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
}

/// `datasets/<owner>/<name>[@<revision>]/<path>`, taken apart.
struct DatasetPath {
    repository: String,
    revision: String,
    path: String,
}

impl DatasetPath {
    fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Path(text.to_owned());
        let rest = text.strip_prefix("datasets/").ok_or_else(wrong)?;
        let mut parts = rest.splitn(3, '/');
        let (Some(owner), Some(name), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        if [owner, name, revision, path].iter().any(|part| part.is_empty()) {
            return Err(wrong());
        }
        Ok(Self {
            repository: format!("datasets/{owner}/{name}"),
            revision: revision.to_owned(),
            path: path.to_owned(),
        })
    }
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, with the token of `HF_TOKEN`.
    ///
    /// # Errors
    /// The endpoint is no URL.
    pub fn from_environment() -> Result<Self, HubError> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.to_owned());
        Self::new(&endpoint, std::env::var("HF_TOKEN").ok().as_deref())
    }

    fn new(endpoint: &str, token: Option<&str>) -> Result<Self, HubError> {
        let wrong = || HubError::Endpoint(endpoint.to_owned());
        let endpoint = Url::parse(endpoint).ok().filter(|url| url.has_host()).ok_or_else(wrong)?;
        let mut headers = header::HeaderMap::new();
        if let Some(token) = token {
            let value = header::HeaderValue::from_str(&format!("Bearer {token}"));
            if let Ok(mut value) = value {
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        let client = net::client_builder()
            .default_headers(headers)
            .user_agent(concat!("corpusmith/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(60))
            .build()
            .map_err(|source| HubError::Request { url: endpoint.to_string(), source })?;
        Ok(Self { endpoint, client })
    }

    fn store_url(&self) -> String {
        let port = self.endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}/", self.endpoint.scheme(), self.endpoint.host_str().unwrap_or_default())
    }

    /// Makes the hub's files readable in a session's plans.
    ///
    /// # Errors
    /// The endpoint is no URL.
    pub fn register(&self, session: &SessionContext) -> Result<(), HubError> {
        let url = Url::parse(&self.store_url()).map_err(|_| HubError::Endpoint(self.endpoint.to_string()))?;
        session.register_object_store(&url, Arc::new(self.clone()));
        Ok(())
    }

    /// The files that match a path, sorted.
    ///
    /// # Errors
    /// The path has another form, or the hub does not answer.
    pub async fn list(&self, path: &str) -> Result<Vec<HubFile>, HubError> {
        let wanted = DatasetPath::parse(path)?;
        let (folder, name) = wanted.path.rsplit_once('/').unwrap_or(("", &wanted.path));
        let DatasetPath { repository, revision, .. } = &wanted;
        let mut next = Some(format!("{}api/{repository}/tree/{revision}/{folder}", self.store_url()));
        let mut files = Vec::new();
        while let Some(url) = next {
            let answer = self.send(reqwest::Method::GET, &url, None).await?;
            next = answer.headers().get(header::LINK).and_then(|link| next_page(link.to_str().ok()?));
            let entries: Vec<TreeEntry> =
                answer.json().await.map_err(|source| HubError::Request { url: url.clone(), source })?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let file_name = entry.path.rsplit('/').next().unwrap_or(&entry.path);
                if wildcard(name, file_name) {
                    let etag = entry.lfs.map_or(entry.oid, |lfs| lfs.oid);
                    files.push(HubFile {
                        digest: format!("{etag}:{}", entry.size),
                        slice: FileSlice {
                            store: self.store_url(),
                            path: format!("{repository}/resolve/{revision}/{}", entry.path),
                            bytes: entry.size,
                            range: None,
                        },
                    });
                }
            }
        }
        files.sort_by(|a, b| a.slice.path.cmp(&b.slice.path));
        Ok(files)
    }

    /// Sends a request, again after failures that may pass.
    async fn send(
        &self,
        method: reqwest::Method,
        url: &str,
        range: Option<String>,
    ) -> Result<reqwest::Response, HubError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut request = self.client.request(method.clone(), url);
            if let Some(range) = &range {
                request = request.header(header::RANGE, range);
            }
            let error = match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let error = HubError::Status { url: url.to_owned(), status };
                    if status != 429 && status < 500 {
                        return Err(error);
                    }
                    error
                }
                Err(source) => HubError::Request { url: url.to_owned(), source },
            };
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            tracing::warn!("{error}; trying again");
            tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
        }
    }
}

/// The URL of the next page in a `Link` header.
pub fn next_page(link: &str) -> Option<String> {
    link.split(',').find(|part| part.contains("rel=\"next\"")).and_then(|part| {
        let start = part.find('<')? + 1;
        let end = part.find('>')?;
        part.get(start..end).map(str::to_owned)
    })
}

fn store_error(error: HubError) -> object_store::Error {
    match error {
        HubError::Status { status: 404, url } => {
            object_store::Error::NotFound { path: url.clone(), source: url.into() }
        }
        other => object_store::Error::Generic { store: "hub", source: Box::new(other) },
    }
}

fn read_only() -> object_store::Error {
    object_store::Error::NotSupported { source: "datasets on the hub are only read".into() }
}

#[async_trait]
impl ObjectStore for Hub {
    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> object_store::Result<GetResult> {
        let url = format!("{}{location}", self.store_url());
        let range = options.range.as_ref().map(|range| match range {
            GetRange::Bounded(range) => format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
            GetRange::Offset(start) => format!("bytes={start}-"),
            GetRange::Suffix(length) => format!("bytes=-{length}"),
        });
        let method = if options.head { reqwest::Method::HEAD } else { reqwest::Method::GET };
        let answer = self.send(method, &url, range).await.map_err(store_error)?;
        let partial = answer.status().as_u16() == 206;
        let text =
            |name| answer.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let length = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0);
        // `bytes 0-99/1234`
        let content_range = text(header::CONTENT_RANGE).and_then(parse_content_range).filter(|_| partial);
        let (range, size): (Range<u64>, u64) = content_range.unwrap_or((0..length, length));
        let e_tag = text(header::ETAG).map(str::to_owned);
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: Default::default(),
            size,
            e_tag,
            version: None,
        };
        let body = answer.bytes_stream().map(|chunk| {
            chunk.map_err(|error| object_store::Error::Generic { store: "hub", source: Box::new(error) })
        });
        let payload = GetResultPayload::Stream(body.boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    async fn put_opts(&self, _: &StorePath, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(read_only())
    }

    async fn put_multipart_opts(
        &self,
        _: &StorePath,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(read_only())
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<StorePath>>,
    ) -> BoxStream<'static, object_store::Result<StorePath>> {
        futures::stream::once(async { Err(read_only()) }).boxed()
    }

    fn list(&self, _: Option<&StorePath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        futures::stream::once(async { Err(read_only()) }).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&StorePath>) -> object_store::Result<ListResult> {
        Err(read_only())
    }

    async fn copy_opts(&self, _: &StorePath, _: &StorePath, _: CopyOptions) -> object_store::Result<()> {
        Err(read_only())
    }
}

fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    Some((start..end.checked_add(1)?, size.parse().ok()?))
}

#[cfg(test)]
mod tests;
