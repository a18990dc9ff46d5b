//! A server as bad as they get.

use std::collections::BTreeMap;

use super::*;
use crate::client::Spent;
use crate::estimate::Price;

const TOKENS: u32 = 200;
const ENDPOINTS: usize = 24;
/// HTTP 200, a whole answer, and nothing in it.
const EMPTY: &str = r#"{"choices":[{"message":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":0}}"#;

/// Of 100 requests: 10 are refused with 429 and `Retry-After`, 10 fail with 5xx, 5 are reset, 5 are cut in
/// the middle, 5 hang, 1 has an empty answer, 64 are answered.
fn act(number: usize) -> Act {
    let hash = blake3::hash(&number.to_le_bytes());
    let lot = u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]) % 100;
    let retry_after = |seconds| Act::Status { status: 429, headers: seconds, body: "" };
    let status = |status| Act::Status { status, headers: "", body: r#"{"error":{"message":"bad day"}}"# };
    match lot {
        // A whole second now and then: each pauses an endpoint, as the server asks.
        0..10 if number.is_multiple_of(64) => retry_after("Retry-After: 1\r\n"),
        0..8 => retry_after("Retry-After: 0\r\n"),
        8..10 => retry_after("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        10..15 => status(500),
        15..18 => status(502),
        18..20 => status(503),
        20..25 => Act::Reset,
        25..30 => Act::CutBody,
        30..35 => Act::Stall,
        35 => Act::Body(EMPTY),
        _ => Act::Answer { tokens: TOKENS },
    }
}

/// What the server would bill: a whole answer that is cut on the way is billed too.
fn billed(act: &Act) -> usize {
    match act {
        Act::Answer { .. } | Act::CutBody => 7 + TOKENS as usize,
        Act::Body(_) => 7,
        _ => 0,
    }
}

struct Tally {
    out: usize,
    rejects: BTreeMap<String, usize>,
    rows: HashSet<String>,
    error: Option<String>,
}

async fn generate(server: &TestServer, log: &Arc<AnswerLog>, budget: BudgetOptions, rows: usize) -> Tally {
    // The same server by many addresses, which the client takes for as many endpoints.
    let base_urls = (0..ENDPOINTS).map(|n| server.base_url.replace("/v1", &format!("/{n}/v1"))).collect();
    let options = ClientOptions {
        base_urls,
        request_timeout_seconds: 0.5,
        breaker_open_seconds: 0.1,
        down_after_seconds: 30.0,
        ..client_options(server)
    };
    let earlier = Spent::default().with_log(&log.totals(), Price::default());
    let budget = Budget::resuming(budget, &earlier, None).unwrap();
    let model = Arc::new(OpenAiClient::new(&options, Arc::clone(&budget)).unwrap());
    let options = GenerateOptions { max_new_tokens: 300, max_in_flight: 512, ..GenerateOptions::default() };
    let mut run = run(model, Some(Arc::clone(log)), &options, prompts(rows, 1_000).0);
    let mut tally = Tally { out: 0, rejects: BTreeMap::new(), rows: HashSet::new(), error: None };
    while let Some(batch) = run.stream.next().await {
        match batch {
            Ok(batch) => {
                tally.out += batch.num_rows();
                tally.rows.extend(text_column(&[batch], "prompt_id"));
            }
            Err(error) => tally.error = Some(error.to_string()),
        }
    }
    for reject in run.heard.rejects.lock().unwrap().drain(..) {
        *tally.rejects.entry(reject.reason).or_default() += 1;
        tally.rows.insert(reject.id);
    }
    tally
}

/// `rows` prompts against the bad server: first under a cap that does not suffice, then without one.
async fn every_row_is_done_or_rejected_with_its_reason(rows: usize) {
    let spent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&spent);
    let server = TestServer::deciding(move |_, number| {
        let act = act(number);
        counter.fetch_add(billed(&act), Ordering::SeqCst);
        act
    })
    .await;
    server.forget();
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(AnswerLog::open(dir.path()).unwrap());
    let begun = Instant::now();

    let cap = rows * 100;
    let budget = BudgetOptions { max_tokens: Some(cap as u64), ..BudgetOptions::default() };
    let capped = generate(&server, &log, budget, rows).await;
    let error = capped.error.unwrap();
    assert!(error.contains("budget of") && error.contains("raise max_tokens"), "{error}");
    let spent_capped = spent.load(Ordering::SeqCst);
    assert!(spent_capped <= cap, "the server bills {spent_capped} tokens, the cap is {cap}");
    assert!(spent_capped > cap / 2, "stopped far too early: {spent_capped} of {cap}");
    let kept = log.len();
    assert!(kept > rows / 5);

    let all = generate(&server, &log, BudgetOptions::default(), rows).await;
    assert_eq!(all.error, None);
    let rejected: usize = all.rejects.values().sum();
    assert_eq!((all.out + rejected, all.rows.len()), (rows, rows), "{:?}", all.rejects);
    assert!(rejected <= rows / 50, "six attempts do for nearly all: {:?}", all.rejects);
    let known = [
        "llm_http_429",
        "llm_http_500",
        "llm_http_502",
        "llm_http_503",
        "llm_cut_connection",
        "llm_timeout",
        "llm_bad_json",
        "llm_unreachable",
    ];
    assert!(all.rejects.keys().all(|reason| known.contains(&reason.as_str())), "{:?}", all.rejects);
    println!(
        "{rows} rows, {} requests, {:.1} s: {} done ({kept} under the cap), {:?}; billed {spent_capped} of {cap} under the cap",
        server.requests(),
        begun.elapsed().as_secs_f64(),
        all.out,
        all.rejects
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_server_costs_no_row() {
    every_row_is_done_or_rejected_with_its_reason(2_000).await;
}

/// The whole of it, in minutes: `cargo test -p corpusmith-synth --release --lib -- --ignored --nocapture bad_server`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_bad_server_costs_no_row_of_a_hundred_thousand() {
    every_row_is_done_or_rejected_with_its_reason(100_000).await;
}
