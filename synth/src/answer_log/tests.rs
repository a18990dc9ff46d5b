//! Tests of the answer log, on real files; one with a real process that is killed.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::open::segment_path;
use super::*;
use crate::chat::{ChatRequest, FinishReason, Message};

/// A request whose answers may have 1,000 tokens.
fn request(number: u32) -> ChatRequest {
    let messages = vec![Message::user(format!("question {number}"))];
    ChatRequest { max_new_tokens: 1_000, ..ChatRequest::new("m", messages) }
}

fn key(number: u32) -> RequestKey {
    request(number).key()
}

/// The key of the same request with another longest answer.
fn key_for(number: u32, max_new_tokens: u32) -> RequestKey {
    ChatRequest { max_new_tokens, ..request(number) }.key()
}

fn answer(number: u32) -> ChatAnswer {
    ChatAnswer {
        text: format!("answer {number} é\n").repeat(1 + number as usize % 40),
        finish_reason: FinishReason::Stop,
        prompt_tokens: number,
        completion_tokens: 2 * number,
        model: "m".into(),
        endpoint: "http://h/v1".into(),
        attempts: 1,
        latency_ms: 17,
    }
}

fn open(dir: &Path) -> Arc<AnswerLog> {
    Arc::new(AnswerLog::open(dir).unwrap())
}

async fn fill(log: &Arc<AnswerLog>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        log.append(&key(number), &answer(number)).await.unwrap();
    }
}

/// The bytes of a segment with these answers, and where each record ends.
fn segment(numbers: std::ops::Range<u32>) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = format::header(Version::V2).to_vec();
    let mut ends = vec![];
    for number in numbers {
        bytes.extend(format::encode(&key(number), &answer(number)).unwrap());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn dir_with(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(segment_path(dir.path(), 0), bytes).unwrap();
    dir
}

#[tokio::test]
async fn answers_come_back_and_survive_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert!(log.is_empty() && log.get(&key(0)).unwrap().is_none());
    fill(&log, 0..50).await;
    assert_eq!(log.get(&key(7)).unwrap(), Some(answer(7)));
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.report(), &OpenReport { answers: 50, ..OpenReport::default() });
    for number in 0..50 {
        assert!(log.contains(&key(number)).unwrap());
        assert_eq!(log.get(&key(number)).unwrap(), Some(answer(number)));
    }
    assert!(!log.contains(&key(50)).unwrap());
}

#[tokio::test]
async fn the_first_answer_stays() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert_eq!(log.append(&key(1), &answer(1)).await.unwrap(), answer(1));
    assert_eq!(log.append(&key(1), &answer(2)).await.unwrap(), answer(1));
    let bytes = fs::metadata(segment_path(dir.path(), 0)).unwrap().len() as usize;
    assert_eq!(bytes, format::HEADER_BYTES + format::encode(&key(1), &answer(1)).unwrap().len());
}

fn cut(number: u32, text: &str) -> ChatAnswer {
    ChatAnswer { text: text.into(), finish_reason: FinishReason::Length, ..answer(number) }
}

#[tokio::test]
async fn a_longer_limit_keeps_what_was_finished_and_asks_for_what_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(&key_for(1, 100), &answer(1)).await.unwrap();
    log.append(&key_for(2, 100), &cut(2, "half")).await.unwrap();
    assert_eq!(log.get(&key_for(1, 5_000)).unwrap(), Some(answer(1)));
    assert_eq!(log.get(&key_for(2, 100)).unwrap(), Some(cut(2, "half")));
    assert_eq!(log.get(&key_for(2, 50)).unwrap(), Some(cut(2, "half")), "more than was asked for");
    assert!(!log.contains(&key_for(2, 101)).unwrap() && log.get(&key_for(2, 101)).unwrap().is_none());

    log.append(&key_for(2, 200), &cut(2, "half and more")).await.unwrap();
    let kept = log.append(&key_for(2, 150), &cut(2, "half and a bit")).await.unwrap();
    assert_eq!(kept.text, "half and more", "the shorter cut does not take its place");
    log.append(&key_for(2, 400), &answer(2)).await.unwrap();
    for log in [log, { drop_and_open(dir.path()) }] {
        assert_eq!(log.get(&key_for(2, 100)).unwrap(), Some(answer(2)));
        assert_eq!(log.get(&key_for(2, 9_000)).unwrap(), Some(answer(2)));
        let totals = log.totals();
        assert_eq!((log.len(), totals.answers, totals.completion_tokens), (2, 4, 2 + 4 + 4 + 4));
    }
}

