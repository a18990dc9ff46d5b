//! Several processes that train one model: their gradients are added over TCP, around a ring.
//!
//! Every worker holds the whole model and computes its share of a step's sequences. `add` then sums the gradients
//! with the ring all-reduce (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"): the vector is cut
//! into as many segments as there are workers; each segment travels around once and is added up, and travels
//! around again to be copied. A worker sends `2 (n − 1) / n` of the vector, however many there are. A segment is
//! added up in the order of the ring by whoever holds it, and then copied: all workers get the same bits, and the
//! same bits every time.
//!
//! Nothing is encrypted and nobody is asked who they are: for trusted networks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"CSMRING1";
/// Magic, rank, workers and the digest of what is trained.
const HELLO_BYTES: usize = 8 + 4 + 4 + 32;
/// Values read at a time.
const CHUNK: usize = 1 << 16;

/// Which of several workers this process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerOptions {
    /// `host:port` of every worker, in the order of their ranks, the same list for all. The port is where the
    /// worker listens for the one before it.
    pub addresses: Vec<String>,
    /// This worker's place in the list, from 0. Worker 0 keeps the checkpoints and the loss record.
    pub rank: usize,
    /// Seconds without a word after which a neighbour counts as lost. It must be longer than the slowest
    /// worker's step; the others wait for it.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_timeout() -> u64 {
    300
}

/// Why workers could not work together.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// An address cannot be used.
    #[error("worker {rank} cannot listen on {address}: {source}; correct workers.addresses or free the port")]
    Listen {
        /// This worker.
        rank: usize,
        /// Its address.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A worker did not appear in time.
    #[error(
        "worker {rank} at {address} did not appear within {seconds} s; start it, with the same addresses and settings"
    )]
    Absent {
        /// The missing worker.
        rank: usize,
        /// Its address.
        address: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A worker trains something else.
    #[error(
        "worker {rank} at {address} trains with other settings, data or addresses; start all workers with the same ones"
    )]
    Different {
        /// The other worker.
        rank: usize,
        /// Its address.
        address: String,
    },
    /// A worker went away, or said nothing for too long.
    #[error(
        "lost worker {rank} at {address}: {source}; start all workers again, the run goes on from worker 0's last checkpoint"
    )]
    Lost {
        /// The worker.
        rank: usize,
        /// Its address.
        address: String,
        /// What was seen.
        source: io::Error,
    },
}

impl WorkerOptions {
    /// The rule that the options break.
    pub(super) fn mistake(&self) -> Option<&'static str> {
        if self.addresses.len() < 2 {
            return Some("addresses must name at least two workers");
        }
        if self.rank >= self.addresses.len() {
            return Some("rank must be below the number of addresses");
        }
        (self.timeout_seconds == 0).then_some("timeout_seconds must be above 0")
    }
}

/// This worker's connections to its two neighbours.
pub(super) struct Ring {
    rank: usize,
    addresses: Vec<String>,
    next: TcpStream,
    before: TcpStream,
    received: Vec<f32>,
}

