//! The child between `fork` and `execve`: it gives up what a program must not have.
//!
//! The parent has many threads, so that only calls that are safe in a signal handler may be made here: nothing
//! allocates, nothing locks.

use super::SandboxOptions;
use seccompiler::BpfProgram;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd};

/// What is decided before the fork.
#[derive(Debug)]
pub(super) struct Confinement {
    files: OwnedFd,
    calls: BpfProgram,
    limits: [(Resource, u64, u64); 10],
    parent: u32,
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

/// `_LINUX_CAPABILITY_VERSION_3` of the kernel's `linux/capability.h`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// More than the kernel knows; it says so itself.
const MOST_CAPABILITIES: libc::c_ulong = 64;
/// Descriptors a program may have open at once: its streams, and modules while they are read.
const MOST_DESCRIPTORS: u64 = 32;
const STACK_BYTES: u64 = 64 << 20;

impl Confinement {
    pub(super) fn new(files: OwnedFd, calls: BpfProgram, options: &SandboxOptions) -> Self {
        let cpu = u64::from(options.cpu_seconds.max(1));
        let limits = [
            // A program that catches the first signal gets a second more.
            (libc::RLIMIT_CPU, cpu, cpu + 1),
            (libc::RLIMIT_AS, options.memory_bytes, options.memory_bytes),
            (libc::RLIMIT_STACK, STACK_BYTES, STACK_BYTES),
            (libc::RLIMIT_NOFILE, MOST_DESCRIPTORS, MOST_DESCRIPTORS),
            (libc::RLIMIT_FSIZE, 0, 0),
            (libc::RLIMIT_NPROC, 0, 0),
            (libc::RLIMIT_CORE, 0, 0),
            (libc::RLIMIT_MEMLOCK, 0, 0),
            (libc::RLIMIT_MSGQUEUE, 0, 0),
            (libc::RLIMIT_SIGPENDING, 0, 0),
        ];
        Self { files, calls, limits, parent: std::process::id() }
    }

    /// Confines the calling process for good. A step that fails is named on standard error.
    pub(super) fn apply(&self) -> Result<()> {
        step("tie its life to the parent's", self.die_with_parent())?;
        step("close descriptors", close_descriptors())?;
        leave_network();
        step("drop capabilities", drop_capabilities())?;
        step("set limits", self.set_limits())?;
        // SAFETY: takes numbers only.
        step(
            "renounce privileges",
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()),
        )?;
        // SAFETY: takes numbers only; the descriptor is open, since `self` owns it.
        let files = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.files.as_raw_fd(), 0) };
        step("restrict files (Landlock)", check(files))?;
        let calls = seccompiler::apply_filter(&self.calls).map_err(|_| Error::last_os_error());
        step("restrict system calls (seccomp)", calls)
    }

    fn die_with_parent(&self) -> Result<()> {
        // SAFETY: takes numbers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())?;
        // It may have died before.
        match std::os::unix::process::parent_id() == self.parent {
            true => Ok(()),
            false => Err(Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    fn set_limits(&self) -> Result<()> {
        for &(resource, soft, hard) in &self.limits {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` is a valid place for the answer.
            check(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())?;
            // Only a privileged process may raise what it was given.
            limit.rlim_max = limit.rlim_max.min(hard);
            limit.rlim_cur = limit.rlim_max.min(soft);
            // SAFETY: `limit` is valid and only read.
            check(unsafe { libc::setrlimit(resource, &raw const limit) }.into())?;
        }
        Ok(())
    }
}

/// All but the three streams close on `execve`, those too that another thread has opened without saying so. Not at
/// once: on one of them an error is told to the parent.
fn close_descriptors() -> Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes numbers only, and closes nothing before `execve`.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) })
}

/// Into namespaces with a network without devices and without shared memory of others, where the kernel lets it.
/// The new user namespace maps nobody: whoever the process was, it is privileged for nothing after `execve`.
/// Containers often forbid this; sockets do not exist for the program either way.
fn leave_network() {
    // SAFETY: takes numbers only.
    unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWIPC) };
}

/// Empties all sets of capabilities, so that `execve` gives none back, not even to root.
fn drop_capabilities() -> Result<()> {
    for capability in 0..MOST_CAPABILITIES {
        // SAFETY: takes numbers only.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        let error = Error::last_os_error();
        match error.raw_os_error() {
            _ if dropped == 0 => {}
            // Beyond the last one.
            Some(libc::EINVAL) => break,
            // Who is not root gets none by `execve`.
            // SAFETY: takes nothing.
            Some(libc::EPERM) if unsafe { libc::geteuid() } != 0 => break,
            _ => return Err(error),
        }
    }
    let header = [CAPABILITY_VERSION, 0];
    let sets = [0u32; 6];
    // SAFETY: the two arrays have the layout of `__user_cap_header_struct` (version, own process) and of two
    // `__user_cap_data_struct`, which version 3 reads.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

fn check(answer: libc::c_long) -> Result<()> {
    match answer {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Names a step that failed, for the parent to read: an error alone is a number.
fn step(name: &'static str, result: Result<()>) -> Result<()> {
    if result.is_err() {
        // SAFETY: the bytes are valid for the length given.
        unsafe { libc::write(libc::STDERR_FILENO, name.as_ptr().cast(), name.len()) };
    }
    result
}
