//! What a program may ask the kernel for.

use super::SandboxError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// What a computation in one thread needs: memory, open files, clocks, waiting, its own identity, its end.
const ALLOWED: &[i64] = &[
    // Files. Which ones, Landlock says; there is no call that changes a name, an owner, a mode or a time.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_pselect6,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Its own signals; none to others.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_setitimer,
    libc::SYS_getitimer,
    libc::SYS_restart_syscall,
    // Locks and thread-local storage, which a single thread has as well.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    // Clocks and waiting.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrusage,
    libc::SYS_sched_yield,
    // Who and where it is.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    // Its beginning (Landlock leaves it nothing else to execute than Python again) and its end.
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older forms that this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_alarm,
    libc::SYS_pause,
    libc::SYS_time,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// Calls of which some forms are allowed: the argument's index and its allowed values.
#[allow(clippy::unnecessary_cast, reason = "C libraries give these numbers different types")]
const ALLOWED_WITH: &[(i64, u8, &[u64])] = &[
    // Whether a file is a terminal; whether a descriptor outlives `execve`.
    (libc::SYS_ioctl, 1, &[libc::TCGETS as u64, libc::FIOCLEX as u64, libc::FIONCLEX as u64]),
    // Not `F_SETOWN`, which would have the kernel send signals to others, and not `F_SETPIPE_SZ`.
    (
        libc::SYS_fcntl,
        1,
        &[
            libc::F_DUPFD as u64,
            libc::F_DUPFD_CLOEXEC as u64,
            libc::F_GETFD as u64,
            libc::F_SETFD as u64,
            libc::F_GETFL as u64,
            libc::F_SETFL as u64,
        ],
    ),
];

/// The filter. What it does not allow fails with `ENOSYS`, upon which C libraries fall back to older calls. Calls of
/// another architecture (32-bit ones) kill the process.
pub(super) fn filter() -> Result<BpfProgram, SandboxError> {
    let failed = |error: &dyn std::fmt::Display| SandboxError::Kernel {
        what: "the list of system calls".to_owned(),
        problem: error.to_string(),
    };
    let when = |index: u8, length: SeccompCmpArgLen, value: u64| {
        SeccompCondition::new(index, length, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|&call| (call, Vec::new())).collect();
    for &(call, index, values) in ALLOWED_WITH {
        // Commands are 32 bits wide; the kernel ignores the others.
        let rule = |&value: &u64| when(index, SeccompCmpArgLen::Dword, value);
        let allowed = values.iter().map(rule).collect::<Result<_, _>>().map_err(|error| failed(&error))?;
        rules.insert(call, allowed);
    }
    // Limits may be read: the new ones are a null pointer.
    let read = when(2, SeccompCmpArgLen::Qword, 0).map_err(|error| failed(&error))?;
    rules.insert(libc::SYS_prlimit64, vec![read]);
    let architecture =
        std::env::consts::ARCH.try_into().map_err(|error: seccompiler::BackendError| failed(&error))?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS as u32),
        SeccompAction::Allow,
        architecture,
    );
    filter.and_then(BpfProgram::try_from).map_err(|error| failed(&error))
}
