//! Schedules against a clock that the test moves: no time is missed, none comes twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the result of the test")]

#[path = "support/service.rs"]
mod place;
mod support;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use place::Place;
use service::clock::ManualClock;
use service::ledger::{Ended, Ledger, RunFilter};
use service::ledger_path;
use service::notify::Notifier;
use service::run::{Amounts, Run, RunState, Trigger};
use service::schedule::Scheduler;
use service::settings::NotifySettings;
use service::submit::Submitter;
use service::workflows::Workflows;

struct Simulation {
    place: Place,
    clock: ManualClock,
}

impl Simulation {
    fn new(schedule: &str) -> Self {
        let place = Place::new();
        place.small_workflow("small", schedule);
        std::fs::create_dir(place.data().join("service")).unwrap();
        Self { place, clock: ManualClock::default() }
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&ledger_path(&self.place.data())).unwrap()
    }

    /// A scheduler as a restarted service has it.
    fn scheduler(&self) -> Scheduler {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_pipeline"));
        let workflows = Workflows::new(self.place.workflows(), &self.place.data(), program).unwrap();
        let ledger = self.ledger();
        let notifier =
            Notifier::new(&NotifySettings::default(), String::new(), reqwest_client(), ledger.clone())
                .unwrap();
        let submitter =
            Submitter::new(ledger, Arc::new(workflows), Arc::new(self.clock.clone()), Amounts::new());
        Scheduler::new(Arc::new(submitter), Arc::new(notifier), self.place.data())
    }

    async fn tick_at(&self, scheduler: &Scheduler, time: Timestamp) {
        self.clock.set(time);
        scheduler.tick().await;
    }

    fn runs(&self) -> Vec<Run> {
        let filter = RunFilter { limit: 1_000, ..RunFilter::default() };
        let mut runs = self.ledger().runs(&filter).unwrap().runs;
        runs.reverse();
        runs
    }

    fn slots(&self) -> Vec<Timestamp> {
        let slot = |run: &Run| match &run.trigger {
            Trigger::Schedule { slot, .. } => *slot,
            other => panic!("{other:?}"),
        };
        let mut slots: Vec<_> = self.runs().iter().map(slot).collect();
        slots.sort();
        slots
    }

    /// Lets the first queued run come to its end.
    fn finish_one(&self, time: Timestamp) {
        let ledger = self.ledger();
        let run = ledger.claim("test", &Amounts::new(), time).unwrap().unwrap();
        ledger.end(&run.id, run.epoch, &Ended::Succeeded, time).unwrap();
    }
}