impl Ring {
    /// Joins the ring: listens for the worker before, calls the one after, and waits for both. All workers must
    /// have the same `digest`.
    pub(super) fn join(options: &WorkerOptions, digest: [u8; 32]) -> Result<Self, WorkerError> {
        let &WorkerOptions { ref addresses, rank, timeout_seconds } = options;
        let count = addresses.len();
        let timeout = Duration::from_secs(timeout_seconds);
        let deadline = Instant::now() + timeout;
        let listen = |source| WorkerError::Listen { rank, address: addresses[rank].clone(), source };
        let listener = TcpListener::bind(addresses[rank].as_str()).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let (after, prior) = ((rank + 1) % count, (rank + count - 1) % count);
        let absent = |rank: usize| WorkerError::Absent {
            rank,
            address: addresses[rank].clone(),
            seconds: timeout_seconds,
        };
        let hello = |rank: usize| {
            let counts = [rank as u32, count as u32].map(u32::to_le_bytes).concat();
            [MAGIC.as_slice(), &counts, &digest].concat()
        };
        let (mut next, mut before) = (None, None);
        while next.is_none() || before.is_none() {
            if next.is_none() {
                next = call(&addresses[after], timeout, &hello(rank));
            }
            if before.is_none() {
                match listener.accept().and_then(|(stream, _)| answer(stream, timeout)) {
                    Ok((stream, theirs)) if theirs == hello(prior).as_slice() => before = Some(stream),
                    // One of ours, with something else in mind; anybody else is sent away.
                    Ok((_, theirs)) if theirs[..8] == *MAGIC => {
                        return Err(WorkerError::Different {
                            rank: prior,
                            address: addresses[prior].clone(),
                        });
                    }
                    _ => {}
                }
            }
            if next.is_none() || before.is_none() {
                if Instant::now() > deadline {
                    return Err(absent(if next.is_none() { after } else { prior }));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let (Some(next), Some(before)) = (next, before) else { return Err(absent(after)) };
        Ok(Self { rank, addresses: addresses.clone(), next, before, received: vec![0.0; CHUNK] })
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn workers(&self) -> usize {
        self.addresses.len()
    }

    /// Replaces `values` by their sums over all workers.
    pub(super) fn add(&mut self, values: &mut [f32]) -> Result<(), WorkerError> {
        let count = self.workers();
        let segment = |index: usize| values.len() * index / count..values.len() * (index + 1) / count;
        let ranges: Vec<_> = (0..count).map(segment).collect();
        for turn in 0..2 * (count - 1) {
            // Worker `r` starts segment `r`, and gets segment `r − 1` from the worker before it; after a round
            // it holds the whole of segment `r + 1`.
            let out = ranges[(self.rank + 2 * count - turn) % count].clone();
            let into = ranges[(self.rank + 2 * count - turn - 1) % count].clone();
            let adds = turn < count - 1;
            let Ok([sent, into]) = values.get_disjoint_mut([out, into]) else { continue };
            self.exchange(sent, into, |value, received| {
                *value = if adds { *value + received } else { received };
            })?;
        }
        Ok(())
    }

    /// The numbers of all workers, by rank.
    pub(super) fn gather(&mut self, number: f64) -> Result<Vec<f64>, WorkerError> {
        let count = self.workers();
        let mut numbers = vec![0.0; count];
        numbers[self.rank] = number;
        let mut travelling = number;
        for turn in 1..count {
            let mut bytes = [0; 8];
            self.next.write_all(&travelling.to_le_bytes()).map_err(|e| self.lost(true, e))?;
            self.before.read_exact(&mut bytes).map_err(|e| self.lost(false, e))?;
            travelling = f64::from_le_bytes(bytes);
            numbers[(self.rank + count - turn) % count] = travelling;
        }
        Ok(numbers)
    }

    /// Gives all workers worker 0's `values`.
    pub(super) fn broadcast(&mut self, values: &mut [f32]) -> Result<(), WorkerError> {
        let last = self.rank + 1 == self.workers();
        for chunk in values.chunks_mut(CHUNK) {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(chunk);
            if self.rank > 0 {
                self.before.read_exact(bytes).map_err(|e| self.lost(false, e))?;
            }
            if !last {
                self.next.write_all(bytes).map_err(|e| self.lost(true, e))?;
            }
        }
        Ok(())
    }

    /// Sends `sent` to the next worker while `into` meets what the worker before sends.
    fn exchange(
        &mut self,
        sent: &[f32],
        into: &mut [f32],
        meet: impl Fn(&mut f32, f32),
    ) -> Result<(), WorkerError> {
        let Self { next, before, received, .. } = self;
        // A shared stream can be written and shut down.
        let mut next: &TcpStream = next;
        let (sending, receiving) = std::thread::scope(|scope| {
            let sending = scope.spawn(move || next.write_all(bytemuck::cast_slice(sent)));
            let receiving = into.chunks_mut(CHUNK).try_for_each(|part| {
                let received = &mut received[..part.len()];
                before.read_exact(bytemuck::cast_slice_mut(received))?;
                part.iter_mut().zip(&*received).for_each(|(value, received)| meet(value, *received));
                Ok(())
            });
            if receiving.is_err() {
                // Nobody may read any more: do not wait for the send's timeout.
                next.shutdown(std::net::Shutdown::Both).ok();
            }
            let sending =
                sending.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")));
            (sending, receiving)
        });
        receiving.map_err(|error| self.lost(false, error))?;
        sending.map_err(|error| self.lost(true, error))
    }

    fn lost(&self, next: bool, source: io::Error) -> WorkerError {
        let count = self.workers();
        let rank = if next { (self.rank + 1) % count } else { (self.rank + count - 1) % count };
        let source = match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "no word from it within timeout_seconds")
            }
            io::ErrorKind::UnexpectedEof => io::Error::new(source.kind(), "it closed the connection"),
            _ => source,
        };
        WorkerError::Lost { rank, address: self.addresses[rank].clone(), source }
    }
}

/// Calls a worker that may not listen yet.
fn call(address: &str, timeout: Duration, hello: &[u8]) -> Option<TcpStream> {
    let address = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, timeout.min(Duration::from_secs(5))).ok()?;
    prepare(&stream, timeout).ok()?;
    stream.write_all(hello).ok()?;
    Some(stream)
}

/// What a caller says of itself.
fn answer(mut stream: TcpStream, timeout: Duration) -> io::Result<(TcpStream, [u8; HELLO_BYTES])> {
    stream.set_nonblocking(false)?;
    // A stranger that says nothing must not hold up the ring.
    prepare(&stream, timeout.min(Duration::from_secs(5)))?;
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello)?;
    prepare(&stream, timeout)?;
    Ok((stream, hello))
}

fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::free_addresses as addresses;

    fn options(addresses: &[String], rank: usize, timeout_seconds: u64) -> WorkerOptions {
        WorkerOptions { addresses: addresses.to_vec(), rank, timeout_seconds }
    }

    /// What `work` gives on each of `count` workers.
    fn on_all<T: Send>(count: usize, work: impl Fn(Ring) -> T + Sync) -> Vec<T> {
        let addresses = addresses(count);
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..count)
                .map(|rank| {
                    let (addresses, work) = (&addresses, &work);
                    scope.spawn(move || work(Ring::join(&options(addresses, rank, 20), [3; 32]).unwrap()))
                })
                .collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_right_and_the_same_for_all() {
        for count in [2, 3, 5] {
            // More than a chunk, and no multiple of the number of workers; fewer values than workers.
            for len in [count * CHUNK + 7, 3, 1] {
                let value = |rank: usize, i: usize| ((rank * 31 + i * 17) % 1009) as f32 / 7.0;
                let sums = on_all(count, |mut ring| {
                    let rank = ring.rank();
                    let mut values: Vec<f32> = (0..len).map(|i| value(rank, i)).collect();
                    ring.add(&mut values).unwrap();
                    values
                });
                for (i, &sum) in sums[0].iter().enumerate() {
                    let exact: f64 = (0..count).map(|rank| f64::from(value(rank, i))).sum();
                    assert!((f64::from(sum) - exact).abs() < 1e-5 * exact.max(1.0), "{i}: {sum} for {exact}");
                }
                assert!(sums.iter().all(|other| *other == sums[0]));
            }
        }
    }

    #[test]
    fn numbers_are_gathered_by_rank_and_values_come_from_worker_0() {
        let results = on_all(3, |mut ring| {
            let numbers = ring.gather(10.0 + ring.rank() as f64).unwrap();
            let mut values = vec![ring.rank() as f32 + 4.0; CHUNK + 3];
            ring.broadcast(&mut values).unwrap();
            (numbers, values)
        });
        for (numbers, values) in results {
            assert_eq!(numbers, [10.0, 11.0, 12.0]);
            assert!(values.iter().all(|&value| value == 4.0));
        }
    }

    #[test]
    fn a_lost_worker_is_named_by_all_others() {
        let errors = on_all(3, |mut ring| {
            if ring.rank() == 1 {
                return None;
            }
            let mut values = vec![1.0; 1 << 20];
            Some(ring.add(&mut values).unwrap_err().to_string())
        });
        for error in errors.into_iter().flatten() {
            assert!(error.contains("lost worker") && error.contains("last checkpoint"), "{error}");
        }
    }

    #[test]
    fn a_silent_worker_counts_as_lost_after_the_timeout() {
        let addresses = addresses(2);
        let (done, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let later = options(&addresses, 1, 20);
            let silent = scope.spawn(move || {
                let ring = Ring::join(&later, [0; 32]).unwrap();
                wait.recv().unwrap();
                drop(ring);
            });
            let mut ring = Ring::join(&options(&addresses, 0, 1), [0; 32]).unwrap();
            let error = ring.gather(1.0).unwrap_err().to_string();
            assert!(error.contains("lost worker 1") && error.contains("no word"), "{error}");
            done.send(()).unwrap();
            silent.join().unwrap();
        });
    }

    #[test]
    fn absent_and_different_workers_are_told_apart() {
        let addresses = addresses(2);
        let error = Ring::join(&options(&addresses, 0, 1), [0; 32]).err().unwrap().to_string();
        assert!(error.contains("worker 1") && error.contains("did not appear within 1 s"), "{error}");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| Ring::join(&options(&addresses, 1, 2), [9; 32]).err());
            let error = Ring::join(&options(&addresses, 0, 2), [0; 32]).err().unwrap().to_string();
            assert!(error.contains("other settings"), "{error}");
            assert!(other.join().unwrap().is_some());
        });
    }

    #[test]
    fn strangers_are_sent_away() {
        let addresses = addresses(2);
        std::thread::scope(|scope| {
            let first =
                scope.spawn(|| Ring::join(&options(&addresses, 0, 20), [0; 32]).map(|ring| ring.rank()));
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect(addresses[0].as_str()) {
                    break stream;
                }
            };
            stranger.write_all(&[b'G'; 2 * HELLO_BYTES]).unwrap();
            let second =
                scope.spawn(|| Ring::join(&options(&addresses, 1, 20), [0; 32]).map(|ring| ring.rank()));
            assert_eq!(first.join().unwrap().unwrap(), 0);
            assert_eq!(second.join().unwrap().unwrap(), 1);
        });
    }
}
