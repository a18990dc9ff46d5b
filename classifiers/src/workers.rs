//! Threads that each own one ONNX session and take work from one queue.

use crate::{BackboneError, session::PageSession, tokenize::PageTokenizer};
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

type Reply<T> = oneshot::Sender<Result<T, BackboneError>>;
type Answer<T> = oneshot::Receiver<Result<T, BackboneError>>;

/// A piece of work, and where its result goes.
enum Job {
    /// Tokenise a page.
    Tokenise(String, Reply<Vec<i64>>),
    /// Tokenise a page and run it, alone.
    Page(String, Reply<Vec<f32>>),
    /// Run pages as one batch.
    Batch(Vec<Vec<i64>>, Reply<Vec<Vec<f32>>>),
}

/// The worker threads. Dropping it ends them; work that nobody waits for any more is passed over.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// One thread a session.
    pub(crate) fn start(
        sessions: Vec<PageSession>,
        tokenizer: Arc<PageTokenizer>,
    ) -> Result<Self, BackboneError> {
        let (queue, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut workers = Self { queue: Some(queue), threads: Vec::with_capacity(sessions.len()) };
        for (index, session) in sessions.into_iter().enumerate() {
            let (jobs, tokenizer) = (Arc::clone(&jobs), Arc::clone(&tokenizer));
            let thread = std::thread::Builder::new()
                .name(format!("embed-{index}"))
                .spawn(move || work(&jobs, session, &tokenizer))
                .map_err(BackboneError::Thread)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Puts a page in the queue at once; the future gives its vector.
    pub(crate) fn page(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Vec<f32>, BackboneError>> + Send + use<> {
        received(self.submit(|reply| Job::Page(text, reply)))
    }

    /// Puts a page in the queue at once; the future gives its tokens.
    pub(crate) fn tokens(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Vec<i64>, BackboneError>> + Send + use<> {
        received(self.submit(|reply| Job::Tokenise(text, reply)))
    }

    /// Puts a batch in the queue at once; the future gives its vectors, page by page.
    pub(crate) fn batch(
        &self,
        pages: Vec<Vec<i64>>,
    ) -> impl Future<Output = Result<Vec<Vec<f32>>, BackboneError>> + Send + use<> {
        received(self.submit(|reply| Job::Batch(pages, reply)))
    }

    fn submit<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        // A failed send drops the job, and with it `reply`: seen in `received`.
        let _ = self.queue.as_ref().map(|queue| queue.send(job(reply)));
        answer
    }
}

async fn received<T>(answer: Answer<T>) -> Result<T, BackboneError> {
    answer.await.unwrap_or(Err(BackboneError::WorkerGone))
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, mut session: PageSession, tokenizer: &PageTokenizer) {
    let tokens = |text: &str| {
        tokenizer.ids(text).map_err(|error| BackboneError::Tokenize { reason: error.to_string() })
    };
    let mut run = |pages: &[&[i64]]| session.run(pages).map_err(|reason| BackboneError::Run { reason });
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(Job::Tokenise(text, reply)) => answer(reply, || tokens(&text)),
            Ok(Job::Page(text, reply)) => answer(reply, || {
                let mut vectors = run(&[tokens(&text)?.as_slice()])?;
                vectors.pop().ok_or_else(|| BackboneError::Run { reason: "the model gave nothing".into() })
            }),
            Ok(Job::Batch(pages, reply)) => {
                answer(reply, || run(&pages.iter().map(Vec::as_slice).collect::<Vec<&[i64]>>()))
            }
            Err(_) => return,
        }
    }
}

/// Does the work if somebody waits for it.
fn answer<T>(reply: Reply<T>, work: impl FnOnce() -> Result<T, BackboneError>) {
    if !reply.is_closed() {
        let _ = reply.send(work());
    }
}