fn reqwest_client() -> reqwest::Client {
    net::client_builder().build().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_day_with_restarts_outages_and_a_clock_that_steps_back() {
    let simulation = Simulation::new(
        "[schedule]\ncron = \"*/30 * * * *\"\ntimezone = \"Europe/Berlin\"\ncatch_up = \"all\"\noverlap = \"queue\"\n",
    );
    // The day on which clocks are put back has 25 hours.
    let (start, end) = (at("2026-10-24T22:00:00Z"), at("2026-10-25T23:00:00Z"));
    let mut scheduler = simulation.scheduler();
    simulation.tick_at(&scheduler, start).await;
    let steps = [7, 19, 44, -60, 3, 91, 130, 5, 60, -25, 240, 31];
    let (mut now, mut furthest) = (start, start);
    for (number, minutes) in steps.into_iter().cycle().enumerate() {
        now = now.checked_add(minutes.minutes()).unwrap().clamp(start, end);
        if number % 3 == 0 {
            scheduler = simulation.scheduler();
        }
        simulation.tick_at(&scheduler, now).await;
        furthest = furthest.max(now);
        if furthest == end {
            break;
        }
    }
    let expected: Vec<_> =
        (1..=50).map(|half_hour| start.checked_add((30 * half_hour).minutes()).unwrap()).collect();
    assert_eq!(simulation.slots(), expected);
}

#[tokio::test]
async fn what_was_missed_follows_the_policy() {
    for (policy, expected) in [
        ("none", vec!["12:00"]),
        ("latest", vec!["11:00", "12:00"]),
        ("all", vec!["09:00", "10:00", "11:00", "12:00"]),
    ] {
        let simulation = Simulation::new(&format!(
            "[schedule]\ncron = \"0 * * * *\"\ncatch_up = \"{policy}\"\noverlap = \"queue\"\n"
        ));
        simulation.tick_at(&simulation.scheduler(), at("2026-01-01T08:30:00Z")).await;
        simulation.tick_at(&simulation.scheduler(), at("2026-01-01T12:00:20Z")).await;
        let hours: Vec<String> =
            simulation.slots().iter().map(|slot| slot.strftime("%H:%M").to_string()).collect();
        assert_eq!(hours, expected, "{policy}");
    }
}

#[tokio::test]
async fn a_run_that_lasts_skips_holds_or_ends_the_next() {
    for (policy, states) in [
        ("skip", vec![RunState::Succeeded, RunState::Queued]),
        ("queue", vec![RunState::Succeeded, RunState::Queued, RunState::Queued]),
        ("cancel", vec![RunState::Cancelled, RunState::Succeeded, RunState::Queued]),
    ] {
        let simulation =
            Simulation::new(&format!("[schedule]\ncron = \"0 * * * *\"\noverlap = \"{policy}\"\n"));
        let scheduler = simulation.scheduler();
        simulation.tick_at(&scheduler, at("2026-01-01T00:30:00Z")).await;
        simulation.tick_at(&scheduler, at("2026-01-01T01:00:05Z")).await;
        simulation.tick_at(&scheduler, at("2026-01-01T02:00:05Z")).await;
        simulation.finish_one(at("2026-01-01T02:30:00Z"));
        simulation.tick_at(&scheduler, at("2026-01-01T03:00:05Z")).await;
        let found: Vec<_> = simulation.runs().iter().map(|run| run.state).collect();
        assert_eq!(found, states, "{policy}");
    }
}

#[tokio::test]
async fn each_success_starts_the_workflow_after_it_once() {
    let simulation = Simulation::new("[schedule]\ncron = \"0 * * * *\"\noverlap = \"queue\"\n");
    simulation.place.small_workflow("next", "[trigger]\nafter = \"small\"\n");
    let mut scheduler = simulation.scheduler();
    for time in ["2026-01-01T00:30:00Z", "2026-01-01T01:00:05Z", "2026-01-01T02:00:05Z"] {
        simulation.tick_at(&scheduler, at(time)).await;
    }
    let ledger = simulation.ledger();
    let claim = || ledger.claim("test", &Amounts::new(), at("2026-01-01T02:10:00Z")).unwrap().unwrap();
    let followers = || simulation.runs().iter().filter(|run| run.workflow == "next").count();
    let first = claim();
    ledger.end(&first.id, first.epoch, &Ended::Succeeded, at("2026-01-01T02:20:00Z")).unwrap();
    simulation.tick_at(&scheduler, at("2026-01-01T02:20:01Z")).await;
    assert_eq!(followers(), 1);
    // Written later, by a machine whose clock is behind.
    let second = claim();
    ledger.end(&second.id, second.epoch, &Ended::Succeeded, at("2026-01-01T02:19:58Z")).unwrap();
    for second in 2..5 {
        scheduler = simulation.scheduler();
        simulation.tick_at(&scheduler, at(&format!("2026-01-01T02:20:0{second}Z"))).await;
    }
    assert_eq!(followers(), 2);
}

#[tokio::test]
async fn a_schedule_that_rests_lets_its_times_pass() {
    let simulation =
        Simulation::new("[schedule]\ncron = \"0 * * * *\"\ncatch_up = \"all\"\noverlap = \"queue\"\n");
    let scheduler = simulation.scheduler();
    simulation.tick_at(&scheduler, at("2026-01-01T00:30:00Z")).await;
    simulation.ledger().set_schedule_paused("small", true).unwrap();
    simulation.tick_at(&scheduler, at("2026-01-01T03:30:00Z")).await;
    assert_eq!(simulation.slots(), []);
    simulation.ledger().set_schedule_paused("small", false).unwrap();
    simulation.tick_at(&scheduler, at("2026-01-01T05:00:10Z")).await;
    assert_eq!(simulation.slots(), [at("2026-01-01T04:00:00Z"), at("2026-01-01T05:00:00Z")]);
}
