//! Servers that stall, cut off, lie and limit.

use std::time::Duration;

use serde_json::json;

use crate::fixture::{Fixture, run_folder};
use crate::language_model::{Reply, Server, answer_body, answer_to};
use crate::support::{query, run};

/// A number of a prompt, for moods.
fn lot(prompt: &str) -> u8 {
    blake3::hash(prompt.as_bytes()).as_bytes()[0] % 100
}

#[test]
fn a_server_of_all_bad_habits_costs_no_row_and_no_byte() {
    // Each prompt meets one bad habit, once or twice; then its answer comes.
    let mood = |times: u32, prompt: &str| match (lot(prompt), times) {
        (0..10, 1) => Reply::Status(429, "retry-after: 0\r\n"),
        (10..20, 1..=2) => Reply::Status(500, ""),
        (20..28, 1) => Reply::Reset,
        (28..36, 1) => Reply::Cut,
        (36..40, 1) => Reply::Stall,
        (40..48, 1) => Reply::Garbage,
        (48..54, 1) => Reply::Status(503, "retry-after: 1\r\n"),
        _ => Reply::Answer,
    };
    let fixture = Fixture::new(Server::start(Duration::from_millis(1), Box::new(mood)));
    let runs = tempfile::tempdir().unwrap();
    fixture.complete(runs.path(), "a bad server");
    let asked = fixture.server.asked();
    assert!(asked.values().any(|times| *times > 1), "no bad habit was met");
    assert!(asked.values().all(|times| *times <= 3), "{asked:?}");
}

#[test]
fn answers_that_cannot_be_believed_fail_their_rows_alone() {
    // Some prompts never get an answer that makes sense.
    let mood = |_: u32, prompt: &str| match lot(prompt) {
        0..6 => Reply::Body(
            json!({"model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        ),
        6..12 => Reply::Body(json!({"choices": [{"message": {"content": null}, "finish_reason": "stop"}]})),
        12..18 => Reply::Garbage,
        18..24 => Reply::Body(json!({"error": {"message": "out of memory"}})),
        _ => Reply::Answer,
    };
    let fixture = Fixture::new(Server::start(Duration::from_millis(1), Box::new(mood)));
    let runs = tempfile::tempdir().unwrap();
    let said = run(&mut fixture.command(runs.path()));
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    // A text of null is what a server's filter leaves of an answer: an empty one.
    let never = |prompt: &str| lot(prompt) < 24 && !(6..12).contains(&lot(prompt));
    let bad = fixture.server.asked().keys().filter(|prompt| never(prompt)).count() as u64;
    assert!(bad >= 8);
    let generated = query(&run_folder(runs.path()).join("generate"), "SELECT count(*) AS n FROM data");
    let lost = query(
        &run_folder(runs.path()).join("generate/quarantine/00000.parquet"),
        "SELECT count(*) AS n, count(reason) AS reasons FROM data",
    );
    let prompts = fixture.server.asked().len() as u64;
    assert_eq!(lost[0]["n"], bad, "{lost:?}");
    assert_eq!(lost[0]["reasons"], bad);
    assert_eq!(generated[0]["n"], prompts - bad);
}

#[test]
fn figures_that_lie_change_no_text() {
    // The server says that answers have no tokens, or more than there are in the world.
    let mood = |_: u32, prompt: &str| {
        let mut body = answer_body(&answer_to(prompt));
        match lot(prompt) {
            0..30 => {
                body["usage"] =
                    json!({"prompt_tokens": 4_294_967_295_u32, "completion_tokens": 4_294_967_295_u32})
            }
            30..50 => body["usage"] = json!({"prompt_tokens": 1e18, "completion_tokens": -5}),
            50..70 => body["usage"] = json!(null),
            _ => body["usage"] = json!({"prompt_tokens": 0, "completion_tokens": 0}),
        }
        Reply::Body(body)
    };
    let fixture = Fixture::new(Server::start(Duration::from_millis(1), Box::new(mood)));
    let runs = tempfile::tempdir().unwrap();
    let said = run(&mut fixture.command(runs.path()));
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    let rows = query(&run_folder(runs.path()).join("generate"), "SELECT prompt, completion FROM data");
    assert_eq!(rows.len(), fixture.server.asked().len());
    for row in rows {
        assert_eq!(row["completion"], answer_to(row["prompt"].as_str().unwrap()));
    }
}
