//! What can go wrong, one enum per operation, each text with what to do.

use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use tantivy::TantivyError;

/// Why an index could not be built.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// An option has a value that cannot work.
    #[error("index option `{field}` = {value}: {why}")]
    InvalidOption {
        /// Name of the option.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// What it must be.
        why: String,
    },
    /// The folder holds files that are no part of an index.
    #[error(
        "{path} is no part of a search index; name an empty folder, or remove it if it is no longer needed"
    )]
    ForeignFile {
        /// The file or folder that was found.
        path: PathBuf,
    },
    /// The folder holds an index of another layout.
    #[error(
        "{path} was built with {found}, this build wants {wanted}; remove the folder to build anew, or build elsewhere"
    )]
    OtherLayout {
        /// The record that says so.
        path: PathBuf,
        /// Layout found.
        found: String,
        /// Layout asked for.
        wanted: String,
    },
    /// The stream is not the one an earlier, interrupted build read.
    #[error(
        "{path} was built from other pages (the streams differ at or before page {page} of the shard); remove the folder to build anew"
    )]
    PagesChanged {
        /// The finished part that does not fit.
        path: PathBuf,
        /// Pages of the shard read so far.
        page: u64,
    },
    /// A page batch lacks a column, or the column has a type that cannot be read.
    #[error("pages batch {batch}: column `{column}` {problem}; pages need `text` and `id` as strings")]
    Column {
        /// Number of the batch in the stream, from 0.
        batch: u64,
        /// Name of the column.
        column: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The stream of pages failed.
    #[error("reading the pages failed; the finished part is kept, run again to go on")]
    Pages(#[source] ArrowError),
    /// The file system refused.
    #[error("{path}: {source}; check free space and permissions, then run again to go on")]
    Io {
        /// Path concerned.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A record file cannot be read.
    #[error(
        "{path} is not readable as a record of this index ({source}); remove the folder that holds it and run again"
    )]
    Record {
        /// Path of the record.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// Tantivy refused.
    #[error("indexing in {path} failed: {source}; remove that folder and run again")]
    Tantivy {
        /// Folder concerned.
        path: PathBuf,
        /// The cause.
        source: Box<TantivyError>,
    },
    /// The search server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// An indexing thread ended without an answer.
    #[error(
        "the indexing thread of shard {shard} ended early ({detail}); run again, the finished part is kept"
    )]
    Worker {
        /// Shard concerned.
        shard: u32,
        /// What is known.
        detail: String,
    },
}

impl IndexError {
    pub(crate) fn tantivy(path: &Path) -> impl FnOnce(TantivyError) -> Self + '_ {
        move |source| Self::Tantivy { path: path.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Why an index could not be opened or searched.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// There is no finished index in the folder.
    #[error(
        "{path} holds no finished search index (no index.json); build it first, or run the interrupted build again"
    )]
    NotAnIndex {
        /// The folder.
        path: PathBuf,
    },
    /// The index has another format than this program reads.
    #[error("{path} has {found}, this program reads {wanted}; build the index anew with this version")]
    Format {
        /// The record that says so.
        path: PathBuf,
        /// Found format.
        found: String,
        /// Format wanted.
        wanted: String,
    },
    /// A part of the index is missing or has been changed.
    #[error("{path} is damaged: {problem}; remove its shard folder and index.json, then run the build again")]
    Damaged {
        /// File or folder concerned.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Some folders are local indexes and some a server's, or they name several indexes of servers.
    #[error(
        "these indexes cannot be searched as one: take local ones only, or folders of one index of one search server"
    )]
    DoNotGoTogether,
    /// The search server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// No page of the index has the column of a filter.
    #[error(
        "no page of the index has `{column}`, which a filter asks for; leave the filter out, or index pages that have the column"
    )]
    NoSuchColumn {
        /// Name of the column.
        column: &'static str,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Path concerned.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Tantivy refused.
    #[error("searching {path} failed: {source}; check the index with a new build")]
    Tantivy {
        /// Shard concerned.
        path: PathBuf,
        /// The cause.
        source: Box<TantivyError>,
    },
}

impl SearchError {
    pub(crate) fn tantivy(path: &Path) -> impl FnOnce(TantivyError) -> Self + '_ {
        move |source| Self::Tantivy { path: path.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Why pages could not be retrieved for the topics.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    /// An option has a value that cannot work.
    #[error("retrieval option `{field}` = {value}: {why}")]
    InvalidOption {
        /// Name of the option.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// What it must be.
        why: String,
    },
    /// A topic batch lacks a column, or the column has a type that cannot be read.
    #[error(
        "topics batch {batch}: column `{column}` {problem}; topics need `topic_id`, `top_category`, `subcategory` and `subtopic` as strings"
    )]
    Column {
        /// Number of the batch in the stream, from 0.
        batch: u64,
        /// Name of the column.
        column: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A topic has no id.
    #[error("topic row {row} has no topic_id; give every topic an id")]
    MissingTopicId {
        /// Number of the row in the stream, from 0.
        row: u64,
    },
    /// The search server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A filter cannot work.
    #[error(transparent)]
    Filters(SearchError),
    /// Threads could not be started.
    #[error("could not start the retrieval threads: {0}; set `threads` to a smaller number")]
    Threads(String),
    /// The search failed.
    #[error("the topics from {topic_id} on: {source}")]
    Search {
        /// The first topic of the batch.
        topic_id: String,
        /// The cause.
        source: SearchError,
    },
    /// A retrieval thread ended without an answer.
    #[error(
        "the topics from {topic_id} on: the retrieval thread ended early; this is a defect, please report it with the topics"
    )]
    Worker {
        /// The first topic of the batch.
        topic_id: String,
    },
}

/// Why a search server could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An option has a value that cannot work.
    #[error("search server option `{field}`: {why}")]
    Option {
        /// Name of the option.
        field: &'static str,
        /// What it must be.
        why: String,
    },
    /// The credentials are not in the environment.
    #[error(
        "the environment variable `{name}` holds no usable credentials; set it to `user:password` or `ApiKey …`"
    )]
    Credentials {
        /// The variable.
        name: String,
    },
    /// There is no answer.
    #[error("{url}: no answer from the search server ({detail}); see that it runs and can be reached")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the network says.
        detail: String,
    },
    /// The answer is a refusal.
    #[error("{url}: the search server refused with status {status}: {reason}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the server says.
        reason: String,
    },
    /// The answer is not what the API promises.
    #[error("{url}: this is not the answer of an OpenSearch-compatible server: {problem}")]
    Strange {
        /// What was asked.
        url: String,
        /// What is wrong.
        problem: String,
    },
}
