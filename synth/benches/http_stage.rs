//! The HTTP stage at its limit: requests a second and memory over a million prompts, against a server on
//! this machine that answers at once, next to `reqwest` with `buffered` and, where it is installed, OpenAI's
//! own asynchronous Python client.
//!
//! ```text
//! cargo bench -p corpusmith-synth --bench http_stage [-- <prompts of ours> <of reqwest> <of openai>]
//! OPENAI_PYTHON=/path/to/python    a Python with the package `openai`
//! ```
//! The server is a process of its own, on the same cores, so that the memory shown is the client's alone.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark stops at the first error")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, stream};
use synth::answer_log::AnswerLog;
use synth::chat::{ChatRequest, Message};
use synth::client::{Budget, ClientOptions, OpenAiClient};
use synth::generate::{GenerateOptions, generate_stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const IN_FLIGHT: usize = 1_000;
const BATCH_ROWS: usize = 8_192;
/// A prompt of usual length: 1,000 characters of seed text.
const PROMPT: &str =
    "Write a long and very detailed textbook unit about the topic. Here is an extract of a page: ";

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if arguments.first().is_some_and(|argument| argument == "serve") {
        tokio::runtime::Runtime::new().unwrap().block_on(serve());
        return;
    }
    let count = |index: usize, default: usize| {
        arguments.get(index).map_or(default, |argument| argument.parse().unwrap())
    };
    let (ours, theirs, openai) = (count(0, 1_000_000), count(1, 200_000), count(2, 10_000));
    let server = Server::start();
    // The peer needs a provider as well, even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("{IN_FLIGHT} in flight, {} cores, server and client on them", runtime.metrics().num_workers());
    let dir = tempfile::tempdir_in(".").unwrap();
    let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
    // In turns, so that a machine that others use treats all alike.
    let reqwest_before = runtime.block_on(buffered(&server.base_url, theirs / 2));
    let with_log = runtime.block_on(operator(&server.base_url, ours, Some(log)));
    let without_log = runtime.block_on(operator(&server.base_url, ours / 4, None));
    let reqwest_after = runtime.block_on(buffered(&server.base_url, theirs / 2));
    let reqwest = (reqwest_before + reqwest_after) / 2.0;
    println!("\nrequests a second");
    println!("  generate, with its answer log     {with_log:>9.0}");
    println!("  generate, without a log           {without_log:>9.0}");
    println!("  reqwest, buffered                 {reqwest:>9.0}   ratio {:.2}", without_log / reqwest);
    if let Some(python) = openai_client(&server.base_url, openai) {
        println!("  openai (Python, asynchronous)     {python:>9.0}   ratio {:.2}", without_log / python);
    }
}

/// The server's process, killed when dropped.
struct Server {
    child: Child,
    base_url: String,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, base_url: format!("http://{}/v1", address.trim()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let body = serde_json::json!({
        "id": "x", "object": "chat.completion", "created": 1, "model": "test-model",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant",
            "content": "A paragraph of a textbook, as long as they are. ".repeat(20)}}],
        "usage": {"prompt_tokens": 250, "completion_tokens": 200, "total_tokens": 450},
    })
    .to_string();
    let response: Arc<[u8]> = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
    .into();
    while let Ok((stream, _)) = listener.accept().await {
        let response = Arc::clone(&response);
        // A client that goes away is not the server's fault.
        tokio::spawn(async move { answer_all(stream, &response).await.ok() });
    }
}

async fn answer_all(mut stream: TcpStream, response: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(8 << 10);
    loop {
        while let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let total = end + 4 + length.unwrap_or(0usize);
            if buffer.len() < total {
                break;
            }
            buffer.drain(..total);
            stream.write_all(response).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

fn prompt(number: usize) -> String {
    format!("{PROMPT}{}{number}", "Words of the page. ".repeat(50))
}

/// Requests a second of the operator over the real client; prints memory on the way.
async fn operator(base_url: &str, rows: usize, log: Option<Arc<AnswerLog>>) -> f64 {
    let options = ClientOptions {
        base_urls: vec![base_url.to_owned()],
        model: "test-model".into(),
        start_in_flight: IN_FLIGHT,
        max_in_flight: IN_FLIGHT,
        ..ClientOptions::default()
    };
    let client = Arc::new(OpenAiClient::new(&options, Budget::unlimited()).unwrap());
    let batches = (0..rows).step_by(BATCH_ROWS).map(move |start| {
        let numbers = start..(start + BATCH_ROWS).min(rows);
        let ids: ArrayRef =
            Arc::new(StringArray::from_iter_values(numbers.clone().map(|number| format!("p{number}"))));
        let prompts: ArrayRef = Arc::new(StringArray::from_iter_values(numbers.map(prompt)));
        RecordBatch::try_from_iter([("prompt_id", ids), ("prompt", prompts)])
    });
    let options = GenerateOptions { max_in_flight: IN_FLIGHT, ..GenerateOptions::default() };
    let logged = if log.is_some() { "with" } else { "without" };
    let begun = Instant::now();
    let mut stream = generate_stream(
        client,
        log,
        &options,
        stream::iter(batches).boxed(),
        Arc::new(|_| {}),
        Arc::new(|_| {}),
    );
    let (mut done, mut marks) = (0, [100_000, 250_000, 500_000, 750_000, 1_000_000].into_iter().peekable());
    while let Some(batch) = stream.next().await {
        done += batch.unwrap().num_rows();
        if marks.next_if(|mark| done >= *mark).is_some() {
            let rate = done as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{logged} log: {done:>9} prompts, {rate:>6.0} a second, {:>6.1} MiB resident",
                resident_mib()
            );
        }
    }
    assert_eq!(done, rows);
    done as f64 / begun.elapsed().as_secs_f64()
}

async fn buffered(base_url: &str, rows: usize) -> f64 {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let url = format!("{base_url}/chat/completions");
    let begun = Instant::now();
    let done = stream::iter(0..rows)
        .map(|number| {
            let (http, url) = (http.clone(), url.clone());
            // A task each, as ours, so that both cores are used.
            let task = tokio::spawn(async move {
                let request = ChatRequest::new("test-model", vec![Message::user(prompt(number))]);
                let answer = http.post(url).json(&request).send().await.unwrap();
                answer.json::<serde_json::Value>().await.unwrap()
            });
            async move { task.await.unwrap() }
        })
        .buffered(IN_FLIGHT)
        .count()
        .await;
    done as f64 / begun.elapsed().as_secs_f64()
}

/// Requests a second of OpenAI's asynchronous client, if there is a Python that has it.
fn openai_client(base_url: &str, rows: usize) -> Option<f64> {
    let python = std::env::var("OPENAI_PYTHON").ok()?;
    let program = format!(
        r#"
import asyncio, time, openai
async def main():
    client = openai.AsyncOpenAI(base_url="{base_url}", api_key="x", max_retries=5, timeout=600)
    places = asyncio.Semaphore({IN_FLIGHT})
    async def ask(number):
        async with places:
            await client.chat.completions.create(model="test-model", max_tokens=2500,
                messages=[{{"role": "user", "content": "Words of the page. " * 55 + str(number)}}])
    begun = time.perf_counter()
    await asyncio.gather(*(ask(number) for number in range({rows})))
    print({rows} / (time.perf_counter() - begun))
asyncio.run(main())
"#
    );
    let output = Command::new(python).args(["-c", &program]).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

fn resident_mib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.unwrap_or_default() * 4.0 / 1024.0
}
