//! A real HTTP server on this machine whose behaviour tests script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with the request's user message behind "echo: ", and that many tokens.
    Answer { tokens: u32 },
    /// Waits, then answers.
    Slow { wait: Duration, tokens: u32 },
    /// Waits until told, then answers.
    Gate { open: Arc<Notify>, tokens: u32 },
    /// Answers in chunks, a few bytes each.
    Chunked { tokens: u32 },
    /// Answers with a status, headers ("Name: value\r\n" each) and a body.
    Status { status: u16, headers: &'static str, body: &'static str },
    /// HTTP 200 with this body.
    Body(&'static str),
    /// HTTP 200 with a body of that many bytes.
    Huge { bytes: usize },
    /// Sends half of an answer and closes the connection.
    CutBody,
    /// Closes the connection without a word.
    Hangup,
    /// Resets the connection.
    Reset,
    /// Never answers.
    Stall,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) json: serde_json::Value,
}

impl Seen {
    /// The last message's content.
    pub(crate) fn prompt(&self) -> &str {
        self.json["messages"].as_array().and_then(|all| all.last()?["content"].as_str()).unwrap_or_default()
    }
}

type Decide = dyn Fn(&Seen, usize) -> Act + Send + Sync;

struct State {
    decide: Box<Decide>,
    seen: Mutex<Vec<Seen>>,
    number: AtomicUsize,
    forgets: AtomicBool,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// The server; it stops when dropped.
pub(crate) struct TestServer {
    pub(crate) base_url: String,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

impl TestServer {
    /// A server that does `script` one request after the other, then answers with 200 tokens.
    pub(crate) async fn scripted(script: impl IntoIterator<Item = Act>) -> Self {
        let script = Mutex::new(script.into_iter().collect::<VecDeque<_>>());
        Self::deciding(move |_, _| script.lock().unwrap().pop_front().unwrap_or(Act::Answer { tokens: 200 }))
            .await
    }

    /// A server that decides by the request and the number of requests before it.
    pub(crate) async fn deciding(decide: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State {
            decide: Box::new(decide),
            seen: Mutex::default(),
            number: AtomicUsize::new(0),
            forgets: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { base_url, state, _task: AbortOnDropHandle::new(task) }
    }

    /// Keeps no request from now on, for tests with very many.
    pub(crate) fn forget(&self) {
        self.state.forgets.store(true, Ordering::SeqCst);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.state.number.load(Ordering::SeqCst)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Requests being served now.
    pub(crate) fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::SeqCst)
    }

    /// The most requests that were ever served at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections end with the server.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // A client that goes away is not the server's fault.
            let _ = serve(stream, &state).await;
        });
    }
}

struct InFlight<'a>(&'a State);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer).await? {
        let now = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let _in_flight = InFlight(state);
        let number = state.number.fetch_add(1, Ordering::SeqCst);
        if !state.forgets.load(Ordering::SeqCst) {
            state.seen.lock().unwrap().push(seen.clone());
        }
        let act = (state.decide)(&seen, number);
        if !perform(&mut stream, &seen, act).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads one request; none when the client has closed the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
                })
                .unwrap_or(0);
            let total = end + 4 + length;
            if buffer.len() >= total {
                let json = serde_json::from_slice(&buffer[end + 4..total]).unwrap_or_default();
                buffer.drain(..total);
                return Ok(Some(Seen { head, json }));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn answer_json(seen: &Seen, tokens: u32) -> String {
    serde_json::json!({
        "id": "x", "object": "chat.completion", "model": "test-model",
        "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": format!("echo: {}", seen.prompt())}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": tokens + 7},
    })
    .to_string()
}

fn response(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// Does it; false: the connection is to be closed.
async fn perform(stream: &mut TcpStream, seen: &Seen, act: Act) -> std::io::Result<bool> {
    let text = match act {
        Act::Answer { tokens } => response(200, "", &answer_json(seen, tokens)),
        Act::Slow { wait, tokens } => {
            tokio::time::sleep(wait).await;
            response(200, "", &answer_json(seen, tokens))
        }
        Act::Gate { open, tokens } => {
            open.notified().await;
            response(200, "", &answer_json(seen, tokens))
        }
        Act::Chunked { tokens } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for chunk in answer_json(seen, tokens).as_bytes().chunks(7) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
                stream.write_all(chunk).await?;
                stream.write_all(b"\r\n").await?;
            }
            "0\r\n\r\n".into()
        }
        Act::Status { status, headers, body } => response(status, headers, body),
        Act::Body(body) => response(200, "", body),
        Act::Huge { bytes } => response(200, "", &"x".repeat(bytes)),
        Act::CutBody => {
            let whole = response(200, "", &answer_json(seen, 200));
            stream.write_all(&whole.as_bytes()[..whole.len() / 2]).await?;
            return Ok(false);
        }
        Act::Hangup => return Ok(false),
        Act::Reset => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Act::Stall => {
            // Until the client goes away.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            return Ok(false);
        }
    };
    stream.write_all(text.as_bytes()).await?;
    Ok(true)
}
