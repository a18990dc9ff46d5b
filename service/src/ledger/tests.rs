//! What every ledger must do, whatever database lies under it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan};

#[path = "../../../tests/support/postgres_server.rs"]
mod postgres_server;

use postgres_server::Server;

use super::*;
use crate::run::{Amounts, NewRun, Run, RunSpec, RunState, StageProgress, Trigger, Wish};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

struct Fixture {
    ledger: Ledger,
    url: String,
    random: u32,
    /// Of SQLite's file.
    folder: Option<tempfile::TempDir>,
}

impl Fixture {
    fn in_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("ledger.sqlite").to_str().unwrap().to_owned();
        Self { ledger: Ledger::open_url(&url).unwrap(), url, random: 0, folder: Some(folder) }
    }

    fn in_postgres(server: &Server, schema: &str) -> Self {
        let url = server.url(schema);
        Self { ledger: Ledger::open_url(&url).unwrap(), url, random: 0, folder: None }
    }

    /// A connection of its own, as another process has.
    fn beside(&self) -> Ledger {
        Ledger::open_url(&self.url).unwrap()
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

/// Every function keeps its word in every database.
macro_rules! contract {
    ($($word:ident,)*) => {
        const CONTRACT: &[(&str, fn(Fixture))] = &[$((stringify!($word), $word),)*];

        mod in_sqlite {
            $(
                #[test]
                fn $word() {
                    super::$word(super::Fixture::in_sqlite());
                }
            )*
        }
    };
}

contract! {
    a_run_goes_its_way,
    a_repeated_request_makes_no_second_run,
    whoever_was_given_up_changes_nothing_more,
    a_run_whose_processes_vanish_again_and_again_fails,
    wishes_are_heard,
    a_failed_run_is_tried_again_after_a_while,
    a_run_that_stops_with_the_service_loses_no_attempt,
    pages_follow_each_other_without_gap_or_repeat,
    a_schedule_begins_when_it_is_first_seen_and_never_goes_back,
    only_ended_runs_are_forgotten,
    many_writers_lose_no_run,
}

/// One server for all, since one takes seconds to make.
#[test]
fn the_contract_holds_in_postgresql() {
    let server = Server::start();
    for (word, holds) in CONTRACT {
        println!("{word}");
        holds(Fixture::in_postgres(&server, word));
    }
}

#[test]
fn services_that_start_at_once_make_the_tables_once() {
    let server = Server::start();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let url = server.url("at_once");
            std::thread::spawn(move || Ledger::open_url(&url).unwrap().ping().unwrap())
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_ledger_goes_on_after_its_server_was_away() {
    let mut server = Server::start();
    let mut fixture = Fixture::in_postgres(&server, "away");
    let id = fixture.entered("w/a", 0);
    let run = fixture.claim("me", 1).unwrap();
    server.restart();
    // What is begun anew, what only looks, and what changes one row.
    let other = fixture.entered("w/b", 2);
    assert_eq!(fixture.state(&id), RunState::Running);
    server.restart();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(fixture.ledger.heartbeat(&id, run.epoch, None).unwrap(), Heartbeat::Held(None));
    assert_eq!(fixture.state(&other), RunState::Queued);
}

#[test]
fn no_error_of_a_server_holds_its_password() {
    for url in [
        "postgres://me:s3cret@127.0.0.1:1/ledger",
        "postgres://me:s3cret@example.org/ledger",
        "postgres://me:s3#cret@127.0.0.1:port/ledger",
        "postgres://me:s3cret@127.0.0.1:1/ledger?sslmode=s3cret",
    ] {
        let error = Ledger::open_url(url).err().unwrap().to_string();
        assert!(!error.contains("s3") && !error.contains("cret"), "{error}");
    }
    let error = Ledger::open_url("postgres://me@example.org/ledger").err().unwrap().to_string();
    assert!(error.contains("sslmode=require") && error.contains("example.org"), "{error}");
}

#[test]
fn a_server_is_spoken_to_over_tls_if_its_certificate_is_vouched_for() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let server = Server::start_with_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    let url = format!("{}&sslmode=require", server.url("tls"));
    let open = |authority| super::postgres::Postgres::open_with(&url, authority);
    let authority = server.authority();
    let mut connection = open(Some(authority.as_path())).unwrap();
    let sql = "SELECT CAST(ssl AS TEXT) FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(connection.query(sql, &[]).unwrap()[0].text(0).unwrap(), "true");
    let error = open(None).unwrap().query("SELECT 1", &[]).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

fn a_run_goes_its_way(mut fixture: Fixture) {
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

fn a_repeated_request_makes_no_second_run(mut fixture: Fixture) {
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
    let next = fixture.submit(&next, 120).unwrap();
    assert!(matches!(next, Submitted::New(_)));
    // A slot's own run, which another service has entered, is not in its way.
    let open = |before| fixture.ledger.open_runs("w", before).unwrap();
    assert_eq!(open(at(60)), []);
    assert_eq!(open(at(120)), [first.id().clone()]);
    assert_eq!(open(Timestamp::MAX), [first.id().clone(), next.id().clone()]);
}

fn whoever_was_given_up_changes_nothing_more(mut fixture: Fixture) {
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

fn a_run_whose_processes_vanish_again_and_again_fails(mut fixture: Fixture) {
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

fn wishes_are_heard(mut fixture: Fixture) {
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

fn a_failed_run_is_tried_again_after_a_while(mut fixture: Fixture) {
    let id = fixture.entered("w/a", 0);
    let run = fixture.claim("me", 1).unwrap();
    let again = Some(SignedDuration::from_secs(10));
    let failed = Ended::Failed { exit_code: Some(1), error: "broke".to_owned(), retry_after: again };
    fixture.ledger.end(&id, run.epoch, &failed, at(2)).unwrap();
    assert!(fixture.claim("me", 3).is_none());
    assert_eq!(fixture.ledger.run(&id).unwrap().waiting_for.unwrap(), "waits before it is tried again");
    assert_eq!(fixture.claim("me", 13).unwrap().attempt, 2);
}

fn a_run_that_stops_with_the_service_loses_no_attempt(mut fixture: Fixture) {
    let id = fixture.entered("w/a", 0);
    let run = fixture.claim("me", 1).unwrap();
    fixture.ledger.end(&id, run.epoch, &Ended::Released, at(2)).unwrap();
    let run = fixture.claim("me", 3).unwrap();
    assert_eq!((run.attempt, run.epoch), (1, 2));
}

fn pages_follow_each_other_without_gap_or_repeat(mut fixture: Fixture) {
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

fn a_schedule_begins_when_it_is_first_seen_and_never_goes_back(fixture: Fixture) {
    let first = fixture.ledger.schedule("w", at(100)).unwrap();
    assert_eq!((first.seen_until, first.paused), (at(100), false));
    fixture.ledger.schedule_seen("w", at(200)).unwrap();
    fixture.ledger.schedule_seen("w", at(150)).unwrap();
    fixture.ledger.set_schedule_paused("w", true).unwrap();
    let now = fixture.ledger.schedule("w", at(300)).unwrap();
    assert_eq!((now.seen_until, now.paused), (at(200), true));
}

fn only_ended_runs_are_forgotten(mut fixture: Fixture) {
    let id = fixture.entered("w/a", 0);
    assert!(matches!(fixture.ledger.forget(&id), Err(LedgerError::WrongState { .. })));
    fixture.ledger.wish(&id, Wish::Cancel, at(10)).unwrap();
    assert_eq!(fixture.ledger.ended_before(at(11), 10).unwrap(), std::slice::from_ref(&id));
    assert_eq!(fixture.ledger.ended_before(at(10), 10).unwrap(), []);
    fixture.ledger.forget(&id).unwrap();
    assert!(matches!(fixture.ledger.run(&id), Err(LedgerError::NoRun(_))));
}

fn many_writers_lose_no_run(fixture: Fixture) {
    let beside_each_other = |work: fn(&Ledger, u32) -> Vec<RunId>| -> Vec<RunId> {
        let threads: Vec<_> = (0..8)
            .map(|writer| {
                let ledger = fixture.beside();
                std::thread::spawn(move || work(&ledger, writer))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    };
    beside_each_other(|ledger, writer| {
        for number in 0..50_u32 {
            let now = at(0).checked_add(i64::from(number).milliseconds()).unwrap();
            let run = new_run(&format!("w/{writer}-{number}"));
            ledger.submit(&run, now, writer * 1_000 + number).unwrap();
            // The same request by all: one run.
            let keyed = NewRun { idempotency_key: Some(format!("k{number}")), ..new_run("w/same") };
            ledger.submit(&keyed, now, 100_000 + writer * 1_000 + number).unwrap();
        }
        Vec::new()
    });
    assert_eq!(fixture.ledger.counts().unwrap()[&RunState::Queued], 450);
    let mut claimed = beside_each_other(|ledger, writer| {
        let capacity = Amounts::from([("memory".to_owned(), 60 * 1_000)]);
        let claim = |second| ledger.claim(&writer.to_string(), &capacity, at(second)).unwrap();
        (10..30).filter_map(claim).map(|run| run.id).collect()
    });
    // Each was given out once, and is held at its first epoch.
    assert_eq!(claimed.len(), 8 * 20);
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 8 * 20);
    let filter = RunFilter { states: vec![RunState::Running], limit: 1_000, ..RunFilter::default() };
    let running = fixture.ledger.runs(&filter).unwrap().runs;
    assert_eq!(running.len(), 8 * 20);
    assert!(running.iter().all(|run| run.epoch == 1));
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
    let mut fixture = Fixture::in_sqlite();
    for number in 0..50 {
        fixture.entered(&format!("w/{number}"), number);
    }
    let folder = fixture.folder.take().unwrap();
    let path = folder.path().join("ledger.sqlite");
    fixture.ledger.query("PRAGMA wal_checkpoint(TRUNCATE)", &[]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let states = |path: &std::path::Path| -> Result<Vec<RunState>, LedgerError> {
        let filter = RunFilter { limit: 1_000, ..RunFilter::default() };
        Ok(Ledger::open(path)?.runs(&filter)?.runs.into_iter().map(|run| run.state).collect())
    };
    let copy = folder.path().join("copy.sqlite");
    for at in (0..whole.len()).step_by(whole.len() / 200 + 1) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&copy, &bytes).unwrap();
        // An error, or states that are states; never a panic.
        if let Ok(states) = states(&copy) {
            assert!(states.iter().all(|state| *state == RunState::Queued));
        }
        let _ = std::fs::remove_file(folder.path().join("copy.sqlite-wal"));
        let _ = std::fs::remove_file(folder.path().join("copy.sqlite-shm"));
    }
}
