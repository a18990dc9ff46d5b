//! An OpenAI-compatible server in front of the embedded engine: `/v1/chat/completions` and
//! `/v1/completions`, whole or streamed, `/v1/models`, and `/health`.
//!
//! `request` reads a body and names the field that is wrong, `answer` shapes what goes back, `stream`
//! sends it word by word, `error` is OpenAI's error object. A client that goes away takes its sequence out
//! of the engine before the next step.

mod answer;
mod error;
mod request;
mod routes;
mod stream;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use model::infer::Engine;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Where and for whom the server answers.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The address to listen at: a name or a number.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Requests that are answered or wait at the same time; further ones get status 503.
    pub max_in_flight: usize,
    /// What clients must show as `Authorization: Bearer …`; without it everyone may ask.
    pub api_key: Option<String>,
    /// The model's name in requests and answers.
    pub model_name: String,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    router: Router,
}

impl Server {
    /// Opens the port. Connections are taken from now on and answered by [`Server::run`].
    ///
    /// # Errors
    /// The address is unknown or taken.
    pub async fn bind(engine: Engine, options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((options.host.as_str(), options.port)).await?;
        Ok(Self { listener, router: routes::router(Arc::new(Shared::new(engine, options))) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is done, then finishes the answers in progress.
    ///
    /// # Errors
    /// The port fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(stop).await
    }
}

/// What all requests share.
struct Shared {
    engine: Engine,
    model_name: String,
    key_digest: Option<blake3::Hash>,
    max_in_flight: usize,
    slots: Arc<Semaphore>,
    started: SystemTime,
    requests: AtomicU64,
}

impl Shared {
    fn new(engine: Engine, options: ServerOptions) -> Self {
        let max_in_flight = options.max_in_flight.min(Semaphore::MAX_PERMITS);
        Self {
            engine,
            model_name: options.model_name,
            key_digest: options.api_key.map(|key| blake3::hash(key.as_bytes())),
            max_in_flight,
            slots: Arc::new(Semaphore::new(max_in_flight)),
            started: SystemTime::now(),
            requests: AtomicU64::new(0),
        }
    }

    /// A number that no other request has, here or in another run of the server: part of its id, and its
    /// seed when the client names none.
    fn next_number(&self) -> u64 {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        hasher.update(&since.as_nanos().to_le_bytes()).update(&count.to_le_bytes());
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        u64::from_le_bytes(number)
    }
}

/// Seconds since 1970, as OpenAI's answers give times.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
