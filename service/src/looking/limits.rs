//! What a look may take of the machine. The limits are the kernel's: they hold whatever the program does.

use std::io;
use std::time::Duration;

use tokio::process::Command;

/// Memory that a look may hold. Mapped files do not count, so that an index may be larger.
pub(super) const MEMORY_BYTES: u64 = 2 << 30;

/// Memory of a look's query plans; beyond it they spill.
pub(super) const PLAN_MEMORY_BYTES: u64 = 512 << 20;

/// What a look may write to its temporary folder.
const SPILL_BYTES: u64 = 4 << 30;

/// The variable that tells `pipeline` how much memory its query plans have, in bytes.
const PLAN_MEMORY_VARIABLE: &str = "CORPUSMITH_LOOK_MEMORY";

/// Sets the limits of a process that has not been started yet. `patience` is what it may take on the clock:
/// a look that outlives the service ends by its processor time.
pub(super) fn confine(command: &mut Command, patience: Duration) {
    command.env(PLAN_MEMORY_VARIABLE, PLAN_MEMORY_BYTES.to_string());
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let seconds = patience.as_secs() * cores;
    let limit_all = move || {
        limit(libc::RLIMIT_DATA, MEMORY_BYTES)?;
        limit(libc::RLIMIT_FSIZE, SPILL_BYTES)?;
        limit(libc::RLIMIT_CORE, 0)?;
        limit(libc::RLIMIT_CPU, seconds)
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor locks.
    unsafe { command.pre_exec(limit_all) };
}

#[cfg(target_os = "linux")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_os = "linux"))]
type Resource = libc::c_int;

/// Lowers a limit. One that is lower already stays.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let mut set = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call, which fills it.
    if unsafe { libc::getrlimit(resource, &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let most = most.min(set.rlim_max);
    set = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure outlives the call, which only reads it.
    match unsafe { libc::setrlimit(resource, &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
