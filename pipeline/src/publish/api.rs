//! The hub's API for writing (huggingface_hub `hf_api.py`, `_commit_api.py` and `lfs.py` speak it).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Client, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use url::Url;

use super::{LocalFile, PublishError, PublishOptions};
use crate::engine::hub::next_page;

/// Attempts of a request that failed for a reason that may pass.
const ATTEMPTS: u32 = 5;
/// What is read of a file at once.
const PIECE_BYTES: usize = 1 << 20;
/// The media type of Git LFS.
const LFS: HeaderValue = HeaderValue::from_static("application/vnd.git-lfs+json");

/// A hub that takes uploads.
#[derive(Clone)]
pub struct HubApi {
    endpoint: Url,
    token: HeaderValue,
    client: Client,
}

/// A file in the repository.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteFile {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: u64,
    oid: String,
    lfs: Option<RemoteLarge>,
}

#[derive(Clone, Debug, Deserialize)]
struct RemoteLarge {
    oid: String,
}

impl RemoteFile {
    /// Whether it has a local file's content.
    ///
    /// # Errors
    /// The local file cannot be read.
    pub fn is(&self, file: &LocalFile) -> Result<bool, PublishError> {
        if self.size != file.bytes {
            return Ok(false);
        }
        match &self.lfs {
            Some(large) => Ok(large.oid == file.sha256()?),
            None => Ok(self.oid == file.git_oid()?),
        }
    }
}

/// How to send a large file.
#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Json>,
}

