//! Running Python programs that nobody has read: what a language model answers to a programming problem.
//!
//! A program runs in a process of its own which, from before its first instruction to its end, may
//!
//! - call the kernel for what a computation needs and for nothing else: an allow-list (seccomp) without sockets,
//!   new processes or threads, signals to others, `ptrace`, mounts, namespaces, keys, `io_uring`, `bpf`; what is
//!   not on the list behaves as if the kernel did not have it (`calls`);
//! - read Python, its standard library and the system's libraries, and write to no file at all (Landlock, `files`).
//!   Names, sizes and times of other files can be asked for, their content and the lists of folders cannot;
//! - use so much processor time, memory, wall-clock time and output ([`SandboxOptions`]);
//! - see an environment of one variable, standard input at its end, and one pipe for its output: all other
//!   descriptors are closed.
//!
//! It has no capabilities and cannot gain any, and where the kernel lets an ordinary user make namespaces it has a
//! network without devices. Since it can start no other process, killing it leaves nothing behind; and it dies
//! with the thread that started it.
//!
//! [`Sandbox::new`] tries all this out and refuses where the kernel does not enforce it: without seccomp or
//! Landlock (Linux 5.13; Docker's default profile allows both), and on other systems than Linux.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod files;
mod python;
#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
pub use run::Sandbox;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a program may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxOptions {
    /// The interpreter: a path, or a name that is looked up as a shell does.
    pub python: PathBuf,
    /// Processor time (seconds). openai/human-eval stops a program after 3 seconds on the wall; processor time
    /// gives the same verdict on a busy machine.
    pub cpu_seconds: u32,
    /// Time on the wall (seconds), for programs that wait.
    pub wall_seconds: u32,
    /// Address space, the interpreter's included (bytes).
    pub memory_bytes: u64,
    /// Output, both streams together (bytes).
    pub output_bytes: u64,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            python: PathBuf::from("python3"),
            cpu_seconds: 3,
            wall_seconds: 15,
            memory_bytes: 1 << 30,
            output_bytes: 64 << 10,
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It ran to its last line.
    Completed,
    /// It stopped before: an exception, or an exit of its own.
    Failed {
        /// Its exit code.
        code: i32,
    },
    /// A signal killed it.
    Killed {
        /// The signal.
        signal: i32,
    },
    /// It used up its time, on the processor or on the wall.
    OutOfTime,
    /// It wrote too much.
    TooMuchOutput,
}

/// A program's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRun {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote to its two streams; bytes that are not UTF-8 are `U+FFFD`.
    pub output: String,
}

/// Why programs cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Not Linux.
    #[error(
        "programs of language models are run on Linux only, since nothing confines them on {system}; judge such tasks on Linux"
    )]
    System {
        /// The operating system.
        system: &'static str,
    },
    /// There is no usable Python.
    #[error("cannot use Python 3 as `{}`: {problem}; install it, or name an interpreter in `python`", python.display())]
    Python {
        /// What was asked for.
        python: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The kernel lacks what confines a program.
    #[error(
        "the kernel cannot confine programs: {what}: {problem}; no program is run without it (needed are Linux 5.13 or newer with Landlock among its security modules, seccomp, and a container profile that allows both)"
    )]
    Kernel {
        /// What is missing.
        what: String,
        /// What the kernel says.
        problem: String,
    },
    /// The trial program could do something that is forbidden.
    #[error("the sandbox does not hold: a trial program could {escape}; no program is run here")]
    Leaks {
        /// What it could do.
        escape: String,
    },
    /// The operating system would not start or watch the process.
    #[error("cannot {action} a program's process: {source}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Where programs cannot be confined: [`Sandbox::new`] always refuses.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct Sandbox {
    never: std::convert::Infallible,
}

#[cfg(not(target_os = "linux"))]
impl Sandbox {
    /// Refuses.
    ///
    /// # Errors
    /// [`SandboxError::System`], always.
    pub fn new(_: &SandboxOptions) -> Result<Self, SandboxError> {
        Err(SandboxError::System { system: std::env::consts::OS })
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn run(&self, _: &str) -> Result<ProgramRun, SandboxError> {
        match self.never {}
    }
}