/// Opens a log of which another handle is open: by way of a copy, since one process may have it open.
fn drop_and_open(dir: &Path) -> Arc<AnswerLog> {
    let copy = tempfile::tempdir().unwrap().keep();
    for (_, path) in segment_files(dir).unwrap() {
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    open(&copy)
}

/// A record as the first version wrote it.
fn first_version_record(number: u32, answer: &ChatAnswer) -> Vec<u8> {
    let json = serde_json::to_vec(answer).unwrap();
    let id = key(number).legacy_id;
    let length = (json.len() as u32).to_le_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length).update(&id.0).update(&json);
    [&format::MARKER[..], &length, &hasher.finalize().as_bytes()[..16], &id.0, &json].concat()
}

#[tokio::test]
async fn logs_of_the_first_version_answer_and_are_left_as_they_are() {
    let mut bytes = format::header(Version::V1).to_vec();
    bytes.extend(first_version_record(1, &answer(1)));
    bytes.extend(first_version_record(2, &cut(2, "half")));
    let whole = bytes.len();
    bytes.extend(&first_version_record(3, &answer(3))[..70]);
    let dir = dir_with(&bytes);
    let log = open(dir.path());
    assert_eq!((log.report().answers, log.report().torn_bytes), (2, 70));
    assert_eq!(log.get(&key(1)).unwrap(), Some(answer(1)));
    assert_eq!(log.get(&key(2)).unwrap(), Some(cut(2, "half")));
    assert!(!log.contains(&key_for(2, 2_000)).unwrap());
    log.append(&key_for(2, 2_000), &answer(2)).await.unwrap();
    drop(log);
    assert_eq!(fs::read(segment_path(dir.path(), 0)).unwrap(), bytes[..whole]);
    let log = open(dir.path());
    assert_eq!(log.get(&key_for(2, 2_000)).unwrap(), Some(answer(2)));
    assert_eq!(log.get(&key(1)).unwrap(), Some(answer(1)));
    drop(log);
    assert_eq!(compact(dir.path(), Compaction::Write).unwrap().segments, 0);
    assert_eq!(survey(dir.path(), |_| Ok(())).unwrap().answers, 3);
}

#[tokio::test]
async fn compaction_drops_what_was_superseded_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let options = AnswerLogOptions { segment_bytes: 4_000 };
    let log = Arc::new(AnswerLog::open_with(dir.path(), &options).unwrap());
    for number in 0..30 {
        log.append(&key_for(number, 100), &cut(number, &"cut ".repeat(50))).await.unwrap();
    }
    for number in 0..20 {
        log.append(&key(number), &answer(number)).await.unwrap();
    }
    let totals = log.totals();
    drop(log);
    let files = || segment_files(dir.path()).unwrap();
    let before = files();
    let dry = compact(dir.path(), Compaction::DryRun).unwrap();
    assert_eq!((files(), dry.records), (before.clone(), 20));
    assert_eq!(survey(dir.path(), |_| Ok(())).unwrap().superseded, 20);
    // A crash after the new segments were named and before the old ones were gone leaves both.
    let crashed = tempfile::tempdir().unwrap();
    for (_, path) in &before {
        fs::copy(path, crashed.path().join(path.file_name().unwrap())).unwrap();
    }
    let done = compact(dir.path(), Compaction::Write).unwrap();
    assert_eq!((done.segments, done.records), (dry.segments, 20));
    for (number, path) in files().iter().filter(|file| !before.contains(file)) {
        fs::copy(path, segment_path(crashed.path(), *number)).unwrap();
    }
    for round in 0..2 {
        for dir in [dir.path(), crashed.path()] {
            let log = open(dir);
            for number in 0..30 {
                let expected = if number < 20 { answer(number) } else { cut(number, &"cut ".repeat(50)) };
                assert_eq!(log.get(&key_for(number, 100)).unwrap(), Some(expected), "{number}");
            }
            assert_eq!(log.len(), 30);
        }
        if round == 0 {
            let again = compact(crashed.path(), Compaction::Write).unwrap();
            assert!(again.segments > 0 && again.bytes_after < again.bytes_before, "{again:?}");
        }
    }
    let kept = open(dir.path()).totals();
    assert_eq!((kept.answers, kept.prompt_tokens), (totals.answers, totals.prompt_tokens));
    let settled = CompactReport { segments: 0, ..compact(dir.path(), Compaction::Write).unwrap() };
    assert_eq!((settled.records, settled.bytes_before), (0, settled.bytes_after));
}

