//! What glibc's allocator keeps for itself.
//!
//! It gives memory out from several arenas, up to eight a core, each of which keeps what was freed in it. A batch is
//! made on one thread and freed on another, so all of them grow, and with them the process, though the data do
//! not.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    /// Giving back takes some milliseconds.
    const PAUSE: Duration = Duration::from_secs(1);

    static LAST: Mutex<Option<Instant>> = Mutex::new(None);

    pub fn keep_few_arenas() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // SAFETY: it sets a number in the allocator.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(cores).unwrap_or(1)) };
    }

    pub fn give_back() {
        let Ok(mut last) = LAST.try_lock() else { return };
        if last.is_none_or(|last| last.elapsed() >= PAUSE) {
            // SAFETY: it takes the allocator's own locks and touches free memory alone.
            unsafe { libc::malloc_trim(0) };
            *last = Some(Instant::now());
        }
    }
}

/// One arena a core; called before other threads run.
pub fn keep_few_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_few_arenas();
}

/// Returns to the system what is free, at most once a second; called where much has been freed.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::give_back();
}