/// What a request carries.
enum Content<'a> {
    Json(&'a Json),
    Lines(&'a str),
    Lfs(&'a Json),
    Bytes(&'a LocalFile, Range<u64>),
    Nothing,
}

impl HubApi {
    /// A hub by its URL, with a token that may write.
    ///
    /// # Errors
    /// One of them has not the form of such.
    pub fn new(endpoint: &str, token: &str) -> Result<Self, PublishError> {
        let wrong = || PublishError::Endpoint(endpoint.to_owned());
        let with_slash = format!("{}/", endpoint.trim_end_matches('/'));
        let url = Url::parse(&with_slash).ok().filter(Url::has_host).ok_or_else(wrong)?;
        let mut token =
            HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| PublishError::Token)?;
        token.set_sensitive(true);
        let client = net::client_builder()
            .user_agent(concat!("corpusmith/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(120))
            .build()
            .map_err(|source| PublishError::Request { url: with_slash, source })?;
        Ok(Self { endpoint: url, token, client })
    }

    /// Makes the repository, when it is not there.
    ///
    /// # Errors
    /// The hub refuses.
    pub async fn create(&self, options: &PublishOptions) -> Result<(), PublishError> {
        let (owner, name) = match options.repository.split_once('/') {
            Some((owner, name)) if !owner.is_empty() && !name.is_empty() && !name.contains('/') => {
                (owner, name)
            }
            _ => return Err(PublishError::Repository(options.repository.clone())),
        };
        let wanted =
            json!({"type": "dataset", "organization": owner, "name": name, "private": options.private});
        match self.ask(Method::POST, &self.url("api/repos/create"), Content::Json(&wanted)).await {
            Err(PublishError::Status { status: 409, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The files in the repository.
    ///
    /// # Errors
    /// The hub refuses.
    pub async fn list(&self, options: &PublishOptions) -> Result<BTreeMap<String, RemoteFile>, PublishError> {
        let PublishOptions { repository, revision, .. } = options;
        let first = self.url(&format!("api/datasets/{repository}/tree/{revision}?recursive=true"));
        let (mut next, mut found) = (Some(first), BTreeMap::new());
        while let Some(url) = next {
            let answer = match self.ask(Method::GET, &url, Content::Nothing).await {
                // A repository without a commit has no branch.
                Err(PublishError::Status { status: 404, .. }) => return Ok(found),
                answer => answer?,
            };
            next = answer.headers().get(header::LINK).and_then(|link| next_page(link.to_str().ok()?));
            let files: Vec<RemoteFile> = read(&url, answer).await?;
            found.extend(files.into_iter().filter(|file| file.kind == "file").map(|f| (f.path.clone(), f)));
        }
        Ok(found)
    }

    /// Of some files, those that the hub wants in its storage of large files.
    ///
    /// # Errors
    /// The hub refuses, or a file cannot be read.
    pub async fn large_files(
        &self,
        options: &PublishOptions,
        files: &[LocalFile],
    ) -> Result<BTreeSet<String>, PublishError> {
        #[derive(Deserialize)]
        struct Answer {
            files: Vec<Mode>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Mode {
            path: String,
            upload_mode: String,
        }
        let mut asked = Vec::with_capacity(files.len());
        for file in files {
            asked.push(json!({"path": file.path, "size": file.bytes, "sample": file.sample()?}));
        }
        let PublishOptions { repository, revision, .. } = options;
        let url = self.url(&format!("api/datasets/{repository}/preupload/{revision}"));
        let answer = self.ask(Method::POST, &url, Content::Json(&json!({"files": asked}))).await?;
        let answer: Answer = read(&url, answer).await?;
        let large = answer.files.into_iter().filter(|file| file.upload_mode == "lfs");
        Ok(large.map(|file| file.path).collect())
    }

    /// Sends a large file, unless the storage has it.
    ///
    /// # Errors
    /// The hub refuses, or the file cannot be read.
    pub async fn send(&self, options: &PublishOptions, file: &LocalFile) -> Result<(), PublishError> {
        #[derive(Deserialize)]
        struct Answer {
            objects: Vec<Object>,
        }
        #[derive(Deserialize)]
        struct Object {
            actions: Option<Actions>,
            error: Option<Json>,
        }
        #[derive(Deserialize)]
        struct Actions {
            upload: Option<Action>,
            verify: Option<Action>,
        }
        let oid = sha256_of(file).await?;
        let object = json!({"oid": oid, "size": file.bytes});
        let wanted = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256",
            "objects": [object], "ref": {"name": options.revision},
        });
        let url = self.url(&format!("datasets/{}.git/info/lfs/objects/batch", options.repository));
        let answer = self.ask(Method::POST, &url, Content::Lfs(&wanted)).await?;
        let answer: Answer = read(&url, answer).await?;
        let Some(answered) = answer.objects.into_iter().next() else {
            return Err(PublishError::Answer { url, what: "it says nothing of the file".to_owned() });
        };
        if let Some(error) = answered.error {
            return Err(PublishError::Answer { url, what: error.to_string() });
        }
        let Some(actions) = answered.actions else { return Ok(()) };
        if let Some(upload) = actions.upload {
            match upload.header.get("chunk_size").and_then(number) {
                Some(part_bytes) => self.send_parts(file, &oid, &upload, part_bytes).await?,
                None => {
                    self.ask(Method::PUT, &upload.href, Content::Bytes(file, 0..file.bytes)).await?;
                }
            }
        }
        if let Some(verify) = actions.verify {
            self.ask(Method::POST, &verify.href, Content::Lfs(&object)).await?;
        }
        Ok(())
    }

    /// The parts of a file, each to its own URL, in the order of their numbers.
    async fn send_parts(
        &self,
        file: &LocalFile,
        oid: &str,
        upload: &Action,
        part_bytes: u64,
    ) -> Result<(), PublishError> {
        let urls =
            upload.header.iter().filter_map(|(key, url)| Some((key.parse::<u64>().ok()?, url.as_str()?)));
        let urls: BTreeMap<u64, &str> = urls.collect();
        let expected = file.bytes.div_ceil(part_bytes.max(1));
        if part_bytes == 0 || urls.len() as u64 != expected {
            let what = format!("{} parts of {part_bytes} bytes for {} bytes", urls.len(), file.bytes);
            return Err(PublishError::Answer { url: upload.href.clone(), what });
        }
        let mut parts = Vec::with_capacity(urls.len());
        for (at, (number, url)) in urls.into_iter().enumerate() {
            let start = at as u64 * part_bytes;
            let piece = Content::Bytes(file, start..(start + part_bytes).min(file.bytes));
            let answer = self.ask(Method::PUT, url, piece).await?;
            let etag = answer.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| PublishError::Answer {
                url: url.to_owned(),
                what: "a part without an ETag".to_owned(),
            })?;
            parts.push(json!({"partNumber": number, "etag": etag}));
        }
        let whole = json!({"oid": oid, "parts": parts});
        self.ask(Method::POST, &upload.href, Content::Lfs(&whole)).await.map(drop)
    }

    /// Puts files into the repository.
    ///
    /// # Errors
    /// The hub refuses, or a file cannot be read.
    pub async fn commit(
        &self,
        options: &PublishOptions,
        files: &[LocalFile],
        large: &BTreeSet<String>,
    ) -> Result<(), PublishError> {
        let summary = format!("Upload {} files with Corpusmith", files.len());
        let mut lines = vec![json!({"key": "header", "value": {"summary": summary, "description": ""}})];
        for file in files {
            lines.push(if large.contains(&file.path) {
                let oid = sha256_of(file).await?;
                json!({"key": "lfsFile", "value":
                    {"path": file.path, "algo": "sha256", "oid": oid, "size": file.bytes}})
            } else {
                json!({"key": "file", "value":
                    {"path": file.path, "encoding": "base64", "content": file.content()?}})
            });
        }
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let PublishOptions { repository, revision, .. } = options;
        let url = self.url(&format!("api/datasets/{repository}/commit/{revision}"));
        self.ask(Method::POST, &url, Content::Lines(&lines)).await.map(drop)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Sends a request, again after failures that may pass.
    async fn ask(&self, method: Method, url: &str, content: Content<'_>) -> Result<Response, PublishError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = self.request(method.clone(), url, &content)?;
            let error = match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
                    let error = PublishError::Status { url: without_query(url), status, body };
                    if status != 429 && status < 500 {
                        return Err(error);
                    }
                    error
                }
                Err(source) => {
                    PublishError::Request { url: without_query(url), source: source.without_url() }
                }
            };
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            tracing::warn!("{error}; trying again");
            tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
        }
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        content: &Content<'_>,
    ) -> Result<RequestBuilder, PublishError> {
        let mut headers = HeaderMap::new();
        // Storage has its own key in the URL, and must not see the token.
        if url.starts_with(self.endpoint.as_str()) {
            headers.insert(header::AUTHORIZATION, self.token.clone());
        }
        let mut typed = |name: HeaderName, value: HeaderValue| headers.insert(name, value);
        let body = match content {
            Content::Nothing => Body::default(),
            Content::Json(json) => {
                typed(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Body::from(json.to_string())
            }
            Content::Lfs(json) => {
                typed(header::ACCEPT, LFS);
                typed(header::CONTENT_TYPE, LFS);
                Body::from(json.to_string())
            }
            Content::Lines(lines) => {
                typed(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                Body::from((*lines).to_owned())
            }
            Content::Bytes(file, range) => {
                // Storage takes no body of unknown length.
                typed(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
                bytes_of(file, range.clone())?
            }
        };
        Ok(self.client.request(method, url).headers(headers).body(body))
    }
}

fn number(value: &Json) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Where to find a file again; a signed URL's query is a secret.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

async fn read<T: serde::de::DeserializeOwned>(url: &str, answer: Response) -> Result<T, PublishError> {
    let text = answer.text().await.map_err(|source| PublishError::Request { url: url.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|error| PublishError::Answer { url: url.to_owned(), what: error.to_string() })
}

async fn sha256_of(file: &LocalFile) -> Result<String, PublishError> {
    let (file, path) = (file.clone(), file.local.clone());
    match tokio::task::spawn_blocking(move || file.sha256()).await {
        Ok(digest) => digest,
        Err(error) => Err(PublishError::File { path, source: std::io::Error::other(error) }),
    }
}

/// A part of a file as a body that is read as it is sent.
fn bytes_of(file: &LocalFile, range: Range<u64>) -> Result<Body, PublishError> {
    let fail = |source| PublishError::File { path: file.local.clone(), source };
    let mut opened = File::open(&file.local).map_err(fail)?;
    opened.seek(SeekFrom::Start(range.start)).map_err(fail)?;
    let rest = opened.take(range.end - range.start);
    let pieces = futures::stream::try_unfold(rest, |mut rest| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let read = rest.read(&mut piece)?;
            piece.truncate(read);
            Ok::<_, std::io::Error>((read > 0).then_some((piece, rest)))
        });
        read.await.map_err(std::io::Error::other)?
    });
    Ok(Body::wrap_stream(pieces))
}
