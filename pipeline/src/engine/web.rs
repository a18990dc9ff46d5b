//! Files of web servers as an object store: read by ranges, through redirects, again after failures that may
//! pass.

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
use reqwest::header::{self, HeaderMap};
use thiserror::Error;
use url::Url;

use super::scan::FileSlice;
use super::source::StoredFile;

/// Attempts of a request that failed for a reason that may pass.
const ATTEMPTS: u32 = 5;

/// A server does not answer as needed.
#[derive(Debug, Error)]
pub enum WebError {
    /// No address of a file.
    #[error(
        "`{0}` is not the address of a file; write http(s)://<server>/<path>, without a query or a pattern"
    )]
    Address(String),
    /// An address that no workflow may reach.
    #[error(transparent)]
    Forbidden(#[from] net::ForbiddenAddress),
    /// No connection, or a cut one.
    #[error("{url} cannot be read; check the network")]
    Request {
        /// What was asked.
        url: String,
        /// Why it failed.
        source: reqwest::Error,
    },
    /// An answer other than success.
    #[error("{url} answered {status}{help}")]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: u16,
        /// What to do, behind a semicolon; or nothing.
        help: &'static str,
    },
    /// The answer says neither how long the file is nor gives a part of it.
    #[error("{0} gives files only whole; download it and give its path")]
    NoRanges(String),
}

impl WebError {
    /// Whether the next try may go better.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Request { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::Address(_) | Self::Forbidden(_) | Self::NoRanges(_) => false,
        }
    }
}

fn plain_help(status: u16) -> &'static str {
    match status {
        401 | 403 => "; the file is not for everybody: download it and give its path",
        404 | 410 => "; there is no such file",
        _ => "",
    }
}

/// A server.
#[derive(Clone)]
pub struct Web {
    /// `https://host[:port]/`
    origin: Url,
    client: reqwest::Client,
    help: fn(u16) -> &'static str,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Web({})", self.origin)
    }
}

impl fmt::Display for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)
    }
}

impl Web {
    /// The server of a URL; all requests have these headers. `help` says for a status what to do about it,
    /// behind a semicolon.
    ///
    /// # Errors
    /// The URL names no server, or one that no workflow may reach.
    pub fn new(url: &Url, headers: HeaderMap, help: fn(u16) -> &'static str) -> Result<Self, WebError> {
        let mut origin = url.clone();
        origin.set_path("/");
        origin.set_query(None);
        origin.set_fragment(None);
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(WebError::Address(url.to_string()));
        }
        let client = net::client_builder_for(url)?
            .default_headers(headers)
            .user_agent(concat!("corpusmith/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(60))
            .build()
            .map_err(|source| WebError::Request { url: origin.to_string(), source })?;
        Ok(Self { origin, client, help })
    }

    /// The server of a URL that wants to know nothing of its readers.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn open(url: &Url) -> Result<Self, WebError> {
        Self::new(url, HeaderMap::new(), plain_help)
    }

    /// `https://host[:port]/`
    pub fn origin(&self) -> &Url {
        &self.origin
    }

    /// Makes the server's files readable in a session's plans.
    pub fn register(&self, session: &SessionContext) {
        session.register_object_store(&self.origin, Arc::new(self.clone()));
    }

    /// The file at an address of this server.
    ///
    /// # Errors
    /// The server does not answer, or has no such file.
    pub async fn file(&self, url: &Url) -> Result<StoredFile, WebError> {
        let (Ok(path), None) = (StorePath::from_url_path(url.path()), url.query()) else {
            return Err(WebError::Address(url.to_string()));
        };
        let answer = self.send(reqwest::Method::HEAD, url.as_str(), HeaderMap::new()).await?;
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let bytes = text(header::CONTENT_LENGTH).and_then(|bytes| bytes.parse::<u64>().ok());
        let bytes = bytes.ok_or_else(|| WebError::NoRanges(url.to_string()))?;
        let e_tag = text(header::ETAG).map(str::to_owned);
        let version = e_tag.as_deref().or(text(header::LAST_MODIFIED)).unwrap_or_default();
        Ok(StoredFile {
            digest: format!("{version}:{bytes}"),
            slice: FileSlice {
                store: self.origin.to_string(),
                path: path.to_string(),
                bytes,
                range: None,
                version: e_tag,
            },
        })
    }

    /// Sends a request, again after failures that may pass.
    ///
    /// # Errors
    /// It failed for good.
    pub async fn send(
        &self,
        method: reqwest::Method,
        url: &str,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, WebError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = self.client.request(method.clone(), url).headers(headers.clone());
            let error = match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    WebError::Status { url: url.to_owned(), status, help: (self.help)(status) }
                }
                Err(source) => WebError::Request { url: url.to_owned(), source },
            };
            if attempt >= ATTEMPTS || !error.may_pass() {
                return Err(error);
            }
            tracing::warn!("{error}; trying again");
            tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
        }
    }
}

fn store_error(error: WebError) -> object_store::Error {
    match error {
        WebError::Status { status: 404, url, .. } => {
            object_store::Error::NotFound { path: url.clone(), source: url.into() }
        }
        other => object_store::Error::Generic { store: "web", source: Box::new(other) },
    }
}

fn read_only() -> object_store::Error {
    object_store::Error::NotSupported { source: "files of web servers are only read".into() }
}

#[async_trait]
impl ObjectStore for Web {
    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> object_store::Result<GetResult> {
        // A slash that an address has encoded, as in a revision of the hub, is not to be encoded again.
        let url = format!("{}{location}", self.origin).replace("%252F", "%2F");
        let range = options.range.as_ref().map(|range| match range {
            GetRange::Bounded(range) => format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
            GetRange::Offset(start) => format!("bytes={start}-"),
            GetRange::Suffix(length) => format!("bytes=-{length}"),
        });
        let range = range.and_then(|range| header::HeaderValue::from_str(&range).ok());
        let headers = range.into_iter().map(|range| (header::RANGE, range)).collect();
        let method = if options.head { reqwest::Method::HEAD } else { reqwest::Method::GET };
        let answer = self.send(method, &url, headers).await.map_err(store_error)?;
        let partial = answer.status().as_u16() == 206;
        if options.range.is_some() && !partial && !options.head {
            return Err(store_error(WebError::NoRanges(url)));
        }
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
            chunk.map_err(|error| object_store::Error::Generic { store: "web", source: Box::new(error) })
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
