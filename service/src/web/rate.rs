//! How often an address may ask.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Requests that an address may send at once, and a second.
const BURST: f64 = 4_000.0;
const PER_SECOND: f64 = 2_000.0;

/// What a wrong token costs: a few dozen in a row, then one in some seconds.
const COST_OF_REFUSAL: f64 = 100.0;
const REFUSALS_PER_SECOND: f64 = 20.0;

const MOST_ADDRESSES: usize = 10_000;

#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<IpAddr, Bucket>>);

struct Bucket {
    requests: f64,
    refusals: f64,
    at: Instant,
}

impl Rates {
    /// Whether the address may ask now.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        self.with(address, |bucket| {
            bucket.requests -= 1.0;
            bucket.requests > 0.0 && bucket.refusals > 0.0
        })
    }

    /// The address has shown a wrong token.
    pub(super) fn refused(&self, address: IpAddr) {
        self.with(address, |bucket| bucket.refusals -= COST_OF_REFUSAL);
    }

    fn with<T>(&self, address: IpAddr, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if buckets.len() >= MOST_ADDRESSES {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 60);
        }
        let full = || Bucket { requests: BURST, refusals: BURST, at: now };
        let bucket = buckets.entry(address).or_insert_with(full);
        let seconds = now.duration_since(bucket.at).as_secs_f64();
        bucket.requests = (bucket.requests.max(0.0) + seconds * PER_SECOND).min(BURST);
        bucket.refusals = (bucket.refusals + seconds * REFUSALS_PER_SECOND).min(BURST);
        bucket.at = now;
        work(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slow_and_asking_is_not() {
        let rates = Rates::default();
        let [guesser, reader] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut tried = 0;
        while rates.admits(guesser) && tried < 1_000 {
            rates.refused(guesser);
            tried += 1;
        }
        assert!((30..100).contains(&tried), "{tried} guesses");
        assert!((0..3_000).all(|_| rates.admits(reader)));
    }
}
