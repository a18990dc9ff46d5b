//! A language model's server that counts what it is asked and has moods.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};

/// What a server does with a request.
pub enum Reply {
    /// Answers.
    Answer,
    /// Refuses with a status and headers.
    Status(u16, &'static str),
    /// Sends this body instead of an answer's.
    Body(Json),
    /// Sends bytes that are no JSON.
    Garbage,
    /// Announces more bytes than it sends, and closes.
    Cut,
    /// Closes without a word.
    Reset,
    /// Says nothing for longer than anybody waits.
    Stall,
}

/// By how often the prompt was asked, and the prompt.
pub type Mood = dyn Fn(u32, &str) -> Reply + Send + Sync;

/// A server on a port of its own.
pub struct Server {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    asked: Mutex<BTreeMap<String, u32>>,
    kept: Mutex<BTreeSet<String>>,
    again: Mutex<Vec<String>>,
    mood: Box<Mood>,
    delay: Duration,
}

/// The answer to a prompt.
pub fn answer_to(prompt: &str) -> String {
    format!("An answer to: {prompt}, in more words than were asked for.")
}

impl Server {
    pub fn start(delay: Duration, mood: Box<Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, kept, again) = (Mutex::default(), Mutex::default(), Mutex::default());
        let state = Arc::new(State { asked, kept, again, mood, delay });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that is killed breaks off; so does its connection.
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { port, state }
    }

    /// One that answers everything.
    pub fn faithful() -> Self {
        Self::start(Duration::from_millis(2), Box::new(|_, _| Reply::Answer))
    }

    /// From now on it is a mistake to ask for these prompts: their answers are on disk.
    pub fn keep(&self, prompts: impl IntoIterator<Item = String>) {
        self.state.kept.lock().unwrap().extend(prompts);
    }

    /// These may be asked for again: their answers were damaged.
    pub fn forgive(&self) {
        self.state.kept.lock().unwrap().clear();
    }

    /// The prompts that were asked for although their answers were on disk.
    pub fn asked_again(&self) -> Vec<String> {
        self.state.again.lock().unwrap().clone()
    }

    /// The prompts that were asked for, and how often.
    pub fn asked(&self) -> BTreeMap<String, u32> {
        self.state.asked.lock().unwrap().clone()
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let (mut bytes, mut line) = (0, String::new());
            while reader.read_line(&mut line).ok()? > 2 {
                if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    bytes = length.trim().parse().ok()?;
                }
                line.clear();
            }
            if bytes == 0 {
                // A question about the models, or the end of the connection.
                writer.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").ok()?;
                if line.is_empty() {
                    return None;
                }
                continue;
            }
            let mut body = vec![0; bytes];
            reader.read_exact(&mut body).ok()?;
            let request: Json = serde_json::from_slice(&body).ok()?;
            let prompt = request["messages"].as_array()?.last()?["content"].as_str()?.to_owned();
            self.reply(&prompt, &mut writer)?;
        }
    }

    fn reply(&self, prompt: &str, to: &mut TcpStream) -> Option<()> {
        let times = {
            let mut asked = self.asked.lock().unwrap();
            let times = asked.entry(prompt.to_owned()).or_default();
            *times += 1;
            *times
        };
        if self.kept.lock().unwrap().contains(prompt) {
            self.again.lock().unwrap().push(prompt.to_owned());
        }
        std::thread::sleep(self.delay);
        let mut send = |status: u16, headers: &str, body: &[u8], announced: usize| {
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {announced}\r\n\r\n"
            );
            to.write_all(head.as_bytes()).ok()?;
            to.write_all(body).ok()
        };
        let good = answer_body(&answer_to(prompt)).to_string().into_bytes();
        match (self.mood)(times, prompt) {
            Reply::Answer => send(200, "", &good, good.len()),
            Reply::Status(status, headers) => send(status, headers, b"{}", 2),
            Reply::Body(body) => {
                let body = body.to_string().into_bytes();
                send(200, "", &body, body.len())
            }
            Reply::Garbage => send(200, "", b"<html>busy</html>", 17),
            Reply::Cut => {
                send(200, "", &good[..good.len() / 2], good.len())?;
                None
            }
            Reply::Reset => None,
            Reply::Stall => {
                std::thread::sleep(Duration::from_secs(30));
                None
            }
        }
    }
}

/// An answer as OpenAI's API has it.
pub fn answer_body(text: &str) -> Json {
    let choice =
        json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
    json!({"model": "m", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 20}})
}
