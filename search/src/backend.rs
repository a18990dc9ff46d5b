//! Where topics are answered: an index in this process, or a search server.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::answer::Answer;
use crate::error::{RetrieveError, SearchError};
use crate::filter::Admitted;
use crate::query::Topic;
use crate::retrieve::RetrieveOptions;
use crate::searcher::Searcher;
use crate::two_step;

/// Answers topics with the published two-step query.
#[async_trait]
pub trait SearchBackend: Send + Sync {
    /// Answers a batch of topics, in their order.
    ///
    /// # Errors
    /// [`RetrieveError`] when a topic of the batch cannot be answered.
    async fn answer(&self, topics: Vec<Topic>) -> Result<Vec<Answer>, RetrieveError>;
}

/// The index in this process.
pub struct LocalBackend {
    shared: Arc<Shared>,
    pool: rayon::ThreadPool,
}

struct Shared {
    searcher: Arc<Searcher>,
    admitted: Admitted,
    options: RetrieveOptions,
}

impl LocalBackend {
    /// Starts the threads (`options.threads`) and reads the columns of the filters.
    ///
    /// # Errors
    /// [`RetrieveError`] for options that cannot work, or if no page has the column of a filter.
    pub fn new(searcher: Arc<Searcher>, options: &RetrieveOptions) -> Result<Self, RetrieveError> {
        options.check()?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads.unwrap_or(0) as usize)
            .thread_name(|number| format!("retrieve-{number}"))
            // The waiting side notices that no answer comes and reports the topics.
            .panic_handler(|_| {})
            .build()
            .map_err(|error| RetrieveError::Threads(error.to_string()))?;
        let admitted = Admitted::new(&searcher, &options.filters).map_err(RetrieveError::Filters)?;
        let shared = Arc::new(Shared { searcher, admitted, options: options.clone() });
        Ok(Self { shared, pool })
    }
}

#[async_trait]
impl SearchBackend for LocalBackend {
    async fn answer(&self, topics: Vec<Topic>) -> Result<Vec<Answer>, RetrieveError> {
        let (sender, receiver) = oneshot::channel();
        let first = topics.first().map(|topic| topic.topic_id.clone()).unwrap_or_default();
        let shared = self.shared.clone();
        self.pool.spawn(move || {
            // The stream may have been dropped while this batch waited.
            if sender.is_closed() {
                return;
            }
            let Shared { searcher, admitted, options } = &*shared;
            let answers = two_step::answer(searcher, admitted, options, &topics);
            // A dropped receiver means that nobody wants the answers any more.
            let _ = sender.send(answers);
        });
        let failed = |source: SearchError| RetrieveError::Search { topic_id: first.clone(), source };
        match receiver.await {
            Ok(answers) => answers.map_err(failed),
            Err(_) => Err(RetrieveError::Worker { topic_id: first }),
        }
    }
}
