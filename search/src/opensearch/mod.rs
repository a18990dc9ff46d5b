//! The second back end: a server with the HTTP API of OpenSearch and Elasticsearch.
//!
//! The server analyses, scores and merges; this side sends the two-step query, filters and tie order
//! along. Answers are not bit for bit those of the local index: page lengths are quantised and words
//! stemmed a little differently. Within one server they are a function of the pages and the query,
//! since statistics are asked for over all shards (`dfs_query_then_fetch`) and equal scores are
//! ordered by page id.

mod http;
mod load;
mod query;

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::answer::{Answer, Hits};
use crate::backend::SearchBackend;
use crate::error::{RetrieveError, ServerError};
use crate::filter::PageFilters;
use crate::host::HostLimit;
use crate::query::{Matching, Topic, topic_terms};
use crate::retrieve::RetrieveOptions;
use crate::searcher::SearchHit;
use http::Http;
pub use load::LoadSummary;

/// Most hits a server returns for one query (`index.max_result_window` of a new index).
const MAX_RESULT_WINDOW: u32 = 10_000;

/// A server, and the index on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenSearchOptions {
    /// Base URL, for example `http://localhost:9200`.
    pub url: String,
    /// Name of the index. It is made if it is not there.
    pub index: String,
    /// Whether the pages are sent to the server; false takes an index that was filled in another
    /// way, with the fields `id`, `text`, and those of the filters that are used.
    #[serde(default = "default_fill")]
    pub fill: bool,
    /// Shards of an index that is made.
    #[serde(default = "default_shards")]
    pub shards: u32,
    /// Name of the environment variable that holds `user:password`, or an API key as
    /// `ApiKey …`; the secret itself stands in no file.
    #[serde(default)]
    pub credentials_env: Option<String>,
    /// Seconds a request may take.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: f64,
    /// Tries of a request that a busy or failing server refuses (HTTP 408, 429, 5xx, no connection),
    /// the first among them; the wait between two doubles from half a second to a minute, or is what
    /// the server's `Retry-After` says.
    #[serde(default = "default_tries")]
    pub max_tries: u32,
    /// Bytes of pages in one `_bulk` request.
    #[serde(default = "default_bulk_bytes")]
    pub bulk_bytes: u64,
    /// Queries in one `_msearch` request.
    #[serde(default = "default_queries")]
    pub queries_per_request: u32,
    /// Requests at the same time.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: u32,
}

fn default_fill() -> bool {
    true
}

fn default_shards() -> u32 {
    4
}

fn default_timeout() -> f64 {
    120.0
}

fn default_tries() -> u32 {
    8
}

fn default_bulk_bytes() -> u64 {
    8 << 20
}

fn default_queries() -> u32 {
    16
}

fn default_in_flight() -> u32 {
    4
}

impl OpenSearchOptions {
    /// The index `index` of the server at `url`, everything else by default.
    pub fn new(url: &str, index: &str) -> Self {
        Self {
            url: url.to_owned(),
            index: index.to_owned(),
            fill: default_fill(),
            shards: default_shards(),
            credentials_env: None,
            timeout_seconds: default_timeout(),
            max_tries: default_tries(),
            bulk_bytes: default_bulk_bytes(),
            queries_per_request: default_queries(),
            max_in_flight: default_in_flight(),
        }
    }

    fn check(&self) -> Result<(), ServerError> {
        let wrong = |field, why: &str| ServerError::Option { field, why: why.to_owned() };
        let names = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if self.index.is_empty() || self.index.starts_with(['-', '_', '.']) || !self.index.chars().all(names)
        {
            return Err(wrong("index", "give lower-case letters, digits, `-`, `_` and `.`"));
        }
        let counts = [
            ("shards", self.shards),
            ("max_tries", self.max_tries),
            ("queries_per_request", self.queries_per_request),
            ("max_in_flight", self.max_in_flight),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Err(wrong(field, "must be at least 1"));
        }
        if !(0.001..=86_400.0).contains(&self.timeout_seconds) {
            return Err(wrong("timeout_seconds", "must lie between 0.001 and 86,400"));
        }
        Ok(())
    }
}

