//! The engine: threads of their own that answer requests.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use futures::Stream;
use futures::channel::{mpsc, oneshot};
use serde::{Deserialize, Serialize};

use super::scheduler::{Job, Scheduler};
use super::sequence::{Answer, Reply};
use super::{GenerateError, GenerateRequest, Model, StreamItem};

/// How the engine runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Most sequences in one step; further requests wait in order of arrival.
    pub max_sequences: usize,
    /// Tokens, prompts and answers of all running sequences together, for which keys and values
    /// may be held. One token takes `4 × layers × kv_heads × head_dim` bytes: 23,040 in
    /// SmolLM2-135M, so that the default is 1.03 GiB when full. A request waits until its prompt
    /// and longest answer fit.
    pub cache_tokens: usize,
    /// Most prompt tokens in one step: more reads prompts faster, fewer keeps the other
    /// sequences' tokens flowing.
    pub prefill_tokens: usize,
    /// Tokens of prompts whose keys and values are kept for later prompts that begin alike, beside
    /// `cache_tokens` and of the same size; 0 keeps none. No answer depends on it.
    pub prefix_tokens: usize,
    /// Threads that compute; 0 stands for all processors.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_sequences: 32,
            cache_tokens: 48_000,
            prefill_tokens: 128,
            prefix_tokens: 4_096,
            threads: 0,
        }
    }
}

/// What an engine has done since it was started, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EngineStats {
    /// Prompt tokens that the model has read.
    pub prompt_tokens_read: u64,
    /// Prompt tokens that it need not read, since an earlier prompt began alike.
    pub prompt_tokens_shared: u64,
    /// Tokens drawn.
    pub tokens_drawn: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    read: AtomicU64,
    shared: AtomicU64,
    drawn: AtomicU64,
}

impl Counters {
    pub(crate) fn add_prompt(&self, read: usize, shared: usize) {
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        self.shared.fetch_add(shared as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_drawn(&self, tokens: usize) {
        self.drawn.fetch_add(tokens as u64, Ordering::Relaxed);
    }
}

/// A thread that answers requests; see [`Engine::generate`] and [`Engine::stream`]. Dropping it waits
/// for the step in progress and gives [`GenerateError::Stopped`] to the requests that are not
/// done.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    counters: Arc<Counters>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine's threads.
    pub fn new(model: Arc<Model>, options: &EngineOptions) -> Result<Self, GenerateError> {
        for (field, value) in [
            ("max_sequences", options.max_sequences),
            ("cache_tokens", options.cache_tokens),
            ("prefill_tokens", options.prefill_tokens),
        ] {
            if value == 0 {
                return Err(bad(field, value, "at least 1"));
            }
        }
        let threads = |error: &dyn std::fmt::Display| GenerateError::Threads { reason: error.to_string() };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("infer-{index}"))
            .build()
            .map_err(|error| threads(&error))?;
        let (jobs, inbox) = channel();
        let counters = Arc::new(Counters::default());
        let mut scheduler = Scheduler::new(Arc::clone(&model), options.clone(), inbox, Arc::clone(&counters));
        let thread = std::thread::Builder::new()
            .name("infer".into())
            .spawn(move || pool.install(|| scheduler.run()))
            .map_err(|error| threads(&error))?;
        Ok(Self { model, counters, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The model that answers.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What has been done so far.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            prompt_tokens_read: self.counters.read.load(Ordering::Relaxed),
            prompt_tokens_shared: self.counters.shared.load(Ordering::Relaxed),
            tokens_drawn: self.counters.drawn.load(Ordering::Relaxed),
        }
    }

    /// Asks for an answer. The request is queued by this call, not by the first poll; dropping
    /// the future frees its place before the next step. The answer depends on the request and the
    /// model only.
    pub fn generate(&self, request: GenerateRequest) -> impl Future<Output = Answer> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.send(Job { request, reply: Reply::Whole(reply) });
        async { answer.await.unwrap_or(Err(GenerateError::Stopped)) }
    }

    /// Asks for an answer, to be read while it is written: texts, each as soon as it is certain,
    /// then the whole or an error; nothing at all when the engine stops before. Otherwise as
    /// [`Engine::generate`].
    pub fn stream(
        &self,
        request: GenerateRequest,
    ) -> impl Stream<Item = Result<StreamItem, GenerateError>> + Send + Unpin + use<> {
        let (reply, items) = mpsc::unbounded();
        self.send(Job { request, reply: Reply::Stream(reply) });
        items
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // When the thread is gone the reply is dropped here, which the caller sees.
            jobs.send(job).ok();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself, and as `Stopped` to the callers.
            thread.join().ok();
        }
    }
}

pub(crate) fn bad(field: &'static str, value: impl ToString, allowed: &'static str) -> GenerateError {
    GenerateError::BadOption { field, value: value.to_string(), allowed }
}
