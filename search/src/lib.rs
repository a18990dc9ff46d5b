//! Full-text retrieval of seed pages: a sharded Tantivy index and the two-step topic query.
//!
//! [`build_index`] reads a stream of pages and leaves a folder of shards. [`Searcher`] opens one or
//! several such folders as one index, [`retrieve`] answers a stream of topics with a stream of hits,
//! [`Searcher::search_text`] answers one free query. [`OpenSearch`] is a second back end behind the
//! same trait, [`SearchBackend`].
//!
//! What holds for every result:
//! - Scores are BM25 (k1 1.2, b 0.75) with the statistics of **all** shards of all indexes, summed
//!   exactly, so an index of four shards gives bit for bit the answer of one shard, and two indexes
//!   that of one over the pages of both.
//! - Equal scores are ordered by page id, so a result is a function of the pages and the query,
//!   never of timing, thread count or batch boundaries.
//! - Nothing is approximate: pruning only skips pages that cannot be among the best.

mod analyzer;
mod answer;
mod backend;
mod bm25;
mod columns;
mod dedupe;
mod error;
mod filter;
mod host;
mod ids;
mod indexer;
mod layout;
mod opened;
mod opensearch;
mod page_ids;
mod query;
mod rank;
mod retrieve;
mod run;
mod schema;
mod searcher;
mod shard;
mod shard_reader;
mod snippet;
mod two_step;

pub use analyzer::{analyze, clean_query};
pub use answer::{Answer, Hits, RetrieveSummary, SummaryHandle, TopicReport, hits_schema};
pub use backend::{LocalBackend, SearchBackend};
pub use error::{IndexError, RetrieveError, SearchError, ServerError};
pub use filter::PageFilters;
pub use indexer::{IndexOptions, build_index};
pub use layout::IndexSummary;
pub use opened::{OpenedIndex, write_server_file};
pub use opensearch::{LoadSummary, OpenSearch, OpenSearchBackend, OpenSearchOptions};
pub use page_ids::PageIds;
pub use query::{Matching, Topic};
pub use retrieve::{Retrieval, RetrieveOptions, retrieve};
pub use searcher::{Ranking, SearchHit, Searcher, verify_index};
pub use snippet::{Snippet, Snippets};

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
