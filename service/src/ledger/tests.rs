//! What every ledger must do, whatever database lies under it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan};

use super::*;
use crate::run::{Amounts, NewRun, Run, RunSpec, RunState, StageProgress, Trigger, Wish};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

struct Fixture {
    ledger: Ledger,
    random: u32,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
        Self { ledger, random: 0, _folder: folder }
    }

    fn submit(&mut self, run: &NewRun, second: i64) -> Result<Submitted, LedgerError> {
        self.random += 1;
        self.ledger.submit(run, at(second), self.random)
    }

    fn entered(&mut self, folder: &str, second: i64) -> RunId {
        self.submit(&new_run(folder), second).unwrap().id().clone()
    }

    fn claim(&self, owner: &str, second: i64) -> Option<Run> {
        let capacity = Amounts::from([("memory".to_owned(), 100)]);
        self.ledger.claim(owner, &capacity, at(second)).unwrap()
    }

    fn state(&self, id: &RunId) -> RunState {
        self.ledger.run(id).unwrap().state
    }
}

fn new_run(folder: &str) -> NewRun {
    NewRun {
        spec: RunSpec { file: "w.toml".to_owned(), ..RunSpec::default() },
        workflow: "w".to_owned(),
        folder: folder.to_owned(),
        demands: Amounts::from([("memory".to_owned(), 60)]),
        stages: Vec::new(),
        trigger: Trigger::manual("test"),
        idempotency_key: None,
    }
}

#[test]
fn a_run_goes_its_way() {
    let mut fixture = Fixture::new();
    let id = fixture.entered("w/a", 0);
    assert_eq!(fixture.state(&id), RunState::Queued);
    let run = fixture.claim("me", 1).unwrap();
    assert_eq!((run.id.clone(), run.epoch, run.attempt, run.state), (id.clone(), 1, 1, RunState::Running));
    assert!(fixture.claim("me", 1).is_none());
    let progress = BTreeMap::from([("s".to_owned(), StageProgress { rows: 7, ..StageProgress::default() })]);
    assert_eq!(fixture.ledger.heartbeat(&id, 1, Some(&progress)).unwrap(), Heartbeat::Held(None));
    assert_eq!(fixture.ledger.run(&id).unwrap().progress["s"].rows, 7);
    assert!(fixture.ledger.end(&id, 1, &Ended::Succeeded, at(9)).unwrap());
    let run = fixture.ledger.run(&id).unwrap();
    assert_eq!((run.state, run.ended_at, run.exit_code), (RunState::Succeeded, Some(at(9)), Some(0)));
    let events: Vec<String> = fixture.ledger.events(&id).unwrap().into_iter().map(|event| event.1).collect();
    assert_eq!(events, ["asked for", "started by me", "succeeded"]);
}

#[test]
fn a_repeated_request_makes_no_second_run() {
    let mut fixture = Fixture::new();
    let keyed = NewRun { idempotency_key: Some("k".to_owned()), ..new_run("w/a") };
    let first = fixture.submit(&keyed, 0).unwrap();
    assert_eq!(fixture.submit(&keyed, 5).unwrap(), Submitted::Known(first.id().clone()));
    let other = NewRun { spec: RunSpec { file: "other.toml".to_owned(), ..RunSpec::default() }, ..keyed };
    assert!(matches!(fixture.submit(&other, 6), Err(LedgerError::KeyReused(id)) if id == *first.id()));
    let slot =
        NewRun { trigger: Trigger::Schedule { schedule: "w".to_owned(), slot: at(60) }, ..new_run("w/a") };
    let first = fixture.submit(&slot, 60).unwrap();
    assert!(matches!(first, Submitted::New(_)));
    assert_eq!(fixture.submit(&slot, 61).unwrap(), Submitted::Known(first.id().clone()));
    let next =
        NewRun { trigger: Trigger::Schedule { schedule: "w".to_owned(), slot: at(120) }, ..new_run("w/a") };
    assert!(matches!(fixture.submit(&next, 120).unwrap(), Submitted::New(_)));
}

