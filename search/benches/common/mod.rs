//! What the benchmarks share: time, and chance that is the same on every machine.

use std::time::Instant;

/// What a piece of work took.
pub struct Taken {
    /// By the clock.
    pub wall_seconds: f64,
    /// By the processors.
    pub cpu_seconds: f64,
}

/// Runs a piece of work and times it.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Taken, T) {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let result = work();
    let taken = Taken { wall_seconds: started.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - cpu };
    (taken, result)
}

/// CPU seconds of this process so far, user and system (Linux; not a number elsewhere).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field| after_name.split_whitespace().nth(field).and_then(|ticks| ticks.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => (user + system) / 100.0,
        _ => f64::NAN,
    }
}

/// SplitMix64: small, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A word of 3 to 10 letters.
    pub fn word(&mut self) -> String {
        let length = 3 + self.next() % 8;
        (0..length).map(|_| char::from(b'a' + (self.next() % 26) as u8)).collect()
    }
}
