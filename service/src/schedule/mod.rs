//! Schedules: which slots are due, and what becomes of each.

mod broken;
pub mod config;
pub mod cron;
mod driver;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};

pub use config::{CatchUp, Overlap, RunConfig, ScheduleConfig, TriggerConfig};
pub use cron::Cron;
pub use driver::Scheduler;

/// A slot that was looked at so long after its time was missed.
pub const GRACE: SignedDuration = SignedDuration::from_secs(90);

/// Most missed slots that are caught up with.
const MOST_CAUGHT_UP: usize = 100;

/// Slots whose time has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Slots to run for, in order.
    pub fire: Vec<Timestamp>,
    /// How many were missed and are not caught up with.
    pub passed_by: usize,
}

/// The slots after `seen_until`, up to `now`.
pub fn due(cron: &Cron, catch_up: CatchUp, seen_until: Timestamp, now: Timestamp) -> Due {
    let mut due = Due::default();
    let mut missed = std::collections::VecDeque::new();
    let most = match catch_up {
        CatchUp::None => 0,
        CatchUp::Latest => 1,
        CatchUp::All => MOST_CAUGHT_UP,
    };
    let mut last = seen_until;
    while let Some(slot) = cron.next_after(last).filter(|slot| *slot <= now) {
        last = slot;
        if now.duration_since(slot) <= GRACE {
            due.fire.push(slot);
            continue;
        }
        missed.push_back(slot);
        if missed.len() > most {
            missed.pop_front();
            due.passed_by += 1;
        }
    }
    // What is on time is newer than what was missed.
    due.fire.splice(0..0, missed);
    due
}