#[test]
fn whoever_was_given_up_changes_nothing_more() {
    let mut fixture = Fixture::new();
    let id = fixture.entered("w/a", 0);
    fixture.claim("first", 1).unwrap();
    let signs = fixture.ledger.signs_of_life().unwrap();
    assert_eq!(signs, [(id.clone(), "first".to_owned(), 1, 0)]);
    // A sign of life in between: it is not lost.
    fixture.ledger.heartbeat(&id, 1, None).unwrap();
    assert!(!fixture.ledger.take_back(&id, (1, 0), Loss::Silent, at(30)).unwrap());
    assert!(fixture.ledger.take_back(&id, (1, 1), Loss::Silent, at(60)).unwrap());
    assert_eq!(fixture.state(&id), RunState::Queued);
    assert_eq!(fixture.ledger.heartbeat(&id, 1, None).unwrap(), Heartbeat::Lost);
    assert!(!fixture.ledger.end(&id, 1, &Ended::Succeeded, at(61)).unwrap());
    let run = fixture.claim("second", 62).unwrap();
    assert_eq!(run.epoch, 3);
    assert!(!fixture.ledger.end(&id, 1, &Ended::Succeeded, at(63)).unwrap());
    assert!(fixture.ledger.end(&id, 3, &Ended::Succeeded, at(64)).unwrap());
}

#[test]
fn a_run_whose_processes_vanish_again_and_again_fails() {
    let mut fixture = Fixture::new();
    let id = fixture.entered("w/a", 0);
    for _ in 0..5 {
        let run = fixture.claim("me", 2).unwrap();
        assert!(fixture.ledger.take_back(&id, (run.epoch, 0), Loss::Silent, at(2)).unwrap());
    }
    let run = fixture.ledger.run(&id).unwrap();
    assert_eq!(run.state, RunState::Failed);
    assert!(run.error.unwrap().contains("lost too often"));
    assert!(run.ended_at.is_some());
    // A service that is killed again and again is not the run's doing.
    let id = fixture.entered("w/b", 10);
    for _ in 0..20 {
        let run = fixture.claim("me", 11).unwrap();
        assert!(fixture.ledger.take_back(&id, (run.epoch, 0), Loss::ServiceRestarted, at(11)).unwrap());
    }
    assert_eq!(fixture.state(&id), RunState::Queued);
}

#[test]
fn wishes_are_heard() {
    let mut fixture = Fixture::new();
    let waiting = fixture.entered("w/a", 0);
    fixture.ledger.wish(&waiting, Wish::Pause, at(1)).unwrap();
    assert_eq!(fixture.state(&waiting), RunState::Paused);
    assert!(fixture.claim("me", 2).is_none());
    fixture.ledger.resume(&waiting, at(3)).unwrap();
    let run = fixture.claim("me", 4).unwrap();
    fixture.ledger.wish(&run.id, Wish::Cancel, at(5)).unwrap();
    fixture.ledger.wish(&run.id, Wish::Pause, at(6)).unwrap();
    let heard = fixture.ledger.heartbeat(&run.id, run.epoch, None).unwrap();
    assert_eq!(heard, Heartbeat::Held(Some(Wish::Cancel)));
    fixture.ledger.end(&run.id, run.epoch, &Ended::Stopped(Wish::Cancel), at(7)).unwrap();
    assert_eq!(fixture.state(&run.id), RunState::Cancelled);
    let wrong = fixture.ledger.wish(&run.id, Wish::Pause, at(8)).unwrap_err();
    assert!(wrong.to_string().contains("is cancelled: it cannot be paused"), "{wrong}");
    assert!(matches!(fixture.ledger.run(&RunId("none".to_owned())), Err(LedgerError::NoRun(_))));
}

#[test]
fn a_failed_run_is_tried_again_after_a_while() {
    let mut fixture = Fixture::new();
    let id = fixture.entered("w/a", 0);
    let run = fixture.claim("me", 1).unwrap();
    let again = Some(SignedDuration::from_secs(10));
    let failed = Ended::Failed { exit_code: Some(1), error: "broke".to_owned(), retry_after: again };
    fixture.ledger.end(&id, run.epoch, &failed, at(2)).unwrap();
    assert!(fixture.claim("me", 3).is_none());
    assert_eq!(fixture.ledger.run(&id).unwrap().waiting_for.unwrap(), "waits before it is tried again");
    assert_eq!(fixture.claim("me", 13).unwrap().attempt, 2);
}

#[test]
fn a_run_that_stops_with_the_service_loses_no_attempt() {
    let mut fixture = Fixture::new();
    let id = fixture.entered("w/a", 0);
    let run = fixture.claim("me", 1).unwrap();
    fixture.ledger.end(&id, run.epoch, &Ended::Released, at(2)).unwrap();
    let run = fixture.claim("me", 3).unwrap();
    assert_eq!((run.attempt, run.epoch), (1, 2));
}