/// A server's index, for loading and searching.
#[derive(Clone)]
pub struct OpenSearch {
    options: OpenSearchOptions,
    http: Http,
}

impl OpenSearch {
    /// Makes the client; sends nothing yet.
    ///
    /// # Errors
    /// [`ServerError`] for options that cannot work.
    pub fn new(options: &OpenSearchOptions) -> Result<Self, ServerError> {
        options.check()?;
        Ok(Self { options: options.clone(), http: Http::new(options)? })
    }

    /// Pages that the index holds for searches.
    ///
    /// # Errors
    /// [`ServerError`] if the server cannot be asked or has no such index.
    pub async fn count(&self) -> Result<u64, ServerError> {
        let path = format!("{}/_count", self.options.index);
        let answer = self.http.get(&path).await?;
        answer["count"].as_u64().ok_or_else(|| self.http.strange(&path, "it has no `count`"))
    }

    /// The `k` pages that match any term of `query` best, equal scores by id. With a host limit they
    /// are taken from the best 10,000.
    ///
    /// # Errors
    /// [`ServerError`] if the server cannot be asked or refuses.
    pub async fn search_text(
        &self,
        query: &str,
        k: usize,
        filters: &PageFilters,
        max_pages_per_host: Option<u32>,
    ) -> Result<Vec<SearchHit>, ServerError> {
        let topic = Topic { subtopic: query.to_owned(), ..Topic::default() };
        let Some(clauses) = query::clauses(&topic, Matching::Any) else {
            return Ok(Vec::new());
        };
        let ranked = max_pages_per_host.map_or(k, |_| usize::MAX).min(MAX_RESULT_WINDOW as usize);
        let answers = self.search(vec![query::body(clauses, ranked, filters)]).await?;
        let mut hosts = HostLimit::new(max_pages_per_host);
        let mut hits = Vec::new();
        for hit in answers.into_iter().flatten() {
            let within = hosts.admits(|| Ok::<_, std::convert::Infallible>(hit.url));
            if hits.len() < k && matches!(within, Ok(true)) {
                hits.push(SearchHit { doc_id: hit.id, score: hit.score });
            }
        }
        Ok(hits)
    }

