//! Who may run: named pools hold across all runs, first come, first served.

use std::collections::BTreeSet;

use crate::run::{Amounts, RunId};

/// Memory of a machine, in bytes.
pub const MEMORY: &str = "memory";
/// Threads of a machine.
pub const THREADS: &str = "threads";

/// A run that waits or works, as the choice sees it.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The run.
    pub id: RunId,
    /// Its folder; two runs never share one.
    pub folder: String,
    /// What it takes.
    pub demands: Amounts,
    /// The service that works on it.
    pub owner: Option<String>,
    /// It may not start before a time that is still to come.
    pub delayed: bool,
}

/// What a look at the queue came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The run to start.
    pub start: Option<RunId>,
    /// Why each of the others waits.
    pub waiting: Vec<(RunId, String)>,
}

/// Chooses the first queued run that fits beside the active ones.
///
/// `memory` and `threads` are of the machine that asks, the other pools are shared by all. A run that
/// does not fit keeps its place: what it needs is not given to those behind it. One that needs more than
/// there is takes the whole pool.
pub fn choose(owner: &str, capacity: &Amounts, active: &[Contender], queued: &[Contender]) -> Choice {
    let mut left = capacity.clone();
    let mut folders: BTreeSet<&str> = BTreeSet::new();
    for run in active {
        folders.insert(&run.folder);
        let here = run.owner.as_deref() == Some(owner);
        for (pool, amount) in capped(&run.demands, capacity) {
            if here || !is_local(pool) {
                take(&mut left, pool, amount);
            }
        }
    }
    let mut choice = Choice::default();
    for run in queued {
        if run.delayed {
            choice.waiting.push((run.id.clone(), "waits before it is tried again".to_owned()));
            continue;
        }
        let reason = match folders.contains(run.folder.as_str()) {
            true => Some(format!("another run writes to the folder {}", run.folder)),
            false => short_of(&run.demands, capacity, &left),
        };
        folders.insert(&run.folder);
        match reason {
            None if choice.start.is_none() => choice.start = Some(run.id.clone()),
            None => choice.waiting.push((run.id.clone(), "next in line".to_owned())),
            Some(reason) => choice.waiting.push((run.id.clone(), reason)),
        }
        for (pool, amount) in capped(&run.demands, capacity) {
            take(&mut left, pool, amount);
        }
    }
    choice
}

fn short_of(demands: &Amounts, capacity: &Amounts, left: &Amounts) -> Option<String> {
    let (pool, amount) =
        capped(demands, capacity).find(|(pool, amount)| left.get(*pool).is_some_and(|left| left < amount))?;
    let (left, all) = (left[pool], capacity[pool]);
    Some(match pool {
        MEMORY => format!("needs {} of memory, {} of {} free", size(amount), size(left), size(all)),
        _ => format!("needs {amount} of pool `{pool}`, {left} of {all} free"),
    })
}

/// The demands on pools that are limited, none greater than its pool.
fn capped<'a>(demands: &'a Amounts, capacity: &'a Amounts) -> impl Iterator<Item = (&'a str, u64)> {
    let limited = demands.iter().filter_map(|(pool, amount)| Some((pool, amount, capacity.get(pool)?)));
    limited.map(|(pool, amount, all)| (pool.as_str(), *amount.min(all)))
}

fn take(left: &mut Amounts, pool: &str, amount: u64) {
    if let Some(left) = left.get_mut(pool) {
        *left = left.saturating_sub(amount);
    }
}

fn is_local(pool: &str) -> bool {
    pool == MEMORY || pool == THREADS
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(pairs: &[(&str, u64)]) -> Amounts {
        pairs.iter().map(|(pool, amount)| ((*pool).to_owned(), *amount)).collect()
    }

    fn run(id: &str, folder: &str, demands: &[(&str, u64)]) -> Contender {
        let demands = amounts(demands);
        Contender {
            id: RunId(id.to_owned()),
            folder: folder.to_owned(),
            demands,
            owner: None,
            delayed: false,
        }
    }

    fn active(id: &str, folder: &str, demands: &[(&str, u64)], owner: &str) -> Contender {
        Contender { owner: Some(owner.to_owned()), ..run(id, folder, demands) }
    }

    fn waiting(choice: &Choice) -> Vec<(&str, &str)> {
        choice.waiting.iter().map(|(id, reason)| (id.0.as_str(), reason.as_str())).collect()
    }

    #[test]
    fn a_run_starts_when_all_its_pools_have_room() {
        let capacity = amounts(&[("memory", 100), ("llm", 2)]);
        let queue = [run("a", "w/a", &[("memory", 60), ("llm", 1)]), run("b", "w/b", &[("memory", 60)])];
        let choice = choose("me", &capacity, &[], &queue);
        assert_eq!(choice.start, Some(RunId("a".to_owned())));
        assert_eq!(waiting(&choice), [("b", "needs 60 B of memory, 40 B of 100 B free")]);
        let busy = [active("x", "w/x", &[("llm", 2)], "elsewhere")];
        let choice = choose("me", &capacity, &busy, &queue[..1]);
        assert_eq!(choice.start, None);
        assert_eq!(waiting(&choice), [("a", "needs 1 of pool `llm`, 0 of 2 free")]);
    }

    #[test]
    fn memory_is_of_a_machine_and_other_pools_are_of_all() {
        let capacity = amounts(&[("memory", 100)]);
        let elsewhere = [active("x", "w/x", &[("memory", 100)], "elsewhere")];
        let queue = [run("a", "w/a", &[("memory", 100)])];
        assert!(choose("me", &capacity, &elsewhere, &queue).start.is_some());
        assert!(choose("elsewhere", &capacity, &elsewhere, &queue).start.is_none());
    }

    #[test]
    fn those_behind_do_not_starve_a_large_run() {
        let capacity = amounts(&[("memory", 100)]);
        let busy = [active("x", "w/x", &[("memory", 50)], "me")];
        let queue = [run("large", "w/l", &[("memory", 100)]), run("small", "w/s", &[("memory", 10)])];
        let choice = choose("me", &capacity, &busy, &queue);
        assert_eq!(choice.start, None);
        assert_eq!(choice.waiting.len(), 2);
    }

    #[test]
    fn two_runs_never_share_a_folder_and_more_than_there_is_runs_alone() {
        let capacity = amounts(&[("memory", 100)]);
        let queue = [run("a", "w/s", &[("memory", 1_000)]), run("b", "w/s", &[])];
        let choice = choose("me", &capacity, &[], &queue);
        assert_eq!(choice.start, Some(RunId("a".to_owned())));
        assert_eq!(waiting(&choice), [("b", "another run writes to the folder w/s")]);
    }
}
