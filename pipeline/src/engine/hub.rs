//! The Hugging Face hub: listing by its API; its files are those of a web server. `HF_ENDPOINT` names another hub, `HF_TOKEN` unlocks gated datasets.
//!
//! Paths are `datasets/<owner>/<name>[@<revision>]/<path in the repository>`; the last part of the
//! path may hold `*` and `?`.

use reqwest::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use super::scan::FileSlice;
use super::source::{StoredFile, wildcard};
use super::web::{Web, WebError};

/// The hub where `HF_ENDPOINT` names no other.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The hub does not answer as needed.
#[derive(Debug, Error)]
pub enum HubError {
    /// Not the form of a dataset's path.
    #[error("`hf://{0}` is not a dataset path; write hf://datasets/<owner>/<name>/<path>")]
    Path(String),
    /// `HF_ENDPOINT` is no URL.
    #[error("HF_ENDPOINT `{0}` is not an http(s) URL")]
    Endpoint(String),
    /// It does not answer as needed.
    #[error(transparent)]
    Web(#[from] WebError),
}

fn status_help(status: u16) -> &'static str {
    match status {
        401 | 403 => "; the dataset is private or gated: set HF_TOKEN to a token that may read it",
        404 => "; there is no such dataset or path",
        429 => "; too many requests: wait, or set HF_TOKEN",
        _ => "",
    }
}

/// A hub.
pub struct Hub(Web);

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
#[derive(Debug, PartialEq, Eq)]
struct DatasetPath {
    repository: String,
    /// As addresses have it: the slashes of `refs/convert/parquet` are written `%2F`.
    revision: String,
    path: String,
}

impl DatasetPath {
    fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Path(text.to_owned());
        let rest = text.strip_prefix("datasets/").ok_or_else(wrong)?;
        let (owner, rest) = rest.split_once('/').ok_or_else(wrong)?;
        let (name, path) = rest.split_once('/').ok_or_else(wrong)?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let (revision, path) = match revision {
            // `refs/convert/parquet`, which the hub makes of every dataset, and `refs/pr/<number>`.
            "refs" => {
                let mut parts = path.splitn(3, '/');
                let (Some(kind), Some(what), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err(wrong());
                };
                (format!("refs%2F{kind}%2F{what}"), path)
            }
            _ => (revision.to_owned(), path),
        };
        if [owner, name, &revision, path].iter().any(|part| part.is_empty()) {
            return Err(wrong());
        }
        Ok(Self { repository: format!("datasets/{owner}/{name}"), revision, path: path.to_owned() })
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
        let mut headers = HeaderMap::new();
        if let Some(mut value) =
            token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok())
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(Self(Web::new(&endpoint, headers, status_help)?))
    }

    /// The server of the hub's files.
    pub fn web(&self) -> &Web {
        &self.0
    }

    /// The files that match a path, sorted.
    ///
    /// # Errors
    /// The path has another form, or the hub does not answer.
    pub async fn list(&self, path: &str) -> Result<Vec<StoredFile>, HubError> {
        let wanted = DatasetPath::parse(path)?;
        let (folder, name) = wanted.path.rsplit_once('/').unwrap_or(("", &wanted.path));
        let DatasetPath { repository, revision, .. } = &wanted;
        let mut next = Some(format!("{}api/{repository}/tree/{revision}/{folder}", self.0.origin()));
        let mut files = Vec::new();
        while let Some(url) = next {
            let answer = self.0.send(reqwest::Method::GET, &url, HeaderMap::new()).await?;
            next = answer.headers().get(header::LINK).and_then(|link| next_page(link.to_str().ok()?));
            let entries: Vec<TreeEntry> =
                answer.json().await.map_err(|source| WebError::Request { url: url.clone(), source })?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let file_name = entry.path.rsplit('/').next().unwrap_or(&entry.path);
                if wildcard(name, file_name) {
                    let etag = entry.lfs.map_or(entry.oid, |lfs| lfs.oid);
                    files.push(StoredFile {
                        digest: format!("{etag}:{}", entry.size),
                        slice: FileSlice {
                            store: self.0.origin().to_string(),
                            path: format!("{repository}/resolve/{revision}/{}", entry.path),
                            bytes: entry.size,
                            range: None,
                            // What the storage behind the redirect says is another tag than the listing's.
                            version: None,
                        },
                    });
                }
            }
        }
        files.sort_by(|a, b| a.slice.path.cmp(&b.slice.path));
        Ok(files)
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

#[cfg(test)]
mod tests;