#[test]
fn pages_follow_each_other_without_gap_or_repeat() {
    let mut fixture = Fixture::new();
    let all: Vec<RunId> = (0..25).map(|n| fixture.entered(&format!("w/{n}"), n)).collect();
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = fixture.ledger.runs(&RunFilter { before, limit: 10, ..RunFilter::default() }).unwrap();
        seen.extend(page.runs.into_iter().map(|run| run.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, all);
    let text = |text: &str| RunFilter { text: Some(text.to_owned()), limit: 100, ..RunFilter::default() };
    assert_eq!(fixture.ledger.runs(&text("w/1")).unwrap().runs.len(), 11);
    // A search for `%` is one for the letter, not for everything.
    assert_eq!(fixture.ledger.runs(&text("%")).unwrap().runs.len(), 0);
    let queued = RunFilter { states: vec![RunState::Queued], limit: 100, ..RunFilter::default() };
    assert_eq!(fixture.ledger.runs(&queued).unwrap().runs.len(), 25);
    assert_eq!(fixture.ledger.counts().unwrap()[&RunState::Queued], 25);
}

#[test]
fn a_schedule_begins_when_it_is_first_seen_and_never_goes_back() {
    let fixture = Fixture::new();
    let first = fixture.ledger.schedule("w", at(100)).unwrap();
    assert_eq!((first.seen_until, first.paused), (at(100), false));
    fixture.ledger.schedule_seen("w", at(200)).unwrap();
    fixture.ledger.schedule_seen("w", at(150)).unwrap();
    fixture.ledger.set_schedule_paused("w", true).unwrap();
    let now = fixture.ledger.schedule("w", at(300)).unwrap();
    assert_eq!((now.seen_until, now.paused), (at(200), true));
}

#[test]
fn only_ended_runs_are_forgotten() {
    let mut fixture = Fixture::new();
    let id = fixture.entered("w/a", 0);
    assert!(matches!(fixture.ledger.forget(&id), Err(LedgerError::WrongState { .. })));
    fixture.ledger.wish(&id, Wish::Cancel, at(10)).unwrap();
    assert_eq!(fixture.ledger.ended_before(at(11), 10).unwrap(), std::slice::from_ref(&id));
    assert_eq!(fixture.ledger.ended_before(at(10), 10).unwrap(), []);
    fixture.ledger.forget(&id).unwrap();
    assert!(matches!(fixture.ledger.run(&id), Err(LedgerError::NoRun(_))));
}

#[test]
fn many_writers_lose_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    Ledger::open(&path).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|writer| {
            let path = path.clone();
            // A connection each, as processes have.
            std::thread::spawn(move || {
                let ledger = Ledger::open(&path).unwrap();
                for number in 0..50_u32 {
                    let now = at(0).checked_add(i64::from(number).milliseconds()).unwrap();
                    ledger
                        .submit(&new_run(&format!("w/{writer}-{number}")), now, writer * 1_000 + number)
                        .unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.counts().unwrap()[&RunState::Queued], 400);
}

#[test]
fn a_damaged_file_and_a_newer_one_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    std::fs::write(&path, "this is no database, and long enough to be looked at as if it were one").unwrap();
    let error = Ledger::open(&path).err().unwrap().to_string();
    assert!(error.contains("ledger.sqlite"), "{error}");
    let path = folder.path().join("newer.sqlite");
    let ledger = Ledger::open(&path).unwrap();
    ledger.query("INSERT INTO migrations VALUES (99)", &[]).unwrap();
    drop(ledger);
    let error = Ledger::open(&path).err().unwrap().to_string();
    assert!(error.contains("use a newer one"), "{error}");
}

/// Pages of a file that was bit-flipped are found when it is opened, or by the database as it reads them.
#[test]
fn a_flipped_bit_is_no_silent_change_of_state() {
    let mut fixture = Fixture::new();
    for number in 0..50 {
        fixture.entered(&format!("w/{number}"), number);
    }
    let path = fixture._folder.path().join("ledger.sqlite");
    fixture.ledger.query("PRAGMA wal_checkpoint(TRUNCATE)", &[]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let states = |path: &std::path::Path| -> Result<Vec<RunState>, LedgerError> {
        let filter = RunFilter { limit: 1_000, ..RunFilter::default() };
        Ok(Ledger::open(path)?.runs(&filter)?.runs.into_iter().map(|run| run.state).collect())
    };
    let copy = fixture._folder.path().join("copy.sqlite");
    for at in (0..whole.len()).step_by(whole.len() / 200 + 1) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&copy, &bytes).unwrap();
        // An error, or states that are states; never a panic.
        if let Ok(states) = states(&copy) {
            assert!(states.iter().all(|state| *state == RunState::Queued));
        }
        let _ = std::fs::remove_file(fixture._folder.path().join("copy.sqlite-wal"));
        let _ = std::fs::remove_file(fixture._folder.path().join("copy.sqlite-shm"));
    }
}