#[tokio::test]
async fn a_log_at_work_can_be_surveyed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0..5).await;
    log.append(&key_for(5, 100), &cut(5, "half")).await.unwrap();
    log.append(&key(5), &answer(5)).await.unwrap();
    let mut exported = Vec::new();
    let stats = survey(dir.path(), |logged| {
        exported.push(serde_json::to_value(&logged).unwrap());
        Ok(())
    })
    .unwrap();
    assert_eq!((stats.answers, stats.superseded, stats.cut_answers), (6, 1, 0));
    assert_eq!((stats.models["m"].answers, stats.endpoints["http://h/v1"]), (6, 6));
    assert_eq!(exported.len(), 6);
    assert_eq!(exported[3]["text"], answer(3).text);
    assert_eq!(exported[3]["request"], key(3).id.to_string());
    assert_eq!(totals(dir.path()).unwrap(), log.totals());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let tasks: Vec<_> = (0..400u32)
        .map(|number| {
            let log = Arc::clone(&log);
            // Each key twice, from two tasks.
            tokio::spawn(async move { log.append(&key(number / 2), &answer(number / 2)).await.unwrap() })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), answer(number as u32 / 2));
    }
    assert_eq!(log.len(), 200);
    drop(log);
    assert_eq!(open(dir.path()).report().answers, 200);
}

#[tokio::test]
async fn segments_follow_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let options = AnswerLogOptions { segment_bytes: 2_000 };
    let log = Arc::new(AnswerLog::open_with(dir.path(), &options).unwrap());
    fill(&log, 0..20).await;
    drop(log);
    assert!(segment_files(dir.path()).unwrap().len() > 2);
    let log = Arc::new(AnswerLog::open_with(dir.path(), &options).unwrap());
    fill(&log, 20..30).await;
    for number in 0..30 {
        assert_eq!(log.get(&key(number)).unwrap(), Some(answer(number)), "{number}");
    }
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let error = AnswerLog::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    drop(log);
    open(dir.path());
}

