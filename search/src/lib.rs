//! Full-text retrieval of seed pages: a sharded Tantivy index and the two-step topic query.
//!
//! [`build_index`] reads a stream of pages and leaves a folder of shards. [`Searcher`] opens that
//! folder, [`retrieve`] answers a stream of topics with a stream of hits, [`Searcher::search_text`]
//! answers one free query.
//!
//! What holds for every result:
//! - Scores are BM25 (k1 1.2, b 0.75) with the statistics of **all** shards, summed in a fixed
//!   order, so an index of four shards gives bit for bit the answer of one shard.
//! - Equal scores are ordered by page id, so a result is a function of the pages and the query,
//!   never of timing, thread count or batch boundaries.
//! - Nothing is approximate: pruning only skips pages that cannot be among the best.

mod analyzer;
mod columns;
mod dedupe;
mod error;
mod indexer;
mod layout;
mod query;
mod retrieve;
mod run;
mod schema;
mod searcher;
mod shard;
mod topk;
mod two_step;

pub use analyzer::{analyze, clean_query};
pub use error::{IndexError, RetrieveError, SearchError};
pub use indexer::{IndexOptions, build_index};
pub use layout::IndexSummary;
pub use query::Topic;
pub use retrieve::{
    Retrieval, RetrieveOptions, RetrieveSummary, SummaryHandle, TopicReport, hits_schema, retrieve,
};
pub use searcher::{SearchHit, Searcher, verify_index};

/// A page that was not indexed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The page's id; empty where the id itself is missing.
    pub id: String,
    /// Name of the reason: `missing_id`, `missing_text`, `empty_text` or `duplicate_id`.
    pub reason: String,
    /// What was seen, for a person.
    pub detail: String,
}

/// Receives every page that was not indexed. Called from several threads.
pub type OnReject = std::sync::Arc<dyn Fn(Reject) + Send + Sync>;