    /// Runs queries; for each its hits, best first.
    async fn search(&self, queries: Vec<Json>) -> Result<Vec<Vec<ServerHit>>, ServerError> {
        let requests = queries.chunks(self.options.queries_per_request as usize).map(<[Json]>::to_vec);
        let requests: Vec<_> = requests.map(|queries| self.multi_search(queries)).collect();
        let answers: Vec<_> =
            stream::iter(requests).buffered(self.options.max_in_flight as usize).try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    async fn multi_search(&self, queries: Vec<Json>) -> Result<Vec<Vec<ServerHit>>, ServerError> {
        let path = format!("{}/_msearch?search_type=dfs_query_then_fetch", self.options.index);
        let mut hits: Vec<Option<Vec<ServerHit>>> = vec![None; queries.len()];
        let mut tries = self.http.tries();
        loop {
            let open: Vec<usize> = (0..queries.len()).filter(|&number| hits[number].is_none()).collect();
            if open.is_empty() {
                return Ok(hits.into_iter().flatten().collect());
            }
            let body: String = open.iter().map(|&number| format!("{{}}\n{}\n", queries[number])).collect();
            let answer = self.http.post_lines(&path, body).await?;
            let responses = answer["responses"].as_array().filter(|all| all.len() == open.len());
            let responses =
                responses.ok_or_else(|| self.http.strange(&path, "it has not one response a query"))?;
            let mut refusal = None;
            for (&number, response) in open.iter().zip(responses) {
                match query::hits(response) {
                    Ok(found) => hits[number] = Some(found),
                    Err(failure) if http::is_passing(failure.status) => refusal = Some(failure),
                    Err(failure) => return Err(self.http.refused(&path, failure.status, failure.reason)),
                }
            }
            if let Some(failure) = refusal {
                let error = self.http.refused(&path, failure.status, failure.reason);
                tries.wait_after(error, None).await?;
            }
        }
    }
}

/// A page as the server returns it.
#[derive(Clone, Debug, PartialEq)]
struct ServerHit {
    id: String,
    url: Option<String>,
    score: f32,
}

/// Topics answered by a server.
pub struct OpenSearchBackend {
    server: OpenSearch,
    options: Arc<RetrieveOptions>,
}

impl OpenSearchBackend {
    /// # Errors
    /// [`RetrieveError`] for options that cannot work.
    pub fn new(server: OpenSearch, options: &RetrieveOptions) -> Result<Self, RetrieveError> {
        options.check()?;
        let most = options.max_pages_per_host.map_or(options.pages_per_topic, |_| options.max_matches);
        // Query 2 ranks the pages of query 1 again.
        if most.saturating_add(options.pages_per_topic) > MAX_RESULT_WINDOW {
            return Err(RetrieveError::InvalidOption {
                field: "pages_per_topic",
                value: options.pages_per_topic.to_string(),
                why: format!("a server ranks at most {MAX_RESULT_WINDOW} pages, those of query 1 among them"),
            });
        }
        Ok(Self { server, options: Arc::new(options.clone()) })
    }
}

#[async_trait]
impl SearchBackend for OpenSearchBackend {
    async fn answer(&self, topics: Vec<Topic>) -> Result<Vec<Answer>, RetrieveError> {
        let mut picked: Vec<Picked> = topics.iter().map(|topic| Picked::new(topic, &self.options)).collect();
        for matching in [Matching::All, Matching::Any] {
            let mut open = Vec::new();
            let mut queries = Vec::new();
            for picked in &mut picked {
                if picked.needs(matching)
                    && let Some(clauses) = query::clauses(picked.topic, matching)
                {
                    queries.push(query::body(clauses, picked.ranked_at_most(), &self.options.filters));
                    open.push(picked);
                }
            }
            for (picked, hits) in open.into_iter().zip(self.server.search(queries).await?) {
                hits.into_iter().for_each(|hit| picked.take(hit, matching));
            }
        }
        Ok(picked.into_iter().map(Picked::finish).collect())
    }
}

/// A topic with the pages picked for it so far.
struct Picked<'a> {
    topic: &'a Topic,
    options: &'a RetrieveOptions,
    terms: usize,
    hits: Hits,
    /// Pages seen, those that a host limit dropped among them.
    taken: std::collections::HashSet<String>,
    hosts: HostLimit,
}

impl<'a> Picked<'a> {
    fn new(topic: &'a Topic, options: &'a RetrieveOptions) -> Self {
        Self {
            topic,
            options,
            terms: topic_terms(topic, Matching::All).len(),
            hits: Hits::default(),
            taken: std::collections::HashSet::new(),
            hosts: HostLimit::new(options.max_pages_per_host),
        }
    }

    fn missing(&self) -> usize {
        self.options.pages_per_topic as usize - self.hits.len()
    }

    fn needs(&self, matching: Matching) -> bool {
        self.missing() > 0 && (matching == Matching::All || self.terms > 1)
    }

    fn ranked_at_most(&self) -> usize {
        let fresh = match self.options.max_pages_per_host {
            None => self.missing(),
            Some(_) => self.options.max_matches as usize,
        };
        (fresh + self.hits.len()).min(MAX_RESULT_WINDOW as usize)
    }

    fn take(&mut self, hit: ServerHit, matching: Matching) {
        if self.missing() == 0 || self.taken.contains(&hit.id) {
            return;
        }
        let within = self.hosts.admits(|| Ok::<_, std::convert::Infallible>(hit.url));
        if !matches!(within, Ok(true)) {
            return;
        }
        self.hits.push(&hit.id, hit.score, matching);
        self.taken.insert(hit.id);
    }

    fn finish(self) -> Answer {
        Answer::new(self.topic, self.terms, self.hits)
    }
}
