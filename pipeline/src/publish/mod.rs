//! Uploads a finished dataset to the Hugging Face hub: large files to its storage, then commits that name
//! them. What is there already is not sent again, and nothing is ever deleted.

mod api;
mod files;

use std::collections::BTreeSet;
use std::path::PathBuf;

use thiserror::Error;

pub use api::{HubApi, RemoteFile};
pub use files::{LocalFile, dataset_files};

/// Files of a commit: a killed upload loses at most the listing of one.
const COMMIT_FILES: usize = 50;

/// An upload failed. What was committed before stays; the same command goes on from there.
#[derive(Debug, Error)]
pub enum PublishError {
    /// Not `owner/name`.
    #[error("`{0}` is not a repository's name; write <owner>/<name>")]
    Repository(String),
    /// No token.
    #[error("no token: set HF_TOKEN to one that may write")]
    Token,
    /// The endpoint is no URL.
    #[error("HF_ENDPOINT `{0}` is not an http(s) URL")]
    Endpoint(String),
    /// A file of the dataset cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds no finished dataset.
    #[error("{}: {why}", path.display())]
    Dataset {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// No connection, or a cut one.
    #[error("{url}: {source}; check the network, or HF_ENDPOINT")]
    Request {
        /// What was asked.
        url: String,
        /// Why it failed.
        source: reqwest::Error,
    },
    /// An answer other than success.
    #[error("{url} answered {status}: {body}{}", status_help(*status))]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: u16,
        /// What the hub says.
        body: String,
    },
    /// A successful answer that is not as agreed.
    #[error("{url} answered something else than this program knows: {what}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong.
        what: String,
    },
}

fn status_help(status: u16) -> &'static str {
    match status {
        401 | 403 => "; HF_TOKEN must be a token that may write to this repository",
        _ => "",
    }
}

/// What is uploaded, and where.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// `owner/name`.
    pub repository: String,
    /// The branch.
    pub revision: String,
    /// Make the repository private, when it is made.
    pub private: bool,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The hub has it already.
    Skipped,
    /// Its content is on the hub, to be named by a commit.
    Sent,
    /// It is in the repository.
    Committed,
}

/// What an upload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Files that the hub had.
    pub skipped: usize,
    /// Files that are new or other than before.
    pub committed: usize,
    /// Files in the repository that are not of this dataset; they stay.
    pub foreign: Vec<String>,
}

/// Uploads files. `on_step` hears of each.
///
/// # Errors
/// The hub refuses, or a file cannot be read.
pub async fn publish(
    api: &HubApi,
    options: &PublishOptions,
    files: Vec<LocalFile>,
    mut on_step: impl FnMut(&LocalFile, Step) + Send,
) -> Result<Published, PublishError> {
    api.create(options).await?;
    let there = api.list(options).await?;
    let mut published = Published::default();
    let mut wanted = Vec::new();
    let own: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
    for file in files {
        let same = match there.get(&file.path) {
            Some(remote) => remote.is(&file)?,
            None => false,
        };
        if same {
            published.skipped += 1;
            on_step(&file, Step::Skipped);
        } else {
            wanted.push(file);
        }
    }
    published.foreign = there.into_keys().filter(|path| !own.contains(path)).collect();
    // The card comes last: it is shown when the data is there.
    wanted.sort_by_key(|file| (!file.path.starts_with("data/"), file.path.clone()));
    for files in wanted.chunks(COMMIT_FILES) {
        let large = api.large_files(options, files).await?;
        for file in files.iter().filter(|file| large.contains(&file.path)) {
            api.send(options, file).await?;
            on_step(file, Step::Sent);
        }
        api.commit(options, files, &large).await?;
        published.committed += files.len();
        files.iter().for_each(|file| on_step(file, Step::Committed));
    }
    Ok(published)
}

#[cfg(test)]
mod tests;
