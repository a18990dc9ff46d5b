//! Buckets: `s3://`, `gs://` and `az://` as object stores of a session.
//!
//! Credentials and places come from where each cloud's own tools look for them: variables of the environment
//! (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …),
//! web identities, and the machine's role. None stands in a workflow.

use std::sync::Arc;

use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use thiserror::Error;
use url::Url;

use super::scan::FileSlice;
use super::source::{StoredFile, wildcard};

/// Schemes of buckets.
const SCHEMES: [&str; 5] = ["s3", "s3a", "gs", "az", "abfss"];

/// A bucket does not give its files.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The pattern is no URL of a bucket.
    #[error("`{0}` names no bucket; write it as s3://<bucket>/<path>, gs://… or az://<container>/…")]
    Url(String),
    /// The store refuses, or cannot be reached.
    #[error(
        "cannot read {url}: {source}; credentials come from the environment (AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL for another server, GOOGLE_APPLICATION_CREDENTIALS, \
         AZURE_STORAGE_ACCOUNT_NAME, …)"
    )]
    Store {
        /// What was asked for.
        url: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Whether a pattern is of a bucket.
pub fn is_bucket(pattern: &str) -> bool {
    pattern.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
}

/// The files that match a pattern of `*` and `?`, sorted; the session's plans can read them from then on.
///
/// # Errors
/// The pattern is no URL, or the store does not answer.
pub async fn list(session: &SessionContext, pattern: &str) -> Result<Vec<StoredFile>, StoreError> {
    let (bucket, path) = split(pattern)?;
    let failed = |source| StoreError::Store { url: pattern.to_owned(), source };
    let store = open(&bucket).map_err(failed)?;
    session.register_object_store(&bucket, store.clone());
    let found = matching(store.as_ref(), &path).await.map_err(failed)?;
    let file = |meta: ObjectMeta| {
        let version = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        let slice = FileSlice {
            store: bucket.to_string(),
            path: meta.location.to_string(),
            bytes: meta.size,
            range: None,
            version: meta.e_tag,
        };
        StoredFile { digest: format!("{version}:{}", meta.size), slice }
    };
    Ok(found.into_iter().map(file).collect())
}

/// The bucket's URL, and the pattern inside.
fn split(pattern: &str) -> Result<(Url, String), StoreError> {
    let wrong = || StoreError::Url(pattern.to_owned());
    // Not as a whole: `?` begins a query in a URL.
    let (scheme, rest) = pattern.split_once("://").ok_or_else(wrong)?;
    let (bucket, path) = rest
        .split_once('/')
        .filter(|(bucket, path)| !bucket.is_empty() && !path.is_empty())
        .ok_or_else(wrong)?;
    let url = Url::parse(&format!("{scheme}://{bucket}/")).map_err(|_| wrong())?;
    Ok((url, path.to_owned()))
}

fn open(bucket: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    Ok(match bucket.scheme() {
        "s3" | "s3a" => {
            let plain = |name: &str| std::env::var(name).is_ok_and(|url| url.starts_with("http://"));
            // Who names a server without TLS wants it.
            let is_plain = plain("AWS_ENDPOINT_URL") || plain("AWS_ENDPOINT") || plain("AWS_ENDPOINT_URL_S3");
            let builder = AmazonS3Builder::from_env().with_url(bucket.as_str());
            Arc::new(if is_plain { builder.with_allow_http(true) } else { builder }.build()?)
        }
        "gs" => Arc::new(GoogleCloudStorageBuilder::from_env().with_url(bucket.as_str()).build()?),
        _ => Arc::new(MicrosoftAzureBuilder::from_env().with_url(bucket.as_str()).build()?),
    })
}

/// The objects whose path matches, part by part.
async fn matching(store: &dyn ObjectStore, pattern: &str) -> object_store::Result<Vec<ObjectMeta>> {
    let parts: Vec<&str> = pattern.split('/').collect();
    let fixed = parts.iter().take_while(|part| !part.contains(['*', '?'])).count();
    if fixed == parts.len() {
        return Ok(vec![store.head(&StorePath::from(pattern)).await?]);
    }
    let prefix = StorePath::from(parts[..fixed].join("/"));
    let mut found: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await?;
    found.retain(|meta| {
        let path = meta.location.to_string();
        let names: Vec<&str> = path.split('/').collect();
        names.len() == parts.len() && parts.iter().zip(names).all(|(part, name)| wildcard(part, name))
    });
    found.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn a_pattern_is_a_bucket_and_a_path() {
        let (url, path) = split("s3://b/a/?.parquet").unwrap();
        assert_eq!((url.as_str(), path.as_str()), ("s3://b/", "a/?.parquet"));
        for wrong in ["s3://", "s3://b", "s3://b/", "s3:///a"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
        assert!(is_bucket("gs://b/x") && !is_bucket("hf://x") && !is_bucket("/s3/x"));
    }

    #[tokio::test]
    async fn patterns_match_part_by_part_in_order() {
        let store = InMemory::new();
        for path in ["d/2/b.parquet", "d/2/a.parquet", "d/10/a.parquet", "d/2/x/a.parquet", "e/2/a.parquet"] {
            store.put(&StorePath::from(path), "x".into()).await.unwrap();
        }
        let found = |pattern: &'static str| {
            let store = &store;
            async move {
                let found = matching(store, pattern).await.unwrap();
                found.iter().map(|meta| meta.location.to_string()).collect::<Vec<_>>()
            }
        };
        assert_eq!(found("d/*/a.parquet").await, ["d/10/a.parquet", "d/2/a.parquet"]);
        assert_eq!(found("d/2/?.parquet").await, ["d/2/a.parquet", "d/2/b.parquet"]);
        assert_eq!(found("e/2/a.parquet").await, ["e/2/a.parquet"]);
        assert!(matching(&store, "e/3/a.parquet").await.is_err());
        assert!(found("none/*").await.is_empty());
    }
}