#[test]
fn damage_in_the_middle_costs_only_what_it_hits() {
    let (mut bytes, ends) = segment(0..10);
    // A flipped bit in record 3's payload, and record 6's length made huge.
    bytes[ends[3] - 5] ^= 1;
    bytes[ends[5] + 4..ends[5] + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    let dir = dir_with(&bytes);
    let log = open(dir.path());
    assert_eq!((log.report().answers, log.report().torn_bytes), (8, 0));
    let places: Vec<_> =
        log.report().damaged.iter().map(|place| (place.offset as usize, place.bytes as usize)).collect();
    assert_eq!(places, [(ends[2], ends[3] - ends[2]), (ends[5], ends[6] - ends[5])]);
    for number in 0..10 {
        let expected = (![3, 6].contains(&number)).then(|| answer(number));
        assert_eq!(log.get(&key(number)).unwrap(), expected, "{number}");
    }
    drop(log);
    assert_eq!(fs::read(segment_path(dir.path(), 0)).unwrap(), bytes, "nothing was changed");
}

#[tokio::test]
async fn a_record_gone_bad_while_open_is_forgotten_and_written_anew() {
    let (bytes, ends) = segment(0..3);
    let dir = dir_with(&bytes);
    let log = open(dir.path());
    let file = OpenOptions::new().write(true).open(segment_path(dir.path(), 0)).unwrap();
    file.write_all_at(b"####", ends[0] as u64 + 80).unwrap();
    assert_eq!(log.get(&key(1)).unwrap(), None);
    assert!(!log.contains(&key(1)).unwrap());
    log.append(&key(1), &answer(1)).await.unwrap();
    assert_eq!(log.get(&key(1)).unwrap(), Some(answer(1)));
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let newer = [b"CSMTHLOG".as_slice(), &3u32.to_le_bytes(), &[0; 4]].concat();
    for (bytes, word) in [(b"{\"some\": \"json\"}, longer".to_vec(), "begins with"), (newer, "format")] {
        let dir = dir_with(&bytes);
        let error = AnswerLog::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(word) && error.contains("answers-00000.log"), "{error}");
        assert_eq!(fs::read(segment_path(dir.path(), 0)).unwrap(), bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_truncation_keeps_all_whole_records(cut_share in 0.0..=1.0f64, records in 0u32..12) {
        let (bytes, ends) = segment(0..records);
        let cut = (bytes.len() as f64 * cut_share) as usize;
        let dir = dir_with(&bytes[..cut]);
        let log = open(dir.path());
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let kept_bytes = ends[..whole].last().copied().unwrap_or(format::HEADER_BYTES);
        prop_assert_eq!(log.report().answers, whole as u64);
        prop_assert_eq!(log.report().torn_bytes as usize, if cut < format::HEADER_BYTES { cut } else { cut - kept_bytes });
        for number in 0..records {
            prop_assert_eq!(log.get(&key(number)).unwrap(), (number < whole as u32).then(|| answer(number)));
        }
        // And it takes new answers after the repair.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(fill(&log, whole as u32..records + 1));
        drop(log);
        let log = open(dir.path());
        prop_assert_eq!(log.report(), &OpenReport { answers: u64::from(records) + 1, ..OpenReport::default() });
    }

    #[test]
    fn any_bytes_after_the_header_do_no_harm(noise in prop::collection::vec(any::<u8>(), 0..400), before in 0u32..3) {
        let (mut bytes, _) = segment(0..before);
        bytes.extend(&noise);
        let (after, _) = segment(10..12);
        bytes.extend(&after[format::HEADER_BYTES..]);
        let log = open(dir_with(&bytes).path());
        prop_assert_eq!(log.report().answers, u64::from(before) + 2);
    }
}

const CHILD_DIR: &str = "CORPUSMITH_TEST_LOG_DIR";

/// No test of its own: the process that `kill_nine_loses_nothing` starts and kills.
#[test]
#[ignore = "run by kill_nine_loses_nothing in a process of its own"]
fn child_that_appends_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let log = open(Path::new(&dir));
    let first = log.len() as u32;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..8u32)
            .map(|lane| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    for number in (first + lane..).step_by(8) {
                        log.append(&key(number), &answer(number)).await.unwrap();
                        // One write call, so that the line appears whole and only after the append.
                        std::io::stdout().write_all(format!("\ndurable {number}\n").as_bytes()).unwrap();
                        std::io::stdout().flush().unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn kill_nine_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut durable = std::collections::HashSet::new();
    for lines in [1, 23, 111, 300, 57] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "answer_log::tests::child_that_appends_until_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = 0;
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in output.by_ref() {
            if let Some(number) = line.unwrap().strip_prefix("durable ") {
                durable.insert(number.parse::<u32>().unwrap());
                seen += 1;
            }
            if seen == lines {
                child.kill().unwrap();
                break;
            }
        }
        assert_eq!(seen, lines, "the child ended by itself");
        // What it said between our last line and its death counts as well.
        durable.extend(
            output
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("durable ")?.parse::<u32>().ok()),
        );
        child.wait().unwrap();
        let log = open(dir.path());
        assert!(log.report().damaged.is_empty(), "{:?}", log.report());
        for number in &durable {
            assert_eq!(log.get(&key(*number)).unwrap(), Some(answer(*number)), "{number}");
        }
        // The lanes leave gaps; fill them so that the next child can begin at len().
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let end = (0..)
            .find(|number| {
                *number > 8 + durable.iter().max().unwrap() && !log.contains(&key(*number)).unwrap()
            })
            .unwrap();
        runtime.block_on(fill(&log, 0..end));
        durable.extend(0..end);
        assert_eq!(log.len() as u32, end);
    }
}
