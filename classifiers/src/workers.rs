//! Threads that tokenise pages, and threads that each own one ONNX session and run them.

use crate::{
    BackboneError, FeatureSet,
    session::{Page, PageSession},
    tokenize::PageTokenizer,
};
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

type Reply<T> = oneshot::Sender<Result<T, BackboneError>>;
type Answer<T> = oneshot::Receiver<Result<T, BackboneError>>;

/// What becomes of a page that is tokenised.
enum Then {
    /// It goes back.
    Reply(Reply<Page>),
    /// It is run, alone.
    Run(Reply<Vec<f32>>),
}

/// What a session runs.
enum Run {
    /// A page alone.
    Page(Page, Reply<Vec<f32>>),
    /// Pages as one batch.
    Batch(Vec<Page>, Reply<Vec<Vec<f32>>>),
}

/// The threads. Dropping it ends them; work that nobody waits for any more is passed over.
#[derive(Debug)]
pub(crate) struct Workers {
    texts: Option<mpsc::Sender<(String, Then)>>,
    runs: Option<mpsc::Sender<Run>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// One thread a session, and `tokenizers` threads that tokenise for them.
    pub(crate) fn start(
        sessions: Vec<PageSession>,
        tokenizer: PageTokenizer,
        tokenizers: usize,
    ) -> Result<Self, BackboneError> {
        let features = sessions.first().map(PageSession::features).unwrap_or_default();
        let (texts, texts_in) = mpsc::channel();
        let (runs, runs_in) = mpsc::channel();
        let (texts_in, runs_in) = (Arc::new(Mutex::new(texts_in)), Arc::new(Mutex::new(runs_in)));
        let tokenizer = Arc::new(tokenizer);
        let mut workers = Self { texts: Some(texts), runs: Some(runs.clone()), threads: Vec::new() };
        for index in 0..tokenizers.max(1) {
            let (texts, runs, tokenizer) = (Arc::clone(&texts_in), runs.clone(), Arc::clone(&tokenizer));
            workers
                .spawn(format!("tokenize-{index}"), move || tokenise(&texts, &runs, &tokenizer, features))?;
        }
        for (index, session) in sessions.into_iter().enumerate() {
            let runs = Arc::clone(&runs_in);
            workers.spawn(format!("embed-{index}"), move || run(&runs, session))?;
        }
        Ok(workers)
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<(), BackboneError> {
        let thread = std::thread::Builder::new().name(name).spawn(work).map_err(BackboneError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Puts a page in the queue at once; the future gives its vector.
    pub(crate) fn page(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Vec<f32>, BackboneError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        send(self.texts.as_ref(), (text, Then::Run(reply)));
        received(answer)
    }

    /// Puts a page in the queue at once; the future gives it as the model takes it.
    pub(crate) fn tokens(
        &self,
        text: String,
    ) -> impl Future<Output = Result<Page, BackboneError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        send(self.texts.as_ref(), (text, Then::Reply(reply)));
        received(answer)
    }

    /// Puts a batch in the queue at once; the future gives its vectors, page by page.
    pub(crate) fn batch(
        &self,
        pages: Vec<Page>,
    ) -> impl Future<Output = Result<Vec<Vec<f32>>, BackboneError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        send(self.runs.as_ref(), Run::Batch(pages, reply));
        received(answer)
    }
}

/// A failed send drops the work, and with it its reply: seen in [`received`].
fn send<T>(queue: Option<&mpsc::Sender<T>>, work: T) {
    let _ = queue.map(|queue| queue.send(work));
}

async fn received<T>(answer: Answer<T>) -> Result<T, BackboneError> {
    answer.await.unwrap_or(Err(BackboneError::WorkerGone))
}

impl Drop for Workers {
    fn drop(&mut self) {
        (self.texts, self.runs) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The next piece of work; `None` when there will be no more.
fn next<T>(queue: &Mutex<mpsc::Receiver<T>>) -> Option<T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn tokenise(
    texts: &Mutex<mpsc::Receiver<(String, Then)>>,
    runs: &mpsc::Sender<Run>,
    tokenizer: &PageTokenizer,
    features: FeatureSet,
) {
    let page = |text: &str| match tokenizer.ids(text) {
        Ok(ids) => Ok(Page { ids, features: features.of(text) }),
        Err(error) => Err(BackboneError::Tokenize { reason: error.to_string() }),
    };
    while let Some((text, then)) = next(texts) {
        match then {
            Then::Reply(reply) => answer(reply, || page(&text)),
            Then::Run(reply) if reply.is_closed() => {}
            Then::Run(reply) => match page(&text) {
                Ok(page) => send(Some(runs), Run::Page(page, reply)),
                Err(error) => answer(reply, || Err(error)),
            },
        }
    }
}

fn run(runs: &Mutex<mpsc::Receiver<Run>>, mut session: PageSession) {
    let mut run = |pages: &[Page]| session.run(pages).map_err(|reason| BackboneError::Run { reason });
    while let Some(work) = next(runs) {
        match work {
            Run::Page(page, reply) => answer(reply, || {
                let mut vectors = run(&[page])?;
                vectors.pop().ok_or_else(|| BackboneError::Run { reason: "the model gave nothing".into() })
            }),
            Run::Batch(pages, reply) => answer(reply, || run(&pages)),
        }
    }
}

/// Does the work if somebody waits for it.
fn answer<T>(reply: Reply<T>, work: impl FnOnce() -> Result<T, BackboneError>) {
    if !reply.is_closed() {
        let _ = reply.send(work());
    }
}
